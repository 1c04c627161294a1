//! The same bytes to our server and to h2's: the same requests.
#![no_main]

#[path = "../../tests/support/differential.rs"]
mod differential;

libfuzzer_sys::fuzz_target!(|input: &[u8]| differential::run(input));
