//! The node agent

pub mod datapath;
pub mod tables;
