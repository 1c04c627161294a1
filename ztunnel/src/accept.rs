//! The accept loop of one pod: only while the pod has permits for one more connection and the process a descriptor, and a few
//! at a time, so that a storm at one pod is one turn among those of the others. Connections that are not accepted wait in the
//! kernel's backlog, where their connect() has succeeded; where that is full, SYNs are sent again. So do those of a new pod until
//! the mesh knows it.

use std::{
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};
use underpass_net::{budget::Permit, system::errno};

use crate::{SOCKETS_PER_CONNECTION, worker::Worker, worker_pod::WorkerPod};

/// Connections of one pod and direction that are accepted in one turn.
const MOST_PER_TURN: usize = 16;
/// Longest pause where the process or the machine is out of descriptors or memory: other processes may free some.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// One of so many pauses of a pod is logged.
const LOGGED_PAUSES: u64 = 1_000;

/// An accepted socket with its permits.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) permit: Permit,
    /// The permit of the socket that it leads on to, unless a tunnel has one already: an accepted connection is never refused
    /// for want of it.
    pub(crate) next: Permit,
}

/// Accepts until aborted, and spawns `serve` for each connection. The listener is non-blocking: another process may accept
/// from the same one.
pub(crate) async fn accept<F: Future<Output = ()> + 'static>(
    worker: Rc<Worker>,
    pod: Rc<WorkerPod>,
    listener: Rc<TcpListener>,
    serve: impl Fn(Rc<Worker>, Rc<WorkerPod>, Accepted) -> F,
) {
    worker.knows(&pod).await;
    let mut in_turn = 0;
    loop {
        let sockets = &pod.budget.sockets;
        if !sockets.has_room(SOCKETS_PER_CONNECTION) {
            // Those that were just accepted give back what they do not need.
            tokio::task::yield_now().await;
        }
        if !sockets.has_room(SOCKETS_PER_CONNECTION) {
            paused(&pod);
            let _waits = pod.waiting.enter(());
            sockets.room(SOCKETS_PER_CONNECTION, || worker.pool.drain_idle(|key| key.netns == pod.cookie)).await;
        }
        match listener.accept().await {
            Ok((socket, _)) => {
                let [permit, next] = [pod.budget.sockets.permit(), pod.budget.sockets.permit()];
                let begins = worker.begin_serving(&pod);
                let serving = serve(Rc::clone(&worker), Rc::clone(&pod), Accepted { socket, permit, next });
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(begins);
                });
                in_turn += 1;
            }
            Err(error) if is_exhausted(&error) => {
                pod.budget.pauses();
                worker.pool.drain_idle(|_| true);
                if let Some(times) = worker.exhausted.due(Instant::now()) {
                    tracing::warn!(pod = %pod.name, %error, times, "accepting paused: descriptors or memory exhausted");
                }
                // One of our own sockets is the first to be free, as a rule; then the pause is short.
                let _ = tokio::time::timeout(LONGEST_PAUSE, pod.budget.sockets.freed()).await;
            }
            // The connection is gone already, or has a pending network error (accept(2)).
            Err(error) => {
                tracing::debug!(pod = %pod.name, %error, "accept failed");
                in_turn += 1;
            }
        }
        if in_turn >= MOST_PER_TURN {
            in_turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

fn paused(pod: &WorkerPod) {
    let sockets = &pod.budget.sockets;
    if pod.budget.pauses() % LOGGED_PAUSES == 1 {
        let (used, allowed) = (sockets.used(), sockets.allowed());
        tracing::warn!(pod = %pod.name, used, allowed, "accepting paused: the pod's sockets are used up");
    }
}

/// True where the process or the machine is out of descriptors or memory: the error is not of this connection.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    // Those of accept(2) and socket(2) that say so; the numbers are Linux's.
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOSPC: i32 = 28;
    const ENOBUFS: i32 = 105;
    matches!(errno(error), Some(ENOMEM | ENFILE | EMFILE | ENOSPC | ENOBUFS))
}
