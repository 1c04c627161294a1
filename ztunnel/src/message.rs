//! What a worker is told by other threads, and what it answers.

use std::{fmt, io, net::TcpListener};

use tokio::sync::oneshot;
use underpass_core::{
    ObjectName,
    world::{Account, Version},
};
#[cfg(any(test, feature = "testing"))]
use {crate::worker::Worker, std::rc::Rc};

use crate::{Pod, metrics::Folded, open::Page};

/// What becomes of the listeners while open connections are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepting {
    /// Nothing new is steered to them; what is on its way is still accepted and served.
    Ends,
    /// Another process accepts from them: ours are closed, and what waits in them is its.
    Elsewhere,
}

/// The listeners of one pod, for another process.
#[derive(Debug)]
pub struct Lent {
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Gets captured connections.
    pub outbound: TcpListener,
    /// Gets everything that arrives at the pod.
    pub inbound: TcpListener,
}

/// What a test or a benchmark does with a worker.
#[cfg(any(test, feature = "testing"))]
pub(crate) type Action = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// What a worker is told.
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
    /// The open connections after this number, a few.
    Page {
        after: u64,
        answer: oneshot::Sender<Page>,
    },
    /// Folds what open connections after this number have carried into their series, a few.
    Fold {
        after: u64,
        answer: std::sync::mpsc::Sender<Folded>,
    },
    /// Answered with true where the connection is open.
    Close {
        id: u64,
        closed: oneshot::Sender<bool>,
    },
    Drain(Accepting, oneshot::Sender<()>),
    Lend(oneshot::Sender<Vec<io::Result<Lent>>>),
    #[cfg(any(test, feature = "testing"))]
    Run(Action),
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Message")
    }
}
