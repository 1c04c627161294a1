//! No text of an agent or a manifest controls the user's terminal.

use serde_json::{Value, json};
use underpass_telemetry::admin::{Method, Response, Router, StatusCode};

use super::{Agent, command, get};

/// Clears the screen; as one character, of C1 (ECMA-48, 8.3.16), and behind the end of a line.
const ACTS: &str = "x\u{1b}[2J\u{9b}2J\u{7f}\r\u{8}";

/// The commands that ask an agent.
const COMMANDS: [&[&str]; 11] = [
    &["status"],
    &["workloads"],
    &["services"],
    &["policies"],
    &["certificates"],
    &["connections"],
    &["config"],
    &["log"],
    &["log", "info"],
    &["explain", "a/b", "c:1"],
    &["connections", "close", "7"],
];

/// Every text of these answers acts.
fn hostile() -> Router {
    let party = json!({ "address": "10.0.0.1:1", "workload": ACTS, "identity": ACTS });
    let answers = [
        (
            "/status",
            json!({
                "version": ACTS, "node": ACTS, "started_unix_s": 0, "world": 1, "objects": { ACTS: 1 },
                "waiting": [{ "part": ACTS, "reason": ACTS }],
                "pods": { "by_state": { ACTS: 1 }, "problems": { ACTS: ACTS } },
                "connections": 0, "certificates": 0, "certificates_missing": 0, "first_expiry_unix_s": null,
                "authority_error": ACTS,
                "problems": { "errors": 1, "warnings": 0, "notices": 0, "first": [ACTS] },
            }),
        ),
        (
            "/workloads",
            json!([{
                "namespace": ACTS, "name": ACTS, "node": ACTS, "addresses": [], "in_mesh": true, "because": ACTS,
                "identity": ACTS, "ready": true, "state": { "state": ACTS, "problem": ACTS },
            }]),
        ),
        (
            "/services",
            json!([{
                "namespace": ACTS, "name": ACTS, "host": ACTS, "type": ACTS, "vips": [],
                "ports": [{ "name": ACTS, "port": 1, "target": ACTS }],
                "endpoints": [{
                    "addresses": [], "workload": ACTS, "ready": true, "draining": false, "weight": 1, "node": ACTS,
                    "zone": ACTS, "in_mesh": true,
                }],
                "in_mesh": true, "waypoint": ACTS, "waypoint_ready": true, "waypoint_optional": false, "traffic": [ACTS],
            }]),
        ),
        (
            "/policies",
            json!([{
                "kind": ACTS, "namespace": ACTS, "name": ACTS, "scope": ACTS, "action": ACTS, "rules": 1,
                "dry_run": false, "selects": 1, "needs_waypoint": [ACTS], "notes": [ACTS],
            }]),
        ),
        (
            "/certificates",
            json!([{
                "identity": ACTS, "state": ACTS, "serial": ACTS, "not_before_unix_s": 1, "not_after_unix_s": 2,
                "issuer": ACTS, "error": ACTS,
            }]),
        ),
        (
            "/connections",
            json!([{
                "id": 1, "direction": ACTS, "path": ACTS, "source": party, "destination": party, "service": ACTS,
                "service_host": ACTS, "vip": null, "bytes_received": 0, "bytes_sent": 0, "duration_us": 0,
                "policy": ACTS,
            }]),
        ),
        (
            "/config",
            json!({
                "file": ACTS, "problem": format!("{ACTS}\n{ACTS}"),
                "settings": [{ "name": ACTS, "values": [ACTS], "source": ACTS, "live": true }],
                "needs_restart": [{ "name": ACTS, "values": [ACTS], "source": ACTS }],
            }),
        ),
        ("/logging", json!({ "level": ACTS })),
        (
            "/explain",
            json!({
                "source": ACTS, "destination": ACTS, "path": "hbone", "verdict": "deny",
                "policy": format!("a/{ACTS}"), "reason": ACTS,
                "steps": [{
                    "stage": "route", "says": ACTS,
                    "object": format!("Pod a/{ACTS}"),
                }],
            }),
        ),
    ];
    let router =
        answers.into_iter().fold(Router::new(), |router, (path, answer)| get(router, path, move || answer.clone()));
    router.route(Method::PUT, "/logging", async |_| Response::json(&Value::Null)).route(
        Method::POST,
        "/connections/close",
        async |_| Response::error(StatusCode::SERVICE_UNAVAILABLE, ACTS),
    )
}

/// The same routes, each answered with an error.
fn failing() -> Router {
    let fails = async |_| Response::error(StatusCode::SERVICE_UNAVAILABLE, ACTS);
    let looks = [
        "/status",
        "/workloads",
        "/services",
        "/policies",
        "/certificates",
        "/connections",
        "/config",
        "/logging",
        "/explain",
    ];
    let router = looks.into_iter().fold(Router::new(), |router, path| router.route(Method::GET, path, fails));
    router.route(Method::PUT, "/logging", fails).route(Method::POST, "/connections/close", fails)
}

/// Asks for everything in every way, and looks for what would act.
fn check(router: Router, forms: &[&[&str]], code: &[i32]) {
    let agent = Agent::start(router);
    for asked in COMMANDS {
        for form in forms {
            if !form.is_empty() && matches!(asked, ["connections", "close", ..]) {
                continue; // has no such flag
            }
            let output = command(&[asked, form].concat()).env("UNDERPASS_AGENT", agent.address()).output().unwrap();
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.code().is_some_and(|c| code.contains(&c)), "{asked:?} {form:?}: {text}");
            assert!(text.contains("[2J"), "{asked:?} {form:?} read nothing: {text}");
            let acts = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(acts), "{asked:?} {form:?}: {text:?}");
        }
    }
}

#[test]
fn output_cannot_control_the_terminal() {
    check(hostile(), &[&[], &["-o", "wide"], &["-o", "json"], &["-o", "yaml"]], &[0, 1, 2]);
}

#[test]
fn errors_cannot_control_the_terminal() {
    check(failing(), &[&[]], &[1]);
}
