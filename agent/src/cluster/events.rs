//! The events of this node's pods, written to the API server: each once for as long as it is due.
//!
//! What must hold: an event that cannot be written holds up no other one for longer than its own request.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::sleep};
use underpass_kube::{
    Client,
    write::{PodEvent, Reporter},
};

use crate::preflight::chain;

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(10);
/// Who reports.
const CONTROLLER: &str = "underpass.dev/agent";

/// Writes what is due, for as long as it is polled. `node`: the name of this one.
pub(super) async fn write(client: Client, node: String, mut due: watch::Receiver<BTreeSet<PodEvent>>) {
    let by = Reporter { controller: CONTROLLER, instance: node };
    let (mut done, mut told) = (BTreeSet::new(), None);
    loop {
        let wanted = due.borrow_and_update().clone();
        done.retain(|event| wanted.contains(event));
        let mut failed = None;
        for event in wanted.difference(&done.clone()) {
            match client.write_event(event, &by, SystemTime::now()).await {
                Ok(()) => drop(done.insert(event.clone())),
                // Its namespace is gone.
                Err(error) if error.status() == Some(404) => drop(done.insert(event.clone())),
                Err(error) => {
                    // It would be refused again.
                    if matches!(error.status(), Some(400 | 422)) {
                        done.insert(event.clone());
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
