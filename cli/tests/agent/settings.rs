//! `underpass config` and `underpass log`: what can be set.

use std::sync::Arc;

use expect_test::expect;
use serde_json::json;
use underpass_telemetry::admin::{Method, Request, Response, Router, view};

use super::{Agent, answers, command, get};

#[test]
fn settings_are_told_with_who_says_so() {
    let setting = |name: &str, values: &[&str], source: &str, live| view::Setting {
        name: name.into(),
        values: values.iter().map(ToString::to_string).collect(),
        source: source.into(),
        live,
    };
    let mut settings = view::Settings {
        file: Some("/etc/u.yaml".into()),
        settings: vec![
            setting("node", &["node-1"], "environment NODE_NAME", false),
            setting("cgroup-root", &[], "default", false),
            setting("trust-domain-aliases", &["a.b", "c.d"], "flag", false),
            setting("release-drain", &["1m\u{1b}[2J"], "/etc/u.yaml:3", true),
        ],
        ..view::Settings::default()
    };
    let agent = |settings: &view::Settings| {
        Agent::start(answers(Router::new(), "/config", serde_json::to_value(settings).unwrap()))
    };
    agent(&settings).check(
        &["config"],
        &expect![[r#"
        exit 0
        SETTING               VALUE        SOURCE                 LIVE
        node                  node-1       environment NODE_NAME  -
        cgroup-root           -            default                -
        trust-domain-aliases  a.b, c.d     flag                   -
        release-drain         1m\u{1b}[2J  /etc/u.yaml:3          live
    "#]],
    );
    settings.needs_restart = vec![
        view::PendingSetting { name: "workers".into(), values: vec!["2".into()], source: "/etc/u.yaml:4".into() },
        view::PendingSetting { name: "access-log".into(), values: Vec::new(), source: "default".into() },
    ];
    settings.problem = Some("settings:\n  - /etc/u.yaml:3: release-drain: \"soon\": no\u{1b}[2J".into());
    let agent = agent(&settings);
    agent.check(
        &["config", "--changed"],
        &expect![[r#"
            exit 2
            SETTING               VALUE        SOURCE                 LIVE
            node                  node-1       environment NODE_NAME  -
            trust-domain-aliases  a.b, c.d     flag                   -
            release-drain         1m\u{1b}[2J  /etc/u.yaml:3          live
            needs a restart: workers becomes 2 (/etc/u.yaml:4)
            needs a restart: access-log becomes not set (default)
            not served: /etc/u.yaml is broken; the settings before stay in effect:
              - /etc/u.yaml:3: release-drain: "soon": no\u{1b}[2J
        "#]],
    );
    let output = command(&["config", "-o", "json"]).env("UNDERPASS_AGENT", agent.address()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(serde_json::from_slice::<view::Settings>(&output.stdout).unwrap(), settings);
}

#[test]
fn the_level_of_the_log() {
    let level = Arc::new(std::sync::Mutex::new("info".to_owned()));
    let (show, set) = (Arc::clone(&level), level);
    let router = get(Router::new(), "/logging", move || json!({ "level": *show.lock().unwrap() }));
    let agent = Agent::start(router.route(Method::PUT, "/logging", move |request: Request| {
        *set.lock().unwrap() = request.query("level").unwrap().to_owned();
        std::future::ready(Response::json(&json!({})))
    }));
    agent.check(
        &["log"],
        &expect![[r#"
        exit 0
        info
    "#]],
    );
    agent.check(
        &["log", "warn,underpass_net=debug"],
        &expect![[r#"
        exit 0
        warn,underpass_net=debug
    "#]],
    );
    agent.check(&["log", "loud"], &expect![[r#"
        exit 1
        ! error: invalid value 'loud' for '[LEVEL]': log filter: "loud" is neither LEVEL nor TARGET=LEVEL, with off, error, warn, info, debug or trace as LEVEL
        !
        ! For more information, try '--help'.
    "#]]);
    agent.check(
        &["log"],
        &expect![[r#"
        exit 0
        warn,underpass_net=debug
    "#]],
    );
}
