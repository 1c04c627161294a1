//! Numbers about the process and its traffic, in the text format that Prometheus reads.
//!
//! A family (name, help, labels) is a `static` beside what it measures. Values come in three ways:
//!
//! ```text
//! Registry::counter(&FAMILY).with_label_values(&["inbound"])      owned by whoever counts: inc() is one atomic add
//! Registry::collect(FAMILIES, |samples| samples.add(&FAMILY, ..)) asked at scrape, for what is known elsewhere
//!                                      \--> equal labels are summed --> text 0.0.4
//! Registry::write(FAMILIES, |lines| lines.sample(&FAMILY, ..))    the same, straight as text: traffic
//! ```
//! Nothing is shared by those who count: a worker has a table of its own for a family that others count as well, and a
//! scrape adds them up. Nothing here is touched per byte. Instruments, gathering and writing are the crate `prometheus`'s.

mod doc;
mod family;
mod held;
mod lines;
pub mod process;
mod registry;
mod route;
mod samples;

pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

pub use self::{
    doc::markdown,
    family::{Family, Kind},
    held::Held,
    lines::Lines,
    registry::Registry,
    route::{FRESH, routes},
    samples::{Number, Samples},
};

#[cfg(test)]
mod tests;
