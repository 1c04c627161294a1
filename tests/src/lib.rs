//! The testbed, the applications that run in it, the end-to-end tests, the demo and the benchmarks. The roof of the house: it may use
//! every crate, none uses it.

pub mod apps;
pub mod bench;
pub mod cluster;
pub mod installed;
pub mod mesh;
pub mod prometheus;
pub mod testbed;
