//! Accepting for one pod: only while the pod has room for one more connection and the process for one more descriptor,
//! and a few at a time, so that a storm at one pod is one turn among those of the others. Connections that are not
//! accepted wait in the kernel's backlog, where their connect() has succeeded; where that is full, SYNs are sent again.

use std::{
    cell::Cell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};
use underpass_net::{budget::Held, system::errno};

use crate::{
    SOCKETS_PER_CONNECTION,
    worker::{Served, Worker},
};

/// Connections of one pod and direction that are accepted before others have their turn.
const MOST_PER_TURN: usize = 16;
/// How long accepting pauses at most where the process or the machine is out of something: others may give it back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A worker says so rarely that the process or the machine is out of something.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Every so many pauses of a pod one is logged.
const LOGGED_PAUSES: u64 = 1_000;

/// An accepted socket, and what it counts for.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) place: Held,
    /// For where it leads, unless that has its place already: whoever was accepted is not refused for want of it.
    pub(crate) next: Held,
}

/// Accepts until aborted, and lets `serve` run by itself. Non-blocking listeners: another process may accept from the
/// same one.
pub(crate) async fn accept<F: Future<Output = ()> + 'static>(
    worker: Rc<Worker>,
    pod: Rc<Served>,
    listener: Rc<TcpListener>,
    serve: impl Fn(Rc<Worker>, Rc<Served>, Accepted) -> F,
) {
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
                let [place, next] = [pod.budget.sockets.hold(1), pod.budget.sockets.hold(1)];
                let begins = worker.begins(&pod);
                let serving = serve(Rc::clone(&worker), Rc::clone(&pod), Accepted { socket, place, next });
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(begins);
                });
                in_turn += 1;
            }
            Err(error) if is_exhausted(&error) => {
                pod.budget.pauses();
                worker.pool.drain_idle(|_| true);
                if let Some(times) = worker.exhausted.happens(Instant::now()) {
                    tracing::warn!(pod = %pod.name, %error, times, "accepting pauses");
                }
                // Ours is the first to be free, as a rule; then nothing is waited for.
                let _ = tokio::time::timeout(LONGEST_PAUSE, pod.budget.sockets.freed()).await;
            }
            // The connection is gone already, or the network said something about it (accept(2)).
            Err(error) => {
                tracing::debug!(pod = %pod.name, %error, "accept");
                in_turn += 1;
            }
        }
        if in_turn >= MOST_PER_TURN {
            in_turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Something that may happen often, and is said once a minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    said: Cell<Option<Instant>>,
    times: Cell<u64>,
}

impl Seldom {
    /// It happens. Where it is to be said: how often it has since it was said before.
    fn happens(&self, now: Instant) -> Option<u64> {
        self.times.set(self.times.get() + 1);
        if self.said.get().is_some_and(|said| now.saturating_duration_since(said) < SAID_EVERY) {
            return None;
        }
        self.said.set(Some(now));
        Some(self.times.take())
    }
}

fn paused(pod: &Served) {
    let sockets = &pod.budget.sockets;
    if pod.budget.pauses() % LOGGED_PAUSES == 1 {
        let (used, allowed) = (sockets.used(), sockets.allowed());
        tracing::warn!(pod = %pod.name, used, allowed, "accepting pauses: the pod has all the sockets that it may have");
    }
}

/// The process or the machine is out of descriptors or memory: it is nothing about this connection.
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
    use super::*;

    #[test]
    fn what_happens_often_is_said_once_a_minute() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        for (after_ms, said) in
            [(0, Some(1)), (1, None), (59_999, None), (60_000, Some(3)), (60_001, None), (200_000, Some(2))]
        {
            assert_eq!(seldom.happens(start + Duration::from_millis(after_ms)), said, "after {after_ms} ms");
        }
    }
}
