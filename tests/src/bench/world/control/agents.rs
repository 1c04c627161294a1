//! The other process: agents as far as their stream to the control plane goes. Each receives, acknowledges, and notes at what time a
//! resource came; the facts of it are not made.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    io::{self, Write as _},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_gettime},
};
use tokio::{net::TcpStream, sync::watch};
use underpass_identity::{Roots, certificate::certificates_from_pem};
use underpass_net::tls::{Connector, ServerName, Settings, Stream};
use underpass_xds::{
    client::{self, Apply, Batch, Node, Progress, Rejected, Session},
    connect::{Connect, ControlPlane},
};

use super::subject::NAME;

/// The time for a handshake: all of them at once.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// The line that says that every agent has everything.
pub const COMPLETE: &str = "complete";

/// Nanoseconds of the machine's monotonic clock, the same in every process.
pub fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("the clock")?;
    Ok(time.num_nanoseconds().try_into()?)
}

/// What an agent saw: the name of a resource, after a minus where it is gone, or [`COMPLETE`].
type Seen = (Arc<str>, u64);

/// So many agents of the control plane at `address`, which is trusted by `root`. For each resource that every one of them has seen, a line
/// says its name and when each did.
///
/// # Errors
/// Where they cannot be started.
pub fn run(arguments: &[&str]) -> Result<Infallible> {
    let [address, root, count] = arguments else { anyhow::bail!("agents ADDRESS ROOT COUNT") };
    let count: usize = count.parse().context("COUNT")?;
    let root = std::fs::read_to_string(root).context("ROOT")?;
    let roots = Roots::new(0, certificates_from_pem(&root)?)?;
    let name = ServerName::try_from(NAME)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (sender, seen) = mpsc::channel();
    for n in 0..count {
        let connector = Connector::new(&roots, &Settings::default(), HANDSHAKE)?;
        let link = Arc::new(Link { address: (*address).to_owned(), name: name.clone(), connector });
        let node = Node { pod: format!("agent-{n}"), node: format!("node-{n}"), ..Node::default() };
        let noting = Noting { complete: false, sender: sender.clone() };
        let control_plane = ControlPlane::new(*address);
        let progress = watch::Sender::<Progress>::default();
        runtime.spawn(client::run(control_plane, link, Session::new(node), noting, progress, || 0));
    }
    drop(sender);
    let mut waiting: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
    for (what, at) in seen {
        let times = waiting.entry(Arc::clone(&what)).or_default();
        times.push(at);
        if times.len() < count {
            continue;
        }
        let times = waiting.remove(&what).unwrap_or_default();
        let line = times.iter().fold(what.to_string(), |mut line, at| {
            let _ = write!(line, " {at}"); // a String takes all
            line
        });
        let mut out = io::stdout().lock();
        // A reader that has gone has what it wanted.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    std::process::exit(0)
}

struct Link {
    address: String,
    name: ServerName<'static>,
    connector: Connector,
}

impl Connect for Link {
    type Stream = Stream<TcpStream>;

    async fn connect(&self) -> io::Result<Self::Stream> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        self.connector.connect(tcp, &self.name).await.map_err(io::Error::other)
    }
}

struct Noting {
    complete: bool,
    sender: mpsc::Sender<Seen>,
}

impl Apply for Noting {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        let at = now().unwrap_or_default();
        let note = |what: Arc<str>| drop(self.sender.send((what, at)));
        if !self.complete {
            self.complete = batch.complete;
            if batch.complete {
                note(COMPLETE.into());
            }
            return Vec::new();
        }
        for change in batch.changes {
            note(match change.body {
                Some(_) => change.name,
                None => format!("-{}", change.name).into(),
            });
        }
        Vec::new()
    }
}

/// Splits a line into what was seen and the times.
///
/// # Errors
/// It is none of [`run`]'s.
pub fn read(line: &str) -> Result<(&str, Vec<u64>)> {
    let mut words = line.split(' ');
    let what = words.next().context("a name")?;
    let times = words.map(|word| word.parse().context("a time")).collect::<Result<Vec<u64>>>()?;
    ensure!(!times.is_empty(), "no times in {line:?}");
    Ok((what, times))
}
