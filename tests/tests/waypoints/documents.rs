//! Documents of traffic and policy as users of Istio write them, and what each promises.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use underpass_tests::{
    apps::{http::Request, socket::Dial},
    testbed::{Lab, wait::wait_until},
};

use crate::{CLIENT, PORT, REQUESTS, Scene, get};

const ROUTING: &str = include_str!("../manifests/waypoints/routing.yaml");
const WEIGHTED: &str = include_str!("../manifests/waypoints/weighted.yaml");
const SUBSETS: &str = include_str!("../manifests/waypoints/subsets.yaml");
const RESILIENCE: &str = include_str!("../manifests/waypoints/resilience.yaml");
const BREAKER: &str = include_str!("../manifests/waypoints/breaker.yaml");
const CANARY: &str = include_str!("../manifests/waypoints/canary.yaml");
const TESTERS: &str = include_str!("../manifests/waypoints/canary-by-header.yaml");
const API_ACCESS: &str = include_str!("../manifests/waypoints/api-access.yaml");
const ROLLOUT: &str = include_str!("../manifests/waypoints/rollout.sh");

/// Requests of which shares are counted.
const MANY: u32 = 300;
/// The farthest that a count is from its share, in standard deviations of its binomial distribution: chance is farther once in a
/// million times, and no share of 10 % is none.
const DEVIATIONS: f64 = 5.0;

/// About this share of many requests is answered by `version`, in percent.
fn has_share(scene: &Scene, request: &Request, version: &str, percent: u32) -> Result<()> {
    let counted = scene.versions(request, MANY)?;
    let (is, share) = (counted.get(version).copied().unwrap_or(0), f64::from(percent) / 100.0);
    let (due, far) = (f64::from(MANY) * share, DEVIATIONS * (f64::from(MANY) * share * (1.0 - share)).sqrt());
    ensure!((f64::from(is) - due).abs() <= far, "{version} answered {is} of {MANY} requests, not {due}: {counted:?}");
    Ok(())
}

pub(crate) fn requests_go_by_header_and_path(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let tester = |path: &str| get("reviews", path).header("end-user", "tester");
    // Before: any version.
    ensure!(scene.versions(&tester("/"), MANY)?.len() == 3);
    scene.write("subsets.yaml", SUBSETS)?;
    scene.write("routing.yaml", ROUTING)?;
    for (request, expected) in [
        (tester("/"), "v2"),
        (get("reviews", "/api/v2/items"), "v2"),
        (get("reviews", "/"), "v1"),
        (get("reviews", "/api/v1/items"), "v1"),
        (get("reviews", "/").header("end-user", "testers"), "v1"),
        (get("reviews", "/").header("end-user", "Tester"), "v1"),
    ] {
        let counted = scene.versions(&request, 10)?;
        ensure!(counted.get(expected) == Some(&10), "{request:?}: {counted:?}");
    }
    // A subset that no pod is in: 503, and never another version.
    scene.write("subsets.yaml", &SUBSETS.replace("{version: v2}", "{version: v9}"))?;
    ensure!(scene.ask(CLIENT, tester("/"))?.status == 503);
    has_share(&scene, &get("reviews", "/"), "v1", 100)?;
    // What cannot be read takes nothing away.
    scene.write("routing.yaml", &ROUTING.replace("exact: tester", "exactly: tester"))?;
    scene.mesh.problem("node-1", &[("severity", "error")])?;
    ensure!(scene.ask(CLIENT, tester("/"))?.status == 503);
    has_share(&scene, &get("reviews", "/"), "v1", 100)
}

pub(crate) fn requests_go_by_weight(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let request = get("reviews", "/");
    scene.write("subsets.yaml", SUBSETS)?;
    scene.write("weighted.yaml", WEIGHTED)?;
    has_share(&scene, &request, "v2", 20)?;
    has_share(&scene, &request, "v3", 0)?;
    // A weight of nothing gets nothing.
    let all = WEIGHTED.replace("weight: 80", "weight: 100").replace("weight: 20", "weight: 0");
    scene.write("weighted.yaml", &all)?;
    has_share(&scene, &request, "v1", 100)
}

pub(crate) fn failed_tries_are_followed_by_others(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    // Before: the first answer counts.
    ensure!(scene.ask(CLIENT, get("ratings", "/fails/1/before"))?.status == 500);
    scene.write("resilience.yaml", RESILIENCE)?;
    // One try and three others.
    for (path, status) in [("/fails/3/x", 200), ("/fails/4/x", 500)] {
        let answer = scene.ask(CLIENT, get("ratings", path))?;
        ensure!(answer.status == status, "{path}: {answer:?}");
        let after = scene.ask(CLIENT, get("ratings", path))?;
        ensure!(after.json()["asked_before"] == 4, "{path}: {after:?}");
    }
    // A try that takes too long is given up.
    let answer = scene.ask(CLIENT, get("ratings", "/sleeps/1/x"))?;
    ensure!(answer.status == 200 && answer.json()["asked_before"] == 1, "{answer:?}");
    // And so is a request, in a time that is shorter than that of its first try.
    scene.write("resilience.yaml", &RESILIENCE.replace("timeout: 10s", "timeout: 1s"))?;
    let answer = scene.ask(CLIENT, get("ratings", "/sleeps/1/y"))?;
    ensure!(answer.status == 504, "{answer:?}");
    Ok(())
}

/// Requests until chance has met one of three endpoints five times, as it fails to do once in a billion.
const ENOUGH: u32 = 80;

pub(crate) fn an_endpoint_that_fails_is_ejected(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let failed = |scene: &Scene, path: &str| -> Result<usize> {
        let answers = scene.answers(&get("reviews", path), ENOUGH)?;
        Ok(answers.iter().filter(|answer| answer.status == 500).count())
    };
    // Before: as often as it is chosen.
    let before = failed(&scene, "/fails/v3/before")?;
    ensure!(before > 5, "{before} of {ENOUGH} requests failed without a rule");
    // Longer than the test on any machine.
    scene.write("breaker.yaml", &BREAKER.replace("baseEjectionTime: 30s", "baseEjectionTime: 300s"))?;
    let first = failed(&scene, "/fails/v3/x")?;
    ensure!(first == 5, "{first} requests failed, and not five that eject it");
    let counted = scene.versions(&get("reviews", "/"), ENOUGH)?;
    ensure!(!counted.contains_key("v3") && counted.len() == 2, "{counted:?}");
    Ok(())
}

pub(crate) fn testers_reach_the_canary_by_a_header(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let (_, subsets) = CANARY.split_once("---\n").context("two documents")?;
    scene.write("subsets.yaml", subsets)?;
    scene.write("testers.yaml", TESTERS)?;
    let tester = get("myapp", "/").header("x-canary", "true");
    has_share(&scene, &tester, "v2", 100)?;
    has_share(&scene, &get("myapp", "/"), "v1", 100)?;
    has_share(&scene, &get("myapp", "/").header("x-canary", "false"), "v1", 100)
}

/// A `kubectl` that writes what it applies beside the manifests, and a `sleep` that lasts until it is told to end.
fn shims(directory: &Path, manifests: &Path) -> Result<()> {
    fs::create_dir(directory)?;
    let kubectl = format!("#!/bin/sh\ncat > {0}/.rollout && mv {0}/.rollout {0}/rollout.yaml\n", manifests.display());
    let sleep = format!(
        "#!/bin/sh\ntouch {0}/asleep\nwhile [ ! -e {0}/awake ]; do /bin/sleep 0.02; done\nrm {0}/awake\n",
        directory.display()
    );
    for (name, text) in [("kubectl", kubectl), ("sleep", sleep)] {
        fs::write(directory.join(name), text)?;
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

pub(crate) fn a_canary_is_rolled_out_by_a_script(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let request = get("myapp", "/");
    scene.write("canary.yaml", CANARY)?;
    has_share(&scene, &request, "v2", 10)?;
    // From here on the script's object is the one that counts.
    let (_, subsets) = CANARY.split_once("---\n").context("two documents")?;
    scene.write("canary.yaml", subsets)?;
    let directory = lab.directory().join("shims");
    shims(&directory, &lab.directory().join("manifests"))?;
    let path = format!("{}:{}", directory.display(), std::env::var("PATH")?);
    let mut script = Command::new("bash").args(["-c", ROLLOUT]).env("PATH", path).spawn()?;
    for percent in [10, 25, 50, 75] {
        wait_until("the script to wait", || Ok(directory.join("asleep").exists()))?;
        fs::remove_file(directory.join("asleep"))?;
        scene.settle()?;
        has_share(&scene, &request, "v2", percent)?;
        fs::write(directory.join("awake"), "")?;
    }
    ensure!(script.wait()?.success());
    scene.settle()?;
    has_share(&scene, &request, "v2", 100)
}

pub(crate) fn methods_and_paths_are_enforced(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    let api = |path: &str| get("production/api", path);
    let (frontend, reporter) = ("production/frontend", "production/reporter");
    let asks = [
        (frontend, api("/api/x"), 200),
        (frontend, api("/api/x").method("POST"), 200),
        (frontend, api("/api/x").method("DELETE"), 403),
        (frontend, api("/admin"), 403),
        (frontend, api("/api/../admin"), 403),
        (reporter, api("/api/x"), 403),
        (CLIENT, api("/api/x"), 403),
    ];
    let straight = scene.mesh.at("production/api", true, PORT)?;
    let around = Request::get(&format!("http://{straight}/api/x"));
    ensure!(scene.ask(frontend, around)?.status == 200);
    for (pod, request, _) in &asks {
        let answer = scene.ask(pod, request.clone())?;
        ensure!(answer.status == 200, "before the policy, {pod}, {request:?}: {answer:?}");
    }
    scene.write("access.yaml", API_ACCESS)?;
    for (pod, request, status) in asks {
        let answer = scene.ask(pod, request.clone())?;
        ensure!(answer.status == status, "{pod}, {request:?}: {answer:?}");
    }
    // Around the waypoint nothing of it could be judged.
    scene.mesh.is_reset(frontend, Dial::to(straight))?;
    // The destination's node knows who asked, and through whom.
    let identity = |name: &str| format!("spiffe://cluster.local/ns/production/sa/{name}");
    let want = [
        ("direction", "inbound"),
        ("source_identity", &*identity("frontend")),
        ("via", &*identity("waypoint")),
        ("destination_workload", "api"),
    ];
    scene.mesh.logged("node-2", &want)?;
    // And the waypoint's own log has the request.
    wait_until("a line about the denied request", || {
        let lines = fs::read_to_string(lab.directory().join(REQUESTS))?;
        let lines = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        Ok(lines
            .iter()
            .any(|line| line["method"] == "DELETE" && line["response_code"] == 403 && line["path"] == "/api/x"))
    })
}

pub(crate) fn all_documents_at_once(lab: &Lab) -> Result<()> {
    let mut scene = Scene::up(lab)?;
    for (file, text) in [
        ("access.yaml", API_ACCESS),
        ("breaker.yaml", BREAKER),
        ("canary.yaml", CANARY),
        ("resilience.yaml", RESILIENCE),
        ("routing.yaml", ROUTING),
        ("subsets.yaml", SUBSETS),
        ("testers.yaml", TESTERS),
        ("weighted.yaml", WEIGHTED),
    ] {
        scene.write(file, text)?;
    }
    let tester = get("reviews", "/").header("end-user", "tester");
    has_share(&scene, &tester, "v2", 100)?;
    has_share(&scene, &get("myapp", "/").header("x-canary", "true"), "v2", 100)?;
    ensure!(scene.ask(CLIENT, get("ratings", "/fails/3/x"))?.status == 200);
    ensure!(scene.ask("production/frontend", get("production/api", "/api/x").method("DELETE"))?.status == 403);
    ensure!(scene.ask("production/frontend", get("production/api", "/api/x"))?.status == 200);
    Ok(())
}
