//! Any bytes as a launch file, which is run where it is legal.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcc_fuzz::targets::launch_file(data));
