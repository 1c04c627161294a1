//! The endpoints of a service that can take a connection of a caller, narrowed down step by step: what is required
//! first (port, address family, `internalTrafficPolicy`), then what is preferred (ready, with a weight, meant for the
//! caller, near). A preference never empties the set: where no endpoint fits it, it does not count.

use std::{net::SocketAddr, sync::Arc};

use super::Caller;
use crate::{
    Kind, ObjectKey, Reason, World,
    objects::DEFAULT_WEIGHT,
    trace::{Stage, Trace},
    world::{Distribution, Endpoint, InternalTraffic, Locality, Nearness, Service, Workload},
};

/// An endpoint, and where exactly it would be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) workload: &'a Arc<Workload>,
    /// None: an address that is known without a Service.
    pub(super) endpoint: Option<&'a Endpoint>,
    pub(super) target: SocketAddr,
}

impl Candidate<'_> {
    pub(super) fn weight(&self) -> u16 {
        self.endpoint.map_or(DEFAULT_WEIGHT, |e| e.weight)
    }

    fn is_ready(&self) -> bool {
        self.endpoint.is_none_or(|e| e.ready)
    }
}

/// The endpoints among which chance or affinity decides for a call of `to`, the service's VIP and a port. Never empty.
///
/// # Errors
/// The reason why there is none.
pub(super) fn candidates<'a>(
    world: &'a World,
    service: &'a Service,
    caller: &Caller<'_>,
    to: SocketAddr,
    trace: &mut impl Trace,
) -> Result<Vec<Candidate<'a>>, Reason> {
    if service.external_name.is_some() {
        return Err(Reason::ExternalName);
    }
    if service.port(to.port()).is_none() {
        return Err(Reason::UnknownPort);
    }
    let all = usable(world.endpoints(&service.name), to);
    if all.is_empty() {
        return Err(Reason::NoEndpoint);
    }
    narrowed(service, caller, all, trace)
}

/// Those of a service's endpoints among which chance or affinity decides. Never empty, where `all` is not.
///
/// # Errors
/// None is local, where one must be.
pub(super) fn narrowed<'a>(
    service: &Service,
    caller: &Caller<'_>,
    mut all: Vec<Candidate<'a>>,
    trace: &mut impl Trace,
) -> Result<Vec<Candidate<'a>>, Reason> {
    let mut narrowing = Narrowing { key: ObjectKey::new(Kind::Service, service.name.clone()), trace };
    if service.internal_traffic == InternalTraffic::Local {
        narrowing.require(
            &mut all,
            |c| is_on(caller, c),
            || format!("internalTrafficPolicy Local: only endpoints on {}", caller.node.unwrap_or("an unknown node")),
        );
        if all.is_empty() {
            return Err(Reason::NoLocalEndpoint);
        }
    }
    if all.iter().all(|c| !c.is_ready()) {
        narrowing.say(|| "no endpoint is ready: terminating endpoints that still serve are used".into());
    }
    narrowing.prefer(&mut all, |c| c.is_ready(), || "ready endpoints before terminating ones".into());
    narrowing.prefer(&mut all, |c| c.weight() > 0, || "endpoints of weight 0 left out".into());
    hinted(&mut narrowing, &mut all, caller.node, caller.locality);
    nearest(&mut narrowing, &mut all, service.distribution, caller);
    Ok(all)
}

/// Endpoints that listen for the called port and have an address of the family of the VIP: ready ones, and those that
/// are draining. Only the same family can carry the client's address to the application.
fn usable<'a>(
    endpoints: impl Iterator<Item = (&'a Arc<Workload>, &'a Endpoint)>,
    to: SocketAddr,
) -> Vec<Candidate<'a>> {
    (endpoints.filter(|(_, e)| (e.ready || e.draining) && e.address.is_ipv4() == to.is_ipv4()))
        .filter_map(|(workload, endpoint)| {
            let target = SocketAddr::new(endpoint.address, endpoint.target_port(to.port())?);
            Some(Candidate { workload, endpoint: Some(endpoint), target })
        })
        .collect()
}

fn is_on(caller: &Caller<'_>, candidate: &Candidate<'_>) -> bool {
    caller.node.is_some() && caller.node == candidate.workload.node.as_deref()
}

/// As kube-proxy reads hints: they count where every endpoint has them and one of them names the caller.
fn hinted<T: Trace>(
    narrowing: &mut Narrowing<'_, T>,
    all: &mut Vec<Candidate<'_>>,
    node: Option<&str>,
    locality: Option<&Locality>,
) {
    let names = |hints: &[Arc<str>], name: &str| hints.iter().any(|h| &**h == name);
    fn nodes<'a>(c: &Candidate<'a>) -> &'a [Arc<str>] {
        c.endpoint.and_then(|e| e.hints.as_ref()).map_or(&[], |hints| &hints.nodes)
    }
    fn zones<'a>(c: &Candidate<'a>) -> &'a [Arc<str>] {
        c.endpoint.and_then(|e| e.hints.as_ref()).map_or(&[], |hints| &hints.zones)
    }
    if let Some(node) = node.filter(|_| all.iter().all(|c| !nodes(c).is_empty())) {
        let fits = |c: &Candidate<'_>| names(nodes(c), node);
        if all.iter().any(fits) {
            return narrowing.prefer(all, fits, || format!("topology hints for node {node}"));
        }
    }
    let zone = locality.and_then(|l| l.zone.as_deref());
    if let Some(zone) = zone.filter(|_| all.iter().all(|c| !zones(c).is_empty())) {
        let fits = |c: &Candidate<'_>| names(zones(c), zone);
        narrowing.prefer(all, fits, || format!("topology hints for zone {zone}"));
    }
}

fn nearest<T: Trace>(
    narrowing: &mut Narrowing<'_, T>,
    all: &mut Vec<Candidate<'_>>,
    distribution: Distribution,
    caller: &Caller<'_>,
) {
    if distribution == Distribution::Any {
        return;
    }
    let nearness = |c: &Candidate<'_>| match caller.locality {
        _ if distribution == Distribution::SameNode && is_on(caller, c) => Nearness::Node,
        locality => locality.map_or(Nearness::Elsewhere, |locality| locality.nearness(&c.workload.locality)),
    };
    let best = all.iter().map(nearness).max().unwrap_or(Nearness::Elsewhere);
    narrowing.prefer(all, |c| nearness(c) == best, || format!("{}: {}", distribution.as_str(), best.as_str()));
}

/// A filter of candidates that records what it leaves out.
struct Narrowing<'t, T> {
    key: ObjectKey,
    trace: &'t mut T,
}

impl<T: Trace> Narrowing<'_, T> {
    /// Keeps those that fit, even if none is left.
    fn require(
        &mut self,
        all: &mut Vec<Candidate<'_>>,
        fits: impl Fn(&Candidate<'_>) -> bool,
        why: impl FnOnce() -> String,
    ) {
        let before = all.len();
        all.retain(fits);
        self.say(|| format!("{}: {} of {before}", why(), all.len()));
    }

    /// Keeps those that fit, if there is one.
    fn prefer(
        &mut self,
        all: &mut Vec<Candidate<'_>>,
        fits: impl Fn(&Candidate<'_>) -> bool,
        why: impl FnOnce() -> String,
    ) {
        let fitting = all.iter().filter(|c| fits(c)).count();
        if (1..all.len()).contains(&fitting) {
            self.require(all, fits, why);
        }
    }

    fn say(&mut self, says: impl FnOnce() -> String) {
        self.trace.say(Stage::Route, Some(&self.key), says);
    }
}
