//! The signals that end the agent: SIGTERM of its service manager, SIGINT of a terminal. The first one drains, the second ends
//! at once.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// The requests to end, one after the other.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<()>);

impl Signals {
    /// SIGTERM and SIGINT of this process: from now on they end nothing by themselves. Inside a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime cannot watch signals.
    pub fn watch() -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (sender, signals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Self(signals))
    }

    /// Requests by a channel: for an agent in a test.
    #[must_use]
    pub const fn of(requests: mpsc::UnboundedReceiver<()>) -> Self {
        Self(requests)
    }

    /// Completes with the next one. Dropped before that, nothing is lost.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
