//! Metrics of the process and its traffic, in Prometheus' text format.
//!
//! A family (name, help, labels) is a `static` beside what it measures. Values come in three ways:
//!
//! ```text
//! Registry::counter(&FAMILY).with_label_values(&["inbound"])      owned by the code that counts: inc() is one atomic add
//! Registry::collect(FAMILIES, |samples| samples.add(&FAMILY, ..)) asked at scrape, for what is known elsewhere
//!                                      \--> equal labels are summed --> text 0.0.4
//! Registry::write(FAMILIES, |lines| lines.sample(&FAMILY, ..))    the same, straight as text: traffic
//! ```
//! Owners share nothing: a worker has a table of its own for a family that others count as well, and a scrape adds them up.
//! Nothing here is touched per byte. Instruments, gathering and writing are the crate `prometheus`'s.

mod doc;
mod family;
mod gauge_guard;
mod lines;
pub mod process;
mod registry;
mod route;
mod samples;

pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

pub use self::{
    doc::markdown,
    family::{Family, Kind},
    gauge_guard::GaugeGuard,
    lines::Lines,
    registry::Registry,
    route::{FRESH, routes},
    samples::{Number, Samples},
};

#[cfg(test)]
mod tests;
