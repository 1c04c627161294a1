//! The counters of the kernel programs, read for metrics and the admin API.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use underpass_abi::Counter;
use underpass_loader::{Counts, Error, Settings};
use underpass_telemetry::metrics::{Family, Registry};

static EVENTS: Family = Family::counter(
    "underpass_kernel_events_total",
    "Decisions of the kernel programs by hook, event and verdict: passed or refused (dropped, held back).",
    &["hook", "event", "verdict"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&EVENTS];

/// The kernel programs' counters.
#[derive(Clone)]
pub struct Counters(Option<Arc<Mutex<Counts>>>);

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
        Ok(Self(Some(Arc::new(Mutex::new(Counts::open(settings)?)))))
    }

    /// No counters: of a data path in memory.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Measures them in `registry`.
    pub fn measure(&self, registry: &Registry) {
        let counters = self.clone();
        registry.collect(FAMILIES, move |samples| {
            for (counter, n) in counters.counts() {
                samples.add(&EVENTS, &[counter.hook(), counter.event(), verdict(counter)], n);
            }
        });
    }

    /// Every counter by its name; empty where they cannot be read.
    #[must_use]
    pub fn read(&self) -> BTreeMap<String, u64> {
        self.counts().into_iter().map(|(counter, n)| (counter.name().to_owned(), n)).collect()
    }

    fn counts(&self) -> Vec<(Counter, u64)> {
        let Some(counts) = &self.0 else { return Vec::new() };
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.read().unwrap_or_default()
    }
}

/// The verdict of a decision, in metrics and in the log.
pub(crate) const fn verdict(counter: Counter) -> &'static str {
    if is_refusal(counter) { "refused" } else { "passed" }
}

/// Whether this counter is of refused, dropped or held-back packets and calls.
const fn is_refusal(counter: Counter) -> bool {
    use Counter::{
        AcceptBound, AcceptNotBound, ConnectAgent, ConnectBoundDevice, ConnectCaptured, ConnectLeave, ConnectLocal,
        ConnectNoMark, ConnectNoStorage, ConnectProbe, ConnectRefused, ConnectUnlisted, CreateMptcp, CreateNoStorage,
        GuardDenied, GuardDevice, GuardNoListener, GuardRaw, GuardUndecided, SteerAttested, SteerInbound,
        SteerNoListener, SteerOutbound, SteerStranger, SynAttested, SynNoConnect, SynNotAttested, SynRewritten,
        SynSource,
    };
    match counter {
        ConnectLocal | ConnectLeave | ConnectCaptured | ConnectUnlisted | ConnectAgent | ConnectProbe | SynAttested
        | AcceptBound | AcceptNotBound | SteerAttested | SteerOutbound | SteerInbound => false,
        CreateMptcp | CreateNoStorage | ConnectRefused | ConnectBoundDevice | ConnectNoStorage | ConnectNoMark
        | SynRewritten | SynSource | SynNoConnect | SynNotAttested | SteerStranger | SteerNoListener | GuardDevice
        | GuardDenied | GuardNoListener | GuardUndecided | GuardRaw => true,
    }
}
