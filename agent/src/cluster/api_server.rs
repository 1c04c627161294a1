//! The API server: the door of this node's pods and of the namespaces, and what the node says of its pods.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use underpass_keeper::supervision::on_thread;
use underpass_kube::{Access, Client, Door, Selection, write::Annotated};

use super::{
    events,
    objects::ObjectsDoor,
    redirection::{Due, Redirection},
};
use crate::preflight::chain;

/// The pause before another look where the API server could not be asked.
const AGAIN: Duration = Duration::from_secs(2);

/// Opens the door, and writes what is due.
pub(super) fn open(
    access: Access,
    node: Arc<str>,
    objects: ObjectsDoor,
    due: Due,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    on_thread("API server", move || {
        let reading = async {
            let client = connect(&access).await;
            let Due { redirections, events } = due;
            let saying = tokio::spawn(say(client.clone(), redirections));
            let reporting = tokio::spawn(events::write(client.clone(), node.to_string(), events));
            let selections = vec![Selection::pods_of(&node), Selection::namespaces()];
            let door = Door::new(client, selections);
            door.run(|update| objects.take(update)).await;
            saying.abort();
            reporting.abort();
        };
        runtime.block_on(async {
            tokio::select! {
                () = reading => {}
                never = objects.serve_when_late() => match never {},
            }
        });
    })
}

/// A client. Its configuration may come later than the agent: a token is mounted, a file is written.
async fn connect(access: &Access) -> Client {
    let mut told = String::new();
    loop {
        match Client::connect(access, "agent").await {
            Ok(client) => return client,
            Err(error) => {
                let error = chain(&error);
                if told != error {
                    tracing::error!(%error, "API server cannot be asked");
                    told = error;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Writes what is due, until it is no longer due.
async fn say(client: Client, mut due: watch::Receiver<BTreeSet<Redirection>>) {
    let mut done = BTreeSet::new();
    loop {
        let wanted = due.borrow_and_update().clone();
        // What is not due any more is there by now, and may become due again.
        done.retain(|one| wanted.contains(one));
        let mut failed = None;
        for one in wanted.difference(&done.clone()) {
            match client.set_redirection(&one.pod, &one.uid, one.enabled).await {
                Ok(Annotated::Done) => {
                    tracing::info!(pod = %one.pod, enabled = one.enabled, "redirection of the pod announced");
                    done.insert(one.clone());
                }
                Ok(Annotated::Gone | Annotated::Replaced) => drop(done.insert(one.clone())),
                Ok(Annotated::Conflict) => failed = Some("another writer was in between".to_owned()),
                Err(error) => failed = Some(chain(&error)),
            }
        }
        let retry = failed.is_some();
        if let Some(error) = failed {
            tracing::warn!(%error, "announcing the redirection of pods failed");
        }
        tokio::select! {
            changed = due.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if retry => {}
        }
    }
}
