//! The API server as a door: the objects of some kinds, listed and then watched, become [`Update`]s.
//!
//! ```text
//! one task a kind:  API server --pages, events--> ListWatch (pure) --outputs-->  Contents (pure)  --Update--> the keeper
//! ```
//!
//! * `list_watch`: what is asked for, when, and what an answer means.
//! * `follow`: its IO. Objects are converted while their text is there.
//! * `contents`: the ledgers, problems, and differences.
//! * [`Progress`]: how far each kind is known.
//!
//! What must hold: the first update has everything, and none comes before; what is ready is handed on at once and
//! together; an update has differences only, also after everything had to be listed again; and nothing of an API
//! server's text is kept but the objects of core and their problems.
//!
//! Others that read the same API server may have come further in a kind in which nothing happens. Where a
//! client depends on that ([`Door::overtaken_by`]), the kind is listed anew.

mod backoff;
mod contents;
pub(crate) mod follow;
pub(crate) mod health;
mod lines;
pub(crate) mod list_watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use underpass_config::json::{self, Claim};
use underpass_core::{Kind, objects::MESH_CONFIG};
use underpass_door::{Update, Versions};

pub use self::health::{Health, Phase, Progress};
use self::{
    contents::Contents,
    follow::{Beside, News, Target, follow},
    health::number,
    list_watch::Output,
};
use crate::client::{Client, Collection};

/// News that may wait for the door, of all kinds together: the API server waits for the rest.
const WAITING: usize = 64;
/// The most news that are merged before an update is handed on.
const MERGED: usize = 4096;

/// Objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    kind: Kind,
    field_selector: Option<String>,
    metadata_only: bool,
}

impl Selection {
    /// All objects of a kind that the mesh reads: of ConfigMaps those with a MeshConfig alone.
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        let field_selector = (kind == Kind::MeshConfig).then(|| format!("metadata.name={MESH_CONFIG}"));
        Self { kind, field_selector, metadata_only: false }
    }

    /// The pods of a node.
    #[must_use]
    pub fn pods_of(node: &str) -> Self {
        Self { field_selector: Some(format!("spec.nodeName={node}")), ..Self::all(Kind::Pod) }
    }

    /// All namespaces, by nothing but their metadata: the mesh reads no more of them.
    #[must_use]
    pub fn namespaces() -> Self {
        Self { metadata_only: true, ..Self::all(Kind::Namespace) }
    }

    fn target(self) -> Target<Claim> {
        let Self { kind, field_selector, metadata_only } = self;
        let (read, name) = (move |text: &str| json::object(kind, text), move |h: &json::Header<'_>| h.key(kind).name);
        Target { field_selector, metadata_only, ..Target::new(Collection::of(kind), read, name) }
    }
}

/// An API server, as far as some kinds are selected.
#[derive(Debug)]
pub struct Door {
    client: Client,
    selections: Vec<Selection>,
    progress: watch::Sender<Progress>,
    overtaken: mpsc::Receiver<Overtaken>,
}

/// Versions that others have reached, by kind.
pub type Overtaken = BTreeMap<Kind, u64>;

impl Door {
    /// The door to these objects; each kind is selected once. Nothing is asked for yet.
    #[must_use]
    pub fn new(client: Client, selections: Vec<Selection>) -> Self {
        let overtaken = mpsc::channel(1).1;
        Self { client, selections, progress: watch::Sender::new(Progress::default()), overtaken }
    }

    /// A kind that is told here and not known so far is listed anew, unless it is soon. Until it is known so far, or a list
    /// has shown that there is no such version, how far it is known is handed on also where nothing has changed.
    #[must_use]
    pub fn overtaken_by(self, overtaken: mpsc::Receiver<Overtaken>) -> Self {
        Self { overtaken, ..self }
    }

    /// The state of every kind. It never runs ahead of what was handed on.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Everything as it is now. It is not followed.
    ///
    /// # Errors
    /// The first attempt to read a kind fails.
    pub async fn read(self) -> Result<Update, Unread> {
        let mut progress = self.progress();
        let (sender, mut first) = mpsc::channel(1);
        // What follows the first update is dropped with the task.
        let reading = async {
            self.run(move |update| drop(sender.try_send(update))).await;
            std::future::pending::<std::convert::Infallible>().await
        };
        let failing = async {
            loop {
                let unread = progress.borrow_and_update().kinds.iter().find_map(|(kind, health)| {
                    let (cause, _) = health.error.as_ref().filter(|_| health.synced.is_none())?;
                    Some(Unread { kind: *kind, cause: Arc::clone(cause) })
                });
                match unread {
                    Some(unread) => return unread,
                    // The sender is the door's, which is polled beside this.
                    None => drop(progress.changed().await),
                }
            }
        };
        tokio::select! {
            biased;
            Some(update) = first.recv() => Ok(update),
            unread = failing => Err(unread),
            never = reading => match never {},
        }
    }

    /// Reads for as long as it is polled, and hands on everything, then every difference. `hand_on` may block: then the API server waits. The first update comes when every kind has been listed or
    /// found absent; a kind that cannot be read holds it up, and [`Self::progress`] has the reason.
    pub async fn run(mut self, mut hand_on: impl FnMut(Update)) {
        let mut contents = Contents::new(self.selections.iter().map(|s| s.kind));
        let (sender, mut news) = mpsc::channel::<(Kind, News<Claim>)>(WAITING);
        let mut tasks = JoinSet::new();
        let mut waits = Waits::default();
        for selection in self.selections {
            let kind = selection.kind;
            let beside = Beside { progress: self.progress.subscribe(), overtaken: waits.of(kind) };
            tasks.spawn(follow(self.client.clone(), selection.target(), kind, sender.clone(), beside));
        }
        drop(sender);
        let (mut progress, mut told) = (Progress::default(), Versions::default());
        // Those of which it was said.
        let mut unread = BTreeSet::new();
        loop {
            let mut next = tokio::select! {
                biased;
                first = news.recv() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
                Some(overtaken) = self.overtaken.recv() => {
                    waits.add(&overtaken);
                    None
                }
            };
            let mut merged = 0_usize;
            let mut listed_anew = Vec::new();
            while let Some((kind, News { outputs, health, has_listed_anew })) = next.take() {
                merged = merged.saturating_add(outputs.len());
                listed_anew.extend(has_listed_anew.then_some(kind));
                let known = number(&health.resource_version).unwrap_or_default();
                for output in outputs {
                    // What has come and gone between two lists, neither tells.
                    let may_hide_changes = matches!(output, Output::Replaced(_) | Output::Absent);
                    if contents.take(kind, output) || may_hide_changes {
                        progress.changed.insert(kind, known);
                    }
                }
                let cause = health.error.as_ref().map(|(cause, _)| Arc::clone(cause));
                let is_to_be_said = contents.fail(kind, cause.clone());
                match cause.as_deref() {
                    Some(cause) if is_to_be_said => {
                        tracing::warn!(%kind, cause, "kind cannot be read");
                        unread.insert(kind);
                    }
                    None if unread.remove(&kind) => tracing::info!(%kind, "kind is read"),
                    _ => {}
                }
                progress.kinds.insert(kind, health);
                if merged < MERGED {
                    next = news.try_recv().ok();
                }
            }
            let versions = progress.versions();
            let is_waited_for = versions != told && waits.are_before(&told);
            if let Some(mut update) = contents.update().or_else(|| contents.repeated().filter(|_| is_waited_for)) {
                update.versions = versions.clone();
                told = versions;
                hand_on(update);
            }
            listed_anew.iter().for_each(|kind| waits.forget(*kind));
            self.progress.send_replace(progress.clone());
        }
    }
}

/// Versions that others have reached and that are waited for here.
#[derive(Debug, Default)]
struct Waits(BTreeMap<Kind, (u64, watch::Sender<u64>)>);

impl Waits {
    /// Each time that others tell a version of this kind: the newest of those that are waited for.
    fn of(&mut self, kind: Kind) -> watch::Receiver<u64> {
        self.0.entry(kind).or_default().1.subscribe()
    }

    fn add(&mut self, overtaken: &Overtaken) {
        for (kind, version) in overtaken {
            if let Some((waited, followers)) = self.0.get_mut(kind) {
                *waited = *version.max(waited);
                followers.send_replace(*waited);
            }
        }
    }

    /// No such version is to be expected any more, if it has not come.
    fn forget(&mut self, kind: Kind) {
        if let Some((waited, _)) = self.0.get_mut(&kind) {
            *waited = 0;
        }
    }

    /// One of them is beyond what has been told.
    fn are_before(&self, told: &Versions) -> bool {
        self.0.iter().any(|(kind, (waited, _))| told.of(*kind).map_or(0, |reached| reached.known) < *waited)
    }
}

/// A kind that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {kind}: {cause}")]
pub struct Unread {
    /// The kind.
    pub kind: Kind,
    /// The cause, in one line.
    pub cause: Arc<str>,
}

#[cfg(test)]
mod properties;
