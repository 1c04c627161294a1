//! Sockets in a pod that the test drives step by step, as if they were its own: so that a test decides in which order
//! both ends write, close, reset or do nothing at all. One process with a table of sockets per [`Sockets`]; a step is a
//! request and its answer, so what must happen at the same time needs two of them.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::{
    pattern,
    socket::{Dial, Failure, Opt, PATIENCE, family, listener, open},
};
use crate::testbed::{Actor, Exit, Io, Site, sys, wait};

/// A socket of a [`Sockets`].
pub type Id = u32;

#[derive(Debug, Serialize, Deserialize)]
enum Step {
    Listen(SocketAddr, Vec<Opt>),
    Accept(Id),
    Connect(Dial),
    Send(Id, Vec<u8>),
    SendByteByByte(Id, Vec<u8>),
    Receive(Id, usize),
    ReadToEnd(Id),
    ShutdownWrite(Id),
    Reset(Id),
    Close(Id),
    Set(Id, Opt),
    SendPattern(Id, u64),
    ReceivePattern { id: Id, length: u64, piece: usize, pause: Duration },
    Fill(Id),
    Patience(Id, Duration),
    Addresses(Id),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Opened(Id),
    Accepted(Id, SocketAddr),
    Bytes(Vec<u8>),
    Count(u64),
    Addresses { local: SocketAddr, peer: SocketAddr },
    Failed(Failure),
    Wrong(String),
}

/// A process whose sockets the test uses. Dropped, it is killed (which closes them by FIN or RST as the kernel does).
#[derive(Debug)]
pub struct Sockets {
    actor: Actor<()>,
}

/// The outcome of a step: a failed system call is a result that tests look at, anything else is the test's error.
pub type Outcome<T> = Result<std::result::Result<T, Failure>>;

impl Sockets {
    /// Starts the process.
    pub fn start(site: &Site) -> Result<Self> {
        Ok(Self { actor: site.spawn(run, ())? })
    }

    fn step(&mut self, step: &Step) -> Outcome<Answer> {
        self.actor.tell(step)?;
        match self.actor.event()? {
            Answer::Failed(failure) => Ok(Err(failure)),
            Answer::Wrong(why) => Err(anyhow!(why)),
            answer => Ok(Ok(answer)),
        }
    }

    fn done(&mut self, step: &Step) -> Outcome<()> {
        Ok(self.step(step)?.map(drop))
    }

    fn opened(&mut self, step: &Step) -> Outcome<Id> {
        match self.step(step)? {
            Ok(Answer::Opened(id)) => Ok(Ok(id)),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(failure) => Ok(Err(failure)),
        }
    }

    fn bytes(&mut self, step: &Step) -> Outcome<Vec<u8>> {
        match self.step(step)? {
            Ok(Answer::Bytes(bytes)) => Ok(Ok(bytes)),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Listens; a failure is the test's error.
    pub fn listen(&mut self, address: SocketAddr) -> Result<Id> {
        self.try_listen(address, &[])?.map_err(|e| anyhow!("{e}"))
    }

    /// Listens with options.
    pub fn try_listen(&mut self, address: SocketAddr, options: &[Opt]) -> Outcome<Id> {
        self.opened(&Step::Listen(address, options.to_vec()))
    }

    /// Waits for a connection; who connected.
    pub fn accept(&mut self, listener: Id) -> Result<(Id, SocketAddr)> {
        match self.step(&Step::Accept(listener))? {
            Ok(Answer::Accepted(id, peer)) => Ok((id, peer)),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(failure) => bail!("{failure}"),
        }
    }

    /// Connects; a failure is the test's error.
    pub fn connect(&mut self, to: SocketAddr) -> Result<Id> {
        self.try_connect(Dial::to(to))?.map_err(|e| anyhow!("connect to {to}: {e}"))
    }

    /// Connects as described (nothing is said yet).
    pub fn try_connect(&mut self, dial: Dial) -> Outcome<Id> {
        self.opened(&Step::Connect(dial))
    }

    /// Writes all of it.
    pub fn send(&mut self, id: Id, bytes: &[u8]) -> Outcome<()> {
        self.done(&Step::Send(id, bytes.to_vec()))
    }

    /// Writes it in calls of one byte, without Nagle's algorithm.
    pub fn send_byte_by_byte(&mut self, id: Id, bytes: &[u8]) -> Outcome<()> {
        self.done(&Step::SendByteByByte(id, bytes.to_vec()))
    }

    /// Reads exactly so many bytes; fewer at end of file.
    pub fn receive(&mut self, id: Id, length: usize) -> Outcome<Vec<u8>> {
        self.bytes(&Step::Receive(id, length))
    }

    /// Reads until end of file.
    pub fn read_to_end(&mut self, id: Id) -> Outcome<Vec<u8>> {
        self.bytes(&Step::ReadToEnd(id))
    }

    /// Says that nothing more will come (FIN), and goes on reading.
    pub fn shutdown_write(&mut self, id: Id) -> Outcome<()> {
        self.done(&Step::ShutdownWrite(id))
    }

    /// Closes by RST.
    pub fn reset(&mut self, id: Id) -> Outcome<()> {
        self.done(&Step::Reset(id))
    }

    /// Closes.
    pub fn close(&mut self, id: Id) -> Outcome<()> {
        self.done(&Step::Close(id))
    }

    /// Sets an option of an open socket.
    pub fn set(&mut self, id: Id, option: Opt) -> Outcome<()> {
        self.done(&Step::Set(id, option))
    }

    /// Writes so many bytes of the [`pattern`].
    pub fn send_pattern(&mut self, id: Id, length: u64) -> Outcome<()> {
        self.done(&Step::SendPattern(id, length))
    }

    /// Reads so many bytes of the [`pattern`] and checks them, `piece` at a time with `pause` after each.
    pub fn receive_pattern(&mut self, id: Id, length: u64, piece: usize, pause: Duration) -> Outcome<()> {
        self.done(&Step::ReceivePattern { id, length, piece, pause })
    }

    /// Writes the [`pattern`] until nothing more is taken for a second; how much was. Against a reader that has
    /// stalled it shows how much the path between buffers.
    pub fn fill(&mut self, id: Id) -> Outcome<u64> {
        match self.step(&Step::Fill(id))? {
            Ok(Answer::Count(bytes)) => Ok(Ok(bytes)),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Patience with later reads and writes of this socket.
    pub fn set_patience(&mut self, id: Id, patience: Duration) -> Outcome<()> {
        self.done(&Step::Patience(id, patience))
    }

    /// getsockname() and getpeername().
    pub fn addresses(&mut self, id: Id) -> Outcome<(SocketAddr, SocketAddr)> {
        match self.step(&Step::Addresses(id))? {
            Ok(Answer::Addresses { local, peer }) => Ok(Ok((local, peer))),
            Ok(other) => bail!("unexpected {other:?}"),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Kills the process.
    pub fn kill(self) -> Result<Exit> {
        self.actor.kill()
    }
}

#[derive(Default)]
struct Table {
    next: Id,
    listeners: HashMap<Id, TcpListener>,
    streams: HashMap<Id, TcpStream>,
}

/// Why a step did not work.
enum Trouble {
    Call(Failure),
    Other(anyhow::Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        // An IO error within is a system call that failed.
        match error.downcast_ref::<std::io::Error>() {
            Some(io) => Self::Call(Failure::of("io", io)),
            None => Self::Other(error),
        }
    }
}

/// Names the system call of an IO error.
trait Named<T> {
    fn named(self, step: &str) -> std::result::Result<T, Trouble>;
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, step: &str) -> std::result::Result<T, Trouble> {
        self.map_err(|e| Trouble::Call(Failure::of(step, &e)))
    }
}

fn run(_: (), io: &mut Io) -> Result<()> {
    let mut table = Table::default();
    while let Some(step) = io.receive::<Step>()? {
        let answer = match table.take(step) {
            Ok(answer) => answer,
            Err(Trouble::Call(failure)) => Answer::Failed(failure),
            Err(Trouble::Other(e)) => Answer::Wrong(format!("{e:#}")),
        };
        io.send(&answer)?;
    }
    Ok(())
}

impl Table {
    fn number(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    fn stream(&mut self, id: Id) -> Result<&mut TcpStream> {
        self.streams.get_mut(&id).with_context(|| format!("no connection {id}"))
    }

    fn take(&mut self, step: Step) -> std::result::Result<Answer, Trouble> {
        match step {
            Step::Listen(address, options) => {
                let listener = listener(address, &options)?;
                let id = self.number();
                self.listeners.insert(id, listener);
                Ok(Answer::Opened(id))
            }
            Step::Accept(id) => {
                let listener = self.listeners.get(&id).with_context(|| format!("no listener {id}"))?;
                let (stream, peer) = listener.accept().named("accept")?;
                let patience = Some(PATIENCE * wait::slowness());
                stream.set_read_timeout(patience).named("option")?;
                stream.set_write_timeout(patience).named("option")?;
                let id = self.number();
                self.streams.insert(id, stream);
                Ok(Answer::Accepted(id, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
            }
            Step::Connect(dial) => {
                let stream = open(&dial)?;
                let id = self.number();
                self.streams.insert(id, stream);
                Ok(Answer::Opened(id))
            }
            Step::Close(id) => {
                drop(self.streams.remove(&id));
                drop(self.listeners.remove(&id));
                Ok(Answer::Done)
            }
            Step::Reset(id) => {
                let stream = self.streams.remove(&id).with_context(|| format!("no connection {id}"))?;
                sys::linger_zero(stream.as_fd()).named("option")?;
                Ok(Answer::Done)
            }
            other => self.transfer(other),
        }
    }

    fn transfer(&mut self, step: Step) -> std::result::Result<Answer, Trouble> {
        match step {
            Step::Send(id, bytes) => self.stream(id)?.write_all(&bytes).named("write")?,
            Step::SendByteByByte(id, bytes) => {
                let stream = self.stream(id)?;
                stream.set_nodelay(true).named("option")?;
                bytes.chunks(1).try_for_each(|byte| stream.write_all(byte)).named("write")?;
            }
            Step::Receive(id, length) => {
                let mut bytes = Vec::new();
                self.stream(id)?.take(length as u64).read_to_end(&mut bytes).named("read")?;
                return Ok(Answer::Bytes(bytes));
            }
            Step::ReadToEnd(id) => {
                let mut bytes = Vec::new();
                self.stream(id)?.read_to_end(&mut bytes).named("read")?;
                return Ok(Answer::Bytes(bytes));
            }
            Step::ShutdownWrite(id) => self.stream(id)?.shutdown(Shutdown::Write).named("shutdown")?,
            Step::Set(id, option) => {
                let stream = self.stream(id)?;
                let family = family(&stream.local_addr().named("getsockname")?);
                option.apply(stream, family).named("option")?;
            }
            Step::SendPattern(id, length) => pattern::write(self.stream(id)?, length).named("write")?,
            Step::ReceivePattern { id, length, piece, pause } => {
                pattern::read(self.stream(id)?, length, piece, pause)?;
            }
            Step::Fill(id) => return Ok(Answer::Count(fill(self.stream(id)?)?)),
            Step::Patience(id, patience) => {
                let stream = self.stream(id)?;
                stream.set_read_timeout(Some(patience * wait::slowness())).named("option")?;
                stream.set_write_timeout(Some(patience * wait::slowness())).named("option")?;
            }
            Step::Addresses(id) => {
                let stream = self.stream(id)?;
                let local = stream.local_addr().named("getsockname")?;
                let peer = stream.peer_addr().named("getpeername")?;
                return Ok(Answer::Addresses { local, peer });
            }
            other => return Err(anyhow!("{other:?} is no transfer").into()),
        }
        Ok(Answer::Done)
    }
}

fn fill(stream: &mut TcpStream) -> std::result::Result<u64, Trouble> {
    let before = stream.write_timeout().named("option")?;
    stream.set_write_timeout(Some(Duration::from_secs(1) * wait::slowness())).named("option")?;
    let mut written = 0;
    loop {
        match stream.write(pattern::at(written, 64 << 10)) {
            Ok(length) => written += length as u64,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(Trouble::Call(Failure::of("write", &e))),
        }
    }
    stream.set_write_timeout(before).named("option")?;
    Ok(written)
}
