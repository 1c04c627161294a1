//! Metric families: name, help, kind and labels. Families are `static`s; a test registers each of them, so that none has a
//! name or a label that Prometheus would not take.

use std::collections::HashMap;

use prometheus::{
    Opts,
    core::Desc,
    proto::{Metric, MetricFamily, MetricType},
};

/// The kind of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations up to each of these bounds, which grow.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As written behind `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    pub(super) const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram(_) => MetricType::HISTOGRAM,
        }
    }
}

/// One metric with all of its series.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
}

impl Family {
    /// A counter; `name` ends in `_total`.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Counter, labels }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Gauge, labels }
    }

    /// A histogram; `name` ends in the unit that its bounds have.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Self { name, help, kind: Kind::Histogram(bounds), labels }
    }

    /// Its full name: `underpass_tunnels_opened_total`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What it measures, in one sentence.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        self.help
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The names of its labels, in the order of their values.
    #[must_use]
    pub const fn labels(&self) -> &'static [&'static str] {
        self.labels
    }

    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    /// # Panics
    /// Where Prometheus would not take a name of it.
    pub(super) fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        self.taken(Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new()))
    }

    /// The instrument that was made of it.
    ///
    /// # Panics
    /// Where that failed: families are constants, and a test makes all of them.
    pub(super) fn taken<T>(&self, made: prometheus::Result<T>) -> T {
        made.unwrap_or_else(|error| panic!("metric {}: {error}", self.name))
    }

    pub(super) fn with(&self, series: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind.metric_type());
        family.set_metric(series);
        family
    }
}
