//! `underpass certificates`.

use expect_test::expect;
use underpass_telemetry::admin::{Router, view::Certificate};

use super::{Agent, HOUR, answers, now};

#[test]
fn certificates() {
    let certificate = |name: &str, state: &str, left: i64| Certificate {
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}"),
        state: state.into(),
        serial: Some("1f".into()),
        not_before_unix_s: Some(now() - 12 * HOUR),
        not_after_unix_s: Some(now().saturating_add_signed(left)),
        issuer: Some("2a".into()),
        error: (state != "valid").then(|| "the authority is locked".into()),
    };
    let missing = Certificate {
        serial: None,
        not_before_unix_s: None,
        not_after_unix_s: None,
        issuer: None,
        ..certificate("new", "missing", 0)
    };
    let (late, over) = (certificate("late", "failing", 7_830), certificate("over", "expired", -7_830));
    let early =
        Certificate { not_before_unix_s: Some(now() + HOUR + 30), ..certificate("early", "not_yet_valid", 43_230) };
    let all = [certificate("fresh", "valid", 43_230), late, over, missing, early];
    let agent = Agent::start(answers(Router::new(), "/certificates", serde_json::to_value(&all).unwrap()));
    agent.check(
        &["certificates"],
        &expect![[r#"
            exit 0
            IDENTITY                                 STATE          EXPIRES
            spiffe://cluster.local/ns/shop/sa/fresh  valid          in 12 h
            spiffe://cluster.local/ns/shop/sa/late   failing        in 2 h 10 min
            spiffe://cluster.local/ns/shop/sa/over   expired        2 h 10 min ago
            spiffe://cluster.local/ns/shop/sa/new    missing        -
            spiffe://cluster.local/ns/shop/sa/early  not_yet_valid  in 12 h
        "#]],
    );
    agent.check(
        &["certificates", "-o", "wide"],
        &expect![[r#"
            exit 0
            IDENTITY                                 STATE          EXPIRES         ISSUED    SERIAL  ISSUER  PROBLEM
            spiffe://cluster.local/ns/shop/sa/fresh  valid          in 12 h         12 h ago  1f      2a      -
            spiffe://cluster.local/ns/shop/sa/late   failing        in 2 h 10 min   12 h ago  1f      2a      the authority is locked
            spiffe://cluster.local/ns/shop/sa/over   expired        2 h 10 min ago  12 h ago  1f      2a      the authority is locked
            spiffe://cluster.local/ns/shop/sa/new    missing        -               -         -       -       the authority is locked
            spiffe://cluster.local/ns/shop/sa/early  not_yet_valid  in 12 h         in 1 h    1f      2a      the authority is locked
        "#]],
    );
}
