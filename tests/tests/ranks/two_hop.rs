//! Dispatch and combine in two hops.

use mcc_ir::exchange::{ExpertGroup, TwoHopCombine, TwoHopDispatch};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::numerics::{bf16_bits, bf16_value};

use super::bench::Bench;
use super::routing::{Tokens, group};
use super::step::{Exchange, STEPS, Step};

/// What is exchanged, and how.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub group: ExpertGroup,
    pub width: u32,
    pub quant: bool,
    pub weighted: bool,
    pub channels: u32,
}

/// To BF16 and back.
fn round(x: f32) -> f32 {
    bf16_value(bf16_bits(x))
}

impl Case {
    pub fn kernels(&self) -> (KernelConfig, KernelConfig) {
        let capacity = self.group.most_rows() as u32;
        let dispatch = TwoHopDispatch {
            group: self.group,
            width: self.width,
            quant: self.quant,
            capacity,
            channels: self.channels,
        };
        let combine = TwoHopCombine {
            group: self.group,
            width: self.width,
            weighted: self.weighted,
            capacity,
            channels: self.channels,
        };
        (
            KernelConfig::TwoHopDispatch(dispatch),
            KernelConfig::TwoHopCombine(combine),
        )
    }

    /// The first row of each expert on its rank, and the rows of each rank.
    fn begins(&self, step: &Step) -> (Vec<usize>, Vec<usize>) {
        let local = self.group.local() as usize;
        let (mut begins, mut ends) = (Vec::new(), Vec::new());
        for rank in step.want.chunks(local) {
            let mut row = 0;
            for rows in rank {
                begins.push(row);
                row += rows.len();
            }
            ends.push(row);
        }
        (begins, ends)
    }
}

impl Exchange for Case {
    fn group(&self) -> ExpertGroup {
        self.group
    }

    fn push(&self, bench: &mut Bench, all: Vec<Tokens>, seed: u64) -> Step {
        let (dispatch, combine) = self.kernels();
        let mut step = Step::new(bench, &dispatch, (self.width, self.quant), all, seed);
        step.alloc(bench, &dispatch);
        step.alloc(bench, &combine);
        let local = self.group.local() as usize;
        let (begins, _) = self.begins(&step);
        let rows = self.group.most_rows() as usize;
        let at = move |rank: usize, expert: usize, i: usize| begins[rank * local + expert] + i;
        step.put_results(bench, &combine, rows, &at);
        bench.push(&dispatch, &step.at);
        bench.push(&combine, &step.at);
        step
    }

    fn check(&self, bench: &Bench, step: &Step) {
        let (dispatch, combine) = self.kernels();
        let (local, gpus) = (self.group.local() as usize, self.group.gpus as usize);
        let (begins, ends) = self.begins(step);
        for rank in 0..bench.ranks() {
            let offsets = step.get(bench, rank, &dispatch, "offsets");
            let want = begins[rank * local..][..local].iter().chain([&ends[rank]]);
            let got: Vec<usize> = offsets.ints().iter().map(|n| *n as usize).collect();
            assert!(
                got.iter().eq(want),
                "offsets of rank {rank}, seed {}",
                step.seed
            );
        }
        step.check_rows(bench, &dispatch, &|rank, expert, i| {
            begins[rank * local + expert] + i
        });
        // Three roundings: of each rank's sum, of each node's, of all.
        step.check_sums(bench, &combine, &|experts, weights, results| {
            let mut sum = 0f32;
            for node in 0..self.group.nodes as usize {
                let mut of_node = None;
                for rank in node * gpus..(node + 1) * gpus {
                    let mut of_rank = None;
                    for (slot, expert) in experts.iter().enumerate() {
                        if expert / local == rank {
                            let acc: f32 = of_rank.unwrap_or(0.0);
                            of_rank = Some(if self.weighted {
                                weights[slot].mul_add(results[slot], acc)
                            } else {
                                acc + results[slot]
                            });
                        }
                    }
                    if let Some(v) = of_rank {
                        of_node = Some(of_node.unwrap_or(0.0) + round(v));
                    }
                }
                if let Some(v) = of_node {
                    sum += round(v);
                }
            }
            sum
        });
    }
}

#[test]
fn rows_and_sums_are_exact() {
    for (nodes, gpus, experts, top_k, tokens, width, quant) in [
        (1, 1, 4, 2, 5, 64, true),
        (1, 2, 8, 3, 40, 256, true),
        (1, 4, 16, 4, 6, 136, false),
        (1, 8, 16, 4, 4, 384, true),
        (2, 1, 6, 3, 60, 64, false),
        (2, 4, 16, 4, 7, 256, true),
        (4, 2, 16, 8, 5, 144, true),
    ] {
        let case = Case {
            group: group(nodes, gpus, experts, top_k, tokens),
            width,
            quant,
            weighted: !quant || gpus == 2,
            channels: 2,
        };
        case.run_twice(&STEPS);
    }
}
