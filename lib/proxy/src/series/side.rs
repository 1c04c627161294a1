//! The labels of one end of a connection or request: of its workload, by the World, and of the identity that its certificate proved.

use std::sync::Arc;

use underpass_core::{Identity, connection::Party, world::Workload};

/// Istio's value of an unknown label.
pub const UNKNOWN: &str = "unknown";

/// The labels of a workload, by the World.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadLabels {
    /// The name of its owner, else its own.
    pub workload: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Istio's canonical service.
    pub canonical_service: Box<str>,
    /// Istio's canonical revision.
    pub canonical_revision: Box<str>,
    /// Its app.
    pub app: Box<str>,
    /// Its version.
    pub version: Box<str>,
    /// The region of its node.
    pub region: Box<str>,
    /// The zone of its node.
    pub zone: Box<str>,
}

impl WorkloadLabels {
    /// Those of this workload.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
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
pub struct Side {
    /// None: it is no workload of ours.
    pub workload: Option<WorkloadLabels>,
    /// Proved by its certificate, or shown with ours.
    pub principal: Option<Identity>,
}

impl Side {
    /// The labels of a party. A workload has the address, but the peer's identity counts: where both disagree, another workload
    /// uses the address.
    #[must_use]
    pub fn new(party: &Party) -> Self {
        // The trust domain may be an alias of ours.
        let is_itself = |w: &&Arc<Workload>| match &party.identity {
            Some(proved) => w.account.as_ref().is_some_and(|account| {
                (proved.namespace(), proved.service_account()) == (&*account.namespace, &*account.name)
            }),
            None => true,
        };
        let workload = party.workload.as_ref().filter(is_itself).map(|w| WorkloadLabels::new(w));
        Self { workload, principal: party.identity.clone() }
    }

    /// Its labels: workload, canonical service and revision, namespace, principal, app, version, cluster, region, zone.
    #[must_use]
    pub fn labels<'a>(&'a self, cluster: &'a str) -> [&'a str; 10] {
        let principal = self.principal.as_ref().map_or(UNKNOWN, Identity::uri);
        match &self.workload {
            Some(workload) => [
                &workload.workload,
                &workload.canonical_service,
                &workload.canonical_revision,
                &workload.namespace,
                principal,
                &workload.app,
                &workload.version,
                cluster,
                &workload.region,
                &workload.zone,
            ],
            None => {
                let mut labels = [UNKNOWN; 10];
                labels[4] = principal;
                labels
            }
        }
    }
}
