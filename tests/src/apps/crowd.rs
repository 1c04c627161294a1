//! Many connections of one pod: at once, one after another, stalled, or for as long as the test wants. Each is a process
//! in the pod, so that what is measured is the mesh and not the way from the test into the pod.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::{
    pattern,
    socket::{Dial, Dialed, Failure, dial, open},
};
use crate::testbed::{Actor, Io, Site, wait};

/// Many connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crowd {
    /// Each of them; an echo server is there.
    pub dial: Dial,
    /// Their number.
    pub count: usize,
}

impl Crowd {
    /// So many connections to `to`.
    pub fn to(to: impl Into<SocketAddr>, count: usize) -> Self {
        Self { dial: Dial::to(to).patience(Duration::from_secs(20)), count }
    }
}

/// Connects one after another, each with a question and its answer. What went wrong, if anything.
pub fn one_by_one(crowd: Crowd) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for n in 0..crowd.count {
        if let Dialed::Failed(failure) = dial(crowd.dial.clone())? {
            failed.push(format!("{n}: {failure}"));
        }
    }
    Ok(failed)
}

/// Connects all at once and asks each for an answer, says so, and keeps them open until it is told to go on; then asks
/// every one of them again and closes them.
pub fn together(crowd: Crowd, io: &mut Io) -> Result<()> {
    let opening: Vec<_> = (0..crowd.count)
        .map(|n| {
            let dial = crowd.dial.clone();
            thread::spawn(move || -> Result<TcpStream> {
                let mut stream = open(&dial)?;
                stream.write_all(b"first\n")?;
                read_line(&mut stream).with_context(|| format!("connection {n}"))?;
                Ok(stream)
            })
        })
        .collect();
    let opened = opening.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?);
    let mut streams = opened.collect::<Result<Vec<_>>>()?;
    io.send(&())?;
    io.receive::<()>()?;
    for (n, stream) in streams.iter_mut().enumerate() {
        let question = format!("again {n}\n");
        stream.write_all(question.as_bytes())?;
        let answer = read_line(stream)?;
        ensure!(answer == question, "connection {n} answered {answer:?}");
    }
    Ok(())
}

/// Reads byte by byte: what follows a line is the next answer.
fn read_line(stream: &mut TcpStream) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') {
        ensure!(stream.read(&mut byte)? == 1, "end of file after {:?}", String::from_utf8_lossy(&line));
        line.extend(byte);
    }
    Ok(String::from_utf8(line)?)
}

/// Opens connections to a server that does not read, and writes until none of them takes any more; says how much each
/// took, and keeps them so until the test lets go.
pub fn stalled(crowd: Crowd, io: &mut Io) -> Result<()> {
    const QUIET: Duration = Duration::from_millis(500);
    let streams = (0..crowd.count).map(|_| open(&crowd.dial)).collect::<Result<Vec<_>, _>>()?;
    let filling: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || -> Result<(TcpStream, u64)> {
                stream.set_write_timeout(Some(QUIET * wait::slowness()))?;
                let mut taken = 0;
                loop {
                    match stream.write(pattern::at(taken, 64 << 10)) {
                        Ok(n) => taken += n as u64,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok((stream, taken)),
                        Err(e) => return Err(e.into()),
                    }
                }
            })
        })
        .collect();
    let filled = filling.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?);
    let filled = filled.collect::<Result<Vec<_>>>()?;
    io.send(&filled.iter().map(|(_, taken)| *taken).collect::<Vec<_>>())?;
    io.wait_for_end()
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Count,
    Stop,
}

/// The results so far of a client that keeps calling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Calls that were answered.
    pub answered: usize,
    /// Calls that were not.
    pub failed: Vec<Failure>,
    /// Of the answered ones: how many connections are open now. None, where each is closed after its answer.
    pub open: usize,
}

/// A process that calls again and again until it is stopped.
#[derive(Debug)]
pub struct Caller {
    actor: Actor<()>,
}

impl Caller {
    /// Calls, and closes each connection after its answer.
    pub fn start(site: &Site, dial: Dial) -> Result<Self> {
        Ok(Self { actor: site.spawn(call_and_close, dial)? })
    }

    /// Calls, and keeps every connection that was answered, `most` of them at a time.
    pub fn keeping(site: &Site, dial: Dial, most: usize) -> Result<Self> {
        Ok(Self { actor: site.spawn(call_and_keep, Crowd { dial, count: most })? })
    }

    /// Its results so far.
    pub fn seen(&mut self) -> Result<Seen> {
        self.actor.tell(&Order::Count)?;
        self.actor.event()
    }

    /// Waits until it has made so many more calls, answered or not.
    pub fn wait_for_calls(&mut self, more: usize) -> Result<Seen> {
        let calls = |seen: &Seen| seen.answered + seen.failed.len();
        let before = calls(&self.seen()?);
        wait::wait_for("more calls", || Ok(Some(self.seen()?).filter(|seen| calls(seen) >= before + more)))
    }

    /// From now on it makes no more calls; it still counts what is open.
    pub fn stop(&mut self) -> Result<Seen> {
        self.actor.tell(&Order::Stop)?;
        self.actor.event()
    }
}

fn call_and_close(dial: Dial, io: &mut Io) -> Result<()> {
    keep_calling(Crowd { dial, count: 0 }, io)
}

fn call_and_keep(crowd: Crowd, io: &mut Io) -> Result<()> {
    keep_calling(crowd, io)
}

#[derive(Debug, Default)]
struct Calls {
    seen: Mutex<(Seen, Vec<TcpStream>)>,
    stop: AtomicBool,
}

impl Calls {
    fn look(&self, then: impl FnOnce(&mut Seen, &mut Vec<TcpStream>)) -> Seen {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, streams) = &mut *seen;
        then(seen, streams);
        streams.retain(is_open);
        seen.open = streams.len();
        seen.clone()
    }

    fn call(&self, crowd: &Crowd) {
        while !self.stop.load(Ordering::Relaxed) {
            let called = open(&crowd.dial).and_then(|mut stream| {
                stream.write_all(crowd.dial.say.as_bytes()).map_err(|e| Failure::of("write", &e))?;
                match stream.read(&mut [0; 4096]).map_err(|e| Failure::of("read", &e))? {
                    0 => Err(Failure { step: "end of file".into(), errno: 0 }),
                    _ => Ok(stream),
                }
            });
            let seen = self.look(|seen, streams| match called {
                Ok(stream) => {
                    seen.answered += 1;
                    streams.extend(Some(stream).filter(|_| crowd.count > 0));
                }
                Err(failure) => seen.failed.push(failure),
            });
            let is_full = |seen: &Seen| crowd.count > 0 && seen.open >= crowd.count;
            if is_full(&seen) {
                // Its deadline may pass: the stop does not wait for room.
                let _ = wait::wait_until("room", || {
                    Ok(self.stop.load(Ordering::Relaxed) || !is_full(&self.look(|_, _| {})))
                });
            }
        }
    }
}

/// Neither end of file nor an error waits to be read.
fn is_open(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    matches!(looked, Err(e) if e.kind() == ErrorKind::WouldBlock)
}

fn keep_calling(crowd: Crowd, io: &mut Io) -> Result<()> {
    let calls = Arc::new(Calls::default());
    let mut calling = Some({
        let calls = Arc::clone(&calls);
        thread::spawn(move || calls.call(&crowd))
    });
    while let Some(order) = io.receive::<Order>()? {
        if matches!(order, Order::Stop) {
            calls.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = calling.take() {
                thread.join().map_err(|_| anyhow!("panicked"))?;
            }
        }
        io.send(&calls.look(|_, _| {}))?;
    }
    Ok(())
}
