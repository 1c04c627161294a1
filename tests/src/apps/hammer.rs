//! Connections without a pause, counted: what became of each while something happened to the mesh.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::socket::{self, Dial, Dialed};
use crate::testbed::{Actor, Io, Site, wait};

/// Longer than any scenario: for connections that wait for an agent.
pub const PATIENT: Duration = Duration::from_secs(100);

/// Connects as fast as it can, to one after the other, until the file is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hammer {
    /// Echo servers.
    to: Vec<SocketAddr>,
    /// The text that each sends.
    say: String,
    /// The file.
    until: PathBuf,
    /// Patience with each connection.
    patience: Duration,
}

impl Hammer {
    /// At these echo servers, which are told this, until the file is there; each connection waits for an agent.
    pub fn new(to: Vec<SocketAddr>, say: &str, until: &Path) -> Self {
        Self { to, say: say.into(), until: until.to_owned(), patience: PATIENT }
    }

    /// Each connection is waited for so long.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// The number of answered connections, and the outcomes of the others.
pub type Struck = (u64, BTreeMap<String, u64>);

/// The interval between two looks of a hammer whether it is asked for its number.
const LOOK: Duration = Duration::from_millis(20);

/// Starts one.
pub fn start(site: &Site, order: Hammer) -> Result<Actor<Struck>> {
    site.spawn(run, order)
}

/// Waits until so many of its connections are answered, from now on. The first of them may have begun before.
pub fn answers(hammer: &mut Actor<Struck>, n: u64) -> Result<()> {
    let mut answered = || {
        hammer.tell(&())?;
        hammer.event::<u64>()
    };
    let before = answered()?;
    wait::wait_until(&format!("{n} more answers"), || Ok(answered()? >= before + n))
}

/// Every one of its connections was answered, and there were some.
pub fn ensure_none_failed(hammer: Actor<Struck>) -> Result<u64> {
    let (answered, failed) = hammer.join()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(answered)
}

fn run(hammer: Hammer, io: &mut Io) -> Result<Struck> {
    let answered = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&answered);
    let striking = thread::spawn(move || strike(&hammer, &count));
    while !striking.is_finished() {
        if io.is_told(LOOK)? && io.receive::<()>()?.is_some() {
            io.send(&answered.load(Ordering::Relaxed))?;
        }
    }
    let failed = striking.join().map_err(|_| anyhow!("panicked"))??;
    Ok((answered.load(Ordering::Relaxed), failed))
}

fn strike(hammer: &Hammer, answered: &AtomicU64) -> Result<BTreeMap<String, u64>> {
    let mut failed = BTreeMap::new();
    for to in hammer.to.iter().cycle() {
        if hammer.until.exists() {
            break;
        }
        match socket::dial(Dial::to(*to).say(&hammer.say).patience(hammer.patience))? {
            Dialed::Answered(talk) if !talk.reply.is_empty() => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Dialed::Answered(_) => *failed.entry("end of file".into()).or_default() += 1,
            Dialed::Failed(failure) => *failed.entry(failure.to_string()).or_default() += 1,
        }
    }
    Ok(failed)
}
