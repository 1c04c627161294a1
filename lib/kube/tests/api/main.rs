//! The door, reviews and writes before an API server that says what a test tells it.

mod calls;
mod door;
mod fake;
