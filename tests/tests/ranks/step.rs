//! One dispatch and one combine on all ranks: what goes in, and what must come out.

use std::collections::BTreeMap;

use mcc_ir::eval::Rng;
use mcc_ir::exchange::ExpertGroup;
use mcc_ir::kernel::KernelConfig;
use mcc_ir::numerics::{bf16_bits, bf16_value};
use mcc_sim::Completion;

use super::bench::{Bench, Value};
use super::routing::{Origin, Pattern, Tokens, draw_all, plan, rows};
use crate::harness::Plane;

/// Where the row of an expert is on its rank: number of the expert there, and of its row.
pub type Place<'a> = &'a dyn Fn(usize, usize, usize) -> usize;

/// A token's sum from its experts, its weights, and its experts' results in slot order.
pub type Sum<'a> = &'a dyn Fn(&[usize], &[f32], &[f32]) -> f32;

/// Steps of all patterns; in the third nobody has tokens.
pub const STEPS: [(u64, Pattern); 5] = [
    (1, Pattern::Uniform),
    (2, Pattern::One),
    (3, Pattern::Uniform),
    (4, Pattern::Skewed),
    (5, Pattern::Spread),
];

/// A form of dispatch and combine, with all of its choices.
pub trait Exchange: std::fmt::Debug {
    fn group(&self) -> ExpertGroup;

    /// Queues a step.
    fn push(&self, bench: &mut Bench, all: Vec<Tokens>, seed: u64) -> Step;

    /// What came of it.
    fn check(&self, bench: &Bench, step: &Step);

    /// Queues some steps in a row, so that buffers and counters are used again.
    fn push_all(&self, bench: &mut Bench, steps: &[(u64, Pattern)]) -> Vec<Step> {
        let group = self.group();
        let step = |&(seed, pattern): &(u64, Pattern)| {
            self.push(bench, draw_all(&group, pattern, seed), seed)
        };
        steps.iter().map(step).collect()
    }

    /// Runs them; a rank goes on as soon as it can.
    fn run(&self, completion: Completion, check: bool, steps: &[(u64, Pattern)]) {
        let mut bench = Bench::new(self.group(), completion, check);
        let queued = self.push_all(&mut bench, steps);
        bench.run_well(&format!("{self:?}, {completion:?}"));
        for step in &queued {
            self.check(&bench, step);
        }
    }

    /// Without checkers, and in some order with them.
    fn run_twice(&self, steps: &[(u64, Pattern)]) {
        let group = self.group();
        let plain = if group.nodes == 1 {
            Completion::Early
        } else {
            Completion::Late
        };
        self.run(plain, false, steps);
        self.run(Completion::Random(group.ranks().into()), true, steps);
    }
}

/// Operands of a step and what they mean.
pub struct Step {
    pub seed: u64,
    pub all: Vec<Tokens>,
    /// Rows of each expert.
    pub want: Vec<Vec<Origin>>,
    /// Operands of each rank, by name.
    pub at: Vec<BTreeMap<&'static str, Value>>,
    local: usize,
    width: usize,
    x: Vec<Payload>,
}

/// Rows of a rank's tokens.
enum Payload {
    Bf16(Vec<u16>),
    Quant { codes: Vec<u8>, scales: Vec<f32> },
}

impl Step {
    /// Draws rows and gives each rank the operands that a dispatch reads.
    pub fn new(
        bench: &Bench,
        dispatch: &KernelConfig,
        (width, quant): (u32, bool),
        all: Vec<Tokens>,
        seed: u64,
    ) -> Self {
        let g = bench.group;
        let width = width as usize;
        let mut rng = Rng::new(seed);
        let (mut at, mut x) = (Vec::new(), Vec::new());
        for (rank, tokens) in all.iter().enumerate() {
            let t = tokens.len();
            let mut values = BTreeMap::new();
            let mut put = |name, plane| {
                values.insert(name, bench.put(rank, dispatch, name, t, &plane));
            };
            if quant {
                let codes: Vec<u8> = (0..t * width).map(|_| rng.below(120) as u8).collect();
                let scales: Vec<f32> = (0..t * width.div_ceil(128))
                    .map(|_| rng.below(1 << 20) as f32)
                    .collect();
                put("codes", Plane::E4m3(codes.clone()));
                put("scales", Plane::F32(scales.clone()));
                x.push(Payload::Quant { codes, scales });
            } else {
                let values = (0..t * width).map(|_| rng.below(4096) as f32 / 64.0 - 32.0);
                let bits: Vec<u16> = values.map(bf16_bits).collect();
                put("x", Plane::Bf16(bits.clone()));
                x.push(Payload::Bf16(bits));
            }
            let (offsets, slots) = plan(&g, tokens);
            let experts = tokens.experts.iter().flatten().map(|e| *e as i32);
            put("experts", Plane::I32(experts.collect()));
            let weights = tokens.weights.iter().flatten().copied();
            put("weights", Plane::F32(weights.collect()));
            put("offsets_all", Plane::I32(offsets));
            put("slots", Plane::I32(slots));
            at.push(values);
        }
        Self {
            seed,
            want: rows(&g, &all),
            all,
            at,
            local: g.local() as usize,
            width,
            x,
        }
    }

    /// Memory for what a kernel writes.
    pub fn alloc(&mut self, bench: &Bench, config: &KernelConfig) {
        for (rank, values) in self.at.iter_mut().enumerate() {
            let tokens = self.all[rank].len();
            for decl in config.operands() {
                if decl.written && decl.name != "exchange" {
                    let value = bench.alloc(rank, config, decl.name, tokens);
                    values.insert(decl.name, value);
                }
            }
        }
    }

    /// What an expert makes of a row: a number that depends on both, exact in BF16.
    pub fn y(&self, o: Origin, expert: usize, channel: usize) -> f32 {
        let v = (o.rank * 7 + o.token * 3 + o.slot + channel + expert) % 251;
        v as f32 / 8.0 - 11.0
    }

    /// The experts' results, in the `rows` rows of each rank.
    pub fn put_results(
        &mut self,
        bench: &Bench,
        config: &KernelConfig,
        rows: usize,
        at: Place<'_>,
    ) {
        for rank in 0..bench.ranks() {
            let mut y = vec![0; rows * self.width];
            for local in 0..self.local {
                let expert = rank * self.local + local;
                for (i, o) in self.want[expert].iter().enumerate() {
                    let row = at(rank, local, i) * self.width;
                    for c in 0..self.width {
                        y[row + c] = bf16_bits(self.y(*o, expert, c));
                    }
                }
            }
            let value = bench.put(rank, config, "y", 0, &Plane::Bf16(y));
            self.at[rank].insert("y", value);
        }
    }

    /// What a kernel wrote on a rank.
    pub fn get(&self, bench: &Bench, rank: usize, config: &KernelConfig, name: &str) -> Plane {
        bench.get(rank, config, name, &self.at[rank][name])
    }

    /// Rows and their weights are where they should be.
    pub fn check_rows(&self, bench: &Bench, dispatch: &KernelConfig, at: Place<'_>) {
        let (w, groups) = (self.width, self.width.div_ceil(128));
        for rank in 0..bench.ranks() {
            let get = |name| self.get(bench, rank, dispatch, name);
            let weights = get("row_weights").floats();
            let quant = matches!(self.x[rank], Payload::Quant { .. });
            let got = if quant {
                vec![get("rows_codes"), get("rows_scales")]
            } else {
                vec![get("rows")]
            };
            for local in 0..self.local {
                for (i, o) in self.want[rank * self.local + local].iter().enumerate() {
                    let row = at(rank, local, i);
                    let what = format!(
                        "rank {rank}, expert {local}, row {i} of {o:?}, seed {}",
                        self.seed
                    );
                    let weight = self.all[o.rank].weights[o.token][o.slot];
                    assert_eq!(weights[row], weight, "weight of {what}");
                    let same = match (&self.x[o.rank], &got[..]) {
                        (Payload::Bf16(x), [Plane::Bf16(got)]) => {
                            got[row * w..][..w] == x[o.token * w..][..w]
                        }
                        (
                            Payload::Quant { codes, scales },
                            [Plane::E4m3(got), Plane::F32(got_scales)],
                        ) => {
                            got[row * w..][..w] == codes[o.token * w..][..w]
                                && got_scales[row * groups..][..groups]
                                    == scales[o.token * groups..][..groups]
                        }
                        _ => false,
                    };
                    assert!(same, "{what}");
                }
            }
        }
    }

    /// Sums at the tokens.
    pub fn check_sums(&self, bench: &Bench, combine: &KernelConfig, want: Sum<'_>) {
        for (rank, tokens) in self.all.iter().enumerate() {
            let Plane::Bf16(got) = self.get(bench, rank, combine, "out") else {
                panic!("sums are BF16")
            };
            for token in 0..tokens.len() {
                let (experts, weights) = (&tokens.experts[token], &tokens.weights[token]);
                for c in 0..self.width {
                    let results: Vec<f32> = (0..experts.len())
                        .map(|slot| self.y(Origin { rank, token, slot }, experts[slot], c))
                        .collect();
                    let sum = want(experts, weights, &results);
                    assert_eq!(
                        got[token * self.width + c],
                        bf16_bits(sum),
                        "rank {rank}, token {token}, channel {c}, seed {}: {} for {sum}",
                        self.seed,
                        bf16_value(got[token * self.width + c]),
                    );
                }
            }
        }
    }
}
