//! The thread of [`Pods`], and its handle for the rest of the agent. It sleeps until a command comes, a pod's addresses change,
//! a pod's cgroup becomes empty, or a step is due.

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
use underpass_net::netns::Netns;

use super::{FIRST_PAUSE, LOOK_AGAIN, Meter, PodStatus, PodUid, Pods, Result, State};
use crate::datapath::DataPath;

/// The listeners of each pod: outbound, inbound.
type Listeners = BTreeMap<Cookie, (TcpListener, TcpListener)>;

/// A command of the handle to the thread.
#[derive(Debug)]
enum Command {
    World(Arc<World>, Arc<[LocalPod]>),
    NameSandbox(PodUid, Arc<Netns>),
    EndSandbox(PodUid, Cookie),
    Drain(Duration),
    Status(mpsc::Sender<Vec<PodStatus>>),
    ReleaseAll(mpsc::Sender<bool>, Instant),
    Hold(oneshot::Sender<()>),
    Still(oneshot::Sender<()>),
    StillFor(u32, oneshot::Sender<Result<()>>),
    Resume(Listeners),
    Stir,
    Own,
    Agents(Vec<CgroupId>),
}

/// Whether pods are attended.
#[derive(Debug)]
enum Mode {
    /// They are.
    Running,
    /// They are not: a successor changes them, or the agent ends.
    Still,
    /// They are once the data path is restored after a successor that failed; with the listeners that the tunnel serves.
    Resuming(Listeners),
}

/// The handle of the thread. Dropped, the thread ends; the data path stays as it is.
#[derive(Debug)]
pub struct Handle {
    commands: Option<mpsc::Sender<Command>>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Ends the process where the thread panics: without it pods come and go unseen, and the next process adopts what is there.
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
    /// Sets a new World, and the pods of this node. Applied when [`super::Event::Applied`] names its version.
    pub fn set_world(&self, world: Arc<World>, local: Arc<[LocalPod]>) {
        self.send(Command::World(world, local));
    }

    /// Names the namespace of a pod's sandbox, before its first process.
    pub fn name_sandbox(&self, pod: PodUid, netns: Arc<Netns>) {
        self.send(Command::NameSandbox(pod, netns));
    }

    /// A sandbox that was named has ended.
    pub fn end_sandbox(&self, pod: PodUid, cookie: Cookie) {
        self.send(Command::EndSandbox(pod, cookie));
    }

    /// Sets the longest time that connections of released pods may go on.
    pub fn set_drain(&self, drain: Duration) {
        self.send(Command::Drain(drain));
    }

    /// The state of every pod. Blocks for as long as the thread is busy; empty where it has ended.
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

    /// Stops changing anything, and removes the listeners: outbound connects wait, inbound ones are refused. Completes when that
    /// is done.
    pub fn hold(&self) -> oneshot::Receiver<()> {
        let (done, holding) = oneshot::channel();
        self.send(Command::Hold(done));
        holding
    }

    /// Stops changing anything until [`Self::resume`]. Completes when that is done.
    pub fn stand_still(&self) -> oneshot::Receiver<()> {
        let (done, still) = oneshot::channel();
        self.send(Command::Still(done));
        still
    }

    /// The same, after filling this version of the data path's tables.
    pub fn stand_still_for(&self, tables: u32) -> oneshot::Receiver<Result<()>> {
        let (done, still) = oneshot::channel();
        self.send(Command::StillFor(tables, done));
        still
    }

    /// Resumes after a successor that failed; `serving`: the listeners of the tunnel.
    pub fn resume(&self, serving: Listeners) {
        self.send(Command::Resume(serving));
    }

    /// Resumes after a refused successor, which has changed nothing.
    pub fn stir(&self) {
        self.send(Command::Stir);
    }

    /// This process is the agent: the predecessor changes nothing any more.
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
        let mut mode = Mode::Running;
        let mut releasing: Option<(mpsc::Sender<bool>, Instant)> = None;
        loop {
            let mut status_answers = Vec::new();
            loop {
                match commands.try_recv() {
                    Ok(Command::World(world, local)) => self.set_world(world, local),
                    Ok(Command::NameSandbox(pod, netns)) => self.name_sandbox(pod, netns),
                    Ok(Command::EndSandbox(pod, cookie)) => self.end_sandbox(&pod, cookie),
                    Ok(Command::Drain(drain)) => self.set_drain(drain),
                    Ok(Command::Status(answer)) => status_answers.push(answer),
                    Ok(Command::ReleaseAll(answer, deadline)) => {
                        self.release_all();
                        releasing = Some((answer, deadline));
                    }
                    Ok(Command::Hold(done)) => {
                        mode = Mode::Still;
                        self.withdraw();
                        let _ = done.send(()); // fails where the receiver has stopped waiting
                    }
                    Ok(Command::Still(done)) => {
                        mode = Mode::Still;
                        let _ = done.send(());
                    }
                    Ok(Command::StillFor(tables, done)) => {
                        let _ = done.send(self.stand_still_for(tables, &mut mode));
                    }
                    Ok(Command::Resume(serving)) => mode = Mode::Resuming(serving),
                    Ok(Command::Stir) if matches!(mode, Mode::Still) => mode = Mode::Running,
                    Ok(Command::Stir) => {}
                    Ok(Command::Own) => self.own(),
                    Ok(Command::Agents(agents)) => self.set_agents(agents),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if let Err(error) = self.resume_if_due(&mut mode) {
                tracing::error!(%error, "restoring the kernel data path failed, pods are unattended");
            }
            let still = !matches!(mode, Mode::Running);
            let now = Instant::now();
            let due = if still { now + LOOK_AGAIN } else { self.turn(now) };
            self.report_waiting();
            meter.count(self.pods.values(), self.late);
            meter.fill(&self.there, &self.path);
            for answer in status_answers {
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

    /// Stands still, with everything in this version of the tables: not before the data path is restored after another successor.
    fn stand_still_for(&mut self, tables: u32, mode: &mut Mode) -> Result<()> {
        self.resume_if_due(mode)?;
        *mode = Mode::Still;
        Ok(self.path.write_tables(tables)?)
    }

    /// Restores the data path, where a successor failed. After an error it is due still.
    fn resume_if_due(&mut self, mode: &mut Mode) -> Result<()> {
        if let Mode::Resuming(serving) = mode {
            self.resume(serving)?;
            *mode = Mode::Running;
        }
        Ok(())
    }

    /// Sleeps until `due`, or an event. `still`: events of pods are ignored.
    fn sleep(&self, woken: &UnixStream, due: Instant, still: bool) {
        let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        for enrolled in self.pods.values().filter(|_| !still).filter_map(State::enrolled) {
            let [addresses, cgroup] = enrolled.notices();
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
