//! The answers to the command `underpass`: the World for people, with the states that only this agent knows.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{Method, StatusCode};
use underpass_core::{ObjectName, Reason, connection, explain, resolve::Sources};
use underpass_door::Severity;
use underpass_keeper::Reports;
use underpass_telemetry::admin::{
    Request, Response, Router,
    view::{
        self, Behind, Certificate, ControlPlane, Gate, Party, PodCount, PodState, ProblemCount, RefusedHandshake,
        Roots, RunningWaypoint, Status,
    },
};
use underpass_xds::client::{Link, Progress};

use super::View;
use crate::{
    certs::{self, CertificateStatus},
    pods::PodStatus,
    waypoints::WaypointStatus,
};

/// Adds `GET /status`, `/workloads` (`?node=`: of one node), `/services`, `/policies`, `/config`, `/certificates`, `/roots`, `/connections/refused`,
/// `/explain?source=&destination=`, `/describe/pod?name=` and `/describe/service?name=`.
pub(super) fn routes(router: Router, view: &View) -> Router {
    let router = shown(router, "/status", view, |view, _| Response::json(&status(view)));
    let router = shown(router, "/workloads", view, |view, request| Response::json(&workloads(view, request)));
    let router = shown(router, "/services", view, |view, _| Response::json(&view::services(&view.world())));
    let router = shown(router, "/policies", view, |view, _| Response::json(&policies(view)));
    let router = shown(router, "/config", view, |view, _| Response::json(&view.settings.borrow().view()));
    let router = shown(router, "/certificates", view, |view, _| Response::json(&certificates(view)));
    let router = shown(router, "/roots", view, |view, _| Response::json(&roots(view)));
    let router = shown(router, "/connections/refused", view, |view, _| Response::json(&refused(view)));
    let router = shown(router, "/describe/pod", view, described_pod);
    let router = shown(router, "/describe/service", view, described_service);
    shown(router, "/explain", view, explained)
}

/// On a thread that may take its time: a large World is much to show, and asking the pods' thread waits for it.
pub(super) fn shown(router: Router, path: &'static str, view: &View, show: fn(&View, &Request) -> Response) -> Router {
    let view = view.clone();
    router.route(Method::GET, path, move |request| {
        let view = view.clone();
        async move {
            let shown = tokio::task::spawn_blocking(move || show(&view, &request)).await;
            shown.unwrap_or_else(|e| Response::error(StatusCode::INTERNAL_SERVER_ERROR, e))
        }
    })
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn status(view: &View) -> Status {
    let (world, reports) = (view.world(), Arc::clone(&view.reports.borrow()));
    let all = certificates(view);
    let (there, missing): (Vec<_>, Vec<_>) = all.into_iter().partition(|c| c.not_after_unix_s.is_some());
    let waiting = view.readiness.waiting().into_iter();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: view.node.to_string(),
        started_unix_s: unix_s(view.started),
        world: world.version().0,
        objects: objects(&view.sources()),
        waiting: waiting.map(|(part, reason)| Gate { part: part.to_owned(), reason }).collect(),
        pods: pods(&view.pods.status()),
        connections: view.connections.len(),
        certificates: there.len(),
        certificates_missing: missing.len(),
        certificates_not_yet_valid: there.iter().filter(|c| c.state == certs::NOT_YET_VALID).count(),
        first_expiry_unix_s: there.iter().filter_map(|c| c.not_after_unix_s).min(),
        authority_error: view.certificates.borrow().authority.error.clone(),
        problems: problems(&reports),
        control_plane: view.control_plane.as_ref().map(|progress| control_plane(&progress.borrow())),
        waypoints: view.waypoints.list().into_iter().map(waypoint).collect(),
    }
}

fn waypoint(status: WaypointStatus) -> RunningWaypoint {
    RunningWaypoint {
        gateway: status.gateway.to_string(),
        addresses: status.addresses.to_vec(),
        state: status.state.as_str().to_owned(),
        pid: status.pid,
        restarts: status.restarts,
        problem: status.problem,
    }
}

fn control_plane(progress: &Progress) -> ControlPlane {
    let (link, since, reason) = match &progress.link {
        Link::Opening => (ControlPlane::CONNECTING, None, None),
        Link::Open { since } => (ControlPlane::CONNECTED, Some(*since), None),
        Link::Ended { at, reason } => (ControlPlane::LOST, Some(*at), Some(reason.clone())),
    };
    ControlPlane {
        link: link.to_owned(),
        since_unix_s: since.map(unix_s),
        reason,
        complete: progress.complete,
        version: progress.version,
        behind: progress.behind.as_ref().map(|b| Behind {
            kind: b.kind.to_string(),
            applied: b.applied,
            known: b.offered,
        }),
        applied_unix_s: progress.applied.map(unix_s),
        cached_unix_s: progress.cached.map(unix_s),
    }
}

fn objects(sources: &Sources) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for (key, _) in sources.objects() {
        *count.entry(key.kind.to_string()).or_default() += 1;
    }
    count
}

fn pods(all: &[PodStatus]) -> PodCount {
    let mut count = PodCount::default();
    for pod in all {
        *count.by_state.entry(pod.state.to_owned()).or_default() += 1;
        if let Some(problem) = &pod.problem {
            count.problems.insert(pod.name.clone(), problem.clone());
        }
    }
    count
}

fn problems(reports: &Reports) -> ProblemCount {
    let of = |severity| reports.values().flat_map(|r| &r.problems).filter(move |p| p.severity() == severity);
    ProblemCount {
        errors: of(Severity::Error).count(),
        warnings: of(Severity::Warning).count(),
        notices: reports.values().map(|report| report.notices.len()).sum(),
        first: of(Severity::Error).take(ProblemCount::SHOWN).map(ToString::to_string).collect(),
    }
}

/// The state of a pod, namespace/name, among those of this node.
fn state(here: &[PodStatus], name: &str) -> Option<PodState> {
    let pod = here.iter().find(|pod| pod.name == name)?;
    Some(PodState { state: pod.state.to_owned(), problem: pod.problem.clone() })
}

/// Every pod of the World, or those of the node that `node=NAME` names; those of this node with their state.
fn workloads(view: &View, request: &Request) -> Vec<view::Workload> {
    let here = view.pods.status();
    let mut all = view::workloads(&view.world());
    if let Some(node) = request.query("node") {
        all.retain(|w| w.node.as_deref() == Some(node));
    }
    all.iter_mut().for_each(|w| w.state = state(&here, &format!("{}/{}", w.namespace, w.name)));
    all
}

/// The object that a request names as `name=NAMESPACE/NAME`.
fn named(request: &Request, of: &str) -> Result<ObjectName, Response> {
    let name = request.query("name").and_then(|name| name.split_once('/'));
    let problem = format!("missing or invalid name: GET /describe/{of}?name=NAMESPACE/NAME");
    name.map(|(namespace, name)| ObjectName::new(namespace, name))
        .ok_or_else(|| Response::error(StatusCode::BAD_REQUEST, problem))
}

fn described_pod(view: &View, request: &Request) -> Response {
    let name = match named(request, "pod") {
        Ok(name) => name,
        Err(refused) => return refused,
    };
    match view::describe_pod(&view.world(), &view.sources(), &name) {
        Some(mut pod) => {
            pod.workload.state = state(&view.pods.status(), &name.to_string());
            Response::json(&pod)
        }
        None => Response::error(StatusCode::NOT_FOUND, format_args!("the mesh knows no pod {name}")),
    }
}

fn described_service(view: &View, request: &Request) -> Response {
    let name = match named(request, "service") {
        Ok(name) => name,
        Err(refused) => return refused,
    };
    match view::describe_service(&view.world(), &view.sources(), &name) {
        Some(service) => Response::json(&service),
        None => Response::error(StatusCode::NOT_FOUND, format_args!("the mesh knows no service {name}")),
    }
}

fn policies(view: &View) -> Vec<view::Policy> {
    view::policies(&view.world(), &view.sources())
}

fn certificates(view: &View) -> Vec<Certificate> {
    let certificate = |own: &CertificateStatus| Certificate {
        identity: own.identity.clone(),
        state: own.state.to_owned(),
        serial: own.serial.clone(),
        not_before_unix_s: own.not_before_unix_s,
        not_after_unix_s: own.not_after_unix_s,
        issuer: own.issuer.clone(),
        error: own.error.clone(),
    };
    view.certificates.borrow().certificates.iter().map(certificate).collect()
}

fn roots(view: &View) -> Roots {
    let status = view.certificates.borrow();
    let mut certificates = BTreeMap::new();
    for issuer in status.certificates.iter().filter_map(|own| own.issuer.as_ref()) {
        *certificates.entry(issuer.clone()).or_default() += 1;
    }
    Roots { trusted: status.roots.iter().map(|root| root.serial.clone()).collect(), certificates }
}

/// The latest refused handshakes, the newest first.
fn refused(view: &View) -> Vec<RefusedHandshake> {
    view.connections.refusals().list().iter().filter_map(refused_handshake).collect()
}

fn refused_handshake(one: &underpass_ztunnel::RefusedHandshake) -> Option<RefusedHandshake> {
    let underpass_ztunnel::RefusedHandshake { last, times } = one;
    let Some(Reason::Tls(failure)) = &last.reason else { return None };
    let party = |party: &connection::Party| Party {
        address: party.address,
        workload: party.workload.as_ref().map(|w| w.name.to_string()),
        identity: party.identity.as_ref().map(ToString::to_string),
    };
    Some(RefusedHandshake {
        times: *times,
        last_unix_s: last.opened_unix_ms.saturating_add(last.duration_us / 1000) / 1000,
        direction: last.direction.as_str().to_owned(),
        source: party(&last.source),
        destination: party(&last.destination),
        reason: failure.refusal().as_str().to_owned(),
        detail: failure.to_string(),
        refused_by: failure.refusal().by().as_str().to_owned(),
        identity_found: failure.found().map(str::to_owned),
        identity_expected: failure.expected().map(str::to_owned),
    })
}

fn explained(view: &View, request: &Request) -> Response {
    let (Some(source), Some(destination)) = (request.query("source"), request.query("destination")) else {
        let problem = "missing source or destination: GET /explain?source=NAMESPACE/POD&destination=SERVICE:PORT";
        return Response::error(StatusCode::BAD_REQUEST, problem);
    };
    match explain::explain(&view.world(), Some(&view.sources()), source, destination) {
        Ok(explanation) => Response::json(&explanation),
        Err(unknown) => Response::error(StatusCode::NOT_FOUND, unknown),
    }
}
