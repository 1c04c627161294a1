//! The thread of a worker: it accepts tunnels, goes by the newest configuration and certificates, which it exchanges between
//! turns, and drains. A panic in the task of a connection ends that one; a panic of the worker's own loop ends the process.

use std::{
    net::TcpListener as StdListener,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};
use underpass_core::world::Delta;
use underpass_net::{
    tls::Configs,
    tunnel::{Tunnel, TunnelEnd},
};
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{access_log::RequestLog, metrics::Registry};

use crate::{
    Own, Settings, StartError,
    access_log::Log,
    cluster::SharedClusters,
    configuration::Configuration,
    inbound,
    metrics::Metrics,
    tokens::{self, Keyring},
    worker::Worker,
};

/// Interval at which ended tunnels are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Interval at which connections to endpoints that had their time are dropped, and clusters that nothing goes to.
const CLUSTERS_EVERY: Duration = Duration::from_secs(1);
/// Pause after an accept(2) that failed for want of descriptors or memory, unless a socket of ours is free before.
const PAUSE: Duration = Duration::from_millis(100);

/// A question to a worker.
#[derive(Debug)]
pub(crate) enum Message {
    /// Answered when it goes by what was published before, and nothing is open that this denies.
    CatchUp(oneshot::Sender<()>),
    /// Answered when nothing is open any more.
    Drain(oneshot::Sender<()>),
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) own: Own,
    pub(crate) settings: Settings,
    pub(crate) configuration: watch::Receiver<Arc<Configuration>>,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) shared: Arc<SharedClusters>,
    pub(crate) log: Option<Arc<RequestLog>>,
    pub(crate) keyring: Keyring,
    /// It fetches the keys, for all.
    pub(crate) fetches_keys: bool,
}

/// Runs a worker. What blocks in other threads of its runtime ends by itself and is not waited for: to look up a name takes as
/// long as its resolver does.
fn to_its_end(runtime: Runtime, running: impl Future<Output = ()>) {
    LocalSet::new().block_on(&runtime, running);
    runtime.shutdown_background();
}

impl Worker {
    /// Starts a worker's thread.
    pub(crate) fn spawn(
        index: usize,
        listener: StdListener,
        parts: Parts,
    ) -> Result<(mpsc::UnboundedSender<Message>, std::thread::JoinHandle<()>), StartError> {
        let configs = Configs::new(parts.settings.tls.clone()).map_err(StartError::Tls)?;
        let (sender, messages) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("waypoint-{index}")).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| {
                let worker = Rc::new(Self::new(&parts, configs));
                to_its_end(runtime, worker.run(listener, messages, parts));
            });
            if std::panic::catch_unwind(run).is_err() {
                std::process::abort(); // without its loop it serves no client, and must not look as if it did
            }
        });
        Ok((sender, thread.map_err(StartError::Thread)?))
    }

    async fn run(self: Rc<Self>, listener: StdListener, mut messages: mpsc::UnboundedReceiver<Message>, parts: Parts) {
        let Parts { mut configuration, mut credentials, shared, fetches_keys, .. } = parts;
        let mut wanted = shared.wanted();
        if fetches_keys {
            tokio::task::spawn_local(tokens::run(Rc::clone(&self), configuration.clone()));
        }
        let accepting = match TcpListener::from_std(listener) {
            Ok(listener) => tokio::task::spawn_local(Rc::clone(&self).accept(listener)),
            Err(error) => {
                tracing::error!(%error, "a worker of the waypoint cannot accept");
                return;
            }
        };
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        let mut sweep_clusters = tokio::time::interval(CLUSTERS_EVERY);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::CatchUp(done)) => {
                        self.take(&mut configuration, &mut credentials);
                        self.judging.caught_up(done);
                        self.judge_again();
                    }
                    Some(Message::Drain(done)) => {
                        accepting.abort();
                        self.drain(done);
                    }
                    None => break,
                },
                Ok(()) = configuration.changed() => self.take(&mut configuration, &mut credentials),
                Ok(()) = credentials.changed() => self.take(&mut configuration, &mut credentials),
                () = tokio::task::yield_now(), if self.judging.is_pending() => self.judge_again(),
                Ok(()) = wanted.changed() => self.clusters.give_way(),
                _ = sweep.tick() => self.pool.sweep(),
                _ = sweep_clusters.tick() => self.clusters.sweep(self.now()),
                () = self.logged() => self.log.iter().for_each(Log::flush),
            }
        }
        accepting.abort();
        self.pool.end(|_| true, &TunnelEnd::Closed);
    }

    /// Exchanges configuration and certificates for the published ones.
    fn take(
        &self,
        configuration: &mut watch::Receiver<Arc<Configuration>>,
        credentials: &mut watch::Receiver<Arc<Credentials>>,
    ) {
        let newest = Arc::clone(&credentials.borrow_and_update());
        if !self.credentials.is(&newest) {
            let change = self.credentials.exchange(&newest);
            for gone in &change.gone {
                self.pool.end(|key| key.source == *gone, &TunnelEnd::Closed);
            }
            if let Some(roots) = change.roots {
                let now = SystemTime::now();
                self.pool.verify_again(&roots, now);
                self.tunnels.each(|tunnel| tunnel.verify_again(&roots, now));
            }
        }
        let newest = Arc::clone(&configuration.borrow_and_update());
        let old = self.exchange(Arc::clone(&newest));
        if Arc::ptr_eq(&old, &newest) {
            return;
        }
        if !Arc::ptr_eq(&old.world, &newest.world) {
            let delta = Delta::between(&old.world, &newest.world);
            delta.given_up().for_each(|address| self.pool.drain_to(address));
            if delta.settings.is_some() {
                self.credentials.accept(newest.world.settings());
            }
            self.judging.changed(&delta, &newest.world);
            self.judge_again();
        }
    }

    fn judge_again(&self) {
        self.judging.slice(&self.own, &self.world());
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            self.has_room().await;
            match listener.accept().await {
                Ok((socket, _)) => {
                    let serving = inbound::serve(Rc::clone(&self), socket);
                    let guard = self.serves();
                    tokio::task::spawn_local(async move {
                        serving.await;
                        drop(guard);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Every connection ends in order: clients are told, and what they have under way is finished.
    fn drain(self: &Rc<Self>, done: oneshot::Sender<()>) {
        self.draining.set(true);
        self.drains.notify_waiters();
        self.tunnels.each(Tunnel::drain);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            worker.serving.emptied().await;
            let _ = done.send(()); // the caller may have stopped waiting
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, thread};

    use super::*;

    /// Within this, or never.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn a_worker_ends_while_a_name_is_looked_up() {
        let (until, blocked) = channel::<()>();
        let (ended, end) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            to_its_end(runtime, async {
                let (begins, begun) = oneshot::channel();
                drop(tokio::task::spawn_blocking(move || {
                    let _ = begins.send(());
                    blocked.recv()
                }));
                begun.await.expect("it blocks");
            });
            ended.send(()).expect("waited for");
        });
        end.recv_timeout(DEADLINE).expect("without what blocks");
        drop(until);
    }
}
