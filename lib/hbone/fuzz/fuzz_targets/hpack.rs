//! Field blocks: no panic, the table within its limit, and what was decoded survives our own encoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| underpass_hbone::fuzz::hpack::run(input));
