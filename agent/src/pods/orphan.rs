//! Orphans: pods that an earlier agent left in the data path. Most of them are taken up by being enrolled again; this is about
//! the others.
//!
//! What must hold: an orphan in whose namespace something lives stays captured until its pod is said to be outside
//! the mesh, or everything is to be released.

use std::{collections::BTreeSet, time::Instant};

use underpass_abi::{Cookie, Op, Phase, Pod};
use underpass_net::netns::Netns;

use super::{
    Error, PodUid, Pods, Result,
    enrolled::{self, EnrolledPod},
    netns, setup,
};
use crate::datapath::DataPath;

impl<D: DataPath> Pods<D> {
    /// Takes up an orphan whose pod is to be released. Its release goes on where an earlier agent left it: a phase that captures
    /// would take in connections of its applications again.
    pub(super) fn adopt_orphan(&mut self, uid: PodUid, now: Instant) {
        let Some(pod) = self.local(&uid) else { return };
        let enrolled = match self.find(&pod) {
            Ok(enrolled) if self.orphans.contains(&enrolled.kernel.cookie) => enrolled,
            Ok(_) => return,
            Err(e) => return tracing::debug!(pod = %pod.name, error = %e, "no orphan of this pod"),
        };
        match self.take_up(enrolled) {
            Ok((enrolled, steered)) => {
                self.orphans.remove(&enrolled.kernel.cookie);
                // Without listeners nothing that was captured goes on.
                let torn = enrolled.is_announced();
                self.begin_release(uid, Box::new(enrolled), steered, torn, now);
            }
            Err(e) => tracing::warn!(pod = %pod.name, error = %e, "taking up a pod of an earlier agent failed"),
        }
    }

    /// With listeners where it is steered: connects of its applications may wait for them.
    fn take_up(&mut self, mut enrolled: EnrolledPod) -> Result<(EnrolledPod, bool)> {
        let cookie = enrolled.kernel.cookie;
        if self.path.pods()?.contains(&cookie) {
            return Ok((self.set_up(enrolled)?, true));
        }
        enrolled.inherit(self.inherited.remove(&cookie));
        Ok((enrolled, false))
    }

    /// Purges orphans without a living process, and releases the others where every pod is to be released.
    pub(super) fn look_for_orphans(&mut self) {
        if self.orphans.is_empty() {
            return;
        }
        let living = match netns::living(&self.orphans) {
            Ok(living) => living,
            Err(e) => return tracing::warn!(error = %e, "listing network namespaces failed"),
        };
        let is_named = |cookie: Cookie| self.named.values().any(|named| named.cookie() == cookie.0);
        let to_come: BTreeSet<_> = self.orphans.iter().copied().filter(|cookie| is_named(*cookie)).collect();
        for cookie in self.orphans.clone() {
            let outcome = match living.get(&cookie) {
                // Its first process is still to come.
                None if to_come.contains(&cookie) && !self.leaving => continue,
                None => self.path.purge(cookie).map_err(Error::from),
                Some(netns) if self.leaving => self.release_orphan(cookie, netns),
                Some(_) => continue,
            };
            match outcome {
                Ok(()) => {
                    self.forget(cookie);
                    self.orphans.remove(&cookie);
                }
                Err(e) => tracing::warn!(cookie = cookie.0, error = %e, "removing an orphan failed"),
            }
        }
    }

    /// As [`Self::continue_release`], for a pod of which only the namespace is known.
    fn release_orphan(&mut self, cookie: Cookie, netns: &Netns) -> Result<()> {
        if let Some(pod) = self.there.pod(cookie) {
            self.change(&[Op::SetPod(cookie, Pod { phase: Phase::RELEASING, ..pod })])?;
        }
        enrolled::take_down(cookie, netns, &setup::Before::unknown(), &mut self.path, self.settings.marks)?;
        let ops = self.there.without_pod(cookie);
        self.change(&ops)?;
        Ok(self.path.purge(cookie)?)
    }
}
