//! The accept loop of one pod: only while the pod has permits for one more connection and the process a descriptor, and a few
//! at a time, so that a storm at one pod is one turn among those of the others. Connections that are not accepted wait in the
//! kernel's backlog, where their connect() has succeeded; where that is full, SYNs are sent again. So do those of a new pod until
//! the mesh knows it.

use std::{
    io,
    os::fd::AsFd as _,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream, unix::pipe::Receiver};
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
    until_known(&worker, &pod, &listener).await;
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

/// Completes when the mesh knows a pod that is expected, or has not come to know it in time. That time begins when the
/// first connection waits: between a pod's sandbox and its first process an image may be fetched for minutes, and its
/// addresses are told after that.
async fn until_known(worker: &Worker, pod: &WorkerPod, listener: &TcpListener) {
    let Some(within) = pod.expected_within else { return };
    let is_late = async {
        if let Err(error) = has_waiting(listener).await {
            tracing::warn!(pod = %pod.name, %error, "a new pod's connections cannot be waited for");
        }
        tokio::time::sleep(within).await;
    };
    tokio::select! {
        () = worker.knows(pod) => {}
        () = is_late => {
            tracing::warn!(pod = %pod.name, "the mesh does not know a new pod yet: its connections are refused");
        }
    }
}

/// Completes when a connection waits to be accepted.
async fn has_waiting(listener: &TcpListener) -> io::Result<()> {
    // A descriptor of its own, as each is registered once; the runtime waits for it as for a pipe.
    Receiver::from_owned_fd_unchecked(listener.as_fd().try_clone_to_owned()?)?.readable().await
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use underpass_core::testing::world;

    use super::*;
    use crate::worker::testing::{expected, worker};

    /// A pod of which the World knows nothing: its time is over at once, once it has begun.
    #[tokio::test]
    async fn the_time_for_a_new_pod_begins_with_its_first_connection() {
        let worker = worker(world([]));
        let pod = expected(&worker, Some(Duration::ZERO));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut waits = pin!(until_known(&worker, &pod, &listener));
        // Timers end in their order.
        let later = tokio::time::sleep(Duration::from_millis(5));
        tokio::select! {
            biased;
            () = &mut waits => panic!("no connection waits"),
            () = later => {}
        }
        let _waiting = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        waits.await;
        // It waits to be accepted still.
        listener.accept().await.unwrap();
    }
}
