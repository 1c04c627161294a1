//! TLS sessions under a stranger's bytes: `cargo fuzz run tls_session` in lib/net.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| underpass_net::tls::fuzz::run(data));
