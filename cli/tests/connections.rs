//! `underpass explain` and `underpass analyze` of routes of connections that are no HTTP: by server name, by weight, and questions
//! that do not fit the port.

mod support;

use expect_test::{Expect, expect};

use support::{command, shown};

/// The part of the answer about the route, and the exit status.
#[track_caller]
fn check(destination: &str, more: &[&str], want: &Expect) {
    let output =
        command(&[&["explain", "-f", "connections", "shop/web", destination], more].concat()).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let part = text.find("  tcp ").map_or_else(|| shown(&output), |at| format!("...\n{}", &text[at..]));
    want.assert_eq(&format!("{:?}\n{part}", output.status.code()));
}

#[test]
fn by_server_name() {
    check(
        "db:443",
        &["--sni", "DB.example.com"],
        &expect![[r#"
        Some(0)
        ...
          tcp                  TLSRoute shop/names  spec.rules[0] matches: server name db.example.com
                                                    outbound|443||db-v2.shop.svc.cluster.local: 1 endpoint: 10.0.2.2:8443 (shop/db-v2)
                                                    no waypoint stands before Service shop/db: the connection goes as the stages above say

          connections/mesh.yaml:53: TLSRoute shop/names spec.rules[0]
    "#]],
    );
    check(
        "db:443",
        &["--sni", "db.other"],
        &expect![[r#"
        Some(0)
        ...
          tcp                  TLSRoute shop/names  no rule is for it: it is refused
                                                    no waypoint stands before Service shop/db: the connection goes as the stages above say
    "#]],
    );
}

#[test]
fn by_weight() {
    check(
        "db:5432",
        &[],
        &expect![[r#"
        Some(0)
        ...
          tcp                  TCPRoute shop/bytes  spec.rules[0] matches: every connection
                               TCPRoute shop/bytes  by weight one of outbound|5432||db-v2.shop.svc.cluster.local 9/10, Service shop/db-v3 does not exist 1/10: outbound|5432||db-v2.shop.svc.cluster.local
                                                    outbound|5432||db-v2.shop.svc.cluster.local: 1 endpoint: 10.0.2.2:5432 (shop/db-v2)
                                                    no waypoint stands before Service shop/db: the connection goes as the stages above say

          connections/mesh.yaml:64: TCPRoute shop/bytes spec.rules[0]
    "#]],
    );
}

#[test]
fn questions_that_do_not_fit_the_port() {
    check(
        "db:5432",
        &["--method", "GET"],
        &expect![[r#"
        Some(1)
        exit 1
        ! error: cannot explain: port 5432 of Service shop/db carries tcp, not HTTP: ask without --method, --path, --header and --authority
    "#]],
    );
    check(
        "db:5432",
        &["--sni", "db.example.com"],
        &expect![[r#"
        Some(1)
        exit 1
        ! error: cannot explain: port 5432 of Service shop/db carries tcp: no server name is read there; ask without --sni
    "#]],
    );
    check(
        "db:80",
        &["--sni", "db.example.com"],
        &expect![[r#"
        Some(1)
        exit 1
        ! error: cannot explain: port 80 of Service shop/db carries http: no server name is read there; ask without --sni
    "#]],
    );
}

#[test]
fn findings() {
    let output = command(&["analyze", "-f", "connections"]).output().unwrap();
    let want: Expect = expect![[r#"
        exit 0
        notice: no waypoint stands before Service shop/db: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> connections/mesh.yaml:50:7
           |
        50 |     - {group: "", kind: Service, name: db, port: 443}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: TLSRoute shop/names: spec.parentRefs[0]

        notice: no waypoint stands before Service shop/db: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> connections/mesh.yaml:61:7
           |
        61 |     - {group: "", kind: Service, name: db, port: 5432}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: TCPRoute shop/bytes: spec.parentRefs[0]

        warning: port 80 of Service shop/db carries http by its name or appProtocol, not bytes: the route has no effect there
          --> connections/mesh.yaml:62:7
           |
        62 |     - {group: "", kind: Service, name: db, port: 80}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: TCPRoute shop/bytes: spec.parentRefs[1]

        notice: no waypoint stands before Service shop/db: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> connections/mesh.yaml:62:7
           |
        62 |     - {group: "", kind: Service, name: db, port: 80}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: TCPRoute shop/bytes: spec.parentRefs[1]

        warning: Service shop/db-v3 does not exist: connections of its share are refused (IST0101)
          --> connections/mesh.yaml:66:11
           |
        66 |         - {name: db-v3, port: 5432, weight: 1}
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: TCPRoute shop/bytes: spec.rules[0].backendRefs[1]

        clean, with warnings: 1 file read, 8 objects served; 0 errors, 2 warnings, 3 notices
    "#]];
    want.assert_eq(&shown(&output));
}
