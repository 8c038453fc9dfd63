//! Dispatch and combine in one hop.

use std::collections::BTreeMap;

use mcc_ir::eval::Rng;
use mcc_ir::exchange::{DirectCombine, DirectDispatch, ExpertGroup};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::numerics::{bf16_bits, bf16_value};
use mcc_sim::Completion;

use super::bench::{Bench, Value};
use super::routing::{Pattern, Tokens, draw_all, group, plan, rows};
use crate::harness::Plane;

/// Some launches in a row on one bench, so that buffers and counters are used again.
struct Case {
    group: ExpertGroup,
    width: u32,
    quant: bool,
    weighted: bool,
    blocks: u32,
}

/// One step: tokens there, something done to their rows, and back.
fn step(bench: &mut Bench, case: &Case, all: &[Tokens], seed: u64) {
    let what = |part: &str| format!("{part}, seed {seed}");
    let g = case.group;
    let (k, w, local) = (g.top_k as usize, case.width as usize, g.local() as usize);
    let mut rng = Rng::new(seed);
    let dispatch = DirectDispatch {
        group: g,
        width: case.width,
        quant: case.quant,
        blocks: case.blocks,
    };
    let combine = DirectCombine {
        group: g,
        width: case.width,
        weighted: case.weighted,
        blocks: case.blocks,
    };
    let send = KernelConfig::DirectDispatchSend(dispatch);
    let receive = KernelConfig::DirectDispatchReceive(dispatch);
    let back = KernelConfig::DirectCombineSend(combine);
    let sum = KernelConfig::DirectCombineReceive(combine);
    let groups = w.div_ceil(128);
    let room = dispatch.rows() as usize;

    // Rows tell where they come from.
    let x: Vec<Vec<u16>> = all
        .iter()
        .map(|t| {
            (0..t.len() * w)
                .map(|_| bf16_bits(rng.below(4096) as f32 / 64.0 - 32.0))
                .collect()
        })
        .collect();
    let codes: Vec<Vec<u8>> = all
        .iter()
        .map(|t| (0..t.len() * w).map(|_| rng.below(120) as u8).collect())
        .collect();
    let scales: Vec<Vec<f32>> = all
        .iter()
        .map(|t| {
            (0..t.len() * groups)
                .map(|_| rng.below(1 << 20) as f32)
                .collect()
        })
        .collect();
    let mut at: Vec<BTreeMap<&'static str, Value>> = Vec::new();
    for (rank, tokens) in all.iter().enumerate() {
        let t = tokens.len();
        let (offsets, slots) = plan(&g, tokens);
        let experts = tokens.experts.iter().flatten().map(|e| *e as i32).collect();
        let weights = tokens.weights.iter().flatten().copied().collect();
        let mut values = BTreeMap::new();
        let mut put = |name, plane| {
            values.insert(name, bench.put(rank, &send, name, t, &plane));
        };
        if case.quant {
            put("codes", Plane::E4m3(codes[rank].clone()));
            put("scales", Plane::F32(scales[rank].clone()));
        } else {
            put("x", Plane::Bf16(x[rank].clone()));
        }
        put("experts", Plane::I32(experts));
        put("weights", Plane::F32(weights));
        put("offsets_all", Plane::I32(offsets));
        put("slots", Plane::I32(slots));
        let names: &[&'static str] = if case.quant {
            &[
                "rows_codes",
                "rows_scales",
                "counts",
                "row_weights",
                "record",
            ]
        } else {
            &["rows", "counts", "row_weights", "record"]
        };
        for name in names {
            values.insert(name, bench.alloc(rank, &receive, name, t));
        }
        values.insert("out", bench.alloc(rank, &sum, "out", t));
        at.push(values);
    }
    bench
        .run(&send, &at)
        .unwrap_or_else(|e| panic!("{}: {e}", what("send")));
    bench
        .run(&receive, &at)
        .unwrap_or_else(|e| panic!("{}: {e}", what("receive")));

    let want = rows(&g, all);
    // What the experts make of their rows: a number that depends on row and expert.
    let mut y: Vec<Vec<u16>> = vec![vec![0; local * room * w]; bench.ranks()];
    for rank in 0..bench.ranks() {
        let get = |name: &'static str| bench.get(rank, &receive, name, &at[rank][name]);
        let counts = get("counts");
        let row_weights = get("row_weights").floats();
        for expert in 0..local {
            let origins = &want[rank * local + expert];
            assert_eq!(
                counts.ints()[expert] as usize,
                origins.len(),
                "{}",
                what("counts")
            );
            for (i, o) in origins.iter().enumerate() {
                let row = expert * room + i;
                let place = format!("rank {rank}, expert {expert}, row {i} of {o:?}, seed {seed}");
                assert_eq!(
                    row_weights[row], all[o.rank].weights[o.token][o.slot],
                    "{place}"
                );
                for c in 0..w {
                    let v = (o.rank * 7 + o.token * 3 + o.slot + c + expert) % 251;
                    y[rank][row * w + c] = bf16_bits(v as f32 / 8.0 - 11.0);
                }
            }
        }
        let check_rows =
            |name: &'static str,
             width: usize,
             same: &dyn Fn(&Plane, usize, usize, usize) -> bool| {
                let got = get(name);
                for expert in 0..local {
                    for (i, o) in want[rank * local + expert].iter().enumerate() {
                        let row = (expert * room + i) * width;
                        let ok = same(&got, row, o.rank, o.token * width);
                        assert!(
                            ok,
                            "{name}: rank {rank}, expert {expert}, row {i} of {o:?}, seed {seed}"
                        );
                    }
                }
            };
        if case.quant {
            check_rows("rows_codes", w, &|got, row, rank, from| {
                got.codes()[row..row + w] == codes[rank][from..from + w]
            });
            check_rows("rows_scales", groups, &|got, row, rank, from| {
                let Plane::F32(got) = got else { return false };
                got[row..row + groups] == scales[rank][from..from + groups]
            });
        } else {
            check_rows("rows", w, &|got, row, rank, from| {
                let Plane::Bf16(got) = got else { return false };
                got[row..row + w] == x[rank][from..from + w]
            });
        }
    }
    for rank in 0..bench.ranks() {
        let value = bench.put(rank, &back, "y", 0, &Plane::Bf16(y[rank].clone()));
        at[rank].insert("y", value);
    }
    bench
        .run(&back, &at)
        .unwrap_or_else(|e| panic!("{}: {e}", what("combine send")));
    bench
        .run(&sum, &at)
        .unwrap_or_else(|e| panic!("{}: {e}", what("combine receive")));
    for (rank, tokens) in all.iter().enumerate() {
        let got = bench.get(rank, &sum, "out", &at[rank]["out"]);
        let Plane::Bf16(got) = got else {
            panic!("bf16")
        };
        for token in 0..tokens.len() {
            for c in 0..w {
                let mut acc = 0f32;
                for slot in 0..k {
                    let e = tokens.experts[token][slot];
                    let i = want[e]
                        .iter()
                        .position(|o| (o.rank, o.token, o.slot) == (rank, token, slot))
                        .expect("dispatched");
                    let v = y[e / local][((e % local) * room + i) * w + c];
                    let v = bf16_value(v);
                    acc = if case.weighted {
                        tokens.weights[token][slot].mul_add(v, acc)
                    } else {
                        acc + v
                    };
                }
                assert_eq!(
                    got[token * w + c],
                    bf16_bits(acc),
                    "rank {rank}, token {token}, channel {c}, seed {seed}"
                );
            }
        }
    }
}

fn run(case: &Case, completion: Completion, check: bool, seeds: &[(u64, Pattern)]) {
    let mut bench = Bench::new(case.group, completion, check);
    for (seed, pattern) in seeds {
        let all = draw_all(&case.group, *pattern, *seed);
        step(&mut bench, case, &all, *seed);
    }
}

const STEPS: [(u64, Pattern); 5] = [
    (1, Pattern::Uniform),
    (2, Pattern::One),
    (3, Pattern::Uniform),
    (4, Pattern::Skewed),
    (5, Pattern::Spread),
];

#[test]
fn rows_reach_their_experts_and_sums_their_tokens_inside_of_a_node() {
    for (ranks, experts, top_k, tokens, width, quant) in [
        (1, 4, 2, 5, 64, true),
        (2, 8, 3, 7, 256, true),
        (4, 16, 4, 6, 136, false),
        (8, 16, 4, 4, 384, true),
    ] {
        let case = Case {
            group: group(1, ranks, experts, top_k, tokens),
            width,
            quant,
            weighted: !quant || ranks == 2,
            blocks: 3,
        };
        for completion in [Completion::Early, Completion::Random(u64::from(ranks))] {
            run(&case, completion, completion != Completion::Early, &STEPS);
        }
    }
}
