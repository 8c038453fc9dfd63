//! Dispatch and combine in one hop.

use mcc_ir::exchange::{DirectCombine, DirectDispatch, ExpertGroup};
use mcc_ir::kernel::KernelConfig;

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
    pub blocks: u32,
}

/// The kernels of a case, in order.
pub struct Kernels {
    pub send: KernelConfig,
    pub receive: KernelConfig,
    pub back: KernelConfig,
    pub sum: KernelConfig,
    rows: usize,
}

impl Case {
    pub fn kernels(&self) -> Kernels {
        let dispatch = DirectDispatch {
            group: self.group,
            width: self.width,
            quant: self.quant,
            blocks: self.blocks,
        };
        let combine = DirectCombine {
            group: self.group,
            width: self.width,
            weighted: self.weighted,
            blocks: self.blocks,
        };
        Kernels {
            send: KernelConfig::DirectDispatchSend(dispatch),
            receive: KernelConfig::DirectDispatchReceive(dispatch),
            back: KernelConfig::DirectCombineSend(combine),
            sum: KernelConfig::DirectCombineReceive(combine),
            rows: dispatch.rows() as usize,
        }
    }
}

impl Exchange for Case {
    fn group(&self) -> ExpertGroup {
        self.group
    }

    fn push(&self, bench: &mut Bench, all: Vec<Tokens>, seed: u64) -> Step {
        let k = self.kernels();
        let mut step = Step::new(bench, &k.send, (self.width, self.quant), all, seed);
        step.alloc(bench, &k.receive);
        step.alloc(bench, &k.sum);
        let room = k.rows;
        let local = self.group.local() as usize;
        let at = move |_: usize, expert: usize, i: usize| expert * room + i;
        step.put_results(bench, &k.back, local * room, &at);
        for config in [&k.send, &k.receive, &k.back, &k.sum] {
            bench.push(config, &step.at);
        }
        step
    }

    fn check(&self, bench: &Bench, step: &Step) {
        let k = self.kernels();
        let local = self.group.local() as usize;
        for rank in 0..bench.ranks() {
            let counts = step.get(bench, rank, &k.receive, "counts");
            let want = step.want[rank * local..][..local].iter().map(Vec::len);
            let got = counts.ints().iter().map(|n| *n as usize);
            assert!(got.eq(want), "counts of rank {rank}, seed {}", step.seed);
        }
        let room = k.rows;
        step.check_rows(bench, &k.receive, &|_, expert, i| expert * room + i);
        step.check_sums(bench, &k.sum, &|_, weights, results| {
            let slots = weights.iter().zip(results);
            slots.fold(0.0, |sum, (weight, v)| {
                if self.weighted {
                    weight.mul_add(*v, sum)
                } else {
                    sum + v
                }
            })
        });
    }
}

#[test]
fn rows_and_sums_are_exact() {
    for (nodes, gpus, experts, top_k, tokens, width, quant) in [
        (1, 1, 4, 2, 5, 64, true),
        (1, 2, 8, 3, 7, 256, true),
        (1, 4, 16, 4, 6, 136, false),
        (1, 8, 16, 4, 4, 384, true),
        (2, 1, 6, 3, 5, 64, false),
        (2, 4, 16, 4, 5, 256, true),
        (4, 2, 16, 8, 3, 144, true),
    ] {
        let case = Case {
            group: group(nodes, gpus, experts, top_k, tokens),
            width,
            quant,
            weighted: !quant || gpus == 2,
            blocks: 3,
        };
        case.run_twice(&STEPS);
    }
}
