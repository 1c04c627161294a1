//! [`Pods`] in a take-over: inheriting from a predecessor, and standing still for a successor.

use std::{collections::BTreeMap, net::TcpListener, time::Instant};

use underpass_abi::{CgroupId, Cookie};

use super::{Event, Pods, Result, State, enrolled::EnrolledPod, release};
use crate::{datapath::DataPath, tables::Tables};

impl<D: DataPath> Pods<D> {
    /// Inherits listeners of pods that the predecessor still serves: a pod that is enrolled goes on with them. Nothing is
    /// changed after `until`, unless `own` came before.
    pub fn inherit(&mut self, listeners: BTreeMap<Cookie, (TcpListener, TcpListener)>, until: Option<Instant>) {
        self.inherited = listeners;
        self.until = until;
    }

    /// This process is the agent: the predecessor changes nothing any more.
    pub(super) fn own(&mut self) {
        self.until = None;
        self.look_again = Instant::now();
        self.commit();
    }

    /// Lets the tables of this agent's version count. A failure is tried again.
    pub(super) fn commit(&mut self) {
        let outcome = self.path.commit();
        self.committed = outcome.is_ok();
        if let Err(error) = outcome {
            tracing::warn!(%error, "switching to the kernel tables of this version failed");
        }
    }

    /// The orphans: what an earlier agent left in the data path and no pod has taken up.
    #[must_use]
    pub fn orphans(&self) -> Vec<Cookie> {
        self.orphans.iter().copied().collect()
    }

    /// From the next turn on these cgroups count as the agent, and no others. Where there is one alone, the predecessors have
    /// ended, and listeners that no pod has taken up are closed.
    pub(super) fn set_agents(&mut self, agents: Vec<CgroupId>) {
        if agents.len() <= 1 {
            self.inherited.clear();
        }
        self.settings.agents = agents;
        self.stale = true;
    }

    /// Removes the listeners from the data path: without one, connects wait and what arrives is refused.
    pub(super) fn withdraw(&mut self) {
        for enrolled in self.pods.values().filter_map(State::enrolled) {
            if let Err(error) = enrolled.remove_listeners(&mut self.path) {
                tracing::warn!(pod = %enrolled.pod.name, %error, "removing the listeners of a pod failed");
            }
        }
    }

    /// Resumes after a successor that failed, and that may have changed the data path and pods. `serving`: the listeners of the
    /// tunnel. What is found of pods that came meanwhile is an orphan.
    ///
    /// # Errors
    /// The data path cannot be restored or read; it can be tried again.
    pub(super) fn resume(&mut self, serving: &mut BTreeMap<Cookie, (TcpListener, TcpListener)>) -> Result<()> {
        self.path.restore()?;
        let (contents, steered) = (self.path.contents()?, self.path.pods()?);
        (self.there, self.finished) = (Tables::from_ops(&contents), None);
        let enrolled = self.pods.values().filter_map(State::enrolled).map(|enrolled| enrolled.kernel.cookie);
        self.unsure = enrolled.map(|cookie| (cookie, serving.remove(&cookie))).collect();
        let found = self.there.mentioned().chain(steered);
        self.orphans.extend(found.filter(|cookie| !self.unsure.contains_key(cookie)));
        self.stale = true;
        self.look_again = Instant::now();
        Ok(())
    }

    /// Restores pods that a successor that failed may have taken down; a failure is tried again.
    pub(super) fn restore(&mut self, now: Instant) {
        for (cookie, serving) in std::mem::take(&mut self.unsure) {
            if let Err(error) = self.restore_pod(cookie, serving.as_ref(), now) {
                tracing::warn!(cookie = cookie.0, %error, "restoring a pod after a failed hand-over failed");
                self.unsure.insert(cookie, serving);
            }
        }
    }

    fn restore_pod(
        &mut self,
        cookie: Cookie,
        serving: Option<&(TcpListener, TcpListener)>,
        now: Instant,
    ) -> Result<()> {
        let ours = |enrolled: &EnrolledPod| enrolled.kernel.cookie == cookie && enrolled.is_alive();
        let found = self.pods.values_mut().find_map(|state| match state {
            State::Enrolled(enrolled) if ours(enrolled) => Some((enrolled, None)),
            State::Releasing { enrolled, steered, torn: false, halfway, again, .. } if ours(enrolled) => {
                Some((enrolled, Some((steered, halfway, again))))
            }
            _ => None,
        });
        let Some((enrolled, release)) = found else { return Ok(()) };
        // Before the pod is steered, as when it was enrolled.
        let locals: Vec<_> = enrolled.locals().collect();
        self.path.apply(&locals)?;
        locals.iter().for_each(|op| self.there.apply(op));
        enrolled.restore(&mut self.path, &self.settings, serving)?;
        let Some((steered, halfway, again)) = release else { return Ok(()) };
        *halfway = false;
        // A release that had ended the steering ends it again, not before those that hear of it now have heard.
        if !std::mem::replace(steered, true) {
            *again = now + release::CALLERS_HEAR;
            (self.sink)(Event::Steered { cookie, steered: true });
        }
        Ok(())
    }
}
