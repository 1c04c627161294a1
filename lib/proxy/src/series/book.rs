//! Series up to a limit: beyond it what would have one is counted together, and one of which nothing is left is dropped once its last
//! values were shown. No clock: a scrape brings the time.
//!
//! What must hold: nothing is counted in a series that is shown no more. Where one is retired while a worker has found it, the
//! worker hears so, and asks for the next one of its key.

use std::{
    collections::{
        BTreeMap, HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    hash::Hash,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

use super::Gone;

/// The number of users of a series that is shown no more.
const RETIRED: usize = usize::MAX;

/// Who counts in a series now, and how many have.
#[derive(Debug, Default)]
pub struct InUse {
    users: AtomicUsize,
    total: AtomicU64,
}

impl InUse {
    /// One more counts here until [`Self::end`]. False where the series is shown no more.
    pub fn begin(&self) -> bool {
        let one_more = |users: usize| (users != RETIRED).then(|| users + 1);
        let begins = self.users.fetch_update(AcqRel, Relaxed, one_more).is_ok();
        if begins {
            self.total.fetch_add(1, Relaxed);
        }
        begins
    }

    /// One that has begun counts no more.
    pub fn end(&self) {
        self.users.fetch_sub(1, Release);
    }

    /// All that have begun.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    fn is_used(&self) -> bool {
        self.users.load(Acquire) > 0
    }

    /// Retires the series, unless one counts here, or more than `shown` have begun.
    fn retire(&self, shown: u64) -> bool {
        let is_unused = self.users.compare_exchange(0, RETIRED, AcqRel, Relaxed).is_ok();
        // From here on none begins. One that came and went just before has not been shown.
        if is_unused && self.total() != shown {
            self.users.store(0, Release);
            return false;
        }
        is_unused
    }
}

#[derive(Debug)]
struct Kept<S> {
    series: Arc<S>,
    /// Those that had begun at the last scrape.
    shown: u64,
    gone: Gone,
}

/// Series by their keys `K`; those beyond the limit by `F`.
#[derive(Debug)]
pub struct Book<K, F, S> {
    most: usize,
    keep_gone: Duration,
    series: HashMap<K, Kept<S>>,
    folded: BTreeMap<F, Arc<S>>,
}

impl<K: Clone + Eq + Hash, F: Ord, S: AsRef<InUse>> Book<K, F, S> {
    /// Of at most `most` keys, each kept for `keep_gone` after what it names is gone.
    #[must_use]
    pub fn new(most: usize, keep_gone: Duration) -> Self {
        Self { most, keep_gone, series: HashMap::new(), folded: BTreeMap::new() }
    }

    /// Begins to count in the series of this key, or beyond the limit in that of `fold`. `new` makes one: without a key one of
    /// what is folded.
    pub fn begin(&mut self, key: &K, fold: F, new: impl FnOnce(Option<&K>) -> S) -> Arc<S> {
        let is_full = self.series.len() >= self.most;
        let series = match self.series.entry(key.clone()) {
            Occupied(known) => Arc::clone(&known.get().series),
            Vacant(_) if is_full => Arc::clone(self.folded.entry(fold).or_insert_with(|| Arc::new(new(None)))),
            Vacant(unknown) => {
                let series = Arc::new(new(Some(key)));
                Arc::clone(&unknown.insert(Kept { series, shown: 0, gone: Gone::default() }).series)
            }
        };
        // One that is retired is none of these.
        (*series).as_ref().begin();
        series
    }

    /// Drops series of which nothing is left, once they have been shown for long enough.
    ///
    /// True if some were dropped.
    pub fn sweep(&mut self, is_alive: impl Fn(&K) -> bool, now: Instant) -> bool {
        let (keep, before) = (self.keep_gone, self.series.len());
        self.series.retain(|key, kept| {
            let in_use = (*kept.series).as_ref();
            let is_alive = in_use.is_used() || is_alive(key);
            let total = in_use.total();
            if std::mem::replace(&mut kept.shown, total) != total {
                kept.gone.end(); // counted since: that is still to be shown
            }
            kept.gone.stays(is_alive, keep, now) || !in_use.retire(total)
        });
        self.series.len() < before
    }

    /// All series.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<S>> {
        self.series.values().map(|kept| &kept.series).chain(self.folded.values()).cloned().collect()
    }

    /// All that have begun in series of what is folded.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.folded.values().map(|series| (**series).as_ref().total()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_retired_when_all_that_it_counted_was_shown() {
        let series = InUse::default();
        assert!(series.begin());
        assert!(!series.retire(1), "one counts");
        series.end();
        assert!(!series.retire(0), "one came and went since it was shown");
        assert!(series.begin());
        series.end();
        assert!(series.retire(2));
        assert!(!series.begin(), "the next one has a series of its own");
        assert_eq!(series.total(), 2);
    }

    #[derive(Default)]
    struct Series(InUse);

    impl AsRef<InUse> for Series {
        fn as_ref(&self) -> &InUse {
            &self.0
        }
    }

    #[test]
    fn beyond_the_limit_all_count_together_until_there_is_room() {
        let (keep, start) = (Duration::from_secs(10), Instant::now());
        let mut book = Book::<u8, (), Series>::new(1, keep);
        let count = |book: &mut Book<_, _, Series>, key: u8| {
            let series = book.begin(&key, (), |_| Series::default());
            series.0.end();
            series
        };
        let first = count(&mut book, 1);
        assert!(Arc::ptr_eq(&first, &count(&mut book, 1)));
        count(&mut book, 2);
        count(&mut book, 3);
        assert_eq!((book.list().len(), book.folded()), (2, 2));
        // What it names is gone: it is shown for a while, and longer where it is used.
        assert!(!book.sweep(|_| false, start));
        let used = book.begin(&1, (), |_| Series::default());
        assert!(!book.sweep(|_| false, start + keep * 2));
        used.0.end();
        assert!(!book.sweep(|_| false, start + keep * 3));
        assert!(book.sweep(|_| false, start + keep * 4));
        assert!(!first.0.begin(), "it is shown no more");
        count(&mut book, 2);
        assert_eq!((book.list().len(), book.folded()), (2, 2));
    }
}
