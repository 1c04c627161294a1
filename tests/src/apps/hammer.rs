//! Connections without a pause, counted: what became of each while something happened to the mesh.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::socket::{self, Dial, Dialed};
use crate::testbed::{Actor, Io, Site};

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

/// Starts one; it says so after each answer.
pub fn start(site: &Site, order: Hammer) -> Result<Actor<Struck>> {
    site.spawn(run, order)
}

/// Waits until some more of its connections are answered.
pub fn answers(hammer: &mut Actor<Struck>, n: usize) -> Result<()> {
    (0..n).try_for_each(|_| hammer.event::<u64>().map(drop))
}

/// Every one of its connections was answered, and there were some.
pub fn ensure_none_failed(hammer: Actor<Struck>) -> Result<u64> {
    let (answered, failed) = hammer.join()?;
    ensure!(answered > 0 && failed.is_empty(), "{answered} answered, {failed:?}");
    Ok(answered)
}

fn run(hammer: Hammer, io: &mut Io) -> Result<Struck> {
    let (mut answered, mut failed) = (0, BTreeMap::new());
    for to in hammer.to.iter().cycle() {
        if hammer.until.exists() {
            break;
        }
        match socket::dial(Dial::to(*to).say(&hammer.say).patience(hammer.patience))? {
            Dialed::Answered(talk) if !talk.reply.is_empty() => {
                answered += 1;
                io.send(&answered)?;
            }
            Dialed::Answered(_) => *failed.entry("end of file".into()).or_default() += 1,
            Dialed::Failed(failure) => *failed.entry(failure.to_string()).or_default() += 1,
        }
    }
    Ok((answered, failed))
}
