//! The simulator's decoder on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcc_fuzz::targets::sim_decode(data));
