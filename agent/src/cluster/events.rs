//! The events of this node's pods, written to the API server: one of each reason for as long as it is due, and at most one in ten
//! minutes where its text changes or it comes and goes.
//!
//! What must hold: an event that cannot be written holds up no other one for longer than its own request, and no pod makes more
//! of them than its pauses allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use underpass_kube::{
    Client,
    write::{PodEvent, Reporter},
};

use crate::preflight::chain;

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(10);
/// The least time between two events of one pod with one reason.
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// Who reports.
const CONTROLLER: &str = "underpass.dev/agent";

/// Writes what is due, for as long as it is polled. `node`: the name of this one.
pub(super) async fn write(client: Client, node: String, mut due: watch::Receiver<BTreeSet<PodEvent>>) {
    let by = Reporter { controller: CONTROLLER, instance: node };
    let (mut done, mut told) = (Done::default(), None);
    loop {
        let wanted = due.borrow_and_update().clone();
        let mut failed = None;
        for event in done.due(&wanted, Instant::now()) {
            match client.write_event(event, &by, SystemTime::now()).await {
                Ok(()) => done.wrote(event, Instant::now()),
                // Its namespace is gone.
                Err(error) if error.status() == Some(404) => done.wrote(event, Instant::now()),
                Err(error) => {
                    // It would be refused again.
                    if matches!(error.status(), Some(400 | 422)) {
                        done.wrote(event, Instant::now());
                    }
                    failed = Some(chain(&error));
                }
            }
        }
        if let Some(error) = failed.as_ref().filter(|_| failed != told) {
            tracing::warn!(error, "writing the events of pods failed");
        }
        told = failed;
        tokio::select! {
            changed = due.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if told.is_some() => {}
        }
    }
}

/// What has been said of each pod, and when.
#[derive(Debug, Default)]
struct Done(BTreeMap<(Arc<str>, &'static str), Instant>);

impl Done {
    /// Those that have not been said yet. What was said of others is forgotten once it may be said again.
    fn due<'a>(&mut self, wanted: &'a BTreeSet<PodEvent>, now: Instant) -> Vec<&'a PodEvent> {
        let holds: BTreeSet<_> = wanted.iter().map(key).collect();
        self.0.retain(|said, at| holds.contains(said) || now.saturating_duration_since(*at) < SAY_AGAIN);
        wanted.iter().filter(|event| !self.0.contains_key(&key(event))).collect()
    }

    fn wrote(&mut self, event: &PodEvent, now: Instant) {
        self.0.insert(key(event), now);
    }
}

fn key(event: &PodEvent) -> (Arc<str>, &'static str) {
    (Arc::clone(&event.uid), event.reason)
}

#[cfg(test)]
mod tests {
    use underpass_core::ObjectName;
    use underpass_kube::write::EventType;

    use super::*;

    fn event(uid: &str, reason: &'static str, note: &str) -> PodEvent {
        let (pod, uid) = (ObjectName::new("shop", "web"), uid.into());
        PodEvent { pod, uid, r#type: EventType::Warning, reason, action: "Capture", note: note.into() }
    }

    #[test]
    fn an_event_is_written_once_however_its_text_changes() {
        let (mut done, begin) = (Done::default(), Instant::now());
        let mut step = |wanted: &[PodEvent], seconds: u64| {
            let (wanted, now) = (wanted.iter().cloned().collect(), begin + Duration::from_secs(seconds));
            let due: Vec<_> = done.due(&wanted, now).into_iter().cloned().collect();
            due.iter().for_each(|event| done.wrote(event, now));
            due.len()
        };
        let failing = |text: &str| event("a", "NotCaptured", text);
        assert_eq!(step(&[failing("no process")], 0), 1);
        assert_eq!(step(&[failing("ambiguous process")], 2), 0, "another text");
        assert_eq!(step(&[], 4), 0);
        assert_eq!(step(&[failing("no process")], 6), 0, "it comes and goes");
        assert_eq!(step(&[failing("no process"), event("a", "CapturedLate", "x")], 8), 1, "another reason");
        assert_eq!(step(&[failing("no process"), event("b", "NotCaptured", "no process")], 10), 1, "another pod");
        assert_eq!(step(&[failing("no process")], 10_000), 0, "it has held all the time");
        assert_eq!(step(&[], 10_001), 0);
        assert_eq!(step(&[failing("no process")], 20_000), 1, "it is back");
    }
}
