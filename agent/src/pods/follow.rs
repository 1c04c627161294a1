//! One agent after the other: what [`Pods`] do when another agent is to take over, has, or has not.

use std::{collections::BTreeMap, net::TcpListener, time::Instant};

use underpass_abi::{CgroupId, Cookie};

use super::{Pods, Result, State};
use crate::{datapath::DataPath, tables::Tables};

impl<D: DataPath> Pods<D> {
    /// The listeners of pods that an earlier agent still serves: whoever claims the pod goes on with them.
    pub fn inherit(&mut self, listeners: BTreeMap<Cookie, (TcpListener, TcpListener)>) {
        self.inherited = listeners;
    }

    /// What an earlier agent left in the data path and nobody has claimed.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<Cookie> {
        self.orphans.iter().copied().collect()
    }

    /// From the next turn on these cgroups count as the agent, and no others. Listeners that nobody has claimed are closed:
    /// the earlier agent has gone.
    pub(super) fn set_agents(&mut self, agents: Vec<CgroupId>) {
        self.settings.agents = agents;
        self.inherited.clear();
        self.stale = true;
    }

    /// Takes the listeners out of the data path: without one, connects wait and what arrives is refused.
    pub(super) fn withdraw(&mut self) {
        for member in self.pods.values().filter_map(State::member) {
            if let Err(error) = member.remove_listeners(&mut self.path) {
                tracing::warn!(pod = %member.name, %error, "the kernel still steers to its listeners");
            }
        }
    }

    /// After standing still: somebody else may have changed the data path.
    pub(super) fn go_on(&mut self) -> Result<()> {
        self.there = Tables::from_ops(&self.path.contents()?);
        self.stale = true;
        self.look_again = Instant::now();
        Ok(())
    }
}
