//! An enrolled pod: its sandbox, and the steps in which it is set up and taken down. Its own file because [`super`] decides
//! when, and this in which order.
//!
//! What must hold: set-up steers last; take-down takes what its applications opened first, then the steering, which brings new
//! sockets, and then all that is left. Both can be repeated from their beginning.

use std::{
    fs::File,
    net::{IpAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use underpass_abi::{
    Cookie, Direction, ListenerKey, Marks, Op, Phase,
    limits::{POD_ADDRESSES, POD_PROBES},
};
use underpass_core::resolve::LocalPod;
use underpass_net::{
    netns::{AddressWatch, Netns},
    system::SystemError,
};

use super::{
    AnnouncedPod, Result, Settings, cgroup,
    netns::{self, Process},
    setup::{self, Before, Listeners},
};
use crate::{datapath::DataPath, tables::KernelPod};

/// A pod with its sandbox, from the beginning of its set-up to the end of its release.
#[derive(Debug)]
pub(super) struct EnrolledPod {
    /// As its node knows it.
    pub(super) pod: LocalPod,
    /// As the kernel is to know it.
    pub(super) kernel: KernelPod,
    netns: Arc<Netns>,
    /// Inode of it.
    namespace: u64,
    device: String,
    /// The process that the sandbox lives by; none before its first.
    sandbox: Option<Process>,
    /// A process may still come: the runtime has named the sandbox and not ended it.
    expected: bool,
    cgroup: PathBuf,
    events: File,
    watch: AddressWatch,
    before: Before,
    /// Made, and not yet handed to the tunnel.
    listeners: Option<Listeners>,
    /// Its processes had started before it was captured, though it was in the mesh from its beginning.
    pub(super) late: bool,
}

impl EnrolledPod {
    /// Finds the sandbox in this cgroup; changes nothing. `named`: the namespace that the runtime has named.
    pub(super) fn find(pod: &LocalPod, cgroup: PathBuf, own: &Netns, named: Option<&Arc<Netns>>) -> Result<Self> {
        let events = cgroup::events(&cgroup)?;
        let by_process = || netns::find(&cgroup, &pod.addresses, own);
        let (sandbox, expected) = match named.map(|named| netns::named(named, &cgroup, &pod.addresses, own)) {
            None => (by_process()?, false),
            Some(Ok(sandbox)) => (sandbox, true),
            // It may be that of an earlier sandbox of the pod.
            Some(Err(e)) => (by_process().map_err(|_| e)?, false),
        };
        // Watched before they are listed once more: nothing is missed in between.
        let watch = AddressWatch::new(&sandbox.netns)?;
        let namespace_addresses = addresses(&sandbox.netns)?;
        let kernel = KernelPod {
            cookie: Cookie(sandbox.netns.cookie()),
            addresses: pod.addresses.clone(),
            namespace_addresses,
            probes: pod.probes.clone(),
            cgroup: cgroup::id(&cgroup)?,
            phase: Phase::ENROLLED,
        };
        Ok(Self {
            pod: pod.clone(),
            kernel,
            netns: sandbox.netns,
            namespace: sandbox.namespace,
            device: sandbox.device,
            sandbox: sandbox.process,
            expected,
            cgroup,
            events,
            watch,
            before: Before::unknown(),
            listeners: None,
            late: false,
        })
    }

    /// A pod whose sandbox is this process, served by the tunnel; its cgroup is this directory. Nothing of it may be set up or
    /// taken down: the namespace is the machine's.
    #[cfg(test)]
    pub(super) fn of_this_process(pod: &LocalPod, cgroup: PathBuf) -> Result<Self> {
        let netns = Arc::new(Netns::own()?);
        let kernel = KernelPod {
            cookie: Cookie(netns.cookie()),
            addresses: pod.addresses.clone(),
            namespace_addresses: addresses(&netns)?,
            probes: pod.probes.clone(),
            cgroup: cgroup::id(&cgroup)?,
            phase: Phase::ENROLLED,
        };
        Ok(Self {
            pod: pod.clone(),
            kernel,
            namespace: 0,
            device: "lo".to_owned(),
            sandbox: netns::process(std::process::id()),
            expected: false,
            events: cgroup::events(&cgroup)?,
            watch: AddressWatch::new(&netns)?,
            netns,
            cgroup,
            before: Before::unknown(),
            listeners: None,
            late: false,
        })
    }

    /// As it is before the first process of its sandbox.
    #[cfg(test)]
    pub(super) const fn has_no_process(&mut self) {
        (self.sandbox, self.expected) = (None, true);
    }

    /// The pod's local addresses, for the table that must have them before the pod is steered.
    pub(super) fn locals(&self) -> impl Iterator<Item = Op> + '_ {
        self.kernel.localities().map(|(key, locality)| Op::SetLocal(key, locality))
    }

    /// Goes on with these listeners instead of making new ones.
    pub(super) fn inherit(&mut self, listeners: Option<(TcpListener, TcpListener)>) {
        if let Some((outbound, inbound)) = listeners {
            self.listeners = Some(Listeners { outbound, inbound });
        }
    }

    /// Listeners, rules and routes, and last the program that steers to the listeners.
    /// `adopted`: an earlier agent did the same, and what was before is not known.
    pub(super) fn set_up(&mut self, path: &mut impl DataPath, settings: &Settings, adopted: bool) -> Result<()> {
        let listeners = match self.listeners.take() {
            Some(inherited) => inherited,
            None => setup::listen(&self.netns, &self.device)?,
        };
        let prepared = listeners
            .set_options(settings.keepalive)
            .and_then(|()| setup::prepare(&self.netns, &self.kernel.addresses, settings.marks));
        let done = prepared.map_err(Into::into).and_then(|before| {
            if !adopted {
                self.before = before;
            }
            self.steer(path, &listeners.outbound, &listeners.inbound)
        });
        self.listeners = Some(listeners);
        done
    }

    /// Sets it up once more, where a successor may have taken some of it down; `serving`: the listeners of the tunnel.
    pub(super) fn restore(
        &mut self,
        path: &mut impl DataPath,
        settings: &Settings,
        serving: Option<&(TcpListener, TcpListener)>,
    ) -> Result<()> {
        if !self.is_announced() {
            return self.set_up(path, settings, true);
        }
        setup::prepare(&self.netns, &self.kernel.addresses, settings.marks)?;
        match serving {
            Some((outbound, inbound)) => self.steer(path, outbound, inbound),
            None => Ok(path.attach_pod(self.kernel.cookie, self.netns.as_fd())?),
        }
    }

    fn steer(&self, path: &mut impl DataPath, outbound: &TcpListener, inbound: &TcpListener) -> Result<()> {
        path.insert_listener(self.key(Direction::OUTBOUND), outbound.as_fd())?;
        path.insert_listener(self.key(Direction::INBOUND), inbound.as_fd())?;
        Ok(path.attach_pod(self.kernel.cookie, self.netns.as_fd())?)
    }

    /// The listeners that were not announced yet, for another try.
    pub(super) fn into_listeners(self) -> Option<(TcpListener, TcpListener)> {
        self.listeners.map(|Listeners { outbound, inbound }| (outbound, inbound))
    }

    /// Announces it to the tunnel, once.
    pub(super) fn announce(&mut self) -> Option<AnnouncedPod> {
        let Listeners { outbound, inbound } = self.listeners.take()?;
        Some(AnnouncedPod {
            pod: self.pod.clone(),
            cookie: self.kernel.cookie,
            netns: Arc::clone(&self.netns),
            outbound,
            inbound,
            late: self.late,
        })
    }

    /// Whether the tunnel serves it, as far as there are listeners.
    pub(super) const fn is_announced(&self) -> bool {
        self.listeners.is_none()
    }

    pub(super) fn take_down(&self, path: &mut impl DataPath, marks: Marks) -> Result<()> {
        take_down(self.kernel.cookie, &self.netns, &self.before, path, marks)
    }

    pub(super) fn remove_listeners(&self, path: &mut impl DataPath) -> Result<()> {
        for direction in [Direction::OUTBOUND, Direction::INBOUND] {
            path.remove_listener(&self.key(direction))?;
        }
        Ok(())
    }

    /// Takes back rules and routes, where no captured socket is left and none comes: what remains of a take-down then.
    pub(super) fn undo(&self, marks: Marks) -> Result<()> {
        Ok(setup::undo(&self.netns, &self.before, marks)?)
    }

    /// From now on what arrives is the application's. Nothing that its applications opened may be captured any more.
    pub(super) fn end_steering(&self, path: &mut impl DataPath, marks: Marks) -> Result<()> {
        end_steering(self.kernel.cookie, &self.netns, path, marks)
    }

    /// The number of captured sockets: those of connections that its applications opened, and of all.
    pub(super) fn count_captured(&self, marks: Marks) -> std::result::Result<[usize; 2], SystemError> {
        setup::count_captured(&self.netns, [marks.outbound(), marks.outbound() | marks.inbound()])
    }

    pub(super) fn destroy_captured(&self, marks: Marks) -> std::result::Result<usize, SystemError> {
        setup::destroy_captured(&self.netns, marks.outbound() | marks.inbound())
    }

    /// A process of it ran before the runtime has named it, or the runtime names none.
    pub(super) const fn has_begun(&self) -> bool {
        self.sandbox.is_some() && !self.expected
    }

    /// A process lives in it, or one may still come: some runtimes keep none between two containers.
    pub(super) fn is_alive(&self) -> bool {
        let lives = self.sandbox.is_some_and(|process| netns::is_alive(process, &self.cgroup, &self.events));
        lives || (self.expected && self.cgroup.exists())
    }

    /// Looks for the first process of a sandbox that has none yet.
    pub(super) fn look_for_process(&mut self) {
        if self.sandbox.is_none() {
            self.sandbox = netns::first_in(&self.cgroup, self.namespace);
        }
    }

    /// The runtime has ended the sandbox: no first process comes any more.
    pub(super) const fn expect_no_process(&mut self) {
        self.expected = false;
    }

    /// Reads the addresses again where they may have changed; true where they have.
    pub(super) fn look_at_addresses(&mut self) -> bool {
        // After an event, or where that is not known: read them.
        if !self.watch.changed().unwrap_or(true) {
            return false;
        }
        match addresses(&self.netns) {
            Ok(now) => {
                let before = self.kernel.too_many();
                let changed =
                    std::mem::replace(&mut self.kernel.namespace_addresses, now) != self.kernel.namespace_addresses;
                if let Some(addresses) = self.kernel.too_many().filter(|_| before.is_none()) {
                    tracing::warn!(pod = %self.pod.name, addresses, limit = POD_ADDRESSES, "more addresses in a pod than in the kernel's table");
                }
                changed
            }
            Err(e) => {
                tracing::warn!(pod = %self.pod.name, error = %e, "listing the addresses of a pod failed");
                false
            }
        }
    }

    /// Its object names these ports from now on.
    pub(super) fn set_probes(&mut self, probes: &[u16]) {
        let before = self.kernel.too_many_probes();
        self.kernel.probes = probes.into();
        if before.is_none() {
            self.log_too_many_probes();
        }
    }

    /// The targets that the kernel's table does not take are judged as any other plaintext.
    pub(super) fn log_too_many_probes(&self) {
        if let Some(targets) = self.kernel.too_many_probes() {
            tracing::warn!(pod = %self.pod.name, targets, limit = POD_PROBES, "more probe targets of a pod than in the kernel's table");
        }
    }

    /// Descriptors for poll: readable when addresses changed, urgent when the cgroup became empty.
    pub(super) fn notices(&self) -> [BorrowedFd<'_>; 2] {
        [self.watch.as_fd(), self.events.as_fd()]
    }

    const fn key(&self, direction: Direction) -> ListenerKey {
        ListenerKey { pod: self.kernel.cookie, direction }
    }
}

/// Ends the steering of what arrives. Before it goes what applications opened, and the rule that keeps it in the namespace: an
/// application that listens there must not get it instead of the tunnel.
fn end_steering(cookie: Cookie, netns: &Netns, path: &mut impl DataPath, marks: Marks) -> Result<()> {
    setup::undo_outbound(netns, marks)?;
    Ok(path.detach_pod(cookie)?)
}

/// Removes captured sockets that applications opened, which are no more by then, then the steering, then the other sockets: as
/// long as it steers, every client makes new ones. Without them there is nothing left that rules and routes keep in the namespace.
pub(super) fn take_down(
    cookie: Cookie,
    netns: &Netns,
    before: &Before,
    path: &mut impl DataPath,
    marks: Marks,
) -> Result<()> {
    setup::destroy_captured(netns, marks.outbound())?;
    end_steering(cookie, netns, path, marks)?;
    setup::destroy_captured(netns, marks.outbound() | marks.inbound())?;
    Ok(setup::undo(netns, before, marks)?)
}

fn addresses(netns: &Netns) -> std::result::Result<Vec<IpAddr>, SystemError> {
    Ok(netns.addresses()?.into_iter().map(|local| local.address).collect())
}
