//! The rest of the life of an agent that was succeeded, where something would start it again: a container that ends does, and the
//! old agent would take the node back from the new one.
//!
//! ```text
//! taken over --> drained --> stays --SIGTERM: its pod is deleted--> end
//!                              '----no agent answers for a while--> end, and its container is started again: as the agent
//! ```
//! What must hold: a node is not left without an agent because two wait for each other. So it goes by the admin socket of the
//! node, which the agent that serves has, and which a dead one's does not answer. Its own probe says ready meanwhile (`crate::probe`).

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::{net::UnixStream, time::sleep};

use crate::signals::Signals;

/// The time between two looks.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// The time without an agent after which this one ends: a successor whose container is started again is there before that, and
/// does not find a rival.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The reason for which it stays no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was asked to end.
    Asked,
    /// The node has had no agent for a while.
    Alone,
}

/// Waits for the end: a request, or a node without an agent, by its admin socket.
pub(super) async fn stay(admin: &Path, stop: &mut Signals, look: Duration, patience: Duration) -> Left {
    let mut absent: Option<Instant> = None;
    loop {
        match UnixStream::connect(admin).await {
            Ok(_) => absent = None,
            Err(_) if absent.is_some_and(|since| since.elapsed() >= patience) => return Left::Alone,
            Err(_) => drop(absent.get_or_insert_with(Instant::now)),
        }
        tokio::select! {
            () = stop.next() => return Left::Asked,
            () = sleep(look) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixListener, sync::mpsc, time::timeout};

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const DEADLINE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn it_stays_while_another_agent_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (ask, requests) = mpsc::unbounded_channel();
        let staying = tokio::spawn(async move { stay(&path, &mut Signals::of(requests), SOON, Duration::ZERO).await });
        // Without patience it would leave at the second look that finds none.
        for _ in 0..4 {
            timeout(DEADLINE, listener.accept()).await.expect("it looks").unwrap();
        }
        assert!(!staying.is_finished());
        ask.send(()).unwrap();
        assert_eq!(timeout(DEADLINE, staying).await.expect("it ends").unwrap(), Left::Asked);
    }

    #[tokio::test]
    async fn it_ends_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        // That of an agent that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_ask, requests) = mpsc::unbounded_channel();
        let patience = 5 * SOON;
        let began = Instant::now();
        let left = timeout(DEADLINE, stay(&path, &mut Signals::of(requests), SOON, patience)).await.expect("it ends");
        assert!(left == Left::Alone && began.elapsed() >= patience);
    }

    #[test]
    fn a_successor_that_is_started_again_is_there_before() {
        // A container that ended for the first time is started again after 10 s at most, and looked for once more then.
        assert!(PATIENCE >= Duration::from_secs(30) && LOOK < PATIENCE / 4);
    }
}
