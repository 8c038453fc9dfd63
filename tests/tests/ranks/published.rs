//! The published model's layer: 7,168 channels, 256 experts, eight of them a token, four nodes of eight GPUs.

use mcc_sim::Completion;

use super::routing::{Pattern, group};
use super::step::Exchange;
use super::{direct, two_hop};

const STEP: [(u64, Pattern); 1] = [(6, Pattern::Uniform)];

#[test]
fn thirty_two_ranks_exchange_in_two_hops() {
    let case = two_hop::Case {
        group: group(4, 8, 256, 8, 3),
        width: 7168,
        quant: true,
        weighted: true,
        channels: 1,
    };
    case.run(Completion::Early, false, &STEP);
}

#[test]
fn thirty_two_ranks_exchange_directly() {
    let case = direct::Case {
        group: group(4, 8, 256, 8, 3),
        width: 7168,
        quant: true,
        weighted: true,
        blocks: 4,
    };
    case.run(Completion::Early, false, &STEP);
}
