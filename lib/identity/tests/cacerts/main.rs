//! A plugged-in CA: keys and chains of every kind that users have, and every fault by its name.

#![allow(missing_docs, reason = "tests")]

mod faults;
mod plugged_in;
mod world;
