//! `underpass connections`: which, how fast, and the end of one.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use expect_test::expect;
use serde_json::{Value, json};
use underpass_telemetry::admin::{Limits, Listener, Method, Request, Response, Router, StatusCode};

use super::{Agent, answers, command, get, now, shown};

/// Number 3 is passed through, and calls no service.
fn connection(id: u64, micros: u64, received: u64, sent: u64) -> Value {
    json!({
        "id": id, "direction": "outbound", "path": if id == 3 { "passthrough" } else { "hbone" },
        "source": { "address": "10.0.1.2:40000", "workload": "shop/web", "identity": "spiffe://cluster.local/ns/shop/sa/web" },
        "destination": { "address": "[fd00::2]:8080", "workload": if id == 3 { Value::Null } else { json!("shop/cart-1") }, "identity": null },
        "service": if id == 3 { Value::Null } else { json!("shop/cart") },
        "service_host": if id == 3 { Value::Null } else { json!("cart.shop.svc.cluster.local") },
        "vip": if id == 3 { Value::Null } else { json!("10.96.0.10:80") }, "bytes_received": received, "bytes_sent": sent,
        "opened_unix_ms": 0, "duration_us": micros, "policy": "shop/cart-viewer", "dry_run_denied_by": if id == 3 { json!([]) } else { json!(["shop/tried", "shop/tried-too"]) },
        "reason": null, "world": 3, "later": true,
    })
}

#[test]
fn connections_and_which_of_them() {
    let all = json!([connection(1, 4_000_000, 100, 2048), connection(3, 61_000_000, 0, 0)]);
    let agent = Agent::start(answers(Router::new(), "/connections", all));
    agent.check(
        &["connections"],
        &expect![[r#"
        exit 0
        ID  DIRECTION  PATH         SOURCE          DESTINATION       SERVICE    OPEN       RECEIVED  SENT
        1   outbound   hbone        shop/web:40000  shop/cart-1:8080  shop/cart  4 s        100 B     2.0 KiB
        3   outbound   passthrough  shop/web:40000  [fd00::2]:8080    -          1 min 1 s  0 B       0 B
    "#]],
    );
    agent.check(&["connections", "--service", "shop/cart", "-o", "wide"], &expect![[r#"
        exit 0
        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT     HOST                         VIP            SOURCE IDENTITY                        POLICY            DRY RUN DENIED BY
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  4 s   100 B     2.0 KiB  cart.shop.svc.cluster.local  10.96.0.10:80  spiffe://cluster.local/ns/shop/sa/web  shop/cart-viewer  shop/tried, shop/tried-too
    "#]]);
    agent.check(
        &["connections", "--pod", "shop/cart-1", "-o", "json"],
        &expect![[r#"
            exit 0
            [
              {
                "id": 1,
                "direction": "outbound",
                "path": "hbone",
                "source": {
                  "address": "10.0.1.2:40000",
                  "workload": "shop/web",
                  "identity": "spiffe://cluster.local/ns/shop/sa/web"
                },
                "destination": {
                  "address": "[fd00::2]:8080",
                  "workload": "shop/cart-1",
                  "identity": null
                },
                "via": null,
                "service": "shop/cart",
                "service_host": "cart.shop.svc.cluster.local",
                "vip": "10.96.0.10:80",
                "bytes_received": 100,
                "bytes_sent": 2048,
                "duration_us": 4000000,
                "policy": "shop/cart-viewer",
                "dry_run_denied_by": [
                  "shop/tried",
                  "shop/tried-too"
                ],
                "received_per_s": null,
                "sent_per_s": null
              }
            ]
        "#]],
    );
    agent.check(
        &["connections", "--pod", "shop/unknown"],
        &expect![[r#"
        exit 0
        no open connections
    "#]],
    );
}

#[test]
fn refused_handshakes_and_why() {
    let party =
        |address: &str, workload: Option<&str>| json!({ "address": address, "workload": workload, "identity": null });
    let expected = "spiffe://cluster.local/ns/shop/sa/cart";
    let ours = json!({
        "times": 12, "last_unix_s": now() - 9_030, "direction": "outbound", "source": party("10.0.1.2:40000", Some("shop/web")),
        "destination": party("[fd00::2]:8080", Some("shop/cart-1")), "reason": "tls_not_an_identity",
        "detail": "it names none", "refused_by": "us", "identity_found": "spiffe:///ns/a\u{1b}[2J", "identity_expected": expected,
    });
    let theirs = json!({
        "times": 1, "last_unix_s": now() - 7_830, "direction": "inbound", "source": party("10.0.1.9:40001", None),
        "destination": party("10.0.2.2:15008", Some("shop/cart-1")), "reason": "tls_alert_unknown_ca",
        "detail": "peer refused: unknown_ca", "refused_by": "peer", "identity_found": null, "identity_expected": null,
    });
    let agent = Agent::start(answers(Router::new(), "/connections/refused", json!([ours, theirs])));
    agent.check(&["connections", "refused"], &expect![[r#"
        exit 0
        LAST            TIMES  DIRECTION  SOURCE          DESTINATION        REFUSED BY  REASON                FOUND                    EXPECTED
        2 h 30 min ago  12     outbound   shop/web:40000  shop/cart-1:8080   us          tls_not_an_identity   spiffe:///ns/a\u{1b}[2J  spiffe://cluster.local/ns/shop/sa/cart
        2 h 10 min ago  1      inbound    10.0.1.9:40001  shop/cart-1:15008  peer        tls_alert_unknown_ca  -                        -
    "#]]);
    agent.check(&["connections", "refused", "-o", "wide"], &expect![[r#"
        exit 0
        LAST            TIMES  DIRECTION  SOURCE          DESTINATION        REFUSED BY  REASON                FOUND                    EXPECTED                                DETAIL
        2 h 30 min ago  12     outbound   shop/web:40000  shop/cart-1:8080   us          tls_not_an_identity   spiffe:///ns/a\u{1b}[2J  spiffe://cluster.local/ns/shop/sa/cart  it names none
        2 h 10 min ago  1      inbound    10.0.1.9:40001  shop/cart-1:15008  peer        tls_alert_unknown_ca  -                        -                                       peer refused: unknown_ca
    "#]]);
    let agent = Agent::start(answers(Router::new(), "/connections/refused", json!([])));
    agent.check(
        &["connections", "refused"],
        &expect![[r#"
        exit 0
        no handshake was refused
    "#]],
    );
}

#[test]
fn one_is_closed() {
    let agent = Agent::start(Router::new().route(Method::POST, "/connections/close", async |request: Request| {
        match request.query("id") {
            Some("7") => Response::json(&json!({ "closed": 7 })),
            other => Response::error(StatusCode::NOT_FOUND, format!("no connection {other:?}")),
        }
    }));
    agent.check(
        &["connections", "close", "7"],
        &expect![[r#"
        exit 0
        connection 7 is closed
    "#]],
    );
    agent.check(
        &["connections", "close", "8"],
        &expect![[r#"
        exit 1
        ! error: no connection Some("8")
    "#]],
    );
    agent.check(
        &["connections", "close", "all"],
        &expect![[r#"
        exit 1
        ! error: invalid value 'all' for '<ID>': invalid digit found in string
        !
        ! For more information, try '--help'.
    "#]],
    );
    // on loopback an agent only shows
    let listener = Listener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
    let looks = agent.runtime.block_on(async { listener.serve(Router::new(), Limits::default()).unwrap() });
    let target = looks.target().to_string();
    let output = command(&["connections", "close", "7", "--agent", &target]).output().unwrap();
    expect![[r#"
        exit 1
        ! error: POST /connections/close?id=7 on LOOPBACK: 403 Forbidden: loopback is shared with pods that use the host's network: changes are made over the unix socket
    "#]].assert_eq(&shown(&output).replace(&target, "LOOPBACK"));
}

#[test]
fn watching_shows_rates_from_the_second_look_on() {
    let looks = Arc::new(AtomicU64::new(0));
    let agent = Agent::start(get(Router::new(), "/connections", move || {
        let n = looks.fetch_add(1, Relaxed);
        // 1 MiB and 512 KiB a second; another one comes with the second look
        let mut all = vec![connection(1, 1_000_000 + n * 1_000_000, n << 20, n << 19)];
        all.extend((n > 0).then(|| connection(2, 500_000, 2 << 20, 0)));
        Value::Array(all)
    }));
    let mut watching = command(&["connections", "--watch=0.1"]);
    let mut watching = watching.env("UNDERPASS_AGENT", agent.address()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines().map(|line| line.unwrap().trim_end().to_owned());
    let seen: Vec<_> = lines.take(6).collect();
    watching.kill().unwrap();
    watching.wait().unwrap();
    expect![[r#"
        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT  RECEIVED/S  SENT/S
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  1 s   0 B       0 B   -           -

        ID  DIRECTION  PATH   SOURCE          DESTINATION       SERVICE    OPEN  RECEIVED  SENT       RECEIVED/S  SENT/S
        2   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  0 s   2.0 MiB   0 B        4.0 MiB/s   0 B/s
        1   outbound   hbone  shop/web:40000  shop/cart-1:8080  shop/cart  2 s   1.0 MiB   512.0 KiB  1.0 MiB/s   512.0 KiB/s
    "#]].assert_eq(&(seen.join("\n") + "\n"));
}
