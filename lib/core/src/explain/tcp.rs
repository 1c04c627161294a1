//! The part of an explanation that is about a connection that is no HTTP: its route, the cluster and endpoints that this leads to, and
//! the object behind each. What it says a waypoint does.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    Answer, Behind, Explanation, NO_SERVICE, Unknown, balance,
    cluster::{Looking, is_enforced},
    explain,
    gates::{ConnectionGates, Gate},
    resolve::Call,
};
use crate::{
    World,
    authz::Peer,
    http::{self, ClusterKey, ConnectionHead, Dice, Source, TcpRule, TcpTarget, TcpWay},
    resolve::Sources,
    trace::{Stage, Step, Trace as _},
    world::{AppProtocol, Service},
};

/// What a waypoint would do with a connection that is no HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpAnswer {
    /// `forward`; `refuse`: no rule, backend or endpoint is for it; `deny`: a gate does not let it pass.
    pub action: String,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Its subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// Its endpoints, each with its pod.
    pub endpoints: Vec<String>,
    /// How one of them is chosen, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<String>,
    /// The one that is, where the connection decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The verdicts of the policies that it has to pass, each by itself.
    pub gates: Vec<Gate>,
    /// The objects behind it.
    pub objects: Vec<Behind>,
    /// A waypoint does so.
    pub enforced: bool,
}

/// Explains a connection as [`explain`] does, and its route, where there is one for what is no HTTP. `server_name` is the one that it
/// asks for by TLS.
///
/// # Errors
/// If source or destination is unknown, or a server name is given where none is read.
pub fn explain_connection(
    world: &World,
    sources: &Sources,
    source: &str,
    destination: &str,
    server_name: Option<&str>,
) -> Result<Explanation, Unknown> {
    let mut explanation = explain(world, Some(sources), source, destination)?;
    let call = Call::find(world, sources, source, destination)?;
    let Some(service) = &call.service else {
        if server_name.is_some() {
            explanation.steps.say(Stage::Tcp, None, || NO_SERVICE.into());
        }
        return Ok(explanation);
    };
    let Some(protocol) = service.port(call.port).map(|port| port.protocol) else { return Ok(explanation) };
    let reads_names = matches!(protocol, AppProtocol::Tls | AppProtocol::Unknown);
    if let (true, Some(carries)) = (server_name.is_some() && !reads_names, protocol.as_str()) {
        return Err(Unknown::NotTls { service: service.name.clone(), port: call.port, carries });
    }
    let compiled = http::compile(world, sources, service, call.port);
    if protocol.is_http() || (compiled.tcp.is_empty() && server_name.is_none()) {
        return Ok(explanation);
    }
    let name = server_name.map(str::to_ascii_lowercase);
    let asking = Asking { world, sources, call: &call, service, server_name: name.as_deref() };
    let (answer, refused) = asking.answer(&compiled, &mut explanation.steps);
    // A waypoint judges what passes it; where none stands, the connection's verdict is the whole truth.
    if answer.enforced && explanation.verdict == Answer::Allow {
        if let Some(gate) = answer.gates.iter().find(|gate| gate.verdict == Answer::Deny) {
            explanation.verdict = Answer::Deny;
            explanation.policy.clone_from(&gate.policy);
            explanation.reason = format!("the connection is refused by policy at the {}", gate.gate);
        } else if let Some(why) = refused {
            explanation.verdict = Answer::Deny;
            explanation.reason = format!("refused by the waypoint: {why}");
        }
    }
    explanation.tcp = Some(answer);
    Ok(explanation)
}

struct Asking<'a> {
    world: &'a World,
    sources: &'a Sources,
    call: &'a Call,
    service: &'a Service,
    server_name: Option<&'a str>,
}

impl Asking<'_> {
    /// What is done, and why it is refused.
    fn answer(&self, compiled: &http::Compiled, steps: &mut Vec<Step>) -> (TcpAnswer, Option<String>) {
        let Self { world, sources, call, service, server_name } = *self;
        let toward = call.from.toward(call.address);
        let from = toward.as_ref().unwrap_or(&call.from);
        let labels = from.workload.as_ref().and_then(|w| sources.pod(&w.name)).map(|pod| &pod.labels);
        let namespace = from.workload.as_ref().map(|w| w.name.namespace());
        let source = Source { namespace, labels };
        let head = ConnectionHead { called: call.address, client: from.address, server_name, source };
        let identity = from.workload.as_ref().filter(|w| w.is_enrolled()).and_then(|w| world.identity(w));
        let peer = Peer::itself(from.address, identity);
        let gates = ConnectionGates { world, service, called: SocketAddr::new(call.address, call.port), source: peer };
        let mut answer = TcpAnswer { gates: vec![gates.at_waypoint(steps)], ..TcpAnswer::default() };
        // As of other choices the first outcome is explained; a step names all.
        let way = compiled.tcp.find(&head, Dice(0));
        if let TcpWay::To(rule, _) | TcpWay::NoBackend(rule, _) = way {
            answer.objects.push(Behind { object: rule.object.clone(), field: rule.field(), place: None });
        }
        let key = led_to(way, compiled.routes.own_cluster(), steps);
        let mut refused = key.as_ref().err().cloned();
        if let Ok(key) = key {
            let is_ipv4 = call.address.is_ipv4();
            let caller = balance::Caller::of(from, call.address, labels);
            let looking = Looking { world, sources, is_ipv4, caller, stage: Stage::Tcp };
            let endpoints = looking.cluster(&compiled.clusters, key, None, &mut answer.objects, steps);
            if endpoints.all.is_empty() {
                refused = Some(format!("{key} has no endpoint"));
            }
            (answer.cluster, answer.subset) = (Some(key.to_string()), key.subset.as_deref().map(str::to_owned));
            (answer.endpoints, answer.balancing, answer.endpoint) = (endpoints.all, endpoints.balancing, endpoints.one);
            answer.gates.extend(gates.at_endpoint(&looking.endpoints(&compiled.clusters, key), steps));
        }
        let is_denied = answer.gates.iter().any(|gate| gate.verdict == Answer::Deny);
        answer.action = match refused {
            _ if is_denied => "deny".into(),
            None => "forward".into(),
            Some(_) => "refuse".into(),
        };
        answer.enforced = is_enforced(service, Stage::Tcp, steps);
        (answer, refused)
    }
}

/// The cluster, or why there is none.
fn led_to<'c>(way: TcpWay<'c>, own: &'c ClusterKey, steps: &mut Vec<Step>) -> Result<&'c ClusterKey, String> {
    match way {
        TcpWay::Own => {
            steps.say(Stage::Tcp, None, || "no route is for it: it goes to the Service itself".to_owned());
            Ok(own)
        }
        TcpWay::To(rule, key) => {
            say_rule(rule, Some(key), steps);
            Ok(key)
        }
        TcpWay::NoRule(object) => {
            let says = "no rule is for it".to_owned();
            steps.say(Stage::Tcp, Some(object), || format!("{says}: it is refused"));
            Err(says)
        }
        TcpWay::NoBackend(rule, why) => {
            say_rule(rule, None, steps);
            let says = why.map_or_else(|| "no backend has a weight".to_owned(), ToString::to_string);
            steps.say(Stage::Tcp, Some(&rule.object), || format!("{}: {says}: it is refused", rule.field()));
            Err(says)
        }
    }
}

/// The rule, and its targets where there are several.
fn say_rule(rule: &TcpRule, chosen: Option<&ClusterKey>, steps: &mut Vec<Step>) {
    steps.say(Stage::Tcp, Some(&rule.object), || format!("{} matches: {}", rule.field(), rule.words()));
    let total: u64 = rule.targets().iter().map(|target| u64::from(target.weight)).sum();
    if rule.targets().len() > 1 && total > 0 {
        let target = |target: &TcpTarget| match &target.cluster {
            Ok(key) => format!("{key} {}/{total}", target.weight),
            Err(why) => format!("{why} {}/{total}", target.weight),
        };
        let all: Vec<_> = rule.targets().iter().filter(|target| target.weight > 0).map(target).collect();
        let chosen = chosen.map_or_else(String::new, |key| format!(": {key}"));
        steps.say(Stage::Tcp, Some(&rule.object), || format!("by weight one of {}{chosen}", all.join(", ")));
    }
}

#[cfg(test)]
mod tests;
