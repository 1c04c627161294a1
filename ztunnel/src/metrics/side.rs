//! One end of a connection as labels: what the World says of its workload, and what its certificate proved.

use std::sync::Arc;

use underpass_core::{Identity, connection::Party, world::Workload};

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
    pub(super) fn new(workload: &Workload) -> Self {
        let (region, zone) = (workload.locality.region.as_deref(), workload.locality.zone.as_deref());
        Self {
            workload: workload.workload_name().into(),
            namespace: workload.name.namespace().into(),
            canonical_service: (*workload.canonical_service).into(),
            canonical_revision: (*workload.canonical_revision).into(),
            app: (*workload.app).into(),
            version: (*workload.version).into(),
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
    pub(super) fn new(party: &Party) -> Self {
        // The trust domain may be an alias of ours.
        let is_itself = |w: &&Arc<Workload>| match &party.identity {
            Some(proved) => w.account.as_ref().is_some_and(|account| {
                (proved.namespace(), proved.service_account()) == (&*account.namespace, &*account.name)
            }),
            None => true,
        };
        let place = party.workload.as_ref().filter(is_itself).map(|w| Place::new(w));
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
