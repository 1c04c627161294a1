//! The part of an explanation that is about a request: its route, the cluster and endpoints that this leads to, time and
//! retries, and the object behind each. What it says a waypoint would do; none is there yet to do it, which it says too.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Explanation, Known, Unknown, explain, find_called, find_source, split_port};
use crate::{
    Kind, ObjectKey, ObjectName, World,
    http::{self, Action, Cluster, ClusterEndpoint, ClusterKey, Clusters, Dice, Forward, RequestHead, Rule, Source},
    resolve::Sources,
    trace::{Stage, Step, Trace as _},
    world::{Addressed, Service, Workload},
};

/// The most endpoints that are listed.
const MOST_LISTED: usize = 16;
const UNENFORCED: &str = "no waypoint enforces this yet: the connection goes as the stages above say";

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
    /// `forward`, `redirect`, `respond`, or `not-found`.
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
    /// The limit of the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
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
    let headers: Vec<_> = asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let labels = from.workload.as_ref().and_then(|w| sources.pod(&w.name)).map(|pod| &pod.labels);
    let head = RequestHead {
        method: &asked.method,
        scheme: "http",
        authority: asked.authority.as_deref().unwrap_or(destination),
        path: &asked.path,
        headers: &headers,
        port,
        source: Source { namespace: from.workload.as_ref().map(|w| w.name.namespace()), labels },
    };
    let asking = Asking { world, sources, service, is_ipv4: called.address.is_ipv4() };
    explanation.http = Some(asking.answer(&head, &mut explanation.steps));
    Ok(explanation)
}

struct Asking<'a> {
    world: &'a World,
    sources: &'a Sources,
    service: &'a Service,
    is_ipv4: bool,
}

impl Asking<'_> {
    fn answer(&self, head: &RequestHead<'_>, steps: &mut Vec<Step>) -> HttpAnswer {
        let compiled = http::compile(self.world, self.sources, self.service, head.port);
        // As of a connection the first outcome is explained; a step names all.
        let decision = http::route(&compiled.routes, head, Dice(0), steps);
        let mut answer = HttpAnswer::default();
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
                answer.endpoints = self.cluster(&compiled.clusters, key, &mut answer, steps);
                let others = decision.rule.into_iter().flat_map(Rule::targets);
                for (other, _) in others.filter(|(other, weight)| *weight > 0 && *other != key) {
                    self.cluster(&compiled.clusters, other, &mut answer, steps);
                }
                way(decision.rule, forward, head, &mut answer, steps);
            }
        }
        steps.say(Stage::Http, None, || UNENFORCED.to_owned());
        answer
    }

    fn cluster(
        &self,
        clusters: &Clusters,
        key: &ClusterKey,
        answer: &mut HttpAnswer,
        steps: &mut Vec<Step>,
    ) -> Vec<String> {
        let Some(cluster) = clusters.get(key) else { return Vec::new() };
        let labels = |w: &Workload| self.sources.pod(&w.name).map(|pod| &pod.labels);
        let endpoints = cluster.endpoints(self.world, key.port, self.is_ipv4, labels);
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
        endpoints
    }
}

impl HttpAnswer {
    fn add(&mut self, object: ObjectKey, field: String) {
        let behind = Behind { object, field, place: None };
        if !self.objects.contains(&behind) {
            self.objects.push(behind);
        }
    }
}

fn destination_rule(name: &ObjectName) -> ObjectKey {
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

fn endpoint(endpoint: &ClusterEndpoint<'_>) -> String {
    let target: SocketAddr = endpoint.target;
    if endpoint.workload.is_pod() { format!("{target} ({})", endpoint.workload.name) } else { target.to_string() }
}
