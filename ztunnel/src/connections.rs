//! The open connections of a node, for an operator who lists or closes them. Each worker keeps its own, which no other thread
//! touches: it is asked by message, and answers a few at a time, so that no turn is longer for it, however many are open.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{mpsc, oneshot};
use underpass_core::Connection;

use crate::{
    message::Message,
    metrics::{Folded, Open},
    open::giver,
    refusals::Refusals,
};

/// A worker, as it is asked about its connections.
#[derive(Clone, Debug)]
pub(crate) struct OfWorker {
    pub(crate) messages: mpsc::WeakUnboundedSender<Message>,
    pub(crate) open: Arc<AtomicUsize>,
}

impl OfWorker {
    /// Nothing where the worker has ended, and its connections with it.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.messages.upgrade()?.send(question(answer)).ok()?;
        answered.await.ok()
    }

    /// Waits for the worker, on a thread that may.
    fn fold(&self, after: u64) -> Option<Folded> {
        let (answer, answered) = std::sync::mpsc::channel();
        self.messages.upgrade()?.send(Message::Fold { after, answer }).ok()?;
        answered.recv().ok()
    }
}

/// All open connections. Does not keep the tunnel alive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    pub(crate) workers: Arc<[OfWorker]>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Connections {
    /// The handshakes that came to nothing.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.iter().map(|worker| worker.open.load(Relaxed)).sum()
    }

    /// None is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in the order in which they were opened. One that begins or ends meanwhile may be left out.
    pub async fn list(&self) -> Vec<Connection> {
        let mut all = Vec::with_capacity(self.len());
        for worker in &*self.workers {
            let mut after = 0;
            while let Some(page) = worker.ask(|answer| Message::Page { after, answer }).await
                && let Some(last) = page.last()
            {
                after = last.id;
                all.extend(page);
            }
        }
        all.sort_by_key(|connection| (connection.opened_unix_ms, connection.id));
        all
    }

    /// Has the workers fold what open connections have carried into their series, and answers how many are open. Waits for the
    /// workers: not to be asked by one of them.
    pub(crate) fn fold(&self) -> Open {
        let mut open = Open::default();
        for worker in &*self.workers {
            let mut after = 0;
            while let Some(folded) = worker.fold(after) {
                open.add(folded.open);
                let Some(last) = folded.last else { break };
                after = last;
            }
        }
        open
    }

    /// Ends the open connection of this number, with the reason `operator`: both of its ends are reset. False where
    /// there is none.
    pub async fn close(&self, id: u64) -> bool {
        let giver = giver(id, self.workers.len()).and_then(|giver| self.workers.get(giver));
        match giver {
            Some(worker) => worker.ask(|closed| Message::Close { id, closed }).await.unwrap_or(false),
            None => false,
        }
    }
}
