//! The part of an explanation that is about a request: its route, the cluster and endpoints that this leads to, time and
//! retries, and the object behind each. What it says a waypoint does.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    Answer, Behind, Explanation, NO_SERVICE, Unknown, balance,
    cluster::{Looking, is_enforced},
    explain,
    gates::{Gate, Gates},
    resolve::Call,
};
use crate::{
    World,
    authz::{HttpRequest, Peer},
    http::{self, Action, Dice, Forward, RequestHead, Rule, Source},
    resolve::Sources,
    trace::{Stage, Step, Trace as _},
    world::Service,
};

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `:method`.
    pub method: String,
    /// `:path`, with its query.
    pub path: String,
    /// `:authority`; none: the destination as it is written.
    pub authority: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What a waypoint would do with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// `forward`, `redirect`, `respond`, `not-found`; `deny`: a gate does not let it pass; `refuse`: its path cannot be read.
    pub action: String,
    /// The status of an answer without an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
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
    /// The one that is, where the request decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The limit of the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
    /// The verdicts of the policies that it has to pass, each by itself.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// The objects behind it.
    pub objects: Vec<Behind>,
    /// A waypoint does so.
    pub enforced: bool,
}

/// Explains a connection as [`explain`] does, and a request over it.
///
/// # Errors
/// If source or destination is unknown.
pub fn explain_request(
    world: &World,
    sources: &Sources,
    source: &str,
    destination: &str,
    asked: &Asked,
) -> Result<Explanation, Unknown> {
    let mut explanation = explain(world, Some(sources), source, destination)?;
    let called = Call::find(world, sources, source, destination)?;
    let (from, port) = (&called.from, called.port);
    let Some(service) = &called.service else {
        explanation.steps.say(Stage::Http, None, || NO_SERVICE.into());
        return Ok(explanation);
    };
    let Some(protocol) = service.port(port).map(|port| port.protocol) else { return Ok(explanation) };
    if let Some(carries) = protocol.as_str().filter(|_| !protocol.is_http()) {
        return Err(Unknown::NotHttp { service: service.name.clone(), port, carries });
    }
    let path = match http::normalize(&asked.path, world.settings().path_normalization) {
        Ok(path) => path,
        Err(why) => {
            explanation.steps.say(Stage::Http, None, || format!("{}: {why}: 400", asked.path));
            let (action, status) = ("refuse".into(), Some(400));
            explanation.http = Some(HttpAnswer { action, status, ..HttpAnswer::default() });
            return Ok(explanation);
        }
    };
    let headers: Vec<_> = asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let labels = from.workload.as_ref().and_then(|w| sources.pod(&w.name)).map(|pod| &pod.labels);
    let head = RequestHead {
        method: &asked.method,
        scheme: "http",
        authority: asked.authority.as_deref().unwrap_or(destination),
        path: &path,
        headers: &headers,
        port,
        source: Source { namespace: from.workload.as_ref().map(|w| w.name.namespace()), labels },
    };
    let toward = from.toward(called.address);
    let source = toward.as_ref().unwrap_or(from);
    let identity = source.workload.as_ref().filter(|w| w.is_enrolled()).and_then(|w| world.identity(w));
    let request = HttpRequest { source: Peer::itself(source.address, identity), head, token: None, allowed_by: &[] };
    let gates = Gates { world, service, called: SocketAddr::new(called.address, port), request };
    let caller = balance::Caller::of(from, called.address, labels);
    let is_ipv4 = called.address.is_ipv4();
    let looking = Looking { world, sources, is_ipv4, caller, stage: Stage::Http };
    let asking = Asking { looking, service, gates };
    let answer = asking.answer(&head, &mut explanation.steps);
    // A waypoint judges what passes it; where none stands, the connection's verdict is the whole truth.
    if let Some(gate) = answer.denying().filter(|_| answer.enforced && explanation.verdict == Answer::Allow) {
        explanation.verdict = Answer::Deny;
        explanation.policy.clone_from(&gate.policy);
        explanation.reason = format!("the request is answered 403 by policy at the {}", gate.gate);
    }
    explanation.http = Some(answer);
    Ok(explanation)
}

struct Asking<'a> {
    looking: Looking<'a>,
    service: &'a Service,
    gates: Gates<'a>,
}

impl Asking<'_> {
    fn answer(&self, head: &RequestHead<'_>, steps: &mut Vec<Step>) -> HttpAnswer {
        let at_waypoint = self.gates.at_waypoint(steps);
        let compiled = http::compile(self.looking.world, self.looking.sources, self.service, head.port);
        // As of a connection the first outcome is explained; a step names all.
        let decision = http::route(&compiled.routes, head, Dice(0), steps);
        let mut answer = HttpAnswer { gates: vec![at_waypoint], ..HttpAnswer::default() };
        answer.objects.extend(decision.rule.into_iter().flat_map(places));
        match &decision.action {
            Action::NotFound => (answer.action, answer.status) = ("not-found".into(), Some(404)),
            Action::Redirect { status, location, .. } => {
                let object = decision.rule.map(|rule| rule.place.object());
                steps.say(Stage::Http, object.as_ref(), || format!("it is redirected: {status} to {location}"));
                (answer.action, answer.status) = ("redirect".into(), Some(*status));
            }
            Action::Respond(respond) => {
                let object = decision.rule.map(|rule| rule.place.object());
                steps.say(Stage::Http, object.as_ref(), || {
                    format!("it is answered without an endpoint: {}", respond.status)
                });
                (answer.action, answer.status) = ("respond".into(), Some(respond.status));
            }
            Action::Forward(forward) => {
                let key = forward.cluster;
                answer.action = "forward".into();
                answer.cluster = Some(key.to_string());
                answer.subset = key.subset.as_deref().map(str::to_owned);
                let mut look =
                    |key| self.looking.cluster(&compiled.clusters, key, Some(head), &mut answer.objects, steps);
                let chosen = look(key);
                let others = decision.rule.into_iter().flat_map(Rule::targets);
                for (other, _) in others.filter(|(other, weight)| *weight > 0 && *other != key) {
                    look(other);
                }
                (answer.endpoints, answer.balancing, answer.endpoint) = (chosen.all, chosen.balancing, chosen.one);
                way(decision.rule, forward, head, &mut answer, steps);
                let endpoints = self.looking.endpoints(&compiled.clusters, key);
                answer.gates.extend(self.gates.at_endpoints(&endpoints, steps));
            }
        }
        if let Some(gate) = answer.denying() {
            let at = gate.endpoint.map_or_else(|| "the waypoint".to_owned(), |target| target.to_string());
            steps.say(Stage::Authorization, None, || format!("at {at}: the request is denied: 403"));
            (answer.action, answer.status) = ("deny".into(), Some(403));
        }
        answer.enforced = is_enforced(self.service, Stage::Http, steps);
        answer
    }
}

impl HttpAnswer {
    /// The first gate that the request does not pass.
    fn denying(&self) -> Option<&Gate> {
        self.gates.iter().find(|gate| gate.verdict == Answer::Deny)
    }
}

/// Time, retries, and what is changed on the way.
fn way(
    rule: Option<&Rule>,
    forward: &Forward<'_>,
    head: &RequestHead<'_>,
    answer: &mut HttpAnswer,
    steps: &mut Vec<Step>,
) {
    let object = rule.map(|rule| rule.place.object());
    let retries = forward.retry.map_or_else(|| "no retries".to_owned(), http::RetryPolicy::words);
    answer.timeout = forward.timeout.map(|timeout| format!("{timeout:?}"));
    let timeout = answer.timeout.as_ref().map_or_else(|| "no timeout".to_owned(), |t| format!("timeout {t}"));
    steps.say(Stage::Http, object.as_ref(), || format!("{timeout}; {retries}"));
    answer.retries = Some(retries);
    if let Some(path) = &forward.path {
        steps.say(Stage::Http, object.as_ref(), || format!("the path {} becomes {path}", head.path));
    }
    if let Some(authority) = forward.authority {
        steps.say(Stage::Http, object.as_ref(), || format!("the authority becomes {authority}"));
    }
    for operations in &forward.headers {
        steps.say(Stage::Http, object.as_ref(), || operations.words());
    }
    for mirror in &forward.mirrors {
        steps.say(Stage::Http, object.as_ref(), || format!("{mirror} gets a copy"));
    }
}

/// Where a rule stands, and where what leads to it.
fn places(rule: &Rule) -> impl Iterator<Item = Behind> {
    let all = [Some(&rule.place), rule.through.as_ref()].into_iter().flatten();
    all.map(|place| Behind { object: place.object(), field: place.to_string(), place: None })
        .collect::<Vec<_>>()
        .into_iter()
}
