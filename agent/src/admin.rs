//! The admin API: all of it on the admin socket, its read-only part on the admin address, for programs of the node alone, because
//! it shows connections with the identities of both ends.

mod views;

use std::{sync::Arc, time::SystemTime};

use http::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::watch;
use underpass_core::{
    World,
    objects::Object,
    resolve::{Finding, Sources},
};
use underpass_keeper::Reports;
use underpass_telemetry::{
    admin::{Readiness, Request, Response, Router, healthz, logging},
    log::Levels,
};
use underpass_xds::client::Progress;
use underpass_ztunnel::{Budgets, Connections};

use crate::{certs, config::Running, limits, pods, reports::Counters, waypoints};

/// The state behind the routes.
#[derive(Clone, Debug)]
pub struct View {
    /// The name of this node.
    pub node: Arc<str>,
    /// When the process started.
    pub started: SystemTime,
    /// The settings in effect.
    pub settings: watch::Receiver<Arc<Running>>,
    /// The readiness of each part.
    pub readiness: Readiness,
    /// The newest World.
    pub world: watch::Receiver<Arc<World>>,
    /// The objects behind it, and the findings about them.
    pub sources: watch::Receiver<Sources>,
    /// The reports of the doors.
    pub reports: watch::Receiver<Arc<Reports>>,
    /// How the door to the control plane fares; none: the source is a directory of manifests.
    pub control_plane: Option<watch::Receiver<Progress>>,
    /// The status of certificates.
    pub certificates: watch::Receiver<Arc<certs::Status>>,
    /// Open connections.
    pub connections: Connections,
    /// The budgets of pods, with their use.
    pub budgets: Arc<Budgets>,
    /// The kernel tables' counters, as far as there is a kernel data path.
    pub counters: Counters,
    /// The pods of this node.
    pub pods: Arc<pods::Handle>,
    /// The waypoints that it runs.
    pub waypoints: waypoints::Board,
}

impl View {
    /// The newest World, out of the channel: a reader that borrows the channel for longer keeps the keeper from publishing.
    fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }

    /// The newest objects, out of the channel.
    fn sources(&self) -> Sources {
        self.sources.borrow().clone()
    }
}

/// The routes.
#[must_use]
pub fn routes(view: &View, levels: &Levels) -> Router {
    let router = views::routes(logging(healthz(Router::new()), levels), view);
    let router = limits::routes(router, &view.budgets);
    let router = views::shown(router, "/config_dump", view, |view, _| config_dump(view));
    let (listed, closed) = (view.connections.clone(), view.connections.clone());
    router.route(Method::GET, "/connections", move |_| list(listed.clone())).route(
        Method::POST,
        "/connections/close",
        move |request| close(closed.clone(), request),
    )
}

#[derive(Serialize)]
struct Closed {
    closed: u64,
}

/// `GET /connections`. Written on a thread that may take its time: there may be very many.
async fn list(connections: Connections) -> Response {
    let all = connections.list().await;
    let written = tokio::task::spawn_blocking(move || Response::json(&all)).await;
    written.unwrap_or_else(|e| Response::error(StatusCode::INTERNAL_SERVER_ERROR, e))
}

/// `POST /connections/close?id=7`.
async fn close(connections: Connections, request: Request) -> Response {
    let Some(id) = request.query("id").and_then(|id| id.parse().ok()) else {
        return Response::error(StatusCode::BAD_REQUEST, "missing or invalid id: POST /connections/close?id=NUMBER");
    };
    if connections.close(id).await {
        tracing::info!(connection = id, "connection closed by an operator");
        return Response::json(&Closed { closed: id });
    }
    Response::error(StatusCode::NOT_FOUND, format_args!("no connection {id} is open: it may have ended meanwhile"))
}

#[derive(Serialize)]
struct ConfigDump<'a> {
    world: &'a World,
    objects: Vec<&'a Object>,
    findings: Vec<&'a Finding>,
    /// By door.
    reports: &'a Reports,
    /// `certificates`, `roots`, `roots_generation`, `authority`: never a key.
    #[serde(flatten)]
    certificates: &'a certs::Status,
    pods: Vec<PodView>,
    kernel: std::collections::BTreeMap<String, u64>,
}

/// The status of a pod of this node.
#[derive(Serialize)]
struct PodView {
    name: String,
    uid: String,
    cookie: Option<u64>,
    state: &'static str,
    problem: Option<String>,
}

impl From<pods::PodStatus> for PodView {
    fn from(status: pods::PodStatus) -> Self {
        let pods::PodStatus { name, uid, cookie, state, problem } = status;
        Self { name, uid: uid.to_string(), cookie: cookie.map(|c| c.0), state, problem }
    }
}

fn config_dump(view: &View) -> Response {
    // In this order what is shown next is as new as what was shown before.
    let (reports, certificates) = (Arc::clone(&view.reports.borrow()), Arc::clone(&view.certificates.borrow()));
    let (world, sources) = (view.world(), view.sources());
    Response::json(&ConfigDump {
        world: &world,
        objects: sources.objects().map(|(_, object)| object).collect(),
        findings: sources.findings().collect(),
        reports: &reports,
        certificates: &certificates,
        pods: view.pods.status().into_iter().map(PodView::from).collect(),
        kernel: view.counters.read(),
    })
}
