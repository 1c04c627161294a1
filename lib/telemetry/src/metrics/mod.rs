//! Numbers about the process and its traffic, in the text formats that Prometheus reads.
//!
//! A family (name, help, labels) is a `static` beside what it measures; its names are checked when it is compiled.
//! Values come in two ways:
//!
//! ```text
//! Registry::counter(&FAMILY).with(&["inbound"]) -> Counter      owned by whoever counts: inc() is one atomic add
//! Registry::collect(|samples| samples.add(&FAMILY, ..))         asked at scrape, for what is known elsewhere
//!                                  \--> Samples: equal labels are summed --> text 0.0.4 or OpenMetrics 1.0
//! ```
//! Nothing is shared by those who count: a worker declares a table of its own for a family that others declare too, and
//! a scrape adds them up. Nothing here is touched per byte.

mod doc;
mod family;
mod instrument;
mod labels;
pub mod process;
mod registry;
mod route;
mod samples;
mod write;

pub use self::{
    doc::markdown,
    family::{Family, Kind},
    instrument::{Counter, Gauge, Held, Histogram, Instrument, Table},
    labels::Labels,
    registry::Registry,
    route::{FRESH, routes},
    samples::{Distribution, Samples, Value},
    write::Exposition,
};

#[cfg(test)]
mod tests;
