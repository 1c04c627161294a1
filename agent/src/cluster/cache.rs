//! The last good facts on the node: what this agent has from its control plane and from the API server is kept in `STATE/facts`, so that
//! the next agent of the node serves it where those do not answer. There are no secrets in it: keys and certificates are kept nowhere.
//!
//! ```text
//! doors --what they hand on--> Records --once a second at most--> store: STATE/facts/journal --at the next start--> Cached
//! ```
//! * `journal`: its form. Pure.
//! * `store`: the file, and who may write it.
//! * `facts`, `objects`: what the two doors keep, as entries; `trust`: of which cluster it is. Pure.
//!
//! What must hold: no thread that serves waits for the disk. What is read is what an agent of this node had applied at one time, whole;
//! what cannot be read so counts for nothing, and is named in the log.

pub(super) mod facts;
mod journal;
pub(super) mod objects;
mod store;
pub(super) mod trust;

use std::{
    collections::btree_map::Entry,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use underpass_core::objects::Object;
use underpass_identity::CertificateDer;
use underpass_telemetry::metrics::{Family, IntGauge, Registry};

use self::{
    facts::HeldFacts,
    store::{Error, Found, Store},
};
use crate::config::Config;

pub(super) use self::journal::Changes;

/// The shortest time between two writes: a storm of changes costs no more.
const EVERY: Duration = Duration::from_secs(1);
/// The time after a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

static CACHED: Family = Family::gauge(
    "underpass_facts_cached",
    "1 while what is served of a door is what an earlier agent of the node had kept, because its source does not answer, or has not caught up.",
    &["door"],
);
/// The families of this room.
pub(crate) const FAMILIES: &[&Family] = &[&CACHED];

/// Says of each door whether it is served from the cache.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(super) api_server: IntGauge,
    pub(super) control_plane: IntGauge,
}

impl Meter {
    pub(crate) fn new(registry: &Registry) -> Self {
        let of = |door| registry.gauge(&CACHED).with_label_values(&[door]);
        Self { api_server: of("API server"), control_plane: of("control plane") }
    }
}

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Cached {
    /// Of the control plane; none: nothing, or not all of it.
    pub(super) facts: Option<HeldFacts>,
    /// Of the API server; none: the same.
    pub(super) objects: Option<Vec<Object>>,
    /// When it changed last.
    pub(super) changed: Option<SystemTime>,
}

/// Keeps what it is told, until its writer is dropped. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Option<Arc<Shared>>);

/// Writes what is kept, on a thread of its own. Dropped, it writes the rest.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Not written yet: of two changes of a key the later one.
    pending: Changes,
    ended: bool,
}

/// The folder in that of the agent's state.
fn folder(state: &Path) -> PathBuf {
    state.join("facts")
}

/// Removes what is kept.
///
/// # Errors
/// It cannot be removed. That there is nothing is no error.
pub(crate) fn remove(state: &Path) -> io::Result<()> {
    store::remove(&folder(state))
}

/// What was kept on this node, what keeps more, and its writer. `roots`: by which the control plane is trusted now; without one of those it
/// was trusted by, nothing counts. With the setting off: nothing, and what was kept is removed.
///
/// # Errors
/// No thread can be started.
pub(super) fn open(
    config: &Config,
    roots: &[CertificateDer<'static>],
) -> io::Result<(Cached, Records, Option<Writer>)> {
    let folder = folder(&config.state);
    if !config.facts_cache {
        if let Err(error) = store::remove(&folder) {
            tracing::error!(%error, folder = %folder.display(), "removing the kept facts failed");
        }
        return Ok((Cached::default(), Records::default(), None));
    }
    // Of another mesh nothing counts, nor of another node whose disk this one has by now.
    let scope = format!("node {}, cluster {}, trust domain {}", config.node, config.cluster, config.trust_domain);
    let (mut store, found) = Store::load(folder, scope);
    let cached = match found {
        Ok(None) => Ok((Cached::default(), trust::changes(&[], roots))),
        Ok(Some(found)) => read(found, roots),
        Err(error) => Err(error.to_string()),
    };
    let (cached, changes) = cached.unwrap_or_else(|error| {
        tracing::warn!(%error, "kept facts are not used");
        store.forget();
        (Cached::default(), trust::changes(&[], roots))
    });
    let shared = Arc::<Shared>::default();
    let of_thread = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("kept facts".to_owned()).spawn(move || of_thread.keep(store))?;
    let records = Records(Some(Arc::clone(&shared)));
    records.note(changes);
    Ok((cached, records, Some(Writer { shared, thread: Some(thread) })))
}

/// What is in it, and the changes that come of reading it. A fact that cannot be read spoils all: it may be the policy that counts.
/// An object spoils the objects: another version of the agent may read other fields, and the facts are there for that one as well.
fn read(
    Found { entries, changed, torn }: Found,
    roots: &[CertificateDer<'static>],
) -> Result<(Cached, Changes), String> {
    if torn > 0 {
        tracing::warn!(bytes = torn, "kept facts end in something that is not whole: it is not used");
    }
    let before = trust::read(&entries);
    if !before.iter().any(|root| roots.contains(root)) {
        return Err("they are of a control plane with other root certificates".to_owned());
    }
    let mut changes = trust::changes(&before, roots);
    let facts = HeldFacts::read(&entries).map_err(|error| error.to_string())?;
    let objects = objects::read(&entries).unwrap_or_else(|error| {
        tracing::warn!(%error, "kept pods and namespaces are not used: one of them cannot be read");
        changes.extend(objects::forgotten(&entries));
        None
    });
    Ok((Cached { facts, objects, changed: Some(changed) }, changes))
}

impl Records {
    /// Keeps these changes: all of them or none.
    pub(super) fn note(&self, changes: Changes) {
        let Some(shared) = self.0.as_ref().filter(|_| !changes.is_empty()) else { return };
        let mut state = shared.lock();
        if !state.ended {
            state.pending.extend(changes);
            shared.changed.notify_all();
        }
    }
}

impl Shared {
    /// Nothing is left half-done where a holder panics: every change of the state is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for changes, then for so long or the end; takes them. True: the end.
    fn take(&self, pause: Duration) -> (Changes, bool) {
        let state = self.changed.wait_while(self.lock(), |state| state.pending.is_empty() && !state.ended);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let paused = self.changed.wait_timeout_while(state, pause, |state| !state.ended);
        let (mut state, _) = paused.unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut state.pending), state.ended)
    }

    /// Changes that could not be written wait again, but for those that have others by now.
    fn give_back(&self, changes: Changes) {
        let mut state = self.lock();
        for (key, value) in changes {
            if let Entry::Vacant(entry) = state.pending.entry(key) {
                entry.insert(value);
            }
        }
    }

    fn keep(&self, mut store: Store) {
        let (mut pause, mut told) = (EVERY, String::new());
        loop {
            let (changes, ended) = self.take(pause);
            let written = if changes.is_empty() { Ok(()) } else { store.write(&changes) };
            pause = if written.is_ok() { EVERY } else { AGAIN };
            match written {
                Ok(()) => told.clear(),
                Err(error @ Error::Removed(_)) => {
                    tracing::warn!(%error, "facts are no longer kept, until the next agent starts");
                    let mut state = self.lock();
                    (state.pending, state.ended) = (Changes::new(), true);
                    return;
                }
                Err(error) => {
                    let (text, busy) = (error.to_string(), matches!(error, Error::Busy));
                    match text == told {
                        true => {}
                        false if busy => tracing::info!(%error, "facts are kept later"),
                        false => tracing::error!(%error, "facts are not kept, it is tried again"),
                    }
                    told = text;
                    self.give_back(changes);
                }
            }
            if ended {
                return;
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to say
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
