//! Bugs of order planted into the kernels: a scope narrowed, a release or an acquire dropped, a slot used again too early.
//! They are found by the checkers, or by what comes out. Not all can be: a count carries its value in its own word and
//! orders nothing else, a chunk's word is looked at again when it has been acquired already, and a ring's room matters on
//! those ways through a kernel on which the ring has come round.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mcc_ir::kernel::KernelConfig;
use mcc_sim::Completion;

use super::bench::{Bench, Bug};
use super::routing::{Pattern, group};
use super::step::Exchange;
use super::{direct, two_hop};
use crate::harness::compile;

/// Orders that a bug may take to be found.
const SEEDS: u64 = 3;
/// Of so many bugs of a two-hop kernel one is tried: all of them take two minutes.
const SAMPLE: usize = 3;
/// What must be found. Of all bugs, 20 of 22 and 85 of 96 were.
const FOUND: f64 = 0.8;

/// What one line of a kernel can be turned into.
fn bugs(line: &str) -> Vec<String> {
    let mut bugs = Vec::new();
    for (from, to) in [
        ("st.release.sys", "st.release.gpu"),
        ("st.release.sys", "st.relaxed.sys"),
        ("red.release.sys", "red.release.gpu"),
        ("red.release.sys", "red.relaxed.sys"),
        ("ld.acquire.sys", "ld.acquire.gpu"),
        ("ld.acquire.sys", "ld.relaxed.sys"),
    ] {
        if line.contains(from) {
            bugs.push(line.replace(from, to));
        }
    }
    // Room in a ring of eight: `written - read` below 8.
    let compares = line.trim_start().starts_with("setp.") && line.contains(".s32");
    for (from, to) in [(", 7;", ", 11;"), (", 8;", ", 12;")] {
        if compares && line.ends_with(from) {
            bugs.push(line.replace(from, to));
        }
    }
    bugs
}

/// Runs all bugs of a kernel; those that nobody found, as kernel, line and text.
fn survivors(
    configs: &[KernelConfig],
    runs: &dyn Fn(Bug) -> bool,
    sample: usize,
) -> (usize, Vec<String>) {
    let mut survivors = Vec::new();
    let (mut seen, mut count) = (0, 0);
    for config in configs {
        let code = compile(config);
        for (number, line) in code.ptx.lines().enumerate() {
            for bug in bugs(line) {
                seen += 1;
                if seen % sample != 0 {
                    continue;
                }
                count += 1;
                let (name, text) = (code.name.clone(), bug.clone());
                let plant: Bug = Box::new(move |kernel, ptx| {
                    if kernel != name {
                        return ptx.to_owned();
                    }
                    let lines = ptx.lines().enumerate();
                    let lines = lines.map(|(i, l)| if i == number { &text[..] } else { l });
                    lines.collect::<Vec<_>>().join("\n")
                });
                if runs(plant) {
                    let (line, bug) = (line.trim(), bug.trim());
                    survivors.push(format!(
                        "{}:{}: {line} -> {bug}",
                        config.family(),
                        number + 1
                    ));
                }
            }
        }
    }
    (count, survivors)
}

fn assert_found(least: usize, (count, left): &(usize, Vec<String>)) {
    let found = 1.0 - left.len() as f64 / *count as f64;
    println!(
        "{count} bugs, {} not found:\n{}",
        left.len(),
        left.join("\n")
    );
    assert!(*count >= least, "{count} bugs");
    assert!(found >= FOUND, "{found}: not found:\n{}", left.join("\n"));
}

/// Whether all goes well in every order that is tried: nobody notices the bug.
fn goes_well(case: &dyn Exchange, pattern: Pattern, bug: Bug) -> bool {
    let bug = Rc::new(bug);
    (0..SEEDS).all(|seed| {
        let mut bench = Bench::repeatable(case.group(), Completion::Random(seed), true);
        let bug = Rc::clone(&bug);
        bench.bug = Some(Box::new(move |name, ptx| bug(name, ptx)));
        let steps = case.push_all(&mut bench, &[(6, pattern), (7, pattern)]);
        if bench.run(&[]).iter().any(Result::is_err) {
            return false;
        }
        let right = AssertUnwindSafe(|| steps.iter().for_each(|s| case.check(&bench, s)));
        catch_unwind(right).is_ok()
    })
}

#[test]
fn bugs_of_order_in_direct_kernels_are_found() {
    let case = direct::Case {
        group: group(2, 2, 8, 3, 4),
        width: 64,
        quant: true,
        weighted: true,
        blocks: 2,
    };
    let k = case.kernels();
    assert_found(
        20,
        &survivors(
            &[k.send, k.receive, k.back, k.sum],
            &|bug| goes_well(&case, Pattern::Uniform, bug),
            1,
        ),
    );
}

#[test]
fn bugs_of_order_in_two_hop_kernels_are_found() {
    let case = two_hop::Case {
        group: group(2, 2, 8, 3, 40),
        width: 64,
        quant: true,
        weighted: true,
        channels: 1,
    };
    let (dispatch, combine) = case.kernels();
    assert_found(
        30,
        &survivors(
            &[dispatch, combine],
            &|bug| goes_well(&case, Pattern::Spread, bug),
            SAMPLE,
        ),
    );
}
