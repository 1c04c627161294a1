//! A thousand changes a second, with connections open: what waits, whether the agent says that it is ready meanwhile, and what
//! it keeps.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    layout::{Change, Layout},
    measure::{ms, new},
    subject::{self, Subject},
};
use crate::bench::{allocations, process::resident, report::Entry};

/// Changes of one second.
const RATE: u64 = 1000;
/// Connections that are open meanwhile.
const CONNECTIONS: usize = 1000;
/// Between two questions whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// An answer within this.
const READY_MS: f64 = 50.0;
/// Changes that a door may have waiting, which is what bounds the queue.
const QUEUE: f64 = 10_000.0;
/// The limit of a flat curve.
const FLAT_MIB: f64 = 10.0;

const MIB: f64 = 1024.0 * 1024.0;

/// Hands over a change every millisecond. What waits at the end is left: the process is to end.
///
/// # Errors
/// Where connections are not open at the beginning, or the agent ends.
pub fn storm(subject: &Subject, layout: Layout, lasts: Duration) -> Result<Vec<Entry>> {
    subject.open((0..CONNECTIONS).map(|n| layout.connection(n)));
    ensure!(subject.connections() == CONNECTIONS, "{} of {CONNECTIONS} are open", subject.connections());
    let probe = Probe::start(subject.readiness())?;
    let began = Instant::now();
    let (mut sent, mut longest_queue, mut warm, mut looked) = (0, 0, None, Duration::ZERO);
    while began.elapsed() < lasts {
        let due = began.elapsed().as_millis() as u64 * RATE / 1000;
        while sent < due {
            let pod = layout.pod(sent as usize % layout.pods, sent as usize + 1, false);
            subject.hand(subject::batch([Change::Put(pod)]))?;
            sent += 1;
        }
        longest_queue = longest_queue.max(subject.waiting());
        if looked + Duration::from_millis(100) < began.elapsed() {
            looked = began.elapsed();
            // By then what is needed once is there.
            if looked * 10 > lasts && warm.is_none() {
                warm = Some(resident()?.now);
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let (grown, open) = (resident()?.now, subject.connections());
    let (answers, longest) = probe.end();
    ensure!(open == CONNECTIONS, "a change ended connections: {open} of {CONNECTIONS} are open");
    ensure!(answers > 0 || longest > READY_MS, "nothing was asked");
    let entry = |work: &str, unit| new(work, layout.pods, layout.stack, unit);
    let grown = (grown as f64 - warm.unwrap_or(grown) as f64) / MIB;
    let bound = QUEUE.min(sent as f64 / 3.0);
    Ok(vec![
        entry("readiness under 1,000 changes/s", "ms, longest").value(longest).target(READY_MS),
        entry("queue under 1,000 changes/s", "changes, most").value(longest_queue as f64).target(bound),
        entry("memory under 1,000 changes/s", "MiB, growth").value(grown.max(0.0)).target(FLAT_MIB),
    ])
}

/// Asks whether the agent is ready, again and again.
struct Probe {
    ended: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    answers: usize,
    longest: Duration,
    /// A question that is not answered yet.
    asked: Option<Instant>,
}

impl Probe {
    fn start(address: SocketAddr) -> Result<Self> {
        ask(address).context("the agent is not ready")?;
        let (ended, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (end, write) = (Arc::clone(&ended), Arc::clone(&seen));
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
            allocations::apart();
            while !end.load(Relaxed) {
                let at = Instant::now();
                write.lock().unwrap_or_else(PoisonError::into_inner).asked = Some(at);
                let answered = ask(address).is_ok();
                let mut seen = write.lock().unwrap_or_else(PoisonError::into_inner);
                seen.asked = None;
                // One that is refused or closed instead is as good as none.
                seen.longest = seen.longest.max(if answered { at.elapsed() } else { Duration::MAX });
                seen.answers += usize::from(answered);
                drop(seen);
                std::thread::sleep(ASK_EVERY);
            }
        })?;
        Ok(Self { ended, seen, thread })
    }

    /// The number of answers, and the longest time in ms, that of a question which waits still among them.
    fn end(self) -> (usize, f64) {
        self.ended.store(true, Relaxed);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = seen.asked.map_or(Duration::ZERO, |at| at.elapsed());
        let told = (seen.answers, ms(seen.longest.max(waits)));
        drop(seen);
        drop(self.thread); // it may wait for an answer that never comes
        told
    }
}

fn ask(address: SocketAddr) -> Result<()> {
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(())
}
