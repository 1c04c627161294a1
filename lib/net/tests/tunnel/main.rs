//! Tunnels on loopback: applications at both ends, peers of ours and of others, and what may go wrong between them.

mod bytes;
mod carry;
mod foreign;
#[cfg(feature = "h2spec")]
mod h2spec;
mod hostile;
mod memory;
mod meter;
mod nested;
mod peer;
mod share;
mod trust;
