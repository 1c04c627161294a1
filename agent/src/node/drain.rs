//! The end of a node's agent. What must hold: while open connections are waited for, they are judged, their certificates
//! are renewed, and the admin API and the metrics answer; nothing new is taken that nobody would serve.
//!
//! ```text
//! running --SIGTERM--> held: the kernel steers nothing to us; connects wait, inbound is refused
//!                        |--> GOAWAY on every tunnel --nothing open / deadline / SIGTERM again--> end, the rest cut: `drain`
//! ```

use std::time::Duration;

use underpass_ztunnel::Accepting;

use super::{Error, Node};
use crate::signals::Signals;

/// Why open connections are not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// There are none.
    Nothing,
    /// They had their time.
    Deadline,
    /// A second signal.
    Asked,
}

impl Node {
    /// Nothing new arrives from now on: a captured connect() waits for the next agent, or another one accepts it already.
    pub(super) async fn hold(&mut self) -> Accepting {
        self.follow.ends();
        self.enrolling.close("the agent ends");
        if self.follow.is_lent() {
            return Accepting::Elsewhere; // what stands in the kernel is the successor's
        }
        if self.follow.is_following() {
            // It is the predecessor's, which goes on once nobody else changes it.
            let _ = self.pods.stand_still().await;
            self.take_in();
            self.follow.renounce();
            return Accepting::Elsewhere;
        }
        let held = self.pods.hold();
        let _ = held.await; // a thread that is gone has ended the process
        self.take_in();
        Accepting::Ends
    }

    /// What the pods' thread has announced before it stood still.
    pub(super) fn take_in(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.pod(event);
        }
    }

    /// Waits for open connections, for so long at most, or until it is asked again.
    pub(super) async fn drain(
        &mut self,
        accepting: Accepting,
        patience: Duration,
        stop: &mut Signals,
    ) -> Result<Drained, Error> {
        let open = self.ztunnel.connections().len();
        tracing::info!(open, patience_s = patience.as_secs(), "agent drains: what is captured stays captured");
        let (drained, deadline) = (self.ztunnel.drain(accepting), tokio::time::sleep(patience));
        tokio::pin!(drained, deadline);
        loop {
            tokio::select! {
                () = &mut drained => return Ok(Drained::Nothing),
                () = &mut deadline => return Ok(Drained::Deadline),
                () = stop.next() => return Ok(Drained::Asked),
                turned = self.turn() => turned?,
            }
        }
    }
}
