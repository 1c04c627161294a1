//! Orphans: pods that an earlier agent left in the data path. Most of them are taken up by being enrolled again; this is about
//! the others.
//!
//! What must hold: an orphan in whose namespace something lives stays captured until its pod is said to be outside
//! the mesh, or everything is to be released.

use underpass_abi::{Cookie, Op, Phase, Pod};
use underpass_net::netns::Netns;

use super::{Error, PodUid, Pods, Result, enrolled, netns, setup, state::State};
use crate::datapath::DataPath;

impl<D: DataPath> Pods<D> {
    /// Takes up an orphan whose pod is to be released.
    pub(super) fn adopt_orphan(&mut self, uid: PodUid) {
        let Some(pod) = self.local(&uid) else { return };
        match self.find(&pod) {
            Ok(mut enrolled) if self.orphans.remove(&enrolled.kernel.cookie) => {
                enrolled.inherit(self.inherited.remove(&enrolled.kernel.cookie));
                self.pods.insert(uid, State::Enrolled(Box::new(enrolled)));
            }
            Ok(_) => {}
            Err(e) => tracing::debug!(pod = %pod.name, error = %e, "no orphan of this pod"),
        }
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
        for cookie in self.orphans.clone() {
            let outcome = match living.get(&cookie) {
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
