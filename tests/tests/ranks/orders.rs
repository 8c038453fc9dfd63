//! Many orders of delivery and of work, with the checkers on: always the same bits.

use mcc_sim::Completion;

use super::routing::{Pattern, group};
use super::step::Exchange;
use super::{direct, two_hop};

/// Two steps each, of which the second uses what the first left.
const STEPS: [(u64, Pattern); 2] = [(1, Pattern::Uniform), (5, Pattern::Spread)];

#[test]
fn direct_kernels_are_right_and_clean_in_every_order() {
    let case = direct::Case {
        group: group(2, 2, 8, 3, 3),
        width: 64,
        quant: true,
        weighted: true,
        blocks: 2,
    };
    for seed in 0..100 {
        // Fewer with checkers: one run finds a race whatever order it took.
        case.run(Completion::Random(seed), seed < 32, &STEPS);
    }
}

#[test]
fn two_hop_kernels_are_right_and_clean_in_every_order() {
    let case = two_hop::Case {
        group: group(2, 2, 8, 3, 6),
        width: 64,
        quant: true,
        weighted: true,
        channels: 1,
    };
    for seed in 0..100 {
        case.run(Completion::Random(seed), seed < 32, &STEPS);
    }
}
