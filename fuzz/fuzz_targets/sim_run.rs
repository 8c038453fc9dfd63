//! Programs made from the instruction table and mutants of real kernels, run on the simulator.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcc_fuzz::targets::sim_run(data));
