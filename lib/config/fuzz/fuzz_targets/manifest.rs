//! Any bytes are a manifest. `cargo +nightly fuzz run manifest ../corpus/manifest` from lib/config/fuzz.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| underpass_config::fuzz::run(bytes));
