//! What one scrape has gathered. Equal labels are added up, so that nobody who counts has to know the others.

use std::collections::BTreeMap;

use super::{Family, Labels};

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count, exact.
    Count(u64),
    /// A level, exact.
    Level(i64),
    /// Anything that is not whole: seconds.
    Real(f64),
    /// A histogram.
    Distribution(Distribution),
}

/// Observations by size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Observations of each bucket alone; the last has no bound.
    pub buckets: Vec<u64>,
    /// All observations added up, microseconds.
    pub sum_us: u64,
}

impl Distribution {
    fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(a, b)| *a = a.saturating_add(*b));
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Count(a), Self::Count(b)) => *a = a.saturating_add(b),
            (Self::Level(a), Self::Level(b)) => *a = a.saturating_add(b),
            (Self::Distribution(a), Self::Distribution(b)) => a.add(&b),
            (a, b) => *a = Self::Real(a.real() + b.real()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "only where counts and reals meet in one series")]
    fn real(&self) -> f64 {
        match self {
            Self::Count(n) => *n as f64,
            Self::Level(n) => *n as f64,
            Self::Real(n) => *n,
            Self::Distribution(d) => d.buckets.iter().sum::<u64>() as f64,
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::Count(n)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::Count(n as u64)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Level(n)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Self {
        Self::Real(n)
    }
}

/// All values of one scrape, in the order of their names and labels.
#[derive(Debug, Default)]
pub struct Samples {
    pub(super) families: BTreeMap<&'static str, (&'static Family, BTreeMap<Labels, Value>)>,
}

impl Samples {
    /// The family exists, with or without series.
    pub fn declare(&mut self, family: &'static Family) {
        self.of(family);
    }

    /// Adds `value` to the series of these label values.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        self.add_to(family, &Labels::new(family, labels), value);
    }

    /// The same with labels that were written before.
    pub fn add_to(&mut self, family: &'static Family, labels: &Labels, value: impl Into<Value>) {
        let (series, value) = (self.of(family), value.into());
        match series.get_mut(labels) {
            Some(sum) => sum.add(value),
            None => drop(series.insert(labels.clone(), value)),
        }
    }

    /// The sum of one series; nothing where there is none.
    #[must_use]
    pub fn value(&self, family: &'static Family, labels: &[&str]) -> Option<&Value> {
        self.families.get(family.name())?.1.get(&Labels::new(family, labels))
    }

    /// Every family that was declared.
    pub fn families(&self) -> impl Iterator<Item = &'static Family> {
        self.families.values().map(|(family, _)| *family)
    }

    fn of(&mut self, family: &'static Family) -> &mut BTreeMap<Labels, Value> {
        &mut self.families.entry(family.name()).or_insert_with(|| (family, BTreeMap::new())).1
    }
}
