//! The door, reviews and writes before an API server that says what a test tells it.

mod calls;
mod daemon_set;
mod definitions;
mod door;
mod fake;
mod leading;
mod lists;
mod look;
mod tokens;
