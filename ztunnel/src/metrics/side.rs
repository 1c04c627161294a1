//! One end of a connection as labels: what the World says of its workload, and what its certificate proved.

use std::sync::Arc;

use underpass_core::{Identity, World, connection::Party, world::Workload};

/// What Istio writes where it does not know.
pub(super) const UNKNOWN: &str = "unknown";

/// What the World says of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) workload: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) canonical_service: Box<str>,
    pub(super) canonical_revision: Box<str>,
    pub(super) app: Box<str>,
    pub(super) version: Box<str>,
    pub(super) region: Box<str>,
    pub(super) zone: Box<str>,
}

impl Place {
    pub(super) fn new(world: &World, workload: &Workload) -> Self {
        let locality = workload.node.as_deref().and_then(|name| world.locality(name));
        let (region, zone) = locality.map_or((None, None), |of| (of.region.as_deref(), of.zone.as_deref()));
        let label = |key: &str, other: &str| workload.labels.get(key).map_or(other, |value| value).into();
        let (service, revision) = (workload.canonical_service(), workload.canonical_revision());
        Self {
            workload: workload.workload_name().into(),
            namespace: workload.name.namespace().into(),
            canonical_service: service.into(),
            canonical_revision: revision.into(),
            app: label("app", service),
            version: label("version", revision),
            region: region.unwrap_or(UNKNOWN).into(),
            zone: zone.unwrap_or(UNKNOWN).into(),
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Side {
    /// None: it is no workload of ours.
    pub(super) place: Option<Place>,
    /// Proved by its certificate, or shown with ours.
    pub(super) principal: Option<Identity>,
}

impl Side {
    /// A workload has the address, but what counts is who the peer proved to be: where both disagree, somebody else
    /// speaks from there.
    pub(super) fn new(world: &World, party: &Party) -> Self {
        // The trust domain may be an alias of ours.
        let is_itself = |w: &&Arc<Workload>| match &party.identity {
            Some(proved) => (proved.namespace(), proved.service_account()) == (w.name.namespace(), &*w.service_account),
            None => true,
        };
        let place = party.workload.as_ref().filter(is_itself).map(|w| Place::new(world, w));
        Self { place, principal: party.identity.clone() }
    }

    /// Its labels: workload, canonical service and revision, namespace, principal, app, version, cluster, region, zone.
    pub(super) fn labels<'a>(&'a self, cluster: &'a str) -> [&'a str; 10] {
        let principal = self.principal.as_ref().map_or(UNKNOWN, Identity::uri);
        match &self.place {
            Some(place) => [
                &place.workload,
                &place.canonical_service,
                &place.canonical_revision,
                &place.namespace,
                principal,
                &place.app,
                &place.version,
                cluster,
                &place.region,
                &place.zone,
            ],
            None => {
                let mut labels = [UNKNOWN; 10];
                labels[4] = principal;
                labels
            }
        }
    }
}
