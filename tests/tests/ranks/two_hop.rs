//! Dispatch and combine in two hops.

use std::collections::BTreeMap;

use mcc_ir::eval::Rng;
use mcc_ir::exchange::{ExpertGroup, TwoHopCombine, TwoHopDispatch};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::numerics::{bf16_bits, bf16_value};
use mcc_sim::Completion;

use super::bench::{Bench, Value};
use super::routing::{Pattern, Tokens, draw_all, group, plan, rows};
use crate::harness::Plane;

/// Some launches in a row on one bench, so that rings and counters are used again.
#[derive(Clone, Copy)]
struct Case {
    group: ExpertGroup,
    width: u32,
    quant: bool,
    weighted: bool,
    channels: u32,
}

/// To BF16 and back.
fn round(x: f32) -> f32 {
    bf16_value(bf16_bits(x))
}

/// One step: tokens there, something done to their rows, and back.
fn step(bench: &mut Bench, case: &Case, all: &[Tokens], seed: u64) {
    let g = case.group;
    let (k, w, local) = (g.top_k as usize, case.width as usize, g.local() as usize);
    let mut rng = Rng::new(seed);
    let capacity = g.most_rows() as u32;
    let dispatch = KernelConfig::TwoHopDispatch(TwoHopDispatch {
        group: g,
        width: case.width,
        quant: case.quant,
        capacity,
        channels: case.channels,
    });
    let combine = KernelConfig::TwoHopCombine(TwoHopCombine {
        group: g,
        width: case.width,
        weighted: case.weighted,
        capacity,
        channels: case.channels,
    });
    let groups = w.div_ceil(128);
    let x: Vec<Vec<u16>> = all
        .iter()
        .map(|t| {
            let values = (0..t.len() * w).map(|_| rng.below(4096) as f32 / 64.0 - 32.0);
            values.map(bf16_bits).collect()
        })
        .collect();
    let codes: Vec<Vec<u8>> = all
        .iter()
        .map(|t| (0..t.len() * w).map(|_| rng.below(120) as u8).collect())
        .collect();
    let scales: Vec<Vec<f32>> = all
        .iter()
        .map(|t| {
            let values = (0..t.len() * groups).map(|_| rng.below(1 << 20) as f32);
            values.collect()
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
            values.insert(name, bench.put(rank, &dispatch, name, t, &plane));
        };
        let names: &[&'static str] = if case.quant {
            put("codes", Plane::E4m3(codes[rank].clone()));
            put("scales", Plane::F32(scales[rank].clone()));
            &[
                "rows_codes",
                "rows_scales",
                "offsets",
                "row_weights",
                "record",
            ]
        } else {
            put("x", Plane::Bf16(x[rank].clone()));
            &["rows", "offsets", "row_weights", "record"]
        };
        put("experts", Plane::I32(experts));
        put("weights", Plane::F32(weights));
        put("offsets_all", Plane::I32(offsets));
        put("slots", Plane::I32(slots));
        for name in names {
            values.insert(name, bench.alloc(rank, &dispatch, name, t));
        }
        values.insert("out", bench.alloc(rank, &combine, "out", t));
        at.push(values);
    }
    bench
        .run(&dispatch, &at)
        .unwrap_or_else(|e| panic!("dispatch, seed {seed}: {e}"));

    let want = rows(&g, all);
    let mut y: Vec<Vec<u16>> = vec![vec![0; capacity as usize * w]; bench.ranks()];
    // Where each expert's rows begin on its rank.
    let mut begins = vec![0; g.experts as usize];
    for rank in 0..bench.ranks() {
        let get = |name: &'static str| bench.get(rank, &dispatch, name, &at[rank][name]);
        let (offsets, row_weights) = (get("offsets"), get("row_weights").floats());
        let mut row = 0;
        for expert in 0..local {
            let origins = &want[rank * local + expert];
            let what = format!("rank {rank}, expert {expert}, seed {seed}");
            assert_eq!(offsets.ints()[expert] as usize, row, "offset of {what}");
            begins[rank * local + expert] = row;
            for (i, o) in origins.iter().enumerate() {
                let weight = all[o.rank].weights[o.token][o.slot];
                assert_eq!(row_weights[row + i], weight, "{what}, row {i} of {o:?}");
                for c in 0..w {
                    let v = (o.rank * 7 + o.token * 3 + o.slot + c + expert) % 251;
                    y[rank][(row + i) * w + c] = bf16_bits(v as f32 / 8.0 - 11.0);
                }
            }
            row += origins.len();
        }
        assert_eq!(
            offsets.ints()[local] as usize,
            row,
            "rank {rank}, seed {seed}"
        );
        let check = |name, width: usize, same: &dyn Fn(&Plane, usize, usize, usize) -> bool| {
            let got = get(name);
            for expert in rank * local..(rank + 1) * local {
                for (i, o) in want[expert].iter().enumerate() {
                    let at = (begins[expert] + i) * width;
                    let ok = same(&got, at, o.rank, o.token * width);
                    assert!(
                        ok,
                        "{name}: rank {rank}, row {i} of {expert}: {o:?}, seed {seed}"
                    );
                }
            }
        };
        if case.quant {
            check("rows_codes", w, &|got, at, rank, from| {
                got.codes()[at..at + w] == codes[rank][from..from + w]
            });
            check("rows_scales", groups, &|got, at, rank, from| {
                let Plane::F32(got) = got else { return false };
                got[at..at + groups] == scales[rank][from..from + groups]
            });
        } else {
            check("rows", w, &|got, at, rank, from| {
                let Plane::Bf16(got) = got else { return false };
                got[at..at + w] == x[rank][from..from + w]
            });
        }
    }
    for rank in 0..bench.ranks() {
        let value = bench.put(rank, &combine, "y", 0, &Plane::Bf16(y[rank].clone()));
        at[rank].insert("y", value);
    }
    bench
        .run(&combine, &at)
        .unwrap_or_else(|e| panic!("combine, seed {seed}: {e}"));
    for (rank, tokens) in all.iter().enumerate() {
        let got = bench.get(rank, &combine, "out", &at[rank]["out"]);
        let Plane::Bf16(got) = got else {
            panic!("bf16")
        };
        for token in 0..tokens.len() {
            // Row of each slot on the rank of its expert.
            let place: Vec<(usize, usize)> = (0..k)
                .map(|slot| {
                    let e = tokens.experts[token][slot];
                    let of = |o: &super::routing::Origin| {
                        (o.rank, o.token, o.slot) == (rank, token, slot)
                    };
                    let i = want[e].iter().position(of).expect("dispatched");
                    (e / local, begins[e] + i)
                })
                .collect();
            for c in 0..w {
                let mut sum = 0f32;
                for node in 0..g.nodes as usize {
                    let mut of_node = None;
                    for gpu in 0..g.gpus as usize {
                        let there = node * g.gpus as usize + gpu;
                        let mut of_gpu = None;
                        for (slot, (at, row)) in place.iter().enumerate() {
                            if *at == there {
                                let v = bf16_value(y[there][row * w + c]);
                                let acc: f32 = of_gpu.unwrap_or(0.0);
                                of_gpu = Some(if case.weighted {
                                    tokens.weights[token][slot].mul_add(v, acc)
                                } else {
                                    acc + v
                                });
                            }
                        }
                        if let Some(v) = of_gpu {
                            of_node = Some(of_node.unwrap_or(0.0) + round(v));
                        }
                    }
                    if let Some(v) = of_node {
                        sum += round(v);
                    }
                }
                let what = format!("rank {rank}, token {token}, channel {c}, seed {seed}");
                assert_eq!(got[token * w + c], bf16_bits(sum), "{what}");
            }
        }
    }
}

fn run(case: &Case, completion: Completion, check: bool, steps: &[(u64, Pattern)]) {
    let mut bench = Bench::new(case.group, completion, check);
    for (seed, pattern) in steps {
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
fn rows_and_sums_are_exact_inside_of_a_node() {
    for (ranks, experts, top_k, tokens, width, quant) in [
        (1, 4, 2, 5, 64, true),
        (2, 8, 3, 40, 256, true),
        (4, 16, 4, 6, 136, false),
        (8, 16, 4, 4, 384, true),
    ] {
        let case = Case {
            group: group(1, ranks, experts, top_k, tokens),
            width,
            quant,
            weighted: !quant || ranks == 2,
            channels: 2,
        };
        for completion in [Completion::Early, Completion::Random(u64::from(ranks))] {
            run(&case, completion, completion != Completion::Early, &STEPS);
        }
    }
}
