//! Waypoints end to end, on two plain nodes: documents as a user of Istio writes them, each with what it promises and with its
//! failing twin; and the life of a waypoint that its node's agent starts. Level kernel: needs root, the kernel programs, the
//! agent and the waypoint.

#[path = "waypoints/documents.rs"]
mod documents;
#[path = "waypoints/life.rs"]
mod life;

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use underpass_tests::{
    apps::http::{self, Request, Response, Service},
    mesh::Mesh,
    testbed::{Actor, Lab, wait::wait_until},
};

underpass_tests::scenarios! {
    documents::requests_go_by_header_and_path,
    documents::requests_go_by_weight,
    documents::failed_tries_are_followed_by_others,
    documents::an_endpoint_that_fails_is_ejected,
    documents::a_canary_is_rolled_out_by_a_script,
    documents::testers_reach_the_canary_by_a_header,
    documents::methods_and_paths_are_enforced,
    documents::all_documents_at_once,
    life::a_waypoint_comes_and_goes_with_its_gateway,
    life::a_killed_waypoint_is_started_again,
    life::a_successor_starts_its_own_waypoint,
    life::without_a_node_for_it_calls_are_refused,
}

const WORLD: &str = include_str!("manifests/waypoints/world.yaml");

/// The port of the applications.
const PORT: u16 = 8080;
const CLIENT: &str = "default/client";
/// The file of the waypoints' access log.
const REQUESTS: &str = "requests.log";
/// Namespaces with a waypoint and a Service `marker`, and a caller of each.
const MARKED: [(&str, &str); 2] = [("default", CLIENT), ("production", "production/frontend")];
const NODES: [&str; 2] = ["node-1", "node-2"];

/// The mesh with an application in every pod, and a call of each Service that has gone through its waypoint.
struct Scene {
    mesh: Mesh,
    /// The number of documents that were written.
    written: u32,
    _applications: Vec<Actor<()>>,
}

impl Scene {
    fn up(lab: &Lab) -> Result<Self> {
        let scene = Self::of(lab, WORLD)?;
        scene.reaches("default/reviews")?;
        scene.reaches("production/api")?;
        Ok(scene)
    }

    /// The same with another world, and without a call.
    fn of(lab: &Lab, world: &str) -> Result<Self> {
        let mut mesh = Mesh::up(lab, &[("world.yaml", world)])?;
        let requests = lab.directory().join(REQUESTS).display().to_string();
        mesh.options(&["--waypoint-access-log", &requests, "--waypoint-access-log-encoding", "json"]);
        let applications = mesh.bed.pods().map(application).collect::<Result<_>>()?;
        mesh.start()?;
        Ok(Self { mesh, written: 0, _applications: applications })
    }

    /// The waypoint before a Service carries requests.
    fn reaches(&self, service: &str) -> Result<()> {
        let url = url(service, "/");
        wait_until(&format!("{url} to be answered"), || {
            Ok(self.ask(CLIENT, Request::get(&url)).is_ok_and(|answer| answer.status == 200))
        })
    }

    fn ask(&self, pod: &str, request: Request) -> Result<Response> {
        self.mesh.bed.app(pod)?.act(http::ask, request)
    }

    /// The answers to so many requests of the client, one after another.
    fn answers(&self, request: &Request, times: u32) -> Result<Vec<Response>> {
        self.mesh.bed.app(CLIENT)?.act(http::ask_all, vec![request.clone(); times as usize])
    }

    /// The count of answers of each version.
    fn versions(&self, request: &Request, times: u32) -> Result<BTreeMap<String, u32>> {
        let mut counted = BTreeMap::new();
        for answer in self.answers(request, times)? {
            *counted.entry(version(&answer)?).or_default() += 1;
        }
        Ok(counted)
    }

    /// Writes a document, and waits until every agent has applied it and both waypoints go by it.
    fn write(&mut self, file: &str, text: &str) -> Result<()> {
        self.mesh.edit(file, Some(text))?;
        self.settle()
    }

    /// Waits until agents and waypoints go by all that is written. A waypoint reads the files by itself, so it is asked: a route that
    /// is written last says its number.
    fn settle(&mut self) -> Result<()> {
        self.written += 1;
        let number = self.written.to_string();
        let markers = MARKED.map(|(namespace, _)| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {{name: marker, namespace: {namespace}}}\n\
                 spec: {{hosts: [marker], http: [{{directResponse: {{status: 200, body: {{string: '{number}'}}}}}}]}}\n"
            )
        });
        self.mesh.edit("marker.yaml", Some(&markers.join("---\n")))?;
        MARKED.into_iter().try_for_each(|(namespace, pod)| {
            let request = get(&format!("{namespace}/marker"), "/");
            wait_until(&format!("the waypoint of {namespace} to go by what is written"), || {
                Ok(self.ask(pod, request.clone()).is_ok_and(|answer| answer.body == number))
            })
        })
    }
}

fn application(pod: &underpass_tests::testbed::Pod) -> Result<Actor<()>> {
    let label = |name: &str| pod.spec().labels.get(name).cloned().unwrap_or_default();
    let address = SocketAddr::from(([0u16; 8], PORT));
    http::start(&pod.app()?, Service { name: label("app"), version: label("version"), address, calls: Vec::new() })
}

/// The URL of a Service, `namespace/name`.
fn url(service: &str, path: &str) -> String {
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    format!("http://{name}.{namespace}{path}")
}

fn get(service: &str, path: &str) -> Request {
    Request::get(&url(service, path))
}

fn version(answer: &Response) -> Result<String> {
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.json()["version"].as_str().context("a version")?.to_owned())
}
