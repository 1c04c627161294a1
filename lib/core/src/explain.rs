//! `underpass explain SOURCE DESTINATION:PORT`: the fate of a connection, step by step, and the object that decides it.
//! It runs the functions that connections run, with a recorder; it decides nothing itself.

mod balance;
mod cluster;
mod gates;
mod http;
mod resolve;
mod tcp;
mod untouched;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    Kind, ObjectKey, ObjectName, Reason, World,
    admit::admit,
    authz::{self, Peer, Request, Verdict, Via},
    capture::{self, Capture},
    resolve::Sources,
    route::{self, Caller, Destination, Hop, HopKind, Plan},
    trace::{Stage, Step, Trace as _},
    world::{TargetPort, Workload},
};

use self::resolve::{CalledAddress, Source, find_called, find_source, name_of, split_port};
pub use self::{
    gates::Gate,
    http::{Asked, HttpAnswer, explain_request},
    resolve::{Suggestions, Unknown},
    tcp::{TcpAnswer, explain_connection},
};

/// The path of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// As without a mesh: not captured.
    Untouched,
    /// Through the tunnel, mutual TLS between the nodes.
    Hbone,
    /// Plain, through the source's tunnel to an endpoint outside the mesh.
    Passthrough,
    /// Plain, into the destination's tunnel.
    Plaintext,
    /// None: it is refused.
    Refused,
}

/// The verdict, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The connection reaches the application, as far as the mesh is concerned.
    Allow,
    /// It is refused.
    Deny,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The source, as resolved.
    pub source: String,
    /// The destination, as resolved.
    pub destination: String,
    /// How the connection is carried.
    pub path: Path,
    /// Whether it reaches the application.
    pub verdict: Answer,
    /// The policy that decided, if one did.
    pub policy: Option<ObjectName>,
    /// The reason of a refusal, or what allowed it.
    pub reason: String,
    /// The steps of the decision, in order.
    pub steps: Vec<Step>,
    /// What a waypoint would do with the request that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAnswer>,
    /// What a waypoint would do with the connection, where a route is for what is no HTTP, or a server name was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpAnswer>,
}

/// A field that the answer follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The object.
    pub object: ObjectKey,
    /// The field.
    pub field: String,
    /// File and line, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// Of the call of a pod's own address, or of one that is unknown.
const NO_SERVICE: &str = "routes are of Services: the call of an address follows none";

/// The facts, and the objects behind them if available. Only objects have what nodes and DNS decide by: node ports,
/// addresses of nodes, names of pods below a service.
#[derive(Clone, Copy)]
struct Known<'w> {
    world: &'w World,
    sources: Option<&'w Sources>,
}

/// Explains the connection from `source` (namespace/pod or an address) to `destination` (namespace/pod, a service's
/// name or host, or an address, each with `:port`). Without `sources` it is answered from the facts alone: node ports
/// are not known then, nor names of pods below a service.
///
/// # Errors
/// If one of the two is unknown.
pub fn explain(
    world: &World,
    sources: Option<&Sources>,
    source: &str,
    destination: &str,
) -> Result<Explanation, Unknown> {
    let known = Known { world, sources };
    let mut steps = Vec::new();
    let (host, port) = split_port(destination)?;
    let from = find_source(world, source)?;
    let namespace = from.workload.as_ref().map_or("default", |w| w.name.namespace());
    let called = find_called(known, host, namespace, from.address)?;
    let to = SocketAddr::new(called.address, port);
    let toward = from.toward(to.ip());
    let from = toward.as_ref().unwrap_or(&from);
    steps.say(Stage::Resolve, None, || format!("source is {}", from.name(world)));
    steps.say(Stage::Resolve, None, || format!("destination is {}, port {port}", name_of(world, to.ip())));
    let (path, verdict, reason) = match &toward {
        Some(from) => {
            note_endpoints(known, from, &called, port, &mut steps);
            follow(known, from, to, &mut steps)
        }
        None => no_family(to, &mut steps),
    };
    Ok(Explanation {
        source: from.name(world),
        destination: format!("{} port {port}", name_of(world, to.ip())),
        path,
        verdict: if verdict.is_allow() { Answer::Allow } else { Answer::Deny },
        policy: verdict.policy().cloned(),
        reason,
        steps,
        http: None,
        tcp: None,
    })
}

/// Path, verdict and reason.
type Answered = (Path, Verdict, String);

fn follow(known: Known<'_>, from: &Source, to: SocketAddr, steps: &mut Vec<Step>) -> Answered {
    let world = known.world;
    let Some(source) = &from.workload else {
        steps.say(Stage::Capture, None, || {
            format!("{} is not a pod known to the mesh: its connections are not captured", from.address)
        });
        return from_outside(known, from, to, steps);
    };
    match capture::decide(world, source, to.ip(), steps) {
        Capture::Refuse(reason) => refused(None, reason),
        Capture::Tunnel => through_tunnel(world, from, source, to, steps),
        Capture::Leave(capture::LeaveReason::SourceNotEnrolled) => from_outside(known, from, to, steps),
        Capture::Leave(capture::LeaveReason::DestinationNotEnrolled) => {
            untouched::left_alone(known, from, &Caller::of(source, to.ip()), to, steps).unwrap_or_else(not_touched)
        }
        Capture::Leave(capture::LeaveReason::Itself) => not_touched(),
    }
}

fn not_touched() -> Answered {
    (Path::Untouched, Verdict::Allow { policy: None }, "the mesh does not touch this connection".into())
}

/// A socket of one family reaches nothing of the other.
fn no_family(to: SocketAddr, steps: &mut Vec<Step>) -> Answered {
    let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
    steps.say(Stage::Resolve, None, || format!("the source has no {family} address: it cannot connect to {to}"));
    refused(None, Reason::Unreachable)
}

/// A headless service has no address: its callers get those of all its endpoints, and choose one themselves.
fn note_endpoints(known: Known<'_>, from: &Source, called: &CalledAddress, port: u16, steps: &mut Vec<Step>) {
    let Some((service, others)) = &called.headless else { return };
    let key = ObjectKey::new(Kind::Service, service.name.clone());
    let first = called.address;
    steps.say(Stage::Resolve, Some(&key), || match others.len() {
        0 => format!("headless: its callers connect to its endpoint, {first}"),
        n => format!("headless: its callers connect to one of its {} endpoints; {first} is explained", n + 1),
    });
    if service.port(port).is_some_and(|p| p.target != TargetPort::Number(port)) {
        steps.say(Stage::Resolve, Some(&key), || {
            format!("ports of a headless service are not translated: port {port} of the pod is called")
        });
    }
    let verdict = |ip: &IpAddr| {
        let to = SocketAddr::new(*ip, port);
        let (.., verdict, _) = from
            .toward(*ip)
            .map_or_else(|| no_family(to, &mut Vec::new()), |from| follow(known, &from, to, &mut Vec::new()));
        if verdict.is_allow() { "allow" } else { "deny" }
    };
    let all: Vec<_> = std::iter::once(&first).chain(others).map(|ip| (ip, verdict(ip))).collect();
    if all.windows(2).any(|w| matches!(w, [a, b] if a.1 != b.1)) {
        let list: Vec<_> = all.iter().map(|(ip, verdict)| format!("{ip}: {verdict}")).collect();
        steps.say(Stage::Resolve, Some(&key), || format!("the verdict depends on the endpoint ({})", list.join(", ")));
    }
}

fn through_tunnel(world: &World, from: &Source, source: &Workload, to: SocketAddr, steps: &mut Vec<Step>) -> Answered {
    match route::plan(world, source, to, 0, steps) {
        Plan::Refuse { reason, .. } => refused(None, reason),
        Plan::Plain { destination } => {
            if let Some(denied) = untouched::sidecar_refuses(world, from, Path::Passthrough, &destination, steps) {
                return denied;
            }
            let says = format!("{} is reached in plaintext: no policy is evaluated", destination.target);
            (Path::Passthrough, Verdict::Allow { policy: None }, says)
        }
        Plan::Hbone { hop, .. } if hop.kind == HopKind::Waypoint => {
            beyond_waypoint(world, Peer::itself(from.address, world.identity(source)), source, to, &hop, steps)
        }
        Plan::Hbone { destination, .. } => {
            let peer = Peer::itself(from.address, world.identity(source));
            note_differences(world, peer, source, to, steps);
            arrive(world, Path::Hbone, peer, &destination, steps)
        }
    }
}

/// The waypoint judges requests and chooses the endpoint, which is not said here; the endpoint's node judges the source
/// that the waypoint names, if it believes it.
fn beyond_waypoint(
    world: &World,
    source: Peer<'_>,
    caller: &Workload,
    to: SocketAddr,
    hop: &Hop,
    steps: &mut Vec<Step>,
) -> Answered {
    let chosen = route::resolve(world, &Caller::of(caller, to.ip()), to, 0, steps);
    let destination = match chosen {
        Ok(destination) => destination,
        Err(reason) => {
            let says = format!("{reason}: by the waypoint");
            return (Path::Hbone, Verdict::Deny { policy: None, reason }, says);
        }
    };
    let target = destination.target;
    let Some(workload) = destination.workload.as_ref().filter(|w| w.is_enrolled()) else {
        let says = format!("the waypoint carries it on to {target}, which is not in the mesh");
        return (Path::Hbone, Verdict::Allow { policy: None }, says);
    };
    steps.say(Stage::Route, None, || {
        format!("the waypoint judges requests and chooses the endpoint: {target} is explained")
    });
    let address = hop.address.ip();
    let believed = hop.identities.iter().find(|identity| world.speaks_for_callers_of(identity, workload));
    let peer = match believed {
        Some(identity) => Peer { via: Some(Via { address, identity }), ..source },
        None => Peer::itself(address, hop.identities.iter().next()),
    };
    steps.say(Stage::Authorization, None, || match (&peer.via, peer.identity) {
        (Some(via), Some(source)) => format!("{} is believed to name its source: {source} is judged", via.identity),
        (_, Some(waypoint)) => format!("{waypoint} is not believed to name its source, and is judged itself"),
        (_, None) => format!("{address} is judged"),
    });
    arrive(world, Path::Hbone, peer, &destination, steps)
}

/// From a pod or host outside the mesh: kube-proxy, where there is one, translates a VIP; then the destination's node
/// judges.
fn from_outside(known: Known<'_>, from: &Source, to: SocketAddr, steps: &mut Vec<Step>) -> Answered {
    let world = known.world;
    let neither = || (Path::Untouched, Verdict::Allow { policy: None }, "neither end is in the mesh".to_owned());
    let caller = match &from.workload {
        Some(w) => Caller::of(w, to.ip()),
        None => Caller { address: from.address, node: None, locality: None },
    };
    let destination = match route::resolve(world, &caller, to, 0, steps) {
        Ok(destination) => destination,
        Err(reason) => return refused(None, reason),
    };
    if !destination.workload.as_ref().is_some_and(|w| w.is_enrolled()) {
        return untouched::left_alone(known, from, &caller, to, steps).unwrap_or_else(neither);
    }
    if destination.target != to {
        steps.say(Stage::Route, None, || format!("{to} leads to {}", destination.target));
    }
    steps.say(Stage::Capture, None, || {
        "the connection arrives in plaintext, and the destination's node hands it to the tunnel".into()
    });
    arrive(world, Path::Plaintext, Peer::itself(from.address, None), &destination, steps)
}

fn arrive(world: &World, path: Path, peer: Peer<'_>, destination: &Destination, steps: &mut Vec<Step>) -> Answered {
    match judge(world, peer, destination, steps) {
        Verdict::Deny { policy, reason } => {
            (path, Verdict::Deny { policy, reason: reason.clone() }, reason.to_string())
        }
        Verdict::Allow { policy } => {
            let reason = match &policy {
                Some(p) => format!("allowed by {p}"),
                None => "no policy forbids it".to_owned(),
            };
            (path, Verdict::Allow { policy }, reason)
        }
    }
}

fn judge(world: &World, peer: Peer<'_>, destination: &Destination, steps: &mut Vec<Step>) -> Verdict {
    // A plan without a workload is never HBONE: no policy is evaluated.
    let Some(workload) = &destination.workload else {
        return Verdict::Allow { policy: None };
    };
    let request = Request { peer, workload, address: destination.target.ip(), port: destination.target.port() };
    let verdict = admit(world, &request, steps);
    for policy in authz::dry_run_denials(world, &request) {
        let key = ObjectKey::new(Kind::AuthorizationPolicy, policy);
        steps.say(Stage::Authorization, Some(&key), || "dry run: it would be denied".to_owned());
    }
    verdict
}

/// The endpoint of a connection is chosen at random: a step says so where the verdict depends on it.
fn note_differences(world: &World, peer: Peer<'_>, source: &Workload, to: SocketAddr, steps: &mut Vec<Step>) {
    let verdicts: Vec<_> = (route::plans(world, source, to).into_iter())
        .map(|plan| match plan {
            Plan::Hbone { destination, .. } => {
                let allowed = judge(world, peer, &destination, &mut Vec::new()).is_allow();
                (destination.target, if allowed { "allow" } else { "deny" })
            }
            Plan::Plain { destination } => (destination.target, "plaintext"),
            Plan::Refuse { .. } => (to, "refused"),
        })
        .collect();
    if verdicts.windows(2).any(|w| matches!(w, [a, b] if a.1 != b.1)) {
        let list: Vec<_> = verdicts.iter().map(|(target, v)| format!("{target}: {v}")).collect();
        steps.say(Stage::Route, None, || {
            format!("the verdict depends on the endpoint; the first is explained ({})", list.join(", "))
        });
    }
}

fn refused(policy: Option<ObjectName>, reason: Reason) -> Answered {
    let says = reason.to_string();
    (Path::Refused, Verdict::Deny { policy, reason }, says)
}

#[cfg(test)]
mod tests;
