//! `underpass explain SOURCE DESTINATION:PORT`: what would happen to this connection, step by step, and which object
//! decides. It runs the functions that connections run, with a recorder; it decides nothing itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Identity, Kind, ObjectKey, ObjectName, Reason, World,
    admit::admit,
    authz::{Peer, Request, Verdict},
    capture::{self, Capture},
    route::{self, Caller, Hop, Plan},
    trace::{Stage, Step, Trace as _},
    world::{Addressed, Service, Workload},
};

/// Why there is nothing to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The source names nothing.
    #[error("source {0:?}: no pod of that name, and it is not an address; write namespace/pod or an IP address")]
    Source(String),
    /// The destination names nothing.
    #[error(
        "destination {0:?}: no pod or service of that name, and it is not an address; write namespace/pod, a service's name or host, or an IP address"
    )]
    Destination(String),
    /// The destination has no port.
    #[error("destination {0:?}: write DESTINATION:PORT, with an IPv6 address in brackets")]
    Port(String),
    /// The service or pod has no address to connect to.
    #[error("{0} has no address to connect to")]
    NoAddress(ObjectKey),
    /// The service is another name for something.
    #[error("{service} is an ExternalName and has no address: its callers connect to {name}; ask for that")]
    ExternalName {
        /// The service.
        service: ObjectKey,
        /// What it is another name for.
        name: Arc<str>,
    },
    /// The service has no VIP.
    #[error("{0} is headless: its callers connect to its pods; ask for one of them")]
    Headless(ObjectKey),
}

/// How the connection travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// As without a mesh.
    Untouched,
    /// Through the tunnel, mutual TLS between the nodes.
    Hbone,
    /// Plain, through the source's tunnel to an endpoint outside the mesh.
    Passthrough,
    /// Plain, into the destination's tunnel.
    Plaintext,
    /// It gets nowhere.
    Refused,
}

/// One word of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The connection reaches the application, as far as the mesh is concerned.
    Allow,
    /// It does not.
    Deny,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who, as resolved.
    pub source: String,
    /// Where to, as resolved.
    pub destination: String,
    /// How.
    pub path: Way,
    /// Whether.
    pub verdict: Answer,
    /// The policy that decided, if one did.
    pub policy: Option<ObjectName>,
    /// Why not, or what allowed it.
    pub reason: String,
    /// Everything that was looked at.
    pub steps: Vec<Step>,
}

struct Source {
    address: IpAddr,
    workload: Option<Arc<Workload>>,
}

/// Explains the connection from `source` (namespace/pod or an address) to `destination` (namespace/pod, a service's
/// name or host, or an address, each with `:port`).
///
/// # Errors
/// Where one of the two names nothing.
pub fn explain(world: &World, source: &str, destination: &str) -> Result<Explanation, Unknown> {
    let mut steps = Vec::new();
    let (host, port) = split_port(destination)?;
    let from = find_source(world, source)?;
    let namespace = from.workload.as_ref().map_or("default", |w| w.name.namespace());
    let to = SocketAddr::new(find_destination(world, host, namespace, from.address)?, port);
    steps.say(Stage::Resolve, None, || format!("source is {}", name_of(world, from.address)));
    steps.say(Stage::Resolve, None, || format!("destination is {}, port {port}", name_of(world, to.ip())));
    let (path, verdict, reason) = follow(world, &from, to, &mut steps);
    Ok(Explanation {
        source: name_of(world, from.address),
        destination: format!("{} port {port}", name_of(world, to.ip())),
        path,
        verdict: if verdict.is_allow() { Answer::Allow } else { Answer::Deny },
        policy: verdict.policy().cloned(),
        reason,
        steps,
    })
}

fn follow(world: &World, from: &Source, to: SocketAddr, steps: &mut Vec<Step>) -> (Way, Verdict, String) {
    let Some(source) = &from.workload else {
        steps.say(Stage::Capture, None, || format!("{} is no pod of this mesh: it connects as it is", from.address));
        return from_outside(world, from, to, steps);
    };
    match capture::decide(world, source, to.ip(), steps) {
        Capture::Refuse(reason) => refused(None, reason),
        Capture::Tunnel => through_tunnel(world, from, source, to, steps),
        Capture::Leave(capture::Left::SourceNotEnrolled) => from_outside(world, from, to, steps),
        Capture::Leave(_) => {
            (Way::Untouched, Verdict::Allow { policy: None }, "the mesh does not touch this connection".into())
        }
    }
}

fn through_tunnel(
    world: &World,
    from: &Source,
    source: &Workload,
    to: SocketAddr,
    steps: &mut Vec<Step>,
) -> (Way, Verdict, String) {
    match route::plan(world, source, to, 0, steps) {
        Plan::Refuse { reason, .. } => refused(None, reason),
        Plan::Plain { hop } => {
            let says = format!("{} is reached in plaintext: no policy is asked", hop.target);
            (Way::Passthrough, Verdict::Allow { policy: None }, says)
        }
        Plan::Hbone { hop, .. } => {
            let identity = source.identity(&world.settings().trust_domain);
            note_differences(world, from, source, &identity, to, steps);
            arrive(world, Way::Hbone, from, Some(&identity), &hop, steps)
        }
    }
}

/// From a pod or host outside the mesh: kube-proxy or nobody translates a VIP, then the destination's node judges.
fn from_outside(world: &World, from: &Source, to: SocketAddr, steps: &mut Vec<Step>) -> (Way, Verdict, String) {
    let neither = || (Way::Untouched, Verdict::Allow { policy: None }, "neither end is in the mesh".to_owned());
    let caller = match &from.workload {
        Some(w) => Caller::of(w, to.ip()),
        None => Caller { address: from.address, node: None },
    };
    let hop = match route::resolve(world, &caller, to, 0, steps) {
        Ok(hop) => hop,
        Err(Reason::UnknownDestination) => return neither(),
        Err(reason) => return refused(None, reason),
    };
    if !hop.workload.as_ref().is_some_and(|w| world.is_enrolled(w)) {
        return neither();
    }
    if hop.target != to {
        steps.say(Stage::Route, None, || format!("{to} is {}", hop.target));
    }
    steps.say(Stage::Capture, None, || {
        "it arrives in plaintext and the destination's node hands it to the tunnel".into()
    });
    arrive(world, Way::Plaintext, from, None, &hop, steps)
}

fn arrive(
    world: &World,
    way: Way,
    from: &Source,
    identity: Option<&Identity>,
    hop: &Hop,
    steps: &mut Vec<Step>,
) -> (Way, Verdict, String) {
    match judge(world, from, identity, hop, steps) {
        Verdict::Deny { policy, reason } => (way, Verdict::Deny { policy, reason: reason.clone() }, reason.to_string()),
        Verdict::Allow { policy } => {
            let reason = match &policy {
                Some(p) => format!("allowed by {p}"),
                None => "no policy forbids it".to_owned(),
            };
            (way, Verdict::Allow { policy }, reason)
        }
    }
}

fn judge(world: &World, from: &Source, identity: Option<&Identity>, hop: &Hop, steps: &mut Vec<Step>) -> Verdict {
    // A plan without a workload is never HBONE, so nobody judges it.
    let Some(workload) = &hop.workload else {
        return Verdict::Allow { policy: None };
    };
    let peer = Peer { address: from.address, identity };
    let request = Request { peer, workload, address: hop.target.ip(), port: hop.target.port() };
    admit(world, &request, steps)
}

/// Which endpoint a connection meets is a matter of dice; where the answer depends on it, say so.
fn note_differences(
    world: &World,
    from: &Source,
    source: &Workload,
    identity: &Identity,
    to: SocketAddr,
    steps: &mut Vec<Step>,
) {
    let verdicts: Vec<_> = (route::plans(world, source, to).into_iter())
        .map(|plan| match plan {
            Plan::Hbone { hop, .. } => {
                let allowed = judge(world, from, Some(identity), &hop, &mut Vec::new()).is_allow();
                (hop.target, if allowed { "allow" } else { "deny" })
            }
            Plan::Plain { hop } => (hop.target, "plaintext"),
            Plan::Refuse { .. } => (to, "refused"),
        })
        .collect();
    if verdicts.windows(2).any(|w| matches!(w, [a, b] if a.1 != b.1)) {
        let list: Vec<_> = verdicts.iter().map(|(target, v)| format!("{target}: {v}")).collect();
        steps.say(Stage::Route, None, || format!("the endpoints differ; the first is explained ({})", list.join(", ")));
    }
}

fn refused(policy: Option<ObjectName>, reason: Reason) -> (Way, Verdict, String) {
    let says = reason.to_string();
    (Way::Refused, Verdict::Deny { policy, reason }, says)
}

fn split_port(text: &str) -> Result<(&str, u16), Unknown> {
    let bad = || Unknown::Port(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(bad)?,
        None if host.contains(':') => return Err(bad()),
        None => host,
    };
    Ok((host, port))
}

fn find_source(world: &World, text: &str) -> Result<Source, Unknown> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(Source { address, workload: world.workload_at(address).cloned() });
    }
    let name = text.split_once('/').map(|(ns, name)| ObjectName::new(ns, name));
    let workload = name.and_then(|n| world.workload(&n)).ok_or_else(|| Unknown::Source(text.to_owned()))?;
    let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, workload.name.clone()));
    let address = *workload.addresses.first().ok_or_else(no_address)?;
    Ok(Source { address, workload: Some(Arc::clone(workload)) })
}

/// The address to connect to, of the family that the source has where there is a choice.
fn find_destination(world: &World, text: &str, namespace: &str, from: IpAddr) -> Result<IpAddr, Unknown> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    let unknown = || Unknown::Destination(text.to_owned());
    let service = match text.split_once('/') {
        Some((ns, name)) => {
            let name = ObjectName::new(ns, name);
            if let Some(w) = world.workload(&name) {
                let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, name.clone()));
                return like(&w.addresses, from).ok_or_else(no_address);
            }
            world.service(&name)
        }
        None => service_name(world, text, namespace).and_then(|name| world.service(&name)),
    };
    vip(service.ok_or_else(unknown)?, from)
}

/// One of the addresses, of the same family where there is a choice.
fn like(all: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    all.iter().find(|a| a.is_ipv4() == other.is_ipv4()).or(all.first()).copied()
}

fn vip(service: &Service, from: IpAddr) -> Result<IpAddr, Unknown> {
    let key = || ObjectKey::new(Kind::Service, service.name.clone());
    match &service.external_name {
        Some(name) => Err(Unknown::ExternalName { service: key(), name: Arc::clone(name) }),
        None => like(&service.vips, from).ok_or_else(|| Unknown::Headless(key())),
    }
}

/// `reviews`, `reviews.default`, `reviews.default.svc`, `reviews.default.svc.cluster.local`.
fn service_name(world: &World, host: &str, namespace: &str) -> Option<ObjectName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let suffix = format!(".svc.{}", world.settings().cluster_domain);
    let short = host.strip_suffix(&suffix).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    match short.split_once('.') {
        None if short == host => Some(ObjectName::new(namespace, short)),
        None => None,
        Some((_, ns)) if ns.contains('.') => None,
        Some((name, ns)) => Some(ObjectName::new(ns, name)),
    }
}

fn name_of(world: &World, ip: IpAddr) -> String {
    match world.addressed(ip) {
        Addressed::Workload(w) => format!("pod {} ({ip})", w.name),
        Addressed::Service(s) => format!("service {} ({ip})", world.hostname(&s.name)),
        Addressed::Ambiguous(_) => format!("{ip} (claimed more than once)"),
        Addressed::Unknown => format!("{ip}"),
    }
}

#[cfg(test)]
mod tests;
