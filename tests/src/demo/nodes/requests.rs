//! The steps about requests: a waypoint judges method and path, divides them among versions, and tries again.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use underpass_tests::{
    apps::http::{self, Request, Response},
    testbed::wait,
};

use super::{
    super::page::PORT,
    stage::{CLIENT, NAMESPACES, Stage},
};

const WAYPOINT: (&str, &str) =
    ("waypoint.yaml", include_str!("../../../../deploy/samples/bookinfo-requests/waypoint.yaml"));
const READERS: (&str, &str) =
    ("readers.yaml", include_str!("../../../../deploy/samples/bookinfo-requests/readers.yaml"));
const CANARY: (&str, &str) = ("canary.yaml", include_str!("../../../../deploy/samples/bookinfo-requests/canary.yaml"));
const RETRIES: (&str, &str) =
    ("retries.yaml", include_str!("../../../../deploy/samples/bookinfo-requests/retries.yaml"));

/// The labels of bookinfo's namespace in the mesh, and what is added to them.
const LABELLED: &str = "  name: bookinfo\n  labels:\n";
const ATTACHED: &str = "    istio.io/use-waypoint: waypoint\n";
/// By chance none of so many requests sees a fifth of them once in ten million times.
const MANY: usize = 72;

fn request(path: &str) -> Request {
    Request::get(&format!("http://reviews.bookinfo:{PORT}{path}"))
}

fn ask(stage: &Stage, request: Request) -> Result<Response> {
    stage.mesh.bed.app(CLIENT)?.act(http::ask, request)
}

/// Waits until a request is answered as a changed manifest says.
fn settles(stage: &Stage, request: &Request, is_current: impl Fn(&Response) -> bool) -> Result<Response> {
    wait::wait_for(&format!("{request:?} to be answered by the changed manifests"), || {
        Ok(ask(stage, request.clone()).ok().filter(|answer| is_current(answer)))
    })
}

fn write(stage: &mut Stage, (file, text): (&str, &str)) -> Result<()> {
    stage.mesh.edit(file, Some(text))
}

/// An L7 policy, which takes a waypoint to judge it.
pub(crate) fn a_waypoint_judges(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Requests: a waypoint judges method and path");
    stage
        .screen
        .does("waypoint.yaml, new: Gateway waypoint; namespaces.yaml, bookinfo: + istio.io/use-waypoint: waypoint");
    stage
        .screen
        .does("readers.yaml, new: AuthorizationPolicy reviews-readers, ALLOW, namespaces: [client], methods: [GET]");
    write(stage, WAYPOINT)?;
    write(stage, READERS)?;
    stage.mesh.replace(NAMESPACES, LABELLED, &format!("{LABELLED}{ATTACHED}"))?;
    let read = request("/reviews");
    stage.screen.does(&format!("{CLIENT}: GET {}", read.url));
    let answer = settles(stage, &read, |answer| answer.status == 200)?;
    stage.screen.expect("200: it may read", answer.json()["service"] == "reviews", &answer)?;
    stage.screen.does(&format!("{CLIENT}: DELETE {}", read.url));
    let answer = ask(stage, read.method("DELETE"))?;
    stage.screen.quote(answer.head.lines().next().unwrap_or_default());
    stage.screen.expect(
        "403, by the waypoint: the connection is allowed, this request is not",
        answer.status == 403,
        &answer,
    )?;
    let url = format!("reviews.bookinfo:{PORT}");
    let (status, first) = stage.explain_request(CLIENT, &url, &["--method", "DELETE", "--path", "/reviews"])?;
    stage.screen.expect("explain says the same from the manifests alone", status == Some(2), (status, first))
}

/// Versions by weight and by header.
pub(crate) fn a_canary(stage: &mut Stage) -> Result<()> {
    stage.screen.step("A canary: a fifth of the requests, and those of testers");
    stage.screen.does("canary.yaml, new: VirtualService reviews, 80 % to v1, 20 % to v2, end-user: tester to v3");
    write(stage, CANARY)?;
    let tester = request("/reviews").header("end-user", "tester");
    let answer = settles(stage, &tester, |answer| answer.json()["version"] == "v3")?;
    stage.screen.expect("a tester sees v3", answer.status == 200, &answer)?;
    stage.screen.does(&format!("{CLIENT}: {MANY} times GET {}", tester.url));
    let mut seen = BTreeMap::<String, usize>::new();
    for answer in stage.mesh.bed.app(CLIENT)?.act(http::ask_all, vec![request("/reviews"); MANY])? {
        let version = answer.json()["version"].as_str().with_context(|| format!("{answer:?}"))?.to_owned();
        *seen.entry(version).or_default() += 1;
    }
    let (stable, canary) = (seen.get("v1").copied().unwrap_or(0), seen.get("v2").copied().unwrap_or(0));
    let promised = format!("v1 answered {stable}, v2 {canary}, v3 none");
    stage.screen.expect(&promised, stable > canary && canary > 0 && stable + canary == MANY, &seen)
}

/// A request that fails, and another try.
pub(crate) fn another_try(stage: &mut Stage) -> Result<()> {
    stage.screen.step("Another try: a request fails, and the client does not see it");
    stage.screen.does("canary.yaml is taken back");
    stage.mesh.edit(CANARY.0, None)?;
    // A path of which each version answers the first request with 500.
    let mut n = 0;
    let mut fails = || {
        n += 1;
        request(&format!("/fails/1/{n}"))
    };
    stage.screen.does(&format!("{CLIENT}: GET of a path that fails once on each version"));
    let answer = wait::wait_for("a failure without retries", || {
        Ok(Some(ask(stage, fails())?).filter(|answer| answer.status == 500))
    })?;
    stage.screen.quote(answer.head.lines().next().unwrap_or_default());
    stage.screen.does("retries.yaml, new: VirtualService reviews, retries: {attempts: 3, retryOn: 5xx}");
    write(stage, RETRIES)?;
    let answer = wait::wait_for("an answer in spite of failures", || {
        Ok(Some(ask(stage, fails())?).filter(|answer| answer.status == 200))
    })?;
    stage.screen.expect("200: the waypoint has tried again", answer.json()["service"] == "reviews", &answer)?;
    stage.screen.does("all of it is taken back: requests pass no waypoint");
    for (file, _) in [RETRIES, READERS] {
        stage.mesh.edit(file, None)?;
    }
    stage.mesh.replace(NAMESPACES, ATTACHED, "")?;
    stage.mesh.edit(WAYPOINT.0, None)
}
