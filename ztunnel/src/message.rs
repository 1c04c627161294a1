//! The messages of other threads to a worker.

use std::{fmt, io, net::TcpListener};

use tokio::sync::oneshot;
use underpass_core::{
    ObjectName,
    world::{Account, Version},
};
#[cfg(any(test, feature = "testing"))]
use {crate::worker::Worker, std::rc::Rc};

use crate::{Pod, metrics::Folded, open_connections::Page};

/// The fate of the listeners while the tunnel drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepting {
    /// No new connection is steered to them; those on their way are still accepted and served.
    Ends,
    /// Another process accepts from them: ours are closed, and their backlog is the other's.
    Elsewhere,
}

/// The hand-over listeners of one pod.
#[derive(Debug)]
pub struct PodListeners {
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Gets captured connections.
    pub outbound: TcpListener,
    /// Gets everything that arrives at the pod.
    pub inbound: TcpListener,
}

/// A test's or a benchmark's access to a worker.
#[cfg(any(test, feature = "testing"))]
pub(crate) type Action = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// A message to a worker.
pub(crate) enum Message {
    Add(Box<Pod>),
    Rename {
        cookie: u64,
        account: Account,
    },
    Remove {
        name: ObjectName,
        cookie: u64,
        done: oneshot::Sender<()>,
    },
    CatchUp(oneshot::Sender<Version>),
    /// Asks for a page of the open connections after this number.
    Page {
        after: u64,
        answer: oneshot::Sender<Page>,
    },
    /// Folds the bytes of a page of open connections after this number into their series.
    Fold {
        after: u64,
        answer: std::sync::mpsc::Sender<Folded>,
    },
    /// Closes a connection; answered with true where it is open.
    Close {
        id: u64,
        closed: oneshot::Sender<bool>,
    },
    Drain(Accepting, oneshot::Sender<()>),
    LendListeners(oneshot::Sender<Vec<io::Result<PodListeners>>>),
    #[cfg(any(test, feature = "testing"))]
    Run(Action),
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Message")
    }
}
