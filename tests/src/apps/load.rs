//! Load: thousands of connections between one process and another, which cost them little: no thread for each, no
//! buffers. A byte says what a connection is for ([`END`] or [`ECHO`]); everything that is sent comes back.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};

use super::socket::{Dial, listener, open};
use crate::testbed::{Actor, Io, Site};

/// The server answers, and ends the connection.
pub const END: u8 = b'e';
/// The server answers, and the connection goes on.
pub const ECHO: u8 = b'o';
/// The number of failures that are reported; all are counted.
const TOLD: usize = 5;
/// Patience with one step.
const PATIENCE: Duration = Duration::from_secs(30);

/// An order of connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// In turn.
    pub to: Vec<SocketAddr>,
    /// Connections in all.
    pub count: usize,
    /// So many go on at a time, one after another.
    pub at_once: usize,
    /// Whether the server ends them, or the client.
    pub server_ends: bool,
}

/// The outcome of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Connections that were answered, and ended in order.
    pub answered: usize,
    /// Connections that were not.
    pub failed: usize,
    /// The first of their reasons.
    pub reasons: Vec<String>,
}

/// As many descriptors as this process may have.
fn raise_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Starts the server, and waits until it listens on all of these.
pub fn serve(site: &Site, addresses: &[SocketAddr]) -> Result<Actor<()>> {
    let mut actor = site.spawn(run_server, addresses.to_vec())?;
    actor.event::<()>()?;
    Ok(actor)
}

fn run_server(addresses: Vec<SocketAddr>, io: &mut Io) -> Result<()> {
    raise_files()?;
    let listening = addresses.into_iter().map(|address| {
        let listener = listener(address, &[]).map_err(|e| anyhow!("listen on {address}: {e}"))?;
        listener.set_nonblocking(true)?;
        Ok((listener.as_raw_fd(), listener))
    });
    let listeners = listening.collect::<Result<HashMap<_, _>>>()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for listener in listeners.values() {
        epoll.add(listener, event(listener.as_raw_fd()))?;
    }
    io.send(&())?;
    let mut streams = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 1024];
    loop {
        let n = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for fd in events.iter().take(n).map(|event| event.data() as RawFd) {
            match listeners.get(&fd) {
                Some(listener) => accept_all(listener, &epoll, &mut streams)?,
                // Dropped, it is closed, and leaves the epoll by that.
                None if streams.get_mut(&fd).is_some_and(|stream| !answer(stream)) => drop(streams.remove(&fd)),
                None => {}
            }
        }
    }
}

fn event(fd: RawFd) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(fd).unwrap_or(0))
}

fn accept_all(listener: &TcpListener, epoll: &Epoll, streams: &mut HashMap<RawFd, TcpStream>) -> Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll.add(&stream, event(stream.as_raw_fd()))?;
                streams.insert(stream.as_raw_fd(), stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e).context("accept"),
        }
    }
}

/// Sends back what there is. False: the connection is over.
fn answer(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(n) => {
            let said = buffer.get(..n).unwrap_or_default();
            stream.write_all(said).is_ok() && said.first() != Some(&END)
        }
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}

/// Connects, asks, is answered and ends, again and again. For [`Site::begin`].
pub fn in_sequence(load: Load) -> Result<Outcome> {
    raise_files()?;
    let running: Vec<_> = (0..load.at_once)
        .map(|part| {
            let load = load.clone();
            thread::spawn(move || {
                let mut outcome = Outcome::default();
                for n in (part..load.count).step_by(load.at_once) {
                    let Some(to) = load.to.get(n % load.to.len()) else { continue };
                    match once(*to, load.server_ends) {
                        Ok(()) => outcome.answered += 1,
                        Err(e) => outcome.fail(format!("{n} to {to}: {e:#}")),
                    }
                }
                outcome
            })
        })
        .collect();
    let mut all = Outcome::default();
    for thread in running {
        all.add(thread.join().map_err(|_| anyhow!("panicked"))?);
    }
    Ok(all)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = open(&Dial::to(to).patience(PATIENCE)).map_err(|e| anyhow!("{e}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn once(to: SocketAddr, server_ends: bool) -> Result<()> {
    let mut stream = connect(to)?;
    let (question, mut answer) = ([if server_ends { END } else { ECHO }], [0]);
    stream.write_all(&question)?;
    stream.read_exact(&mut answer).context("answer")?;
    anyhow::ensure!(answer == question, "another answer");
    if server_ends {
        anyhow::ensure!(stream.read(&mut answer).context("end")? == 0, "more than was asked for");
    }
    Ok(())
}

impl Outcome {
    fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.reasons.len() < TOLD {
            self.reasons.push(reason);
        }
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.reasons.extend(other.reasons);
        self.reasons.truncate(TOLD);
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Ask every open connection once, and say what came of it.
    Ask,
    /// End one.
    End,
}

/// A process that keeps connections open.
#[derive(Debug)]
pub struct OpenConnections {
    actor: Actor<()>,
}

impl OpenConnections {
    /// Opens them, each with a question and its answer.
    pub fn start(site: &Site, load: Load) -> Result<(Self, Outcome)> {
        let mut actor = site.spawn(keep, load)?;
        let outcome = actor.event()?;
        Ok((Self { actor }, outcome))
    }

    /// Asks all of them again, `at_once` at a time.
    pub fn ask(&mut self) -> Result<Outcome> {
        self.actor.tell(&Order::Ask)?;
        self.actor.event()
    }

    /// Ends one of them.
    pub fn end_one(&mut self) -> Result<()> {
        self.actor.tell(&Order::End)?;
        self.actor.event::<Outcome>().map(drop)
    }
}

fn keep(load: Load, io: &mut Io) -> Result<()> {
    raise_files()?;
    let opening: Vec<_> = (0..load.at_once)
        .map(|part| {
            let load = load.clone();
            thread::spawn(move || {
                let (mut outcome, mut streams) = (Outcome::default(), Vec::new());
                for n in (part..load.count).step_by(load.at_once) {
                    let Some(to) = load.to.get(n % load.to.len()) else { continue };
                    match connect(*to).and_then(|mut stream| ask(&mut stream).map(|()| stream)) {
                        Ok(stream) => {
                            outcome.answered += 1;
                            streams.push(stream);
                        }
                        Err(e) => outcome.fail(format!("{n} to {to}: {e:#}")),
                    }
                }
                (outcome, streams)
            })
        })
        .collect();
    let (mut all, mut parts) = (Outcome::default(), Vec::new());
    for thread in opening {
        let (outcome, streams) = thread.join().map_err(|_| anyhow!("panicked"))?;
        all.add(outcome);
        parts.push(streams);
    }
    io.send(&all)?;
    while let Some(order) = io.receive::<Order>()? {
        let mut all = Outcome::default();
        match order {
            Order::Ask => thread::scope(|scope| {
                let asking: Vec<_> = parts.iter_mut().map(|streams| scope.spawn(|| ask_all(streams))).collect();
                asking.into_iter().try_for_each(|thread| {
                    all.add(thread.join().map_err(|_| anyhow!("panicked"))?);
                    Ok::<_, anyhow::Error>(())
                })
            })?,
            Order::End => drop(parts.iter_mut().find_map(Vec::pop)),
        }
        io.send(&all)?;
    }
    Ok(())
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    let mut answer = [0];
    stream.write_all(&[ECHO]).context("question")?;
    stream.read_exact(&mut answer).context("answer")
}

fn ask_all(streams: &mut [TcpStream]) -> Outcome {
    let mut outcome = Outcome::default();
    for stream in streams {
        match ask(stream) {
            Ok(()) => outcome.answered += 1,
            Err(e) => outcome.fail(format!("{e:#}")),
        }
    }
    outcome
}

/// Opens connections to a server that does not read, and writes until one was reset and those that are left have taken
/// nothing for a while; how many were reset. For [`Site::begin`].
pub fn stall(load: Load) -> Result<usize> {
    const QUIET: Duration = Duration::from_millis(1500);
    raise_files()?;
    let block = vec![ECHO; 64 << 10];
    let (mut streams, mut reset, mut moved) = (Vec::new(), 0, Instant::now());
    while streams.len() + reset < load.count || reset == 0 || moved.elapsed() < QUIET {
        if streams.len() + reset < load.count {
            let stream = connect(*load.to.first().context("a destination")?)?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        } else {
            thread::sleep(Duration::from_millis(1));
        }
        streams.retain_mut(|stream| match stream.write(&block) {
            Ok(_) => {
                moved = Instant::now();
                true
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => true,
            Err(_) => {
                reset += 1;
                false
            }
        });
    }
    Ok(reset)
}
