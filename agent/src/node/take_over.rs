//! The node's side of a take-over, as the successor of one agent and the predecessor of another. The steps are
//! [`crate::handover`]'s; here are their effects on the node.

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    sync::{Arc, mpsc as blocking},
    time::Instant,
};

use tokio::sync::mpsc;
use underpass_abi::{CgroupId, Cookie, VERSION, limits::AGENTS};
use underpass_telemetry::admin::{AdminError, Limits, Listener, Router, Server, Unpublished};
use underpass_ztunnel::Accepting;

use super::{Error, Node};
use crate::{
    certs::Issued,
    handover::{self, HandoverAddress, Lock, OfferContents, Predecessor, Successor, SuccessorRequest},
    preflight::Claimed,
    waypoints::Lent,
};

/// An event of a take-over.
#[derive(Debug)]
pub(super) enum Event {
    /// The predecessor accepts no more, and this process is the agent; or the take-over failed.
    PredecessorLeft(Result<(), handover::Error>),
    /// A predecessor has drained and ended.
    PredecessorEnded(CgroupId),
    /// A successor requests something.
    Requested(SuccessorRequest),
}

/// The stage of this process between its predecessor and its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The predecessor is still the agent.
    Successor,
    /// This process is the agent.
    Owner,
    /// A successor has the offer, and this process stands still.
    Offered,
    /// A successor is the agent.
    Succeeded,
}

/// The take-overs of this process: from its predecessor, and by its successor.
#[derive(Debug)]
pub(super) struct TakeOver {
    own: CgroupId,
    predecessors: Vec<Arc<Predecessor>>,
    /// The end of the time in which the kernel's tables may be changed while the predecessor is the agent.
    until: Option<Instant>,
    lock: Option<Lock>,
    stage: Stage,
    /// The process has been asked to end.
    ending: bool,
    /// Tells the watching thread that everything is applied.
    applied: Option<blocking::Sender<()>>,
    address: Option<HandoverAddress>,
    sockets: Vec<TcpListener>,
    servers: Vec<Server>,
    /// Servers that begin when the predecessor's have ended.
    waiting: Vec<(Listener, Router)>,
    /// The admin socket, whose path is still the predecessor's.
    unpublished: Option<Unpublished>,
    sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
}

/// The listeners of each pod: outbound, inbound.
type Listeners = BTreeMap<Cookie, (TcpListener, TcpListener)>;

impl TakeOver {
    /// The take-over by this claim, and the inherited listeners, certificates and networks of waypoints. `sockets`: of the servers, for a successor.
    pub(super) fn new(
        claim: Claimed,
        own: CgroupId,
        sockets: Vec<TcpListener>,
    ) -> (Self, Listeners, Vec<Issued>, Vec<Lent>) {
        let (sender, events) = mpsc::unbounded_channel();
        let (mut listeners, mut certificates, mut waypoints) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (mut predecessors, mut until, mut applied, mut stage) = (Vec::new(), None, None, Stage::Owner);
        let lock = match claim {
            Claimed::Alone(lock) => lock,
            Claimed::From(successor, inherited) => {
                tracing::info!(pods = inherited.listeners.len(), "take-over started");
                applied = Some(watch(successor, inherited.until, sender.clone()));
                predecessors = inherited.predecessors.into_iter().map(Arc::new).collect();
                (until, stage) = (Some(inherited.until), Stage::Successor);
                (listeners, certificates) = (inherited.listeners, inherited.certificates);
                waypoints = inherited.waypoints;
                inherited.lock
            }
        };
        let take_over = Self {
            own,
            predecessors,
            until,
            lock: Some(lock),
            stage,
            ending: false,
            applied,
            address: None,
            sockets,
            servers: Vec::new(),
            waiting: Vec::new(),
            unpublished: None,
            sender,
            events,
        };
        (take_over, listeners, certificates, waypoints)
    }

    /// The end of the time in which the kernel's tables may be changed; none: no limit.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The cgroups that count as the agent.
    pub(super) fn agents(&self) -> Vec<CgroupId> {
        std::iter::once(self.own).chain(self.predecessors.iter().map(|agent| agent.cgroup)).collect()
    }

    /// Takes the servers, which answer while this process is the agent; `unpublished` gets its path then.
    ///
    /// # Errors
    /// Where the runtime cannot take a socket.
    pub(super) fn serves(
        &mut self,
        servers: Vec<(Listener, Router)>,
        unpublished: Option<Unpublished>,
    ) -> Result<(), AdminError> {
        (self.waiting, self.unpublished) = (servers, unpublished);
        if self.stage == Stage::Owner { self.serve() } else { Ok(()) }
    }

    fn serve(&mut self) -> Result<(), AdminError> {
        for (listener, router) in self.waiting.drain(..) {
            self.servers.push(listener.serve(router, Limits::default())?);
        }
        if let Some(Err(error)) = self.unpublished.take().map(Unpublished::publish) {
            tracing::error!(%error, "publishing the admin socket failed");
        }
        Ok(())
    }

    /// The offer to a successor, without pods and certificates, for kernel tables of this version; or the reason of a refusal.
    fn offer(&self, tables: u32) -> Result<OfferContents, String> {
        if self.predecessors.len() + 2 > AGENTS as usize {
            return Err(format!(
                "{} predecessors still drain, and the kernel knows no more agents",
                self.predecessors.len()
            ));
        }
        let copy = || {
            let lock = self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?.try_clone()?;
            let servers = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
            let predecessors = self.predecessors.iter().map(|agent| agent.try_clone()).collect::<io::Result<_>>()?;
            let (pods, certificates, waypoints) = (Vec::new(), Vec::new(), Vec::new());
            Ok(OfferContents { cgroup: self.own.0, predecessors, lock, pods, servers, certificates, waypoints, tables })
        };
        copy().map_err(uncopied)
    }

    /// This process may become ready: its successor is not the agent, and it does not end.
    pub(super) fn is_serving(&self) -> bool {
        !self.ending && self.stage != Stage::Succeeded
    }

    /// This process is the agent of the node, and no other is about to be.
    pub(super) fn is_agent(&self) -> bool {
        self.stage == Stage::Owner
    }

    /// Gives the take-over up, unless it is complete.
    pub(super) fn give_up(&mut self) {
        self.applied = None;
    }

    /// Waits for successors at this address, from when this process is the agent.
    pub(super) fn listen(&mut self, address: HandoverAddress) -> Result<(), Error> {
        if self.stage != Stage::Owner {
            self.address = Some(address);
            return Ok(());
        }
        let (requests, mut requested) = mpsc::unbounded_channel();
        handover::listen(&address, requests)?;
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while let Some(request) = requested.recv().await {
                let _ = sender.send(Event::Requested(request)); // fails only while the process ends
            }
        });
        Ok(())
    }

    /// Reports that everything is applied; once counts.
    pub(super) fn applied(&mut self) {
        if let Some(applied) = self.applied.take() {
            let _ = applied.send(()); // the thread ends with the hand-over
        }
    }

    /// Notes that the process has been asked to end.
    pub(super) fn ends(&mut self) {
        self.ending = true;
    }

    /// A successor has the offer, or is the agent.
    pub(super) fn has_offered(&self) -> bool {
        matches!(self.stage, Stage::Offered | Stage::Succeeded)
    }

    /// The predecessor is still the agent, and the listeners in the kernel's tables are its.
    pub(super) fn is_successor(&self) -> bool {
        self.stage == Stage::Successor
    }

    /// A successor is the agent.
    pub(super) fn is_succeeded(&self) -> bool {
        self.stage == Stage::Succeeded
    }

    /// The next event.
    pub(super) async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// Starts the thread that confirms the take-over when everything is applied, or gives up in time.
fn watch(successor: Successor, until: Instant, sender: mpsc::UnboundedSender<Event>) -> blocking::Sender<()> {
    let (applied, is_applied) = blocking::channel();
    std::thread::spawn(move || {
        let left = match is_applied.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => successor.confirm(),
            Err(blocking::RecvTimeoutError::Timeout) => successor.give_up(),
            Err(blocking::RecvTimeoutError::Disconnected) => return, // this process ends, and the predecessor resumes
        };
        let _ = sender.send(Event::PredecessorLeft(left)); // fails only while the process ends
    });
    applied
}

/// The reason of a refusal: descriptors that cannot be copied.
fn uncopied(error: io::Error) -> String {
    format!("cannot copy its lock and sockets: {error}")
}

/// Starts the thread that waits for the end of a predecessor.
fn wait_for(agent: Arc<Predecessor>, sender: mpsc::UnboundedSender<Event>) {
    std::thread::spawn(move || {
        agent.wait();
        let _ = sender.send(Event::PredecessorEnded(agent.cgroup)); // fails only while the process ends
    });
}

impl Node {
    /// Handles an event of a take-over.
    pub(super) async fn on_take_over(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::PredecessorLeft(left) => {
                left?;
                self.take_over.stage = Stage::Owner;
                if self.take_over.ending {
                    drop(self.pods.hold()); // no agent accepts any more: connects wait for the next one
                } else {
                    self.pods.own();
                    self.waypoints.start();
                }
                self.take_over.serve()?;
                tracing::info!("take-over complete");
                if let Some(gate) = self.succession.take() {
                    gate.finish();
                }
                for agent in &self.take_over.predecessors {
                    wait_for(Arc::clone(agent), self.take_over.sender.clone());
                }
                if let Some(address) = self.take_over.address.take() {
                    self.take_over.listen(address)?;
                }
            }
            Event::PredecessorEnded(cgroup) => {
                tracing::info!(cgroup = cgroup.0, "predecessor ended");
                self.take_over.predecessors.retain(|agent| agent.cgroup != cgroup);
                self.pods.set_agents(self.take_over.agents());
            }
            Event::Requested(SuccessorRequest::Offer { tables, answer }) => {
                // A later version reads the tables of this one; for an earlier one, its own are filled.
                let offer = match self.take_over.offer(tables.min(VERSION)) {
                    Ok(offer) => self.stand_still(offer).await,
                    Err(why) => Err(why),
                };
                let refused = offer.is_err();
                if answer.send(offer).is_err() || refused {
                    // Tables that were written for it are removed by restoring the data path.
                    self.resume(!refused || tables < VERSION).await;
                }
            }
            Event::Requested(SuccessorRequest::Resume) => self.resume(true).await,
            Event::Requested(SuccessorRequest::Leave(answer)) => {
                tracing::info!("hand-over complete");
                self.succeeded.set(!self.take_over.ending); // before it is not ready by itself
                self.enrolling.close("a successor has taken over");
                self.take_over.stage = Stage::Succeeded;
                self.take_over.servers.clear();
                self.take_over.sockets.clear();
                self.take_over.lock = None;
                // Its waypoints leave their listeners to those of the successor.
                self.waypoints.drain();
                drop(self.ztunnel.drain(Accepting::Elsewhere));
                self.ztunnel.caught_up().await; // nothing is accepted any more
                let _ = answer.send(()); // the successor may be gone already
            }
        }
        Ok(())
    }

    /// Stands still, and adds the listeners of every pod, the certificates and the networks of waypoints to the offer.
    async fn stand_still(&mut self, mut offer: OfferContents) -> Result<OfferContents, String> {
        let still = self.pods.stand_still_for(offer.tables).await;
        self.take_in();
        self.take_over.stage = Stage::Offered;
        // A thread that is gone has ended the process.
        still.unwrap_or(Ok(())).map_err(|error| format!("cannot write its kernel tables: {error}"))?;
        // All of them or none: connections that wait in a listener that is left out would be reset.
        offer.pods = self.ztunnel.lend_listeners().await.into_iter().collect::<io::Result<_>>().map_err(uncopied)?;
        offer.certificates = self.certs.issued();
        offer.waypoints = self.waypoints.lend().map_err(uncopied)?;
        Ok(offer)
    }

    /// Serves again after a successor that failed. `touched`: it may have changed something.
    async fn resume(&mut self, touched: bool) {
        if self.take_over.stage != Stage::Offered {
            return;
        }
        self.take_over.stage = Stage::Owner;
        if self.take_over.ending {
            drop(self.pods.hold()); // it has stopped accepting: listeners that the successor restored are removed again
        } else if !touched {
            self.pods.stir();
        } else {
            tracing::warn!("hand-over failed, resuming");
            let listeners = self.ztunnel.lend_listeners().await.into_iter().filter_map(|of_pod| {
                let missing = |error| tracing::warn!(%error, "restoring the listeners of a pod failed");
                of_pod.map_err(missing).ok()
            });
            self.pods.resume(listeners.map(|pod| (Cookie(pod.cookie), (pod.outbound, pod.inbound))).collect());
        }
    }
}
