//! Random models through the optimiser, code generation and the simulated device; `mcc fuzz` checks any number.

use mcc::fuzz::Fuzzer;

const MODELS: u64 = 2000;

#[test]
fn random_models_mean_on_the_device_what_they_mean_in_the_evaluator() {
    let fuzzer = Fuzzer::default();
    let (mut rows, mut compared, mut equal) = (0, 0, 0);
    fuzzer.check_all(0..MODELS, 0, |seed, outcome| {
        let outcome = outcome.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(outcome.wrong, None, "{outcome}");
        rows += outcome.rows.0;
        compared += outcome.rows.1;
        equal += u64::from(outcome.device.is == 0.0);
    });
    let kernels = fuzzer.kernels();
    println!("{compared} of {rows} rows compared, {equal} models bit for bit, {kernels} kernels");
    // Routing leaves out rows whose experts are open; were they many, there would be little left to be wrong.
    assert!(4 * compared > 3 * rows, "{compared} of {rows} rows");
}
