//! What the kernel programs count, read for whoever asks.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use underpass_loader::{Error, Kernel, Settings};

/// The kernel programs' counters.
#[derive(Clone)]
pub struct Counters(Option<Arc<Mutex<Kernel>>>);

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    /// The counters of an attached data path, through pinned maps of their own.
    ///
    /// # Errors
    /// Where nothing is attached.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        Ok(Self(Some(Arc::new(Mutex::new(Kernel::open(settings)?)))))
    }

    /// Of a data path that no kernel carries out.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Every counter by its name; empty where they cannot be read.
    #[must_use]
    pub fn read(&self) -> BTreeMap<String, u64> {
        let Some(kernel) = &self.0 else { return BTreeMap::new() };
        let kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = kernel.counts().unwrap_or_default();
        counts.into_iter().map(|(counter, n)| (counter.name().to_owned(), n)).collect()
    }
}
