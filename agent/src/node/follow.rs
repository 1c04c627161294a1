//! One agent after the other, as the node sees it: what it took over, and what it lends. The steps are
//! [`crate::handover`]'s; here is what they change.

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
    handover::{self, Ask, Earlier, Lending, Lock, Place, Successor},
    preflight::Claimed,
};

/// What happens while one agent follows another.
#[derive(Debug)]
pub(super) enum Heard {
    /// The one that ran accepts no more: this process is the agent. Or it does not let us.
    Left(Result<(), handover::Error>),
    /// An earlier one is gone.
    Gone(CgroupId),
    /// Another one wants to follow us.
    Asked(Ask),
}

/// How far this process is in following, and in being followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The other one still counts as the agent.
    Following,
    /// Nobody else is.
    Owner,
    /// A successor has been lent everything.
    Lent,
    /// It serves.
    Over,
}

/// Whom this agent follows, and who follows it.
#[derive(Debug)]
pub(super) struct Follow {
    own: CgroupId,
    before: Vec<Arc<Earlier>>,
    /// Nothing may be changed after that while the other one counts as the agent.
    until: Option<Instant>,
    lock: Option<Lock>,
    stage: Stage,
    /// It has been asked to end.
    ending: bool,
    /// Told when everything is applied.
    applied: Option<blocking::Sender<()>>,
    place: Option<Place>,
    sockets: Vec<TcpListener>,
    servers: Vec<Server>,
    /// Served once nobody else answers there.
    waiting: Vec<(Listener, Router)>,
    /// The name of the admin socket, which the one that ran has still.
    unpublished: Option<Unpublished>,
    sender: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

/// By pod: outbound, inbound.
type Listeners = BTreeMap<Cookie, (TcpListener, TcpListener)>;

impl Follow {
    /// `sockets`: of the servers, for whoever follows.
    pub(super) fn new(claim: Claimed, own: CgroupId, sockets: Vec<TcpListener>) -> (Self, Listeners) {
        let (sender, heard) = mpsc::unbounded_channel();
        let mut listeners = BTreeMap::new();
        let (mut before, mut until, mut applied, mut stage) = (Vec::new(), None, None, Stage::Owner);
        let lock = match claim {
            Claimed::Alone(lock) => lock,
            Claimed::From(successor, inherited) => {
                tracing::info!(pods = inherited.listeners.len(), "taking over from the agent that runs");
                applied = Some(watch(successor, inherited.until, sender.clone()));
                before = inherited.before.into_iter().map(Arc::new).collect();
                (until, stage, listeners) = (Some(inherited.until), Stage::Following, inherited.listeners);
                inherited.lock
            }
        };
        let follow = Self {
            own,
            before,
            until,
            lock: Some(lock),
            stage,
            ending: false,
            applied,
            place: None,
            sockets,
            servers: Vec::new(),
            waiting: Vec::new(),
            unpublished: None,
            sender,
            heard,
        };
        (follow, listeners)
    }

    /// Until when the kernel's tables may be changed; nothing: for good.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The cgroups that count as the agent.
    pub(super) fn agents(&self) -> Vec<CgroupId> {
        std::iter::once(self.own).chain(self.before.iter().map(|agent| agent.cgroup)).collect()
    }

    /// These answer until another agent does, and not while another one does; one of them is found at its place then.
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
            tracing::error!(%error, "the admin socket is not at its place");
        }
        Ok(())
    }

    /// What a successor gets, with everything in this version of the kernel tables, but for the pods; or why it gets nothing.
    fn lending(&self, tables: u32) -> Result<Lending, String> {
        if self.before.len() + 2 > AGENTS as usize {
            return Err(format!("{} agents before it drain still, and the kernel knows no more", self.before.len()));
        }
        let copy = || {
            let lock = self.lock.as_ref().ok_or(io::ErrorKind::NotFound)?.again()?;
            let servers = self.sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
            let earlier = self.before.iter().map(|agent| agent.again()).collect::<io::Result<_>>()?;
            Ok(Lending { cgroup: self.own.0, earlier, lock, pods: Vec::new(), servers, tables })
        };
        copy().map_err(uncopied)
    }

    /// A World that is applied makes this process ready: not where another one is the agent, nor once it ends.
    pub(super) fn is_serving(&self) -> bool {
        !self.ending && self.stage != Stage::Over
    }

    /// Says to the other one that this one will not be the agent, unless it has said already that it is.
    pub(super) fn renounce(&mut self) {
        self.applied = None;
    }

    /// From now on, or from when nobody else is the agent any more, others may follow.
    pub(super) fn listen(&mut self, place: Place) -> Result<(), Error> {
        if self.stage != Stage::Owner {
            self.place = Some(place);
            return Ok(());
        }
        let (asks, mut asked) = mpsc::unbounded_channel();
        handover::listen(&place, asks)?;
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                let _ = sender.send(Heard::Asked(ask)); // fails only while the process ends
            }
        });
        Ok(())
    }

    /// Everything is applied, perhaps once more.
    pub(super) fn applied(&mut self) {
        if let Some(applied) = self.applied.take() {
            let _ = applied.send(()); // the thread ends with the hand-over
        }
    }

    /// It has been asked to end.
    pub(super) fn ends(&mut self) {
        self.ending = true;
    }

    /// A successor has what is needed to be the agent.
    pub(super) fn is_lent(&self) -> bool {
        matches!(self.stage, Stage::Lent | Stage::Over)
    }

    /// The one before is the agent still: what stands in the kernel is not ours to take away.
    pub(super) fn is_following(&self) -> bool {
        self.stage == Stage::Following
    }

    /// A successor is the agent.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The next thing that happens.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

/// Tells the other agent when everything is applied, or gives up in time, on a thread of its own.
fn watch(successor: Successor, until: Instant, sender: mpsc::UnboundedSender<Heard>) -> blocking::Sender<()> {
    let (applied, is_applied) = blocking::channel();
    std::thread::spawn(move || {
        let left = match is_applied.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => successor.taken(),
            Err(blocking::RecvTimeoutError::Timeout) => successor.late(),
            Err(blocking::RecvTimeoutError::Disconnected) => return, // this process ends; the other one goes on
        };
        let _ = sender.send(Heard::Left(left)); // fails only while the process ends
    });
    applied
}

/// Why a successor gets nothing.
fn uncopied(error: io::Error) -> String {
    format!("its lock and sockets cannot be copied: {error}")
}

/// Waits for the end of an earlier agent, on a thread of its own.
fn wait_for(agent: Arc<Earlier>, sender: mpsc::UnboundedSender<Heard>) {
    std::thread::spawn(move || {
        agent.wait();
        let _ = sender.send(Heard::Gone(agent.cgroup)); // fails only while the process ends
    });
}

impl Node {
    /// Does what is due about whoever is followed or follows.
    pub(super) async fn follow(&mut self, heard: Heard) -> Result<(), Error> {
        match heard {
            Heard::Left(left) => {
                left?;
                self.follow.stage = Stage::Owner;
                if self.follow.ending {
                    drop(self.pods.hold()); // nobody accepts any more: connects wait for the next agent
                } else {
                    self.pods.own();
                }
                self.follow.serve()?;
                tracing::info!("took over: the other agent accepts no more");
                for agent in &self.follow.before {
                    wait_for(Arc::clone(agent), self.follow.sender.clone());
                }
                if let Some(place) = self.follow.place.take() {
                    self.follow.listen(place)?;
                }
            }
            Heard::Gone(cgroup) => {
                tracing::info!(cgroup = cgroup.0, "an agent before this one is gone");
                self.follow.before.retain(|agent| agent.cgroup != cgroup);
                self.pods.set_agents(self.follow.agents());
            }
            Heard::Asked(Ask::Lend { tables, answer }) => {
                // A later version reads ours; for an earlier one we write its own.
                let lent = match self.follow.lending(tables.min(VERSION)) {
                    Ok(lending) => self.lend(lending).await,
                    Err(why) => Err(why),
                };
                let refused = lent.is_err();
                if answer.send(lent).is_err() || refused {
                    self.go_on(!refused).await;
                }
            }
            Heard::Asked(Ask::GoOn) => self.go_on(true).await,
            Heard::Asked(Ask::Leave(answer)) => {
                tracing::info!("another agent has taken over");
                self.enrolling.close("another agent has taken over");
                self.follow.stage = Stage::Over;
                self.follow.servers.clear();
                self.follow.sockets.clear();
                self.follow.lock = None;
                drop(self.ztunnel.drain(Accepting::Elsewhere));
                self.ztunnel.caught_up().await; // nothing is accepted any more
                let _ = answer.send(()); // the successor may be gone already
            }
        }
        Ok(())
    }

    /// Stands still, with the listeners of every pod for the successor.
    async fn lend(&mut self, mut lending: Lending) -> Result<Lending, String> {
        let still = self.pods.stand_still_for(lending.tables).await;
        self.take_in();
        self.follow.stage = Stage::Lent;
        // A thread that is gone has ended the process.
        still.unwrap_or(Ok(())).map_err(|error| format!("its kernel tables cannot be written: {error}"))?;
        // All of them or none: what waits in a listener that is left out would be reset.
        lending.pods = self.ztunnel.lend_listeners().await.into_iter().collect::<io::Result<_>>().map_err(uncopied)?;
        Ok(lending)
    }

    /// Whoever was to follow has not. `touched`: it may have changed something.
    async fn go_on(&mut self, touched: bool) {
        if self.follow.stage != Stage::Lent {
            return;
        }
        self.follow.stage = Stage::Owner;
        if self.follow.ending {
            drop(self.pods.hold()); // it has stopped accepting: what the other one put back is taken out again
        } else if !touched {
            self.pods.stir();
        } else {
            tracing::warn!("the other agent has not taken over: this one goes on");
            let lent = self.ztunnel.lend_listeners().await.into_iter().filter_map(|lent| {
                let missing = |error| tracing::warn!(%error, "the listeners of a pod cannot be put back");
                lent.map_err(missing).ok()
            });
            self.pods.go_on(lent.map(|pod| (Cookie(pod.cookie), (pod.outbound, pod.inbound))).collect());
        }
    }
}
