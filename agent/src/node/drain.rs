//! The end of a node's agent. What must hold: while open connections are waited for, they are judged, their certificates
//! are renewed, and the admin API and the metrics answer; no new connection is accepted.
//!
//! ```text
//! running --SIGTERM--> held: the kernel steers no connection to the agent; connects wait, inbound is refused
//!                        |--> GOAWAY on every tunnel --nothing open / deadline / SIGTERM again--> end, the rest cut: `drain`
//! taken over ------------'
//! ```
//! The waypoints of this node drain at the same time.
//! The first signal asks for a drain, also where a take-over has begun it: the drain goes on.

use std::time::Duration;

use underpass_ztunnel::Accepting;

use super::{Error, Node};
use crate::signals::Signals;

/// The reason for which a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// No connection is open, and no waypoint of this node is left.
    Empty,
    /// The drain time is over.
    Deadline,
    /// A second signal came.
    Signal,
}

impl Node {
    /// Stops accepting: a captured connect() waits for the next agent, or a successor accepts it already.
    pub(super) async fn hold(&mut self) -> Accepting {
        self.take_over.ends();
        self.sandboxes.stop();
        self.enrolling.close("the agent is draining");
        if self.take_over.has_offered() {
            return Accepting::Elsewhere; // the listeners in the kernel's tables are the successor's
        }
        if self.take_over.is_successor() {
            // They are the predecessor's, which resumes once this process changes nothing.
            let _ = self.pods.stand_still().await;
            self.take_in();
            self.take_over.give_up();
            return Accepting::Elsewhere;
        }
        let held = self.pods.hold();
        let _ = held.await; // a thread that is gone has ended the process
        self.take_in();
        Accepting::Ends
    }

    /// Takes the events that the pods' thread has sent before it stood still.
    pub(super) fn take_in(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.pod(event);
        }
    }

    /// Waits for the end of open connections: until `timeout` is over, or the second signal. `asked`: the first one has come.
    pub(super) async fn drain(
        &mut self,
        accepting: Accepting,
        timeout: Duration,
        stop: &mut Signals,
        asked: &mut bool,
    ) -> Result<Drained, Error> {
        let open = self.ztunnel.connections().len();
        tracing::info!(open, timeout_s = timeout.as_secs(), "draining");
        self.waypoints.drain();
        let (drained, deadline) = (self.ztunnel.drain(accepting), tokio::time::sleep(timeout));
        tokio::pin!(drained, deadline);
        let mut is_empty = false;
        while !is_empty || !self.waypoints.is_empty() {
            tokio::select! {
                () = &mut drained, if !is_empty => is_empty = true,
                () = &mut deadline => return Ok(Drained::Deadline),
                () = stop.next() => {
                    if std::mem::replace(asked, true) {
                        return Ok(Drained::Signal);
                    }
                    self.succeeded.set(false);
                    tracing::info!("asked to end, draining already");
                }
                turned = self.turn() => turned?,
            }
        }
        Ok(Drained::Empty)
    }
}
