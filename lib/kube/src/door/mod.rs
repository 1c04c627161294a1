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

mod backoff;
mod contents;
pub(crate) mod follow;
pub(crate) mod health;
mod lines;
pub(crate) mod list_watch;

use std::sync::Arc;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use underpass_config::json::{self, Claim};
use underpass_core::Kind;
use underpass_door::Update;

pub use self::health::{Health, Phase, Progress};
use self::{
    contents::Contents,
    follow::{News, Target, follow},
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
    /// All objects of a kind.
    #[must_use]
    pub const fn all(kind: Kind) -> Self {
        Self { kind, field_selector: None, metadata_only: false }
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
    tells_versions: bool,
}

impl Door {
    /// The door to these objects; each kind is selected once. Nothing is asked for yet.
    #[must_use]
    pub fn new(client: Client, selections: Vec<Selection>) -> Self {
        Self { client, selections, progress: watch::Sender::new(Progress::default()), tells_versions: false }
    }

    /// Hands on an update without a difference as well where nothing but [`Progress::complete`] has changed.
    #[must_use]
    pub fn telling_versions(self) -> Self {
        Self { tells_versions: true, ..self }
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
            self.run(move |update, _| drop(sender.try_send(update))).await;
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

    /// Reads for as long as it is polled, and hands on everything, then every difference, each with the progress that it
    /// makes. `hand_on` may block: then the API server waits. The first update comes when every kind has been listed or
    /// found absent; a kind that cannot be read holds it up, and [`Self::progress`] has the reason.
    pub async fn run(self, mut hand_on: impl FnMut(Update, &Progress)) {
        let mut contents = Contents::new(self.selections.iter().map(|s| s.kind));
        let (sender, mut news) = mpsc::channel::<(Kind, News<Claim>)>(WAITING);
        let mut tasks = JoinSet::new();
        for selection in self.selections {
            let kind = selection.kind;
            tasks.spawn(follow(self.client.clone(), selection.target(), kind, sender.clone()));
        }
        drop(sender);
        let (mut progress, mut told) = (Progress::default(), None);
        while let Some(first) = news.recv().await {
            let mut next = Some(first);
            let mut merged = 0_usize;
            while let Some((kind, News { outputs, health })) = next.take() {
                merged = merged.saturating_add(outputs.len());
                outputs.into_iter().for_each(|output| contents.take(kind, output));
                let cause = health.error.as_ref().map(|(cause, _)| Arc::clone(cause));
                if contents.fail(kind, cause.clone()) {
                    tracing::warn!(%kind, cause = cause.as_deref(), "kind cannot be read");
                }
                progress.kinds.insert(kind, health);
                if merged < MERGED {
                    next = news.try_recv().ok();
                }
            }
            let is_news = self.tells_versions && progress.complete() != told;
            if let Some(update) = contents.update().or_else(|| contents.repeated().filter(|_| is_news)) {
                told = progress.complete();
                hand_on(update, &progress);
            }
            self.progress.send_replace(progress.clone());
        }
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
