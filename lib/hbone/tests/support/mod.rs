//! Support of this crate's tests: two ends joined in memory, a hand-written peer, and peers made with the h2 crate.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

pub(crate) mod differential;
pub(crate) mod ours;
pub(crate) mod pair;
pub(crate) mod raw;
pub(crate) mod theirs;

/// A point in time from which tests count.
#[allow(clippy::disallowed_methods, reason = "there is no other way to make an Instant; nothing reads the clock again")]
pub(crate) fn origin() -> std::time::Instant {
    std::time::Instant::now()
}
