//! A rank that dies: the others say whom they waited for, after ten seconds of the device's time, and do not hang.

use mcc_sim::{Completion, Death};

use super::bench::Bench;
use super::routing::{Pattern, group};
use super::step::Exchange;
use super::{direct, two_hop};

/// One step after the other.
const STEPS: [(u64, Pattern); 2] = [(1, Pattern::Spread), (2, Pattern::Spread)];

/// Sites of waits for other ranks, as statuses have them (`codegen::emit::system::PeerSite`).
const SITES: std::ops::RangeInclusive<u32> = 16..=19;

/// Runs what is queued while `victim` dies; every other rank fails, or has ended before it could notice.
fn die(bench: &mut Bench, victim: usize, death: Death) {
    let mut dies = vec![None; bench.ranks()];
    dies[victim] = Some(death);
    let results = bench.run(&dies);
    assert!(results[victim].is_err(), "{death:?}: the victim went on");
    let mut named = 0;
    for (rank, result) in results.iter().enumerate().filter(|(r, _)| *r != victim) {
        let Err((_, error)) = result else { continue };
        let (site, peer) = bench
            .waited(rank)
            .unwrap_or_else(|| panic!("rank {rank}, {death:?}: no status: {error}"));
        assert!(SITES.contains(&site), "rank {rank} waited at site {site}");
        assert_ne!(peer, rank);
        named += usize::from(peer == victim);
    }
    assert!(named > 0, "{death:?}: nobody waited for rank {victim}");
}

#[test]
fn survivors_of_a_direct_exchange_name_whom_they_waited_for() {
    let case = direct::Case {
        group: group(2, 2, 8, 3, 6),
        width: 64,
        quant: true,
        weighted: true,
        blocks: 2,
    };
    // Before the dispatch, in the midst of it, between dispatch and combine, and in the combine.
    for death in [
        Death::BeforeLaunch(0),
        Death::AfterInstructions(300),
        Death::BeforeLaunch(2),
        Death::BeforeLaunch(3),
    ] {
        let mut bench = Bench::new(case.group, Completion::Early, false);
        case.push_all(&mut bench, &STEPS);
        die(&mut bench, 2, death);
    }
}

#[test]
fn survivors_of_a_two_hop_exchange_name_whom_they_waited_for() {
    let case = two_hop::Case {
        group: group(2, 2, 8, 3, 6),
        width: 64,
        quant: true,
        weighted: true,
        channels: 1,
    };
    for death in [
        Death::BeforeLaunch(0),
        Death::AfterInstructions(2000),
        Death::BeforeLaunch(1),
    ] {
        let mut bench = Bench::new(case.group, Completion::Early, false);
        case.push_all(&mut bench, &STEPS);
        die(&mut bench, 2, death);
    }
}
