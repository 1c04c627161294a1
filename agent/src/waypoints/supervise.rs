//! The life of one waypoint of this node, from its network to its last process: one task.
//!
//! ```text
//!            certificate, network, process           serving
//! STARTING ------------------------------> begun ---------------> SERVING
//!    ^                |                      |                       |
//!    |                '---- it ends, or cannot be started -----------'
//!    '--- backoff --- RESTARTING <-----------'
//! any --drain--> DRAINING --drained, or its time is over: killed--> end
//! any --kill--> killed --> end
//! ```
//! What must hold: it is given the certificate of its own identity, and no other. The network stays while processes come and go:
//! what connects meanwhile waits in the listener.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use underpass_core::{Identity, provision::Instance, world::MeshSettings};
use underpass_identity::Credential;
use underpass_proxy::{
    child::{Begin, CredentialsText, FromChild, ToChild},
    credentials::Credentials,
};

use super::{
    Goal, Shared,
    backoff::Backoff,
    child::{Child, Control, Error},
    network::Network,
    status::{State, WaypointStatus},
};

/// The time after its drain in which a process ends by itself.
const GRACE: Duration = Duration::from_secs(2);

/// What supervises a waypoint.
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) instance: Instance,
    pub(super) identity: Identity,
    pub(super) network: Slot,
    pub(super) goal: watch::Receiver<Goal>,
    pub(super) restarts: u64,
}

/// The network of a waypoint, once it is made.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Arc<Network>>>>);

impl Slot {
    pub(super) fn of(network: Network) -> Self {
        Self(Arc::new(Mutex::new(Some(Arc::new(network)))))
    }

    pub(super) fn get(&self) -> Option<Arc<Network>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, network: Arc<Network>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(network);
    }
}

/// The end of one process, or of an attempt to start it.
struct Ended {
    reason: String,
    served: Duration,
}

/// What the process was told last.
struct Told {
    mesh: MeshSettings,
    own: Arc<Credential>,
    roots: u64,
}

impl Supervisor {
    /// Runs until another goal is reached.
    pub(super) async fn run(mut self) {
        let (mut backoff, random) = (Backoff::default(), RandomState::new());
        while let Some(Ended { reason, served }) = self.once().await {
            let wait = backoff.ended(served, random.hash_one((&self.identity.uri(), self.restarts)));
            tracing::warn!(waypoint = %self.instance.pod, reason, wait_ms = wait.as_millis(), "waypoint ended");
            self.say(State::Restarting, None, Some(reason));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopping(&mut self.goal) => break,
            }
            self.restarts = self.restarts.saturating_add(1);
            self.shared.board.restarted(&self.instance.gateway);
        }
        self.shared.board.remove(&self.instance.pod);
    }

    /// One process, from its start to its end; none: it was to end.
    async fn once(&mut self) -> Option<Ended> {
        self.say(State::Starting, None, None);
        let mut credentials = self.shared.credentials.clone();
        let there = tokio::select! {
            there = credentials.wait_for(|all| all.own.contains_key(&self.identity)) => there.map(|all| Arc::clone(&all)),
            _ = stopping(&mut self.goal) => return None,
        };
        let all = there.ok()?; // the agent ends
        let (mut child, told) = match self.start(&all).await {
            Ok(started) => started,
            Err(reason) => return Some(Ended { reason, served: Duration::ZERO }),
        };
        let pid = child.process.pid();
        tracing::info!(waypoint = %self.instance.pod, pid, addresses = ?self.instance.addresses, "waypoint started");
        self.say(State::Starting, Some(pid), None);
        self.serve(&mut child, told).await
    }

    /// Starts a process and introduces it, with these credentials.
    async fn start(&self, all: &Credentials) -> Result<(Child, Told), String> {
        let network = self.network().await?;
        let mut child = Child::start(&self.shared.program, network).await.map_err(|error| chain(&error))?;
        let mesh = self.shared.mesh.borrow().clone();
        let begin = Begin {
            manifests: self.shared.manifests.clone(),
            node: self.shared.node.clone(),
            gateway: self.instance.gateway.clone(),
            class: Arc::clone(&self.instance.class),
            pod: self.instance.pod.clone(),
            identity: self.identity.clone(),
            addresses: self.instance.addresses.to_vec(),
            drain: self.shared.drain,
            mesh: mesh.clone(),
        };
        let begun = child.control.send(&ToChild::Begin(Box::new(begin))).await;
        let told = match begun {
            Ok(()) => self.tell(&child.control, all).await,
            Err(error) => Err(error),
        };
        let reason = match told {
            Ok(Some((own, roots))) => return Ok((child, Told { mesh, own, roots })),
            Ok(None) => Some("its certificate is gone".to_owned()),
            Err(error) if error.is_gone() => None,
            Err(error) => Some(chain(&error)),
        };
        let status = child.process.ended_within(GRACE).await;
        Err(reason.map_or_else(|| status.clone(), |reason| format!("{reason}; ended: {status}")))
    }

    async fn network(&self) -> Result<Arc<Network>, String> {
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let instance = self.instance.clone();
        let made = tokio::task::spawn_blocking(move || Network::make(&instance)).await;
        let made = made.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        let network = Arc::new(made);
        self.network.put(Arc::clone(&network));
        Ok(network)
    }

    /// Sends its own certificate and the roots of the mesh; none: it has none.
    async fn tell(&self, control: &Control, all: &Credentials) -> Result<Option<(Arc<Credential>, u64)>, Error> {
        let Some(own) = all.own.get(&self.identity) else { return Ok(None) };
        control.send(&ToChild::Credentials(CredentialsText::new(own, &all.roots))).await?;
        Ok(Some((Arc::clone(own), all.roots.generation())))
    }

    /// Goes along with a process until its end; none: it was to end.
    async fn serve(&mut self, child: &mut Child, mut told: Told) -> Option<Ended> {
        let (mut credentials, mut mesh) = (self.shared.credentials.clone(), self.shared.mesh.clone());
        // What has changed since it was introduced.
        credentials.mark_changed();
        mesh.mark_changed();
        let mut since: Option<Instant> = None;
        let reason = loop {
            let went = tokio::select! {
                status = child.process.ended() => break status,
                said = child.control.receive() => match said {
                    Ok(Some(FromChild::Serving { version })) => {
                        tracing::info!(waypoint = %self.instance.pod, version, "waypoint serves");
                        since.get_or_insert_with(Instant::now);
                        self.say(State::Serving, Some(child.process.pid()), None);
                        Ok(())
                    }
                    // It ends, asked by a signal.
                    Ok(Some(FromChild::Drained) | None) => break child.process.ended_within(GRACE).await,
                    Err(error) => Err(error),
                },
                Ok(()) = credentials.changed() => {
                    let all = Arc::clone(&credentials.borrow_and_update());
                    self.renew(&child.control, &all, &mut told).await
                }
                Ok(()) = mesh.changed() => {
                    let newest = mesh.borrow_and_update().clone();
                    self.resettle(&child.control, newest, &mut told).await
                }
                goal = stopping(&mut self.goal) => {
                    self.stop(child, goal).await;
                    return None;
                }
            };
            match went {
                Ok(()) => {}
                Err(error) if error.is_gone() => break child.process.ended_within(GRACE).await,
                Err(error) => {
                    let status = child.process.kill().await;
                    break format!("{}; ended: {status}", chain(&error));
                }
            }
        };
        Some(Ended { reason, served: since.map_or(Duration::ZERO, |since| since.elapsed()) })
    }

    /// Sends credentials where its own are others.
    async fn renew(&self, control: &Control, all: &Credentials, told: &mut Told) -> Result<(), Error> {
        let Some(own) = all.own.get(&self.identity) else { return Ok(()) };
        if Arc::ptr_eq(own, &told.own) && all.roots.generation() == told.roots {
            return Ok(());
        }
        if let Some((own, roots)) = self.tell(control, all).await? {
            (told.own, told.roots) = (own, roots);
        }
        Ok(())
    }

    /// Sends settings of the mesh where they are others.
    async fn resettle(&self, control: &Control, newest: MeshSettings, told: &mut Told) -> Result<(), Error> {
        if newest == told.mesh {
            return Ok(());
        }
        told.mesh.clone_from(&newest);
        control.send(&ToChild::Mesh(newest)).await
    }

    /// Lets a process end, in its time or at once.
    async fn stop(&self, child: &mut Child, goal: Goal) {
        self.say(State::Draining, Some(child.process.pid()), None);
        let asked = goal == Goal::Drain && child.control.send(&ToChild::Drain).await.is_ok();
        let time = if asked { self.shared.drain.saturating_add(GRACE) } else { Duration::ZERO };
        let mut goal = self.goal.clone();
        let status = tokio::select! {
            status = child.process.ended_within(time) => Some(status),
            _ = goal.wait_for(|goal| *goal == Goal::Kill) => None,
        };
        let status = match status {
            Some(status) => status,
            None => child.process.kill().await,
        };
        tracing::info!(waypoint = %self.instance.pod, status, "waypoint stopped");
    }

    fn say(&self, state: State, pid: Option<u32>, problem: Option<String>) {
        let status = WaypointStatus {
            gateway: self.instance.gateway.clone(),
            addresses: self.instance.addresses.clone(),
            state,
            pid,
            restarts: self.restarts,
            problem,
        };
        self.shared.board.put(&self.instance.pod, status);
    }
}

/// Completes when it is to end. Who wants it to run is gone: it is to drain.
async fn stopping(goal: &mut watch::Receiver<Goal>) -> Goal {
    goal.wait_for(|goal| *goal != Goal::Run).await.map_or(Goal::Drain, |goal| *goal)
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
