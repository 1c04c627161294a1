//! Collection at a scrape: of numbers that other modules keep, and of series that come and go.

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily},
};

use super::{Family, Kind};

/// A value. Prometheus knows floats alone: counts are exact up to 2^53.
pub trait Number {
    /// As Prometheus knows it.
    fn float(self) -> f64;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Number for $number {
            fn float(self) -> f64 {
                self as f64
            }
        })*
    };
}

numbers! { u64 i64 usize f64 }

/// The samples of one collector at one scrape.
#[derive(Debug)]
pub struct Samples(Vec<(&'static Family, Vec<Metric>)>);

impl Samples {
    pub(super) fn new(families: &[&'static Family]) -> Self {
        Self(families.iter().map(|family| (*family, Vec::new())).collect())
    }

    /// Adds `value` to the series of these label values, in the order of the family's labels. The family is one of those
    /// that the collector was registered with.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Number) {
        debug_assert_eq!(family.labels().len(), labels.len(), "{}: a value for each label", family.name());
        let series = self.0.iter_mut().find(|(known, _)| std::ptr::eq(*known, family));
        debug_assert!(series.is_some(), "{} is not registered", family.name());
        let Some((_, series)) = series else { return };
        series.push(metric(family, labels, value.float()));
    }

    pub(super) fn families(self) -> Vec<MetricFamily> {
        self.0.into_iter().map(|(family, series)| family.with(series)).collect()
    }
}

fn metric(family: &Family, labels: &[&str], value: f64) -> Metric {
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::from_label(family.labels().iter().zip(labels).map(pair).collect());
    set(&mut metric, family.kind(), value);
    metric
}

/// A histogram has no single value: those are counted by instruments alone.
fn set(metric: &mut Metric, kind: Kind, value: f64) {
    debug_assert!(!matches!(kind, Kind::Histogram(_)), "a histogram is not collected");
    if kind == Kind::Counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
}

/// A collector that is called at every scrape.
pub(super) struct ScrapeCollector<F> {
    families: Box<[&'static Family]>,
    descs: Vec<Desc>,
    show: F,
}

impl<F> ScrapeCollector<F> {
    pub(super) fn new(families: &[&'static Family], show: F) -> Self {
        Self { families: families.into(), descs: families.iter().map(|family| family.desc()).collect(), show }
    }
}

impl<F: Fn(&mut Samples) + Send + Sync> Collector for ScrapeCollector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut samples = Samples::new(&self.families);
        (self.show)(&mut samples);
        samples.families()
    }
}
