//! Tunnels that connections share: when another one is opened, and whom they may lead to, on loopback.

mod share;
mod support;
mod trust;
