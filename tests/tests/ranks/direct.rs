//! Dispatch and combine in one hop.

use mcc_ir::exchange::{DirectCombine, DirectDispatch, ExpertGroup};
use mcc_ir::kernel::KernelConfig;
use mcc_sim::Completion;

use super::bench::Bench;
use super::routing::{Pattern, Tokens, draw_all, group};
use super::step::Step;

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

    /// Queues a step.
    pub fn push(&self, bench: &mut Bench, all: Vec<Tokens>, seed: u64) -> Step {
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

    /// What came of it.
    pub fn check(&self, bench: &Bench, step: &Step) {
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

    /// Some steps in a row, so that inboxes and counters are used again; a rank goes on as soon as it can.
    pub fn run(&self, completion: Completion, check: bool, steps: &[(u64, Pattern)]) {
        let mut bench = Bench::new(self.group, completion, check);
        let mut queued = Vec::new();
        for (seed, pattern) in steps {
            let all = draw_all(&self.group, *pattern, *seed);
            queued.push(self.push(&mut bench, all, *seed));
        }
        bench.run_well(&format!("{self:?}, {completion:?}"));
        for step in &queued {
            self.check(&bench, step);
        }
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
        let seed = u64::from(nodes * gpus);
        let plain = if nodes == 1 {
            Completion::Early
        } else {
            Completion::Late
        };
        case.run(plain, false, &STEPS);
        case.run(Completion::Random(seed), true, &STEPS);
    }
}
