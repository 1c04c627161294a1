//! The pool of tunnels, on loopback: sharing, and trust in the peer.

mod share;
mod support;
mod trust;
