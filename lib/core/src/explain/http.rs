//! The part of an explanation that is about a request: its route, the cluster and endpoints that this leads to, time and
//! retries, and the object behind each. What it says a waypoint does; and where none stands before the Service, it says that too.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    Answer, Explanation, Known, Unknown, balance, explain, find_called, find_source,
    gates::{Gate, Gates},
    split_port,
};
use crate::{
    Kind, ObjectKey, ObjectName, World,
    authz::{HttpRequest, Peer},
    http::{self, Action, Cluster, ClusterEndpoint, ClusterKey, Clusters, Dice, Forward, RequestHead, Rule, Source},
    resolve::Sources,
    trace::{Stage, Step, Trace as _},
    world::{Addressed, Service, WaypointAt, Workload},
};

/// The most endpoints that are listed.
const MOST_LISTED: usize = 16;

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
    let (host, port) = split_port(destination)?;
    let from = find_source(world, source)?;
    let namespace = from.workload.as_ref().map_or("default", |w| w.name.namespace());
    let called = find_called(Known { world, sources: Some(sources) }, host, namespace, from.address)?;
    let service = match (&called.headless, world.addressed(called.address)) {
        (Some((service, _)), _) | (None, Addressed::Service(service)) => service,
        (None, _) => {
            explanation
                .steps
                .say(Stage::Http, None, || "routes are of Services: the call of an address follows none".into());
            return Ok(explanation);
        }
    };
    if service.port(port).is_none() {
        return Ok(explanation);
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
    let source = toward.as_ref().unwrap_or(&from);
    let identity = source.workload.as_ref().filter(|w| w.is_enrolled()).and_then(|w| world.identity(w));
    let request = HttpRequest { source: Peer::itself(source.address, identity), head, token: None, allowed_by: &[] };
    let gates = Gates { world, service, called: SocketAddr::new(called.address, port), request };
    let caller = balance::Caller::of(&from, called.address, labels);
    let asking = Asking { world, sources, service, is_ipv4: called.address.is_ipv4(), caller, gates };
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
    world: &'a World,
    sources: &'a Sources,
    service: &'a Service,
    is_ipv4: bool,
    gates: Gates<'a>,
    caller: balance::Caller,
}

impl Asking<'_> {
    fn answer(&self, head: &RequestHead<'_>, steps: &mut Vec<Step>) -> HttpAnswer {
        let at_waypoint = self.gates.at_waypoint(steps);
        let compiled = http::compile(self.world, self.sources, self.service, head.port);
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
                answer.endpoints = self.cluster(&compiled.clusters, key, head, &mut answer, steps);
                let others = decision.rule.into_iter().flat_map(Rule::targets);
                for (other, _) in others.filter(|(other, weight)| *weight > 0 && *other != key) {
                    self.cluster(&compiled.clusters, other, head, &mut answer, steps);
                }
                way(decision.rule, forward, head, &mut answer, steps);
                let endpoints = self.endpoints(&compiled.clusters, key);
                answer.gates.extend(self.gates.at_endpoints(&endpoints, steps));
            }
        }
        if let Some(gate) = answer.denying() {
            let at = gate.endpoint.map_or_else(|| "the waypoint".to_owned(), |target| target.to_string());
            steps.say(Stage::Authorization, None, || format!("at {at}: the request is denied: 403"));
            (answer.action, answer.status) = ("deny".into(), Some(403));
        }
        answer.enforced = self.is_enforced(steps);
        answer
    }

    /// Whether a waypoint does all of this.
    fn is_enforced(&self, steps: &mut Vec<Step>) -> bool {
        let name = &self.service.name;
        let (is_enforced, says) = match self.service.waypoint.as_ref().map(|waypoint| &waypoint.at) {
            Some(WaypointAt::Missing(gateway)) => {
                (false, format!("waypoint {gateway} is missing: nothing of this happens"))
            }
            Some(WaypointAt::Service(gateway)) => (true, format!("waypoint {gateway} does this")),
            Some(WaypointAt::Address(..)) => (true, "the waypoint does this".to_owned()),
            None => (
                false,
                format!("no waypoint stands before Service {name}: the connection goes as the stages above say"),
            ),
        };
        steps.say(Stage::Http, None, || says);
        is_enforced
    }

    fn endpoints(&self, clusters: &Clusters, key: &ClusterKey) -> Vec<ClusterEndpoint<'_>> {
        let labels = |w: &Workload| self.sources.pod(&w.name).map(|pod| &pod.labels);
        let of = |cluster: &Cluster| cluster.endpoints(self.world, key.port, self.is_ipv4, labels);
        clusters.get(key).map_or_else(Vec::new, of)
    }

    fn cluster(
        &self,
        clusters: &Clusters,
        key: &ClusterKey,
        head: &RequestHead<'_>,
        answer: &mut HttpAnswer,
        steps: &mut Vec<Step>,
    ) -> Vec<String> {
        let Some(cluster) = clusters.get(key) else { return Vec::new() };
        let labels = |w: &Workload| self.sources.pod(&w.name).map(|pod| &pod.labels);
        let endpoints = self.endpoints(clusters, key);
        let balanced = balance::balanced(self.world, cluster, &endpoints, labels, &self.caller, head);
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        let object = cluster.defined_by.as_ref().map(|(name, _)| destination_rule(name));
        if let Some((name, at)) = &cluster.defined_by {
            answer.add(destination_rule(name), format!("spec.subsets[{at}]"));
        }
        steps.say(Stage::Http, object.as_ref(), || format!("{key}: {}", says(cluster, &endpoints)));
        for level in &cluster.levels {
            let object = destination_rule(&level.rule);
            steps.say(Stage::Http, Some(&object), || format!("{}: {}", level.field, level.parts.join(", ")));
            answer.add(object, level.field.clone());
        }
        if let Some(balanced) = balanced {
            balanced.say(cluster, steps);
            if answer.cluster.as_deref() == Some(&*key.to_string()) {
                (answer.balancing, answer.endpoint) = (Some(balanced.by), balanced.endpoint);
            }
        }
        endpoints
    }
}

impl HttpAnswer {
    /// The first gate that the request does not pass.
    fn denying(&self) -> Option<&Gate> {
        self.gates.iter().find(|gate| gate.verdict == Answer::Deny)
    }

    fn add(&mut self, object: ObjectKey, field: String) {
        let behind = Behind { object, field, place: None };
        if !self.objects.contains(&behind) {
            self.objects.push(behind);
        }
    }
}

pub(super) fn destination_rule(name: &ObjectName) -> ObjectKey {
    ObjectKey::new(Kind::DestinationRule, name.clone())
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

fn says(cluster: &Cluster, endpoints: &[String]) -> String {
    if let Err(why) = &cluster.service {
        return format!("{why}: 503, response flag NR");
    }
    let labels: Vec<_> = cluster.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let with = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(",")) };
    let listed: Vec<_> = endpoints.iter().take(MOST_LISTED).map(String::as_str).collect();
    let more = match endpoints.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    match endpoints.len() {
        0 => format!("no ready endpoint{with}: 503, response flag UH"),
        1 => format!("1 endpoint{with}: {}", listed.join("")),
        n => format!("{n} endpoints{with}: {}{more}", listed.join(", ")),
    }
}

pub(super) fn endpoint(endpoint: &ClusterEndpoint<'_>) -> String {
    let target: SocketAddr = endpoint.target;
    if endpoint.workload.is_pod() { format!("{target} ({})", endpoint.workload.name) } else { target.to_string() }
}
