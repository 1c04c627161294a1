//! The door of facts: what the control plane sends becomes facts, for the keeper, and is kept on the node. Where it does not answer, what
//! an earlier agent of the node had applied is served.
//!
//! ```text
//!            nothing kept                          something kept
//!                |                                       |
//!             waiting                                 waiting --no word for --facts-cache-after--> served: what was kept, and
//!                |                                       |                                         what has come since
//!                '--the state of every kind has come-----+----------------------------------------.   |
//!                                                        v                                         v  v
//!                                           served: all of it, together                    served: what comes
//! ```
//! What must hold: half of what there is would open what the other half closes, so nothing is served before all has come. What was kept
//! is all that there was once, and what comes then is the difference to it. What is kept is what was handed on.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use underpass_core::{
    objects,
    world::{Facts, MeshSettings},
};
use underpass_door::{Problem, Severity, Source, Update};
use underpass_keeper::Feed;
use underpass_telemetry::metrics::IntGauge;
use underpass_xds::{
    client::{Apply, Batch, Progress, Rejected},
    facts::{Decoded, Decoder},
    resource::ResourceKind,
};

use super::cache::{Changes, Records, facts as kept};

/// Turns resources into facts. Cheap to clone: it is one door.
#[derive(Clone, Debug)]
pub(super) struct FactsDoor(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    decoder: Decoder,
    feed: Feed,
    records: Records,
    cached: IntGauge,
    /// The newest version of the control plane's source.
    version: Option<u64>,
    /// What waits to be handed on; none: all has come, or what was kept is served.
    early: Option<Early>,
    /// The time without a word of the control plane after which what was kept is served.
    patience: Duration,
    /// When it said something last. At first: when the door was opened.
    heard: Instant,
}

/// What has come before everything has.
#[derive(Debug)]
struct Early {
    facts: Facts,
    /// The same, to be kept.
    changes: Changes,
    /// What was kept is in it; when that changed last. None: nothing was kept.
    kept: Option<SystemTime>,
}

impl FactsDoor {
    /// With what was kept, and when that changed last.
    pub(super) fn new(
        mesh: MeshSettings,
        kept: Option<(kept::HeldFacts, SystemTime)>,
        records: Records,
        (feed, cached): (Feed, IntGauge),
        patience: Duration,
    ) -> Self {
        let mut decoder = Decoder::new(Arc::new(mesh));
        let mut early = Early { facts: Facts::default(), changes: Changes::new(), kept: None };
        let mut version = None;
        if let Some((held, changed)) = kept {
            version = held.version;
            early.kept = Some(changed);
            // What was rejected came after its last good version.
            for resources in [held.applied, held.rejected] {
                early.facts.changes.extend(decoder.apply(resources).facts.changes);
            }
        }
        let state =
            State { decoder, feed, records, cached, version, early: Some(early), patience, heard: Instant::now() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Serves what was kept, once the control plane has said nothing for too long.
    pub(super) async fn serve_when_late(self, progress: watch::Sender<Progress>) -> Infallible {
        loop {
            let due = self.lock().due();
            match due {
                None => std::future::pending().await,
                Some(due) if due <= Instant::now() => self.lock().serve_kept(&progress),
                Some(due) => tokio::time::sleep_until(due.into()).await,
            }
        }
    }

    /// A holder that panics ends the process.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Apply for FactsDoor {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        self.lock().apply(batch)
    }
}

impl State {
    /// When what was kept is to be served; none: never.
    fn due(&self) -> Option<Instant> {
        self.early.as_ref()?.kept?;
        self.heard.checked_add(self.patience)
    }

    fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        let Batch { changes, version, complete } = batch;
        self.heard = Instant::now();
        let Decoded { facts, problems } = self.decoder.apply(changes.iter().cloned());
        let rejected: Vec<_> = problems.iter().filter_map(rejected).collect();
        let newest = version.filter(|version| Some(*version) > self.version);
        self.version = newest.or(self.version);
        let noted = kept::changes(&changes, &rejected, newest);
        match &mut self.early {
            Some(early) => {
                early.facts.changes.extend(facts.changes);
                early.changes.extend(noted);
            }
            None => self.hand_on(facts, noted),
        }
        if complete {
            self.cached.set(0);
            if let Some(Early { facts, mut changes, .. }) = self.early.take() {
                kept::complete(&mut changes);
                self.hand_on(facts, changes);
            }
        }
        rejected
    }

    fn serve_kept(&mut self, progress: &watch::Sender<Progress>) {
        let Some(Early { facts, changes, kept: Some(kept) }) = self.early.take() else { return };
        tracing::warn!(
            changed_s_ago = kept.elapsed().unwrap_or_default().as_secs(),
            version = self.version,
            "control plane does not answer: the facts that were kept on this node are served"
        );
        self.cached.set(1);
        self.hand_on(facts, changes);
        progress.send_modify(|progress| {
            (progress.cached, progress.applied, progress.version) = (Some(kept), Some(kept), self.version);
        });
    }

    fn hand_on(&self, facts: Facts, noted: Changes) {
        if !noted.is_empty() {
            self.records.note(noted);
        }
        let problems = self.decoder.problems().cloned().collect();
        self.feed.send(Update { facts, ..Update::new(objects::Batch::default(), problems, BTreeMap::new()) });
    }
}

/// The refusal of a resource that is not served as it is; a warning refuses nothing.
fn rejected((kind, problem): &(ResourceKind, Problem)) -> Option<Rejected> {
    let Source::ControlPlane { resource } = &problem.source else { return None };
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    let reason = format!("{field}{}", problem.reason);
    (problem.severity() == Severity::Error).then(|| Rejected { kind: *kind, name: Arc::clone(resource), reason })
}

#[cfg(test)]
mod tests;
