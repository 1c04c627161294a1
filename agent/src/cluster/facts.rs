//! The door of facts: what the control plane sends becomes facts, for the keeper, and is kept on the node. Where it does not answer, what
//! an earlier agent of the node had applied is served.
//!
//! ```text
//!            nothing kept                          something kept
//!                |                                       |
//!             waiting                                 waiting --no word for --facts-cache-after, or-> served: what was kept, and
//!                |                                       |      not caught up within CATCH_UP          what has come since
//!                '--the state of every kind has come-----+----------------------------------------.   |
//!                                                        v                                         v  v
//!                                           served: all of it, together                    served: what comes
//! ```
//! A word is a response; one that is left out, because it comes of a control plane that is older than what was kept, is one as well.
//!
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
    client::{Apply, Batch, Link, Progress, Rejected},
    facts::{Decoded, Decoder},
    resource::ResourceKind,
    versions::Applied,
};

use super::cache::{Changes, Records, facts as kept};

/// The time for a control plane that answers to catch up with what was kept: it lists anew what it does not know, at most
/// every 15 seconds.
const CATCH_UP: Duration = Duration::from_secs(70);

/// Turns resources into facts. Cheap to clone: it is one door.
#[derive(Clone, Debug)]
pub(super) struct FactsDoor(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    decoder: Decoder,
    feed: Feed,
    records: Records,
    cached: IntGauge,
    /// The changes of the control plane's source that were applied.
    changes: Applied,
    /// What waits to be handed on; none: all has come, or what was kept is served.
    early: Option<Early>,
    /// The time without a word of the control plane after which what was kept is served.
    patience: Duration,
    /// When it said something last. At first: when the door was opened.
    heard: Instant,
    /// When it did first.
    answered: Option<Instant>,
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
        let mut changes = Applied::default();
        if let Some((held, changed)) = kept {
            changes = held.changes;
            early.kept = Some(changed);
            // What was rejected came after its last good version.
            for resources in [held.applied, held.rejected] {
                early.facts.changes.extend(decoder.apply(resources).facts.changes);
            }
        }
        let (early, heard, answered) = (Some(early), Instant::now(), None);
        let state = State { decoder, feed, records, cached, changes, early, patience, heard, answered };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Serves what was kept, once the control plane has said nothing for too long, or has not caught up for too long.
    pub(super) async fn serve_when_late(self, progress: watch::Sender<Progress>) -> Infallible {
        let mut news = progress.subscribe();
        news.mark_changed(); // the state that it begins with
        loop {
            let due = self.lock().due(&news.borrow());
            tokio::select! {
                biased;
                // Each response that was received.
                Ok(()) = news.changed() => self.lock().hear(&news.borrow(), Instant::now()),
                () = reached(due) => self.lock().serve_kept(&progress),
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
    /// Notes a change of the stream, which is a word of the control plane where it is open.
    fn hear(&mut self, progress: &Progress, now: Instant) {
        if is_open(progress) {
            self.heard = now;
            self.answered.get_or_insert(now);
        }
    }

    /// When what was kept is to be served; none: never.
    fn due(&self, progress: &Progress) -> Option<Instant> {
        self.early.as_ref()?.kept?;
        let silent = self.heard.checked_add(self.patience);
        let caught_up = self.answered.and_then(|answered| answered.checked_add(CATCH_UP));
        match (is_open(progress), &progress.behind) {
            (false, _) => silent,
            // What it adds meanwhile brings it no nearer.
            (true, Some(_)) => caught_up,
            // A large state comes in parts.
            (true, None) => caught_up.max(silent),
        }
    }

    fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        let Batch { changes, applied, complete } = batch;
        self.heard = Instant::now();
        let Decoded { facts, problems } = self.decoder.apply(changes.iter().cloned());
        let rejected: Vec<_> = problems.iter().filter_map(rejected).collect();
        let before = self.changes.clone();
        self.changes.join(&applied);
        let noted = kept::changes(&changes, &rejected, Some(&self.changes).filter(|changes| **changes != before));
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
        let (changed_s_ago, version) = (kept.elapsed().unwrap_or_default().as_secs(), self.changes.newest());
        let is_open = is_open(&progress.borrow());
        if is_open {
            tracing::warn!(
                changed_s_ago,
                version,
                "control plane answers and has not caught up: the facts that were kept on this node are served"
            );
        } else {
            tracing::warn!(
                changed_s_ago,
                version,
                "control plane does not answer: the facts that were kept on this node are served"
            );
        }
        self.cached.set(1);
        self.hand_on(facts, changes);
        progress.send_modify(|progress| {
            (progress.cached, progress.applied) = (Some(kept), Some(kept));
            progress.version = self.changes.newest();
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

const fn is_open(progress: &Progress) -> bool {
    matches!(progress.link, Link::Open { .. })
}

/// Waits until then; none: for ever.
async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
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
