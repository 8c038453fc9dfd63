//! The PTX parser on any bytes; what it accepts round trips.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcc_fuzz::targets::ptx_parse(data));
