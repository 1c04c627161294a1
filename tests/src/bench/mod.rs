//! Benchmarks: what something costs, counted and timed, with its target beside it. `underpass-bench` runs them,
//! which `cargo xtask bench` builds and starts; a quick form that judges counts alone is a test (`tests/tests/bench.rs`).
//!
//! * [`world`]: what a change of the World costs an agent.
//! * [`allocations`], [`process`]: what is counted and timed. [`report`], [`table`]: what is told. [`machine`]: of where.

pub mod allocations;
pub mod machine;
pub mod process;
pub mod report;
pub mod table;
pub mod world;
