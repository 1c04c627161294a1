//! Bytes of a peer: no panic, and what is seen does not depend on how they were cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| underpass_hbone::fuzz::receive::run(input));
