//! One agent after the other, as the node sees it: what it took over, and what it lends. The steps are
//! [`crate::handover`]'s; here is what they change.

use std::{collections::BTreeMap, net::TcpListener, sync::mpsc as blocking};

use tokio::sync::mpsc;
use underpass_abi::{CgroupId, Cookie};
use underpass_telemetry::admin::{Server, Unpublished};
use underpass_ztunnel::Accepting;

use super::{Error, Node};
use crate::{
    handover::{self, Ask, Lending, Lock, Place, Successor},
    preflight::Claimed,
};

/// What happens while one agent follows another.
#[derive(Debug)]
pub(super) enum Heard {
    /// The one that ran accepts no more: this process is the agent. Or it does not let us.
    Left(Result<(), handover::Error>),
    /// The one that ran is gone.
    Gone,
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
    before: Option<CgroupId>,
    lock: Option<Lock>,
    stage: Stage,
    /// It has been asked to end.
    ending: bool,
    /// Told when everything is applied.
    applied: Option<blocking::Sender<()>>,
    place: Option<Place>,
    sockets: Vec<TcpListener>,
    servers: Vec<Server>,
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
        let (lock, before, listeners, applied, stage) = match claim {
            Claimed::Alone(lock) => (lock, None, BTreeMap::new(), None, Stage::Owner),
            Claimed::From(successor, inherited) => {
                tracing::info!(pods = inherited.listeners.len(), "taking over from the agent that runs");
                let applied = watch(successor, sender.clone());
                (inherited.lock, Some(inherited.cgroup), inherited.listeners, Some(applied), Stage::Following)
            }
        };
        let (lock, ending, place, servers, unpublished) = (Some(lock), false, None, Vec::new(), None);
        let follow =
            Self { own, before, lock, stage, ending, applied, place, sockets, servers, unpublished, sender, heard };
        (follow, listeners)
    }

    /// The cgroups that count as the agent.
    pub(super) fn agents(&self) -> Vec<CgroupId> {
        std::iter::once(self.own).chain(self.before).collect()
    }

    /// These answer until another agent does; one of them is found at its place when nobody else is the agent.
    pub(super) fn serves(&mut self, servers: Vec<Server>, unpublished: Option<Unpublished>) {
        self.servers = servers;
        self.unpublished = unpublished;
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

/// Tells the other agent when everything is applied, and waits for its end, on a thread of its own.
fn watch(successor: Successor, sender: mpsc::UnboundedSender<Heard>) -> blocking::Sender<()> {
    let (applied, is_applied) = blocking::channel();
    std::thread::spawn(move || {
        if is_applied.recv().is_err() {
            return; // this process ends; the other one goes on
        }
        let left = successor.taken();
        let over = left.is_err();
        let _ = sender.send(Heard::Left(left)); // fails only while the process ends
        if !over {
            successor.wait();
            let _ = sender.send(Heard::Gone);
        }
    });
    applied
}

impl Node {
    /// Does what is due about whoever is followed or follows.
    pub(super) async fn follow(&mut self, heard: Heard) -> Result<(), Error> {
        match heard {
            Heard::Left(left) => {
                left?;
                if let Some(Err(error)) = self.follow.unpublished.take().map(Unpublished::publish) {
                    tracing::error!(%error, "the admin socket is not at its place");
                }
                tracing::info!("took over: the other agent accepts no more");
                self.follow.stage = Stage::Owner;
                if let Some(place) = self.follow.place.take() {
                    self.follow.listen(place)?;
                }
            }
            Heard::Gone => {
                tracing::info!("the agent before this one is gone");
                self.follow.before = None;
                self.pods.set_agents(self.follow.agents());
            }
            Heard::Asked(Ask::Lend(answer)) => {
                let still = self.pods.stand_still();
                let _ = still.await; // a thread that is gone has ended the process
                self.take_in();
                let pods = self.ztunnel.lend().await;
                let Some(Ok(lock)) = self.follow.lock.as_ref().map(Lock::again) else { return Ok(()) };
                let servers = self.follow.sockets.iter().filter_map(|socket| socket.try_clone().ok()).collect();
                self.follow.stage = Stage::Lent;
                if let Err(lending) = answer.send(Lending { cgroup: self.follow.own.0, lock, pods, servers }) {
                    drop(lending);
                    self.go_on();
                }
            }
            Heard::Asked(Ask::GoOn) => self.go_on(),
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

    /// Whoever was to follow has not.
    fn go_on(&mut self) {
        if self.follow.stage != Stage::Lent {
            return;
        }
        self.follow.stage = Stage::Owner;
        // Asked to end meanwhile, it has stopped accepting, and the kernel is left as it is.
        if !self.follow.ending {
            tracing::warn!("the other agent has not taken over: this one goes on");
            self.pods.go_on();
        }
    }
}
