//! What follows for a node from a new World, beside its pods: whose certificates it wants, and which waypoints it runs. Its own file
//! because both go by objects and pods alone, and nothing of them waits.

use std::collections::{BTreeMap, BTreeSet};

use underpass_core::{
    Identity, provision,
    resolve::Local,
    world::{Account, MeshSettings, Uid},
};

use super::{Node, Serving};

impl Node {
    /// The waypoints of this node, from files alone: a cluster makes them itself.
    pub(super) fn place(&mut self) {
        if self.word.is_none() {
            let local = std::sync::Arc::clone(&self.snapshot.borrow().local);
            let sources = self.sources.borrow().clone();
            let own = &self.settings.borrow().config.node;
            let here = local.iter().filter_map(|pod| provision::instance(&sources, &pod.name));
            // The objects may be newer than the pods of this node.
            self.waypoints.set(here.filter(|instance| *instance.node == **own).collect());
        }
        self.want();
    }

    /// Other settings of the mesh. In a cluster the facts are the control plane's, and of its settings.
    pub(super) fn set_mesh(&mut self, mesh: MeshSettings) {
        match &self.word {
            None => {
                self.waypoints.set_mesh(mesh.clone());
                self.mesh.set(mesh);
            }
            Some(_) if *self.snapshot.borrow().world.settings() == mesh => {}
            Some(_) => tracing::warn!("settings of the mesh changed, restart the agent to apply them"),
        }
    }

    /// Requests certificates for the enrolled pods, and for those in release: their open connections go on until the release has
    /// ended them; and for the waypoints of this node.
    pub(super) fn want(&mut self) {
        let snapshot = self.snapshot.borrow().clone();
        let (local, world) = (self.local(&snapshot), snapshot.world);
        let enrolled = local.iter().filter(|pod| pod.local == Local::Enrolled);
        let enrolled: BTreeMap<&Uid, &Account> = enrolled.map(|pod| (&pod.uid, &pod.account)).collect();
        for (cookie, Serving { uid, account, .. }) in &mut self.serving {
            if let Some(newest) = enrolled.get(uid).filter(|newest| **newest != account) {
                account.clone_from(newest);
                self.ztunnel.rename(cookie.0, account.clone());
            }
        }
        let trust_domain = &world.settings().trust_domain;
        let identity = |of: &Account| Identity::new(trust_domain, &of.namespace, &of.name);
        let served = self.serving.values().map(|pod| &pod.account);
        let waypoints = self.waypoints.accounts();
        let wanted = enrolled.into_values().chain(served).map(identity).chain(waypoints.map(|of| identity(&of)));
        let wanted: BTreeSet<Identity> = wanted.collect();
        if self.wanted != wanted {
            self.certs.want(&wanted);
            self.wanted = wanted;
        }
    }
}
