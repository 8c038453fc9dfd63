//! What travels between ranks, counted, against what must travel.

use mcc_ir::exchange::{COUNTER, ExpertGroup};
use mcc_ir::kernel::ExchangeRange;
use mcc_sim::Completion;

use super::bench::Bench;
use super::routing::{Pattern, Tokens, draw_all, group};
use super::step::Exchange;
use super::{direct, two_hop};

/// Bytes of payload a message, there and back.
fn message(range: ExchangeRange) -> u64 {
    match range {
        ExchangeRange::DirectDispatch(x) => u64::from(x.message_bytes()),
        ExchangeRange::TwoHopDispatch(x) => u64::from(x.message_bytes()),
        ExchangeRange::DirectCombine(x) => 2 * u64::from(x.width),
        ExchangeRange::TwoHopCombine(x) => 2 * u64::from(x.width),
    }
}

/// Sums over pairs of ranks on different nodes: bytes over the network.
fn network(bench: &Bench) -> u64 {
    let ranks = bench.ranks();
    (0..ranks * ranks)
        .map(|i| bench.world.traffic(i / ranks, i % ranks).network_bytes)
        .sum()
}

/// How many pairs of a token and another node there are.
fn crossings(g: &ExpertGroup, all: &[Tokens]) -> u64 {
    let node_of = |e: usize| e / g.local() as usize / g.gpus as usize;
    let mut sum = 0;
    for (rank, tokens) in all.iter().enumerate() {
        for experts in &tokens.experts {
            let mut nodes: Vec<usize> = experts.iter().map(|e| node_of(*e)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.retain(|n| *n != rank / g.gpus as usize);
            sum += nodes.len() as u64;
        }
    }
    sum
}

/// How many (token, slot) pairs have their expert on another node.
fn far_pairs(g: &ExpertGroup, all: &[Tokens]) -> u64 {
    let node_of = |e: usize| e / g.local() as usize / g.gpus as usize;
    let of = |rank: usize, t: &Tokens| {
        let experts = t.experts.iter().flatten();
        experts
            .filter(|e| node_of(**e) != rank / g.gpus as usize)
            .count() as u64
    };
    all.iter().enumerate().map(|(rank, t)| of(rank, t)).sum()
}

/// Whole bytes of messages, without counters and signals, which are words of eight bytes.
fn payload(bytes: u64, per_message: u64, messages: u64) {
    let control = bytes - per_message * messages;
    assert!(control.is_multiple_of(u64::from(COUNTER)), "{control}");
}

#[test]
fn a_token_crosses_to_another_node_once() {
    let g = group(2, 4, 16, 6, 12);
    for (quant, pattern) in [
        (true, Pattern::Uniform),
        (false, Pattern::Spread),
        (true, Pattern::Skewed),
    ] {
        let case = two_hop::Case {
            group: g,
            width: 256,
            quant,
            weighted: true,
            channels: 2,
        };
        let all = draw_all(&g, pattern, 6);
        let crossings = crossings(&g, &all);
        assert!(crossings > 0 && far_pairs(&g, &all) > crossings);
        let mut bench = Bench::new(g, Completion::Early, false);
        let step = case.push(&mut bench, all, 6);
        bench.run_well("traffic");
        case.check(&bench, &step);
        let (dispatch, combine) = case.kernels();
        let both = [&dispatch, &combine].map(|c| message(c.exchange().expect("exchanges")));
        let least: u64 = both.iter().map(|bytes| bytes * crossings).sum();
        let bytes = network(&bench);
        // Signals: a word for each chunk, each head and each count; far less than one message more.
        let words = (bytes - least) / u64::from(COUNTER);
        let chunks = 2 * 2 * u64::from(g.ranks()) * 2 * 8;
        assert!(bytes >= least, "{bytes} bytes, at least {least}");
        assert!(
            words <= u64::from(g.experts) * u64::from(g.ranks()) + chunks,
            "{words} words beside {crossings} crossings"
        );
        payload(bytes, both[0] + both[1], crossings);
    }
}

/// FP8 rows with their scales are near to half of BF16 rows: (W + W/32 + meta) to (2 W + meta).
#[test]
fn fp8_dispatch_sends_half_of_bf16_dispatch() {
    let g = group(2, 2, 8, 4, 10);
    let bytes = |quant| {
        let case = two_hop::Case {
            group: g,
            width: 1024,
            quant,
            weighted: true,
            channels: 1,
        };
        let all = draw_all(&g, Pattern::Uniform, 6);
        let crossings = crossings(&g, &all);
        let mut bench = Bench::new(g, Completion::Early, false);
        case.push(&mut bench, all, 6);
        bench.run_well("traffic");
        // Both combines are BF16.
        network(&bench) - 2 * 1024 * crossings
    };
    let ratio = bytes(true) as f64 / bytes(false) as f64;
    let theory = f64::from(1024 + 32 + 8 + 8 * 4) / f64::from(2048 + 8 + 8 * 4);
    assert!((ratio - theory).abs() < 0.06, "{ratio} against {theory}");
}

#[test]
fn direct_rows_travel_once_for_each_expert() {
    let g = group(2, 2, 8, 4, 10);
    let case = direct::Case {
        group: g,
        width: 512,
        quant: true,
        weighted: true,
        blocks: 2,
    };
    let all = draw_all(&g, Pattern::Uniform, 6);
    let pairs = far_pairs(&g, &all);
    let mut bench = Bench::new(g, Completion::Early, false);
    let step = case.push(&mut bench, all, 6);
    bench.run_well("traffic");
    case.check(&bench, &step);
    let k = case.kernels();
    let there = message(k.send.exchange().expect("exchanges"));
    let back = message(k.back.exchange().expect("exchanges"));
    let word = u64::from(COUNTER);
    // A signal with each row, and each rank's count for each expert of another node.
    let counts = u64::from(g.experts) * u64::from(g.ranks()) / 2;
    assert_eq!(
        network(&bench),
        pairs * (there + back + 2 * word) + counts * word
    );
}
