//! One agent after the other: what [`Pods`] do when another agent is to take over, has, or has not.

use std::{collections::BTreeMap, net::TcpListener, time::Instant};

use underpass_abi::{CgroupId, Cookie};

use super::{Pods, Result, State};
use crate::{datapath::DataPath, tables::Tables};

impl<D: DataPath> Pods<D> {
    /// The listeners of pods that an earlier agent still serves: whoever claims the pod goes on with them. Nothing is changed
    /// after `until`, unless `own` came before.
    pub fn inherit(&mut self, listeners: BTreeMap<Cookie, (TcpListener, TcpListener)>, until: Option<Instant>) {
        self.inherited = listeners;
        self.until = until;
    }

    /// The earlier agent changes nothing any more, now and later.
    pub(super) fn own(&mut self) {
        self.until = None;
        self.look_again = Instant::now();
        self.commit();
    }

    /// The tables of this agent's version count. What fails is tried again.
    pub(super) fn commit(&mut self) {
        let outcome = self.path.commit();
        self.committed = outcome.is_ok();
        if let Err(error) = outcome {
            tracing::warn!(%error, "kernel tables of the earlier agent's version still count");
        }
    }

    /// What an earlier agent left in the data path and nobody has claimed.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<Cookie> {
        self.orphans.iter().copied().collect()
    }

    /// From the next turn on these cgroups count as the agent, and no others. Where there is one alone, listeners that nobody
    /// has claimed are closed: the earlier agents have gone.
    pub(super) fn set_agents(&mut self, agents: Vec<CgroupId>) {
        if agents.len() <= 1 {
            self.inherited.clear();
        }
        self.settings.agents = agents;
        self.stale = true;
    }

    /// Takes the listeners out of the data path: without one, connects wait and what arrives is refused.
    pub(super) fn withdraw(&mut self) {
        for member in self.pods.values().filter_map(State::member) {
            if let Err(error) = member.remove_listeners(&mut self.path) {
                tracing::warn!(pod = %member.pod.name, %error, "the kernel still steers to its listeners");
            }
        }
    }

    /// After standing still: a successor may have changed the data path, and pods. `serving`: the listeners of the tunnel.
    /// What is found of pods that came meanwhile is an earlier agent's, like any other.
    ///
    /// # Errors
    /// The data path cannot be restored or read; it can be tried again.
    pub(super) fn go_on(&mut self, serving: &mut BTreeMap<Cookie, (TcpListener, TcpListener)>) -> Result<()> {
        self.path.restore()?;
        let (contents, steered) = (self.path.contents()?, self.path.pods()?);
        (self.there, self.finished) = (Tables::from_ops(&contents), None);
        let members = self.pods.values().filter_map(State::member).map(|member| member.kernel.cookie);
        self.unsure = members.map(|cookie| (cookie, serving.remove(&cookie))).collect();
        let found = self.there.mentioned().chain(steered);
        self.orphans.extend(found.filter(|cookie| !self.unsure.contains_key(cookie)));
        self.stale = true;
        self.look_again = Instant::now();
        Ok(())
    }

    /// Sets up again what a successor that failed may have taken down; what fails is tried again.
    pub(super) fn put_right(&mut self) {
        for (cookie, serving) in std::mem::take(&mut self.unsure) {
            if let Err(error) = self.put_one_right(cookie, serving.as_ref()) {
                tracing::warn!(cookie = cookie.0, %error, "a pod is not as it was before the other agent");
                self.unsure.insert(cookie, serving);
            }
        }
    }

    fn put_one_right(&mut self, cookie: Cookie, serving: Option<&(TcpListener, TcpListener)>) -> Result<()> {
        let member = self.pods.values_mut().find_map(|state| match state {
            State::Enrolled(member) | State::Releasing { member, torn: false, .. } => {
                (member.kernel.cookie == cookie && member.is_alive()).then_some(member)
            }
            _ => None,
        });
        let Some(member) = member else { return Ok(()) };
        // Before the pod is steered, as when it was enrolled.
        let locals: Vec<_> = member.locals().collect();
        self.path.apply(&locals)?;
        locals.iter().for_each(|op| self.there.apply(op));
        member.put_right(&mut self.path, &self.settings, serving)
    }
}
