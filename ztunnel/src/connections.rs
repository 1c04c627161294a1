//! Listing and closing of a node's open connections, for an operator. Each worker keeps its own, which no other thread touches:
//! it is asked by message, and answers a page at a time, so that no turn is longer for it, however many are open.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{mpsc, oneshot};
use underpass_core::Connection;

use crate::{
    message::Message,
    metrics::{Folded, OpenCount},
    open_connections::worker_of,
    refusals::Refusals,
};

/// A handle of a worker, to ask for its connections.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) messages: mpsc::WeakUnboundedSender<Message>,
    pub(crate) open: Arc<AtomicUsize>,
}

impl WorkerHandle {
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

/// The cursor of a reader of one worker's connections. It ends with those that were open at its start, however many begin
/// meanwhile.
#[derive(Debug, Default)]
struct PageCursor {
    after: u64,
    /// The highest number when it began.
    until: Option<u64>,
    is_done: bool,
}

impl PageCursor {
    /// The number after which the next page begins; none at the end.
    fn next(&self) -> Option<u64> {
        (!self.is_done).then_some(self.after)
    }

    /// Advances to `last`; none: the page was empty. `newest`: the highest number then.
    fn read(&mut self, last: Option<u64>, newest: u64) {
        let until = *self.until.get_or_insert(newest);
        self.is_done = last.is_none_or(|last| last >= until);
        self.after = last.unwrap_or(self.after);
    }
}

/// All open connections. Does not keep the tunnel alive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    pub(crate) workers: Arc<[WorkerHandle]>,
    pub(crate) refusals: Arc<Refusals>,
}

impl Connections {
    /// The refused handshakes.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.iter().map(|worker| worker.open.load(Relaxed)).sum()
    }

    /// True without open connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in the order in which they were opened. One that ends meanwhile may be left out; of those that begin
    /// meanwhile a few may be there, and a worker is not asked for more of them.
    pub async fn list(&self) -> Vec<Connection> {
        let mut all = Vec::with_capacity(self.len());
        for worker in &*self.workers {
            let mut pages = PageCursor::default();
            while let Some(after) = pages.next() {
                let Some(page) = worker.ask(|answer| Message::Page { after, answer }).await else { break };
                pages.read(page.connections.last().map(|last| last.id), page.newest);
                all.extend(page.connections);
            }
        }
        all.sort_by_key(|connection| (connection.opened_unix_ms, connection.id));
        all
    }

    /// Has the workers fold the bytes of open connections into their series. The number of open connections. Waits for the
    /// workers: not to be called by one of them.
    pub(crate) fn fold(&self) -> OpenCount {
        let mut open = OpenCount::default();
        for worker in &*self.workers {
            let mut pages = PageCursor::default();
            while let Some(after) = pages.next() {
                let Some(folded) = worker.fold(after) else { break };
                pages.read(folded.last, folded.newest);
                open.add(folded.open);
            }
        }
        open
    }

    /// Ends the open connection of this number, with the reason `operator`: both of its ends are reset. False where
    /// there is none.
    pub async fn close(&self, id: u64) -> bool {
        let worker_of = worker_of(id, self.workers.len()).and_then(|worker_of| self.workers.get(worker_of));
        match worker_of {
            Some(worker) => worker.ask(|closed| Message::Close { id, closed }).await.unwrap_or(false),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_done_however_many_connections_begin_meanwhile() {
        let read = |steps: &[(Option<u64>, u64)]| {
            let (mut pages, mut after) = (PageCursor::default(), Vec::new());
            for (last, newest) in steps {
                after.push(pages.next().expect("not done yet"));
                pages.read(*last, *newest);
            }
            (after, pages.next())
        };
        assert_eq!(read(&[(None, 0)]), (vec![0], None));
        assert_eq!(read(&[(Some(7), 7)]), (vec![0], None));
        // As many begin as are read.
        assert_eq!(read(&[(Some(256), 400), (Some(512), 700)]), (vec![0, 256], None));
        // All of them end.
        assert_eq!(read(&[(Some(256), 400), (None, 0)]), (vec![0, 256], None));
        assert_eq!(read(&[(Some(256), 700), (Some(512), 900)]), (vec![0, 256], Some(512)));
    }
}
