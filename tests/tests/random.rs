//! Random models through the optimiser, code generation and the simulated device; `mcc fuzz` checks any number.

use std::time::{Duration, Instant};

use mcc::fuzz::check;

/// Models at least, and how long more are tried. Each is compiled from scratch, which takes about a second.
const LEAST: u64 = 8;
const TIME: Duration = Duration::from_secs(20);

#[test]
fn random_models_mean_on_the_device_what_they_mean_in_the_evaluator() {
    let start = Instant::now();
    for seed in 0.. {
        if seed >= LEAST && start.elapsed() >= TIME {
            return;
        }
        let outcome = check(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        println!("{outcome}");
        assert_eq!(outcome.wrong, None, "{outcome}");
    }
}
