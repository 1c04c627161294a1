//! Who is asked at a scrape.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Counter, Family, Gauge, Histogram, Samples, Table, instrument::Instrument};

type Collector = Arc<dyn Fn(&mut Samples) + Send + Sync>;

/// All metrics of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Collector>>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Registry {
    /// A table of counters of this family, for one owner: another table of the same family is added to it at scrape.
    #[must_use]
    pub fn counter(&self, family: &'static Family) -> Table<Counter> {
        self.table(family)
    }

    /// A table of gauges; see [`Registry::counter`].
    #[must_use]
    pub fn gauge(&self, family: &'static Family) -> Table<Gauge> {
        self.table(family)
    }

    /// A table of histograms; see [`Registry::counter`].
    #[must_use]
    pub fn histogram(&self, family: &'static Family) -> Table<Histogram> {
        self.table(family)
    }

    /// Asks `collector` at every scrape. It may take locks, and must not wait for anything else.
    pub fn collect(&self, collector: impl Fn(&mut Samples) + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(collector));
    }

    /// What there is now.
    #[must_use]
    pub fn gather(&self) -> Samples {
        let collectors = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut samples = Samples::default();
        collectors.iter().for_each(|collect| collect(&mut samples));
        samples
    }

    fn table<I: Instrument>(&self, family: &'static Family) -> Table<I> {
        let table = Table::new(family);
        let read = table.clone();
        self.collect(move |samples| read.read(samples));
        table
    }
}
