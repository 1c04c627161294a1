//! The thread of a worker: it handles messages, goes by the newest World and certificates, which it exchanges between turns, and
//! serves pods, each with a task per listener and one per connection or tunnel.
//!
//! A panic in the task of a connection or tunnel ends that one. A panic of the worker's own loop ends the process.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinHandle, LocalSet},
};
use underpass_core::{
    ObjectName, Reason, World,
    world::{Account, Delta},
};
use underpass_net::{tls::Configs, tunnel::TunnelEnd};
use underpass_proxy::credentials::Credentials;

use crate::{
    Inputs, Pod, Settings, StartError,
    accept::accept,
    inbound,
    message::Message,
    open_connections::ConnectionIds,
    outbound,
    worker::{Home, Shared, Worker},
    worker_pod::WorkerPod,
};

/// Interval at which ended tunnels are dropped from the pool.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

impl Worker {
    /// Starts a worker's thread.
    pub(crate) fn spawn(
        index: usize,
        numbers: ConnectionIds,
        settings: Settings,
        inputs: Inputs,
        shared: Shared,
    ) -> Result<(mpsc::UnboundedSender<Message>, std::thread::JoinHandle<()>), StartError> {
        let configs = Configs::new(settings.tls.clone()).map_err(StartError::Tls)?;
        let log = inputs.access_log.handle();
        let (sender, messages) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| {
                let worker = Rc::new(Self::new(settings, numbers, &inputs, shared, configs, log));
                LocalSet::new().block_on(&runtime, worker.run(messages, inputs));
            });
            if std::panic::catch_unwind(run).is_err() {
                // A worker without its loop serves no pod: the next process adopts what is pinned.
                std::process::abort();
            }
        });
        Ok((sender, thread.map_err(StartError::Thread)?))
    }

    async fn run(self: Rc<Self>, mut messages: mpsc::UnboundedReceiver<Message>, mut inputs: Inputs) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Add(pod)) => self.add(*pod),
                    Some(Message::Rename { cookie, account }) => self.rename(cookie, account),
                    Some(Message::Remove { name, cookie, done }) => self.remove(name, cookie, done),
                    Some(Message::CatchUp(done)) => {
                        self.exchange(&mut inputs);
                        self.judging.caught_up(done);
                    }
                    Some(Message::Page { after, answer }) => {
                        let _ = answer.send(self.connections.page(after, Instant::now())); // as below
                    }
                    Some(Message::Fold { after, answer }) => {
                        let _ = answer.send(self.recorder.fold(after)); // as below
                    }
                    Some(Message::Close { id, closed }) => {
                        let _ = closed.send(self.judging.cancel(id, Reason::Operator)); // the caller may have stopped waiting
                    }
                    Some(Message::Drain(accepting, done)) => self.drain(accepting, done),
                    Some(Message::LendListeners(answer)) => drop(answer.send(self.lend_listeners())),
                    #[cfg(any(test, feature = "testing"))]
                    Some(Message::Run(run)) => run(&self),
                    None => return self.shut_down().await,
                },
                Ok(()) = inputs.world.changed() => self.exchange(&mut inputs),
                Ok(()) = inputs.credentials.changed() => self.exchange(&mut inputs),
                () = tokio::task::yield_now(), if self.judging.is_pending() => self.judging.slice(),
                () = self.logged() => {
                    tokio::task::yield_now().await;
                    self.flush_log();
                }
                _ = sweep.tick() => self.pool.sweep(),
            }
        }
    }

    /// Exchanges World and certificates for the published ones.
    fn exchange(&self, inputs: &mut Inputs) {
        let credentials = Arc::clone(&inputs.credentials.borrow_and_update());
        if !self.credentials.is(&credentials) {
            self.exchange_credentials(&credentials);
        }
        let world = Arc::clone(&inputs.world.borrow_and_update());
        if !self.judging.is_by(&world) {
            self.exchange_world(world);
        }
        self.exchanged.notify_waiters();
    }

    pub(crate) fn exchange_world(&self, world: Arc<World>) {
        let old = self.judging.exchange(world);
        if !self.pool.is_empty() {
            let world = self.world();
            Delta::between(&old, &world).given_up().for_each(|address| self.pool.drain_to(address));
        }
        if old.settings() != self.world().settings() {
            self.credentials.accept(self.world().settings());
        }
    }

    fn exchange_credentials(&self, credentials: &Arc<Credentials>) {
        let change = self.credentials.exchange(credentials);
        for gone in &change.gone {
            self.pool.end(|key| key.source == *gone, &TunnelEnd::Closed);
        }
        if let Some(roots) = change.roots {
            let now = SystemTime::now();
            self.pool.verify_again(&roots, now);
            for home in self.homes.borrow().values() {
                home.pod.tunnels.each(|tunnel| tunnel.verify_again(&roots, now));
            }
        }
    }

    fn add(self: &Rc<Self>, pod: Pod) {
        if self.homes.borrow().contains_key(&pod.cookie) {
            // Its owner has listeners for one pod twice: the newer ones serve, and nothing of the others is left behind.
            tracing::error!(pod = %pod.name, cookie = pod.cookie, "pod is served already: its connections are closed");
            drop(self.close_home(pod.cookie, Reason::PodGone, &TunnelEnd::Closed)); // its end is not waited for
        }
        let budget = self.budgets.add(pod.cookie, &pod.name);
        let (names, local) = ((pod.name, pod.uid), (pod.addresses, pod.account));
        let (netns, within) = (pod.netns, pod.expected_within);
        let served = Rc::new(WorkerPod::new(names, local, pod.cookie, netns, budget, within, &self.settings));
        let listeners = (TcpListener::from_std(pod.outbound), TcpListener::from_std(pod.inbound));
        let (outbound, inbound) = match listeners {
            (Ok(outbound), Ok(inbound)) => (outbound, inbound),
            (Err(error), _) | (_, Err(error)) => {
                // Out of descriptors. The pod's listeners are closed by this, and its connections refused, not let past.
                tracing::error!(pod = %served.name, %error, "pod is not served: its listeners cannot be registered");
                return;
            }
        };
        tracing::debug!(pod = %served.name, cookie = served.cookie, "pod served");
        let listeners = [Rc::new(outbound), Rc::new(inbound)];
        let [outbound, inbound] = listeners.clone();
        let accepting = [
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), outbound, outbound::serve)),
            tokio::task::spawn_local(accept(Rc::clone(self), Rc::clone(&served), inbound, inbound::serve)),
        ];
        self.homes.borrow_mut().insert(served.cookie, Home { pod: served, listeners: Some(listeners), accepting });
    }

    fn rename(&self, cookie: u64, account: Account) {
        let pod = self.homes.borrow().get(&cookie).map(|home| Rc::clone(&home.pod));
        let Some(pod) = pod else { return };
        *pod.account.borrow_mut() = account;
    }

    fn remove(self: &Rc<Self>, name: ObjectName, cookie: u64, done: oneshot::Sender<()>) {
        let closing = self.close_home(cookie, Reason::PodGone, &TunnelEnd::Closed);
        tokio::task::spawn_local(async move {
            closing.await;
            tracing::debug!(pod = %name, cookie, "pod no longer served");
            let _ = done.send(()); // the caller may have stopped waiting
        });
    }

    /// Ends everything of a pod now. The future completes when nothing of it is open; a later pod of the same namespace is not
    /// waited for.
    fn close_home(&self, cookie: u64, reason: Reason, end: &TunnelEnd) -> impl Future<Output = ()> + use<> {
        let home = self.homes.borrow_mut().remove(&cookie);
        self.budgets.remove(cookie);
        let mut tunnels = self.pool.end(|key| key.netns == cookie, end);
        if let Some(Home { pod, accepting, .. }) = &home {
            *pod.closed.borrow_mut() = Some(reason.clone());
            accepting.iter().for_each(JoinHandle::abort);
            pod.tunnels.each(|tunnel| {
                tunnel.end(end.clone());
                tunnels.push(tunnel.clone());
            });
            pod.connections.each(|connection| connection.cancel(reason.clone(), None));
        }
        async move {
            for tunnel in tunnels {
                tunnel.closed().await;
            }
            let Some(Home { pod, accepting, .. }) = home else { return };
            for accepting in accepting {
                let _ = accepting.await; // aborted: the listener is closed
            }
            pod.serving.emptied().await;
        }
    }

    async fn shut_down(&self) {
        let cookies: Vec<u64> = self.homes.borrow().keys().copied().collect();
        let homes = cookies.into_iter().map(|cookie| self.close_home(cookie, Reason::Drain, &TunnelEnd::Drained));
        for closing in homes.collect::<Vec<_>>() {
            closing.await;
        }
        self.all_closed().await;
    }
}
