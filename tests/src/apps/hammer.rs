//! Connections one after another, counted: what became of each while something happened to the mesh.

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

use super::socket::{self, Dial, Dialed, Talk};
use crate::testbed::{Actor, Io, Site, wait};

/// Longer than any scenario: for connections that wait for an agent.
pub const PATIENT: Duration = Duration::from_secs(100);

/// Connects to one server after the other, by default as fast as it can, until the file is there.
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
    /// Between two connections.
    pause: Duration,
    /// The application that is to answer, one for each of `to`; where there is none, any may.
    by: Vec<String>,
}

impl Hammer {
    /// At these echo servers, which are told this, until the file is there; each connection waits for an agent.
    pub fn new(to: Vec<SocketAddr>, say: &str, until: &Path) -> Self {
        let (pause, by) = (Duration::ZERO, Vec::new());
        Self { to, say: say.into(), until: until.to_owned(), patience: PATIENT, pause, by }
    }

    /// Each connection is waited for so long.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// So long a pause before each connection.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Answers of other applications than these, one for each server, are failures. A name stands for all that begin
    /// with it.
    #[must_use]
    pub fn answered_by(self, names: &[&str]) -> Self {
        Self { by: names.iter().map(|&name| name.to_owned()).collect(), ..self }
    }

    /// What is wrong with an answer of the server at this place, if anything is.
    fn wrong(&self, server: usize, talk: &Talk) -> Option<String> {
        if talk.reply.is_empty() {
            return Some("end of file".into());
        }
        let expected = self.by.get(server)?;
        match talk.who() {
            Ok(who) if who.app.starts_with(&**expected) => None,
            Ok(who) => Some(format!("{} answered for {expected}", who.app)),
            Err(error) => Some(format!("{error:#}")),
        }
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
    for (server, to) in hammer.to.iter().enumerate().cycle() {
        if hammer.until.exists() {
            break;
        }
        thread::sleep(hammer.pause);
        match socket::dial(Dial::to(*to).say(&hammer.say).patience(hammer.patience))? {
            Dialed::Answered(talk) => match hammer.wrong(server, &talk) {
                None => drop(answered.fetch_add(1, Ordering::Relaxed)),
                Some(wrong) => *failed.entry(wrong).or_default() += 1,
            },
            Dialed::Failed(failure) => *failed.entry(failure.to_string()).or_default() += 1,
        }
    }
    Ok(failed)
}
