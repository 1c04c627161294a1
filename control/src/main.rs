//! `underpass-control`.
fn main() {}
