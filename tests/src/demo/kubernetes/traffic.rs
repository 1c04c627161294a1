//! Calls without a pause from a pod, counted: what became of each while something happened to the mesh.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use underpass_tests::{
    apps::http,
    testbed::{Actor, Io, wait},
};

use super::{
    super::page,
    stage::{CLIENT, Stage},
};

/// Calls that must be answered before and after what happens.
const MANY: u64 = 30;

/// The number of complete pages, and what came instead of the others.
type Counted = (u64, BTreeMap<String, u64>);

/// A client that goes on until it is ended.
#[derive(Debug)]
pub(crate) struct Traffic(Actor<Counted>);

impl Traffic {
    /// Starts it in the client's container. Some of its calls are answered before this returns.
    pub(crate) fn start(stage: &Stage) -> Result<Self> {
        stage.screen.does(&format!("{CLIENT} calls {} without a pause, and counts", page::url()));
        let mut pods = stage.mesh.cluster.pods("client", "app=sleep")?;
        let pod = pods.pop().unwrap_or_default();
        let mut it = Self(stage.mesh.cluster.container(&pod, "sleep")?.spawn(call, page::url())?);
        it.some_more()?;
        Ok(it)
    }

    /// Shows that every call was answered by every service, from the beginning and some more from now on.
    pub(crate) fn end(mut self, stage: &mut Stage) -> Result<()> {
        self.some_more()?;
        self.0.tell(&false)?;
        let (answered, failed) = self.0.join()?;
        let promised = format!("{answered} calls meanwhile, each of 3 or 4 connections: 0 failed");
        stage.screen.expect(&promised, failed.is_empty() && answered > 0, failed)
    }

    fn some_more(&mut self) -> Result<()> {
        let before = self.answered()?;
        wait::wait_until("more answers", || Ok(self.answered()? >= before + MANY))
    }

    fn answered(&mut self) -> Result<u64> {
        self.0.tell(&true)?;
        self.0.event()
    }
}

/// Calls until it is told `false`; told `true`, it says how many were answered.
fn call(url: String, io: &mut Io) -> Result<Counted> {
    let (mut answered, mut failed) = (0, BTreeMap::new());
    loop {
        while io.is_told(Duration::ZERO)? {
            match io.receive::<bool>()? {
                Some(true) => io.send(&answered)?,
                _ => return Ok((answered, failed)),
            }
        }
        let outcome = match http::get(&url) {
            Ok(text) if serde_json::from_str(&text).is_ok_and(|page| page::complete(&page).is_some()) => Ok(()),
            Ok(incomplete) => Err(incomplete),
            Err(why) => Err(format!("{why:#}")),
        };
        match outcome {
            Ok(()) => answered += 1,
            Err(why) => *failed.entry(why).or_default() += 1,
        }
    }
}
