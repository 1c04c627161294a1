//! The thread on which [`Pods`] live, and the handle by which the rest of the agent talks to it. It sleeps until it is
//! told something, a pod's addresses change, a pod's cgroup becomes empty, or something is due.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;
use underpass_abi::{CgroupId, Cookie};
use underpass_core::{World, resolve::LocalPod};

use super::{FIRST_PAUSE, LOOK_AGAIN, Meter, PodStatus, Pods, State};
use crate::datapath::{self, DataPath};

/// By pod: outbound, inbound.
type Listeners = BTreeMap<Cookie, (TcpListener, TcpListener)>;

#[derive(Debug)]
enum Command {
    World(Arc<World>, Arc<[LocalPod]>),
    Drain(Duration),
    Status(mpsc::Sender<Vec<PodStatus>>),
    ReleaseAll(mpsc::Sender<bool>, Instant),
    Hold(oneshot::Sender<()>),
    Still(oneshot::Sender<()>),
    StillFor(u32, oneshot::Sender<datapath::Result<()>>),
    GoOn(Listeners),
    Stir,
    Own,
    Agents(Vec<CgroupId>),
}

/// Talks to the thread. Dropped, the thread ends; the data path stays as it is.
#[derive(Debug)]
pub struct Handle {
    commands: Option<mpsc::Sender<Command>>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Without this thread pods come and go unseen: where it panics the process ends, and the next one adopts what is there.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Starts the thread.
pub fn spawn<D: DataPath + 'static>(pods: Pods<D>, meter: Meter) -> io::Result<Handle> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let (sender, commands) = mpsc::channel();
    let thread = std::thread::Builder::new().name("pods".into()).spawn(move || {
        let _watched = EndsTheProcess;
        pods.run(&commands, &woken, &meter);
    })?;
    Ok(Handle { commands: Some(sender), wake, thread: Some(thread) })
}

impl Handle {
    /// A new World, and the pods of this node. Applied when [`super::Event::Applied`] names its version.
    pub fn set_world(&self, world: Arc<World>, local: Arc<[LocalPod]>) {
        self.send(Command::World(world, local));
    }

    /// How long connections of pods that leave the mesh may go on from now on.
    pub fn set_drain(&self, drain: Duration) {
        self.send(Command::Drain(drain));
    }

    /// How every pod stands. Blocks for as long as the thread is busy; empty where it has ended.
    #[must_use]
    pub fn status(&self) -> Vec<PodStatus> {
        let (answer, answered) = mpsc::channel();
        self.send(Command::Status(answer));
        answered.recv().unwrap_or_default()
    }

    /// Releases every pod, and enrols none again. Blocks until nothing is left or `deadline` is over; true where nothing is
    /// left.
    #[must_use]
    pub fn release_all(&self, deadline: Instant) -> bool {
        let (answer, answered) = mpsc::channel();
        self.send(Command::ReleaseAll(answer, deadline));
        answered.recv().unwrap_or(false)
    }

    /// Nothing changes from now on, and nothing is steered to the listeners: who connects waits, who comes is refused.
    /// Completes when that is so.
    pub fn hold(&self) -> oneshot::Receiver<()> {
        let (done, held) = oneshot::channel();
        self.send(Command::Hold(done));
        held
    }

    /// Nothing changes from now on, until [`Self::go_on`]. Completes when that is so.
    pub fn stand_still(&self) -> oneshot::Receiver<()> {
        let (done, still) = oneshot::channel();
        self.send(Command::Still(done));
        still
    }

    /// The same, with everything in this version of the data path's tables.
    pub fn stand_still_for(&self, tables: u32) -> oneshot::Receiver<datapath::Result<()>> {
        let (done, still) = oneshot::channel();
        self.send(Command::StillFor(tables, done));
        still
    }

    /// The successor has not taken over; these listeners the tunnel serves.
    pub fn go_on(&self, serving: Listeners) {
        self.send(Command::GoOn(serving));
    }

    /// Nobody was to take over: what stood still has not been touched.
    pub fn stir(&self) {
        self.send(Command::Stir);
    }

    /// The earlier agent changes nothing any more.
    pub fn own(&self) {
        self.send(Command::Own);
    }

    /// From now on these cgroups count as the agent, and no others.
    pub fn set_agents(&self, agents: Vec<CgroupId>) {
        self.send(Command::Agents(agents));
    }

    fn send(&self, command: Command) {
        // It fails only while the process ends.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
        // A full pipe wakes as well.
        let _ = (&self.wake).write(&[1]);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        let _ = (&self.wake).write(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<D: DataPath> Pods<D> {
    fn run(mut self, commands: &mpsc::Receiver<Command>, woken: &UnixStream, meter: &Meter) {
        let (mut still, mut going_on) = (false, None);
        let mut releasing: Option<(mpsc::Sender<bool>, Instant)> = None;
        loop {
            let mut asked = Vec::new();
            loop {
                match commands.try_recv() {
                    Ok(Command::World(world, local)) => self.set_world(world, local),
                    Ok(Command::Drain(drain)) => self.set_drain(drain),
                    Ok(Command::Status(answer)) => asked.push(answer),
                    Ok(Command::ReleaseAll(answer, deadline)) => {
                        self.release_all();
                        releasing = Some((answer, deadline));
                    }
                    Ok(Command::Hold(done)) => {
                        still = true;
                        self.withdraw();
                        let _ = done.send(()); // whoever asked may have stopped waiting
                    }
                    Ok(Command::Still(done)) => {
                        still = true;
                        let _ = done.send(());
                    }
                    Ok(Command::StillFor(tables, done)) => {
                        still = true;
                        let _ = done.send(self.path.write_tables(tables));
                    }
                    Ok(Command::GoOn(serving)) => going_on = Some(serving),
                    Ok(Command::Stir) => still = false,
                    Ok(Command::Own) => self.own(),
                    Ok(Command::Agents(agents)) => self.set_agents(agents),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if let Some(mut serving) = going_on.take() {
                match self.go_on(&mut serving) {
                    Ok(()) => still = false,
                    Err(error) => {
                        tracing::error!(%error, "the data path cannot be read again: pods are not looked after");
                        going_on = Some(serving);
                    }
                }
            }
            let now = Instant::now();
            let due = if still { now + LOOK_AGAIN } else { self.turn(now) };
            self.tell_no_room();
            meter.count(self.pods.values());
            meter.fill(&self.there, &self.path);
            for answer in asked {
                let _ = answer.send(self.status());
            }
            if let Some((answer, deadline)) = &releasing
                && (self.is_empty() || *deadline <= now)
            {
                let _ = answer.send(self.is_empty());
                releasing = None;
            }
            self.sleep(woken, due, still);
        }
    }

    /// `still`: what happens to pods is not looked at, and wakes nobody.
    fn sleep(&self, woken: &UnixStream, due: Instant, still: bool) {
        let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        for member in self.pods.values().filter(|_| !still).filter_map(State::member) {
            let [addresses, cgroup] = member.notices();
            fds.push(PollFd::new(addresses, PollFlags::POLLIN));
            fds.push(PollFd::new(cgroup, PollFlags::POLLPRI));
        }
        let pause = due.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(pause.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).is_err() {
            // A signal, a lack of memory, or fewer descriptors allowed than are open: the next turn looks at everything anyway.
            std::thread::sleep(pause.min(FIRST_PAUSE));
        }
        let mut buffer = [0; 256];
        while matches!((&*woken).read(&mut buffer), Ok(n) if n > 0) {}
    }
}
