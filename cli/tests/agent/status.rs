//! `underpass status`: what is well, and what is not.

use std::collections::BTreeMap;

use expect_test::expect;
use underpass_telemetry::admin::{
    Router,
    view::{Gate, PodCount, ProblemCount, RunningWaypoint, Status},
};

use super::{Agent, HOUR, answers, command, now, shown};

fn healthy() -> Status {
    Status {
        version: "9.9.9".into(),
        node: "node-1".into(),
        started_unix_s: now() - 25 * HOUR,
        world: 12,
        objects: [("Pod".to_owned(), 3), ("Service".to_owned(), 1)].into(),
        waiting: Vec::new(),
        pods: PodCount { by_state: [("enrolled".to_owned(), 2)].into(), problems: BTreeMap::new() },
        connections: 4,
        certificates: 2,
        certificates_missing: 0,
        certificates_not_yet_valid: 0,
        first_expiry_unix_s: Some(now() + 5 * HOUR + 30),
        authority_error: None,
        problems: ProblemCount { warnings: 1, ..ProblemCount::default() },
        control_plane: None,
        waypoints: Vec::new(),
    }
}

fn status(change: impl FnOnce(&mut Status)) -> Agent {
    let mut status = healthy();
    change(&mut status);
    Agent::start(answers(Router::new(), "/status", serde_json::to_value(status).unwrap()))
}

#[test]
fn all_is_well() {
    status(|_| {}).check(
        &["status"],
        &expect![[r#"
            exit 0
            agent         9.9.9 on node-1, up 1 d 1 h
            ready         yes
            World         version 12: 3 Pod, 1 Service
            pods          2 enrolled
            certificates  2, the first expires in 5 h
            connections   4 open
            manifests     0 errors, 1 warning, 0 not served yet
        "#]],
    );
}

fn waypoint(state: &str) -> RunningWaypoint {
    let addresses = ["10.9.1.7", "fd09::7"].map(|ip| ip.parse().unwrap()).into();
    RunningWaypoint { gateway: "shop/w".into(), addresses, state: state.into(), ..RunningWaypoint::default() }
}

#[test]
fn waypoints_are_listed() {
    let two = status(|s| {
        s.waypoints = vec![
            RunningWaypoint { pid: Some(4711), ..waypoint("serving") },
            RunningWaypoint { restarts: 3, problem: Some("exit status: 1".into()), ..waypoint("restarting") },
        ];
    });
    two.check(
        &["status"],
        &expect![[r#"
        exit 2
        agent         9.9.9 on node-1, up 1 d 1 h
        ready         yes
        World         version 12: 3 Pod, 1 Service
        pods          2 enrolled
        waypoints     shop/w at 10.9.1.7, fd09::7: serving, pid 4711
                      shop/w at 10.9.1.7, fd09::7: restarting, restarted 3 times: exit status: 1
        certificates  2, the first expires in 5 h
        connections   4 open
        manifests     0 errors, 1 warning, 0 not served yet
    "#]],
    );
}

#[test]
fn problems_are_listed() {
    let broken = status(|s| {
        s.waiting = vec![Gate { part: "pods".into(), reason: "the manifests are not applied yet".into() }];
        s.pods.by_state.insert("waiting".into(), 1);
        s.pods.problems.insert("shop/cart".into(), "no sandbox\u{1b}[2J".into());
        s.first_expiry_unix_s = Some(now() - 70);
        s.certificates_missing = 1;
        s.certificates_not_yet_valid = 1;
        s.problems.errors = 1;
        s.problems.first = vec!["error: a.yaml:3: Pod shop/x: spec: broken".into()];
    });
    broken.check(
        &["status"],
        &expect![[r#"
            exit 2
            agent         9.9.9 on node-1, up 1 d 1 h
            ready         no
                          pods: the manifests are not applied yet
            World         version 12: 3 Pod, 1 Service
            pods          2 enrolled, 1 waiting
                          shop/cart: no sandbox\u{1b}[2J
            certificates  2, one of them has expired, 1 missing, 1 not yet valid
            connections   4 open
            manifests     1 error, 1 warning, 0 not served yet
                          error: a.yaml:3: Pod shop/x: spec: broken
        "#]],
    );
    // each alone is enough
    let unwell: [fn(&mut Status); 7] = [
        |s| s.authority_error = Some("the authority is locked".into()),
        |s| s.waiting = vec![Gate { part: "pods".into(), reason: "later".into() }],
        |s| drop(s.pods.problems.insert("shop/cart".into(), "no sandbox".into())),
        |s| s.first_expiry_unix_s = Some(1),
        |s| s.certificates_not_yet_valid = 1,
        |s| s.waypoints = vec![waypoint("restarting")],
        |s| s.problems.errors = 1,
    ];
    for change in unwell {
        let agent = status(change);
        let output = command(&["status", "-o", "json"]).env("UNDERPASS_AGENT", agent.address()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", shown(&output));
    }
}
