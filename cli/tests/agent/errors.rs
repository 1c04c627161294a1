//! No answer, wrong use, the manual and completion.

use expect_test::expect;
use serde_json::json;
use underpass_telemetry::admin::{Method, Response, Router, StatusCode};

use super::{Agent, answers, command, shown};

#[test]
fn errors_say_what_to_do_next() {
    // no agent listens
    let address = Agent::start(Router::new()).address();
    let output = command(&["status"]).env("UNDERPASS_AGENT", &address).output().unwrap();
    expect![[r#"
        exit 1
        ! error: cannot connect to AGENT: No such file or directory (os error 2); is an agent running on this node? Use --agent for another address, or -f DIR to read manifests
    "#]].assert_eq(&shown(&output).replace(&address, "AGENT"));
    // something else, or something older
    Agent::start(Router::new()).check(&["workloads"], &expect![[r#"
        exit 1
        ! error: GET /workloads on AGENT: 404 Not Found: no /workloads here; GET / lists what there is; is this address an Underpass agent, of the same version as this command?
    "#]]);
    Agent::start(answers(Router::new(), "/workloads", json!({ "a": 1 }))).check(&["workloads"], &expect![[r#"
        exit 1
        ! error: GET /workloads on AGENT: unexpected JSON: invalid type: map, expected a sequence at line 1 column 0; is this address an Underpass agent, of the same version as this command?
    "#]]);
    let refuses = Router::new()
        .route(Method::GET, "/policies", async |_| Response::error(StatusCode::SERVICE_UNAVAILABLE, "not now"));
    Agent::start(refuses).check(
        &["policies"],
        &expect![[r#"
        exit 1
        ! error: GET /policies on AGENT: 503 Service Unavailable: not now
    "#]],
    );
    Agent::start(Router::new()).check(
        &["status", "--agent", "nowhere"],
        &expect![[r#"
            exit 1
            ! error: invalid value 'nowhere' for '--agent <TARGET>': write ADDRESS:PORT, such as 127.0.0.1:15000, or unix:PATH
            !
            ! For more information, try '--help'.
        "#]],
    );
}

#[test]
fn the_manual_and_completion() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = command(&["man", pages.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let page = std::fs::read_to_string(pages.join("underpass-explain.1")).unwrap();
    assert!(page.contains("SOURCE") && page.contains(".TH"), "{page}");
    assert!(String::from_utf8_lossy(&command(&["man"]).output().unwrap().stdout).contains("underpass\\-explain(1)"));
    for (shell, word) in [("bash", "_underpass()"), ("zsh", "#compdef underpass"), ("fish", "complete -c underpass")] {
        let output = command(&["completion", shell]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{shell}");
    }
    assert_eq!(command(&["completion", "cmd"]).output().unwrap().status.code(), Some(1));
}
