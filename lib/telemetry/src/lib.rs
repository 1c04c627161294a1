//! Telemetry of the mesh's programs: access log, operational log, admin API and metrics. One storey above core, so that the
//! tunnel, the agent and the command share one spelling of everything that people and programs read.
//!
//! * [`access_log`]: one line per connection, written beside the data path and never in its way.
//! * [`log`]: `tracing` for operations, with a level that changes while the program runs.
//! * [`admin`]: the HTTP API that each binary fills with its routes, its client, and readiness.
//! * [`metrics`]: counters, gauges and histograms, summed and written at a scrape.

pub mod access_log;
pub mod admin;
mod format;
pub mod log;
pub mod metrics;

pub use format::{Format, ParseFormatError};
