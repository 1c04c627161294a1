//! Conditions in the status of policies: whether each is valid, who enforces it, and which of its fields are not enforced.
//! The replica that leads writes them; a change of a policy is one write.
//!
//! ```text
//! API server --policies with their status--> Queue (pure) --the next one--> conditions (pure) --> a write, where it differs
//!                                door: served, or broken and what holds meanwhile --^
//! ```
//!
//! What must hold: only the leader writes, and it asks before each write; a condition is about the generation that it
//! names, so a policy that the door does not yet know as it was read waits for the door; and other writers' conditions
//! stay.

mod conditions;
mod queue;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep_until, timeout},
};
use underpass_core::{Kind, resolve::Sources};
use underpass_door::{Fault, ObjectId, Observation, Path, Problem, Severity};
use underpass_keeper::Reports;
use underpass_kube::{
    Client, Leadership,
    write::{Condition, Conditioned, PutConditions},
};
use underpass_telemetry::metrics::{Family, IntCounterVec, Registry};

use self::{
    conditions::{Standing, TYPES, conditions},
    queue::{Queue, Waiting},
};

/// The kinds with conditions.
const KINDS: [Kind; 2] = [Kind::AuthorizationPolicy, Kind::PeerAuthentication];
/// Changes that wait to be taken.
const WAITING: usize = 64;
/// The longest time for one write.
const PATIENCE: Duration = Duration::from_secs(5);

static WRITES: Family = Family::counter(
    "underpass_status_writes_total",
    "Writes of a policy's status, by result: written, conflict (it had changed, and is read again), failed (and tried again).",
    &["result"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&WRITES];

/// The writer of conditions.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    leadership: Leadership,
    sources: watch::Receiver<Sources>,
    reports: watch::Receiver<Arc<Reports>>,
    door: &'static str,
    writes: IntCounterVec,
    /// Kinds whose definitions have no status, as it was said.
    without_status: BTreeSet<Kind>,
}

impl Writer {
    /// By the objects and reports of this door.
    #[must_use]
    pub fn new(
        client: Client,
        leadership: Leadership,
        sources: watch::Receiver<Sources>,
        (reports, door): (watch::Receiver<Arc<Reports>>, &'static str),
        registry: &Registry,
    ) -> Self {
        let writes = registry.counter(&WRITES);
        Self { client, leadership, sources, reports, door, writes, without_status: BTreeSet::new() }
    }

    /// Writes while this replica leads, for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            self.leadership.acquired().await;
            let mut leadership = self.leadership.clone();
            tokio::select! {
                () = leadership.lost() => {}
                () = self.lead() => {}
            }
        }
    }

    /// Compares every policy, and then each that changes.
    async fn lead(&mut self) {
        let (sender, mut changes) = mpsc::channel(WAITING);
        let mut following = JoinSet::new();
        for kind in KINDS {
            let (client, sender) = (self.client.clone(), sender.clone());
            following.spawn(async move { client.follow_conditions(kind, sender).await });
        }
        drop(sender);
        let mut queue = Queue::default();
        loop {
            let due = queue.due().unwrap_or_else(Instant::now);
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => queue.take(change, Instant::now()),
                    None => return,
                },
                () = sleep_until(due.into()), if queue.due().is_some() => {
                    if let Some(waiting) = queue.next(Instant::now()) {
                        self.look_at(waiting, &mut queue).await;
                    }
                }
            }
        }
    }

    /// Writes the conditions of a policy, where they differ.
    async fn look_at(&mut self, mut waiting: Waiting, queue: &mut Queue) {
        let found = &waiting.found;
        let policy = found.claim.key.clone();
        let Some(wanted) = self.wanted(found) else { return queue.again(waiting, Instant::now()) };
        let change = match found.change(&TYPES, &wanted, SystemTime::now()) {
            Ok(Some(change)) => change,
            Ok(None) => return queue.done(found, &wanted),
            Err(error) => return tracing::warn!(%policy, %error, "status cannot be written"),
        };
        if queue.is_done(found, &wanted) {
            return tracing::warn!(%policy, "conditions were changed by another writer, left as they are");
        }
        if !self.leadership.is_held() {
            return queue.again(waiting, Instant::now());
        }
        let written = timeout(PATIENCE, self.client.put_conditions(&change)).await;
        queue.wrote(Instant::now());
        let error = match written {
            Ok(Ok(result)) => return self.done(result, found, &wanted, queue),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        self.writes.with_label_values(&["failed"]).inc();
        if !waiting.is_told {
            tracing::warn!(%policy, %error, "status not written, tried again");
            waiting.is_told = true;
        }
        queue.again(waiting, Instant::now());
    }

    fn done(&mut self, result: PutConditions, found: &Conditioned, wanted: &[Condition], queue: &mut Queue) {
        let policy = &found.claim.key;
        match result {
            PutConditions::Written => {
                self.writes.with_label_values(&["written"]).inc();
                tracing::debug!(%policy, generation = found.generation, "status written");
                self.without_status.remove(&policy.kind);
                queue.done(found, wanted);
            }
            // The change that was in between arrives.
            PutConditions::Conflict => self.writes.with_label_values(&["conflict"]).inc(),
            PutConditions::Gone => {}
            PutConditions::NoStatus => {
                if self.without_status.insert(policy.kind) {
                    tracing::warn!(kind = %policy.kind, "no status is written: the definition of the kind has none");
                }
            }
        }
    }

    /// The conditions that a policy is to have; none: the door does not know it as it was read.
    fn wanted(&self, found: &Conditioned) -> Option<Vec<Condition>> {
        let key = &found.claim.key;
        let (sources, reports) = (self.sources.borrow().clone(), Arc::clone(&self.reports.borrow()));
        let id = ObjectId::from(key);
        let problems = reports.get(self.door)?.problems.iter().filter(|problem| problem.object.as_ref() == Some(&id));
        let errors: Vec<_> = problems.filter(|problem| problem.severity() == Severity::Error).collect();
        let faults: Vec<(&Path, &Fault)> = found.claim.faults.iter().map(|f| (&f.field, &f.fault)).collect();
        match &found.claim.observed {
            Observation::Good(object) => {
                let is_known = errors.is_empty() && sources.get(key) == Some(object);
                let findings = sources.findings_of(key);
                is_known.then(|| conditions(Standing::Good { object, findings, warnings: &faults }))
            }
            Observation::Bad { .. } => {
                let effect = errors.first().and_then(|problem| problem.effect)?;
                let is_authorization = key.kind == Kind::AuthorizationPolicy;
                is_same(&faults, &errors)
                    .then(|| conditions(Standing::Broken { is_authorization, faults: &faults, effect }))
            }
            Observation::Unknown | Observation::Gone => None,
        }
    }
}

/// The errors among these faults are those that the door has reported.
fn is_same(faults: &[(&Path, &Fault)], reported: &[&Problem]) -> bool {
    let errors: Vec<_> = faults.iter().filter(|(_, fault)| fault.severity() == Severity::Error).collect();
    let is_reported = |(field, fault): &(&Path, &Fault)| {
        reported.iter().any(|problem| problem.field == **field && problem.reason == **fault)
    };
    errors.len() == reported.len() && errors.iter().all(|error| is_reported(error))
}
