//! A few seconds of each fuzz target, from fixed seeds. `MCC_FUZZ_SECONDS`
//! makes them longer, `MCC_FUZZ_SEED` starts them elsewhere.

use std::time::Duration;

use mcc_fuzz::source::{Random, Source};
use mcc_fuzz::{mutate, targets, watch};

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn fuzz(
    name: &str,
    make: impl Fn(&mut Random) -> Vec<u8> + Copy + Send + 'static,
    target: fn(&[u8]),
    describe: fn(&[u8]) -> String,
) {
    let seconds = number("MCC_FUZZ_SECONDS", 4);
    let seed = number("MCC_FUZZ_SEED", 1);
    watch::run(
        name,
        seed,
        Duration::from_secs(seconds),
        make,
        target,
        describe,
    );
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// A mutant of a real kernel as bytes.
fn mutant(random: &mut Random) -> Vec<u8> {
    let choices = random.bytes(200);
    targets::mutant(&mut Source::new(&choices), mutate::mutate).into_bytes()
}

#[test]
fn ptx_parse() {
    fuzz("ptx_parse", mutant, targets::ptx_parse, text);
}

#[test]
fn sim_decode() {
    fuzz("sim_decode", mutant, targets::sim_decode, text);
}

#[test]
fn sim_run() {
    fuzz(
        "sim_run",
        |r| {
            let count = 64 + (r.word() % 1000) as usize;
            r.bytes(count)
        },
        targets::sim_run,
        targets::sim_run_text,
    );
}

#[test]
fn launch_file() {
    for text in targets::LAUNCHES {
        targets::check_launch_file(text);
    }
    let make = |r: &mut Random| {
        let choices = r.bytes(120);
        let mut s = Source::new(&choices);
        let (a, b) = (targets::LAUNCHES[s.below(2)], targets::LAUNCHES[s.below(2)]);
        mutate::mutate(a, b, &mut s).into_bytes()
    };
    fuzz("launch_file", make, targets::launch_file, text);
}
