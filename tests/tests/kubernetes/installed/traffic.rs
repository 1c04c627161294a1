//! Connections without a pause from the client, counted.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use underpass_tests::{
    apps::hammer::{self, Hammer},
    installed::{AgentLogs, Installed},
    testbed::Actor,
};

use super::site;

/// The number of connections that must be answered before and after what a test does.
const MANY: u64 = 100;

/// Connections of the client, one after another.
pub(crate) struct Traffic {
    hammer: Actor<hammer::Struck>,
    until: PathBuf,
    logs: AgentLogs,
}

impl Traffic {
    /// To these, in turn. Some are answered before this returns.
    pub(crate) fn start(mesh: &Installed, name: &str, to: Vec<SocketAddr>) -> Result<Self> {
        let until = mesh.cluster.bed.lab().directory().join(name);
        let logs = AgentLogs::from_now(&mesh.cluster)?;
        let client = site(mesh, "shop/client")?.with_files_of_the_lab();
        let mut hammer = hammer::start(&client, Hammer::new(to, name, &until))?;
        hammer::answers(&mut hammer, MANY)?;
        Ok(Self { hammer, until, logs })
    }

    /// Some more are answered, and none has failed from the beginning.
    pub(crate) fn ends_without_a_failure(mut self) -> Result<()> {
        hammer::answers(&mut self.hammer, MANY)?;
        std::fs::write(&self.until, "")?;
        let ended = hammer::ensure_none_failed(self.hammer);
        ended.map(drop).with_context(|| self.logs.lines().unwrap_or_else(|error| format!("{error:#}")))
    }
}
