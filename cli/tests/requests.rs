//! `underpass explain` of a request: the route, the subset, its endpoints, time and retries, and where each is written.

mod support;

use expect_test::{Expect, expect};
use serde_json::Value;

use support::{command, shown};

const FILES: [&str; 5] = ["explain", "-f", "routes", "shop/web", "cart:80"];

fn ask(more: &[&str]) -> std::process::Output {
    command(&[&FILES, more].concat()).output().unwrap()
}

/// The part of the answer about the request: what stands before is said of the connection alone as well.
#[track_caller]
fn check(more: &[&str], want: &Expect) {
    let output = ask(more);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let at = text.find("  http ").unwrap_or_else(|| panic!("{text}"));
    // A first line without blanks: they would be taken for the source's.
    want.assert_eq(&format!("...\n{}", &text[at..]));
}

#[test]
fn by_header() {
    check(
        &["--method", "GET", "--path", "/api/v2/x", "--header", "end-user=jason"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing    spec.http[0].match[0] matches: header end-user exact jason
                                   DestinationRule shop/cart-versions  outbound|80|v2|cart.shop.svc.cluster.local: 1 endpoint with version=v2: 10.0.2.2:8080 (shop/cart-v2)
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   DestinationRule shop/cart-versions  spec.subsets[1].trafficPolicy: loadBalancer
                                   VirtualService shop/cart-routing    timeout 10s; 3 retries, 2s each, on 5xx,gateway-error,connect-failure,refused-stream
                                                                       no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:11: VirtualService shop/cart-routing spec.http[0].match[0]
              routes/routes.yaml:86: DestinationRule shop/cart-versions spec.subsets[1]
              routes/routes.yaml:78: DestinationRule shop/cart-versions spec.trafficPolicy
              routes/routes.yaml:89: DestinationRule shop/cart-versions spec.subsets[1].trafficPolicy
        "#]],
    );
}

#[test]
fn by_path() {
    check(
        &["--path", "/api/v2/x?q=1", "--header", "end-user=bob"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing    spec.http[1].match[0] matches: uri prefix /api/v2
                                   DestinationRule shop/cart-versions  outbound|80|v2|cart.shop.svc.cluster.local: 1 endpoint with version=v2: 10.0.2.2:8080 (shop/cart-v2)
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   DestinationRule shop/cart-versions  spec.subsets[1].trafficPolicy: loadBalancer
                                   VirtualService shop/cart-routing    no timeout; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                   VirtualService shop/cart-routing    the path /api/v2/x?q=1 becomes /api/x?q=1
                                                                       no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:24: VirtualService shop/cart-routing spec.http[1].match[0]
              routes/routes.yaml:86: DestinationRule shop/cart-versions spec.subsets[1]
              routes/routes.yaml:78: DestinationRule shop/cart-versions spec.trafficPolicy
              routes/routes.yaml:89: DestinationRule shop/cart-versions spec.subsets[1].trafficPolicy
        "#]],
    );
}

#[test]
fn by_weight() {
    check(
        &["--path", "/canary"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing    spec.http[2].match[0] matches: uri exact /canary
                                   VirtualService shop/cart-routing    by weight one of outbound|80|v1|cart.shop.svc.cluster.local 80/100, outbound|80|v2|cart.shop.svc.cluster.local 20/100: outbound|80|v2|cart.shop.svc.cluster.local
                                   DestinationRule shop/cart-versions  outbound|80|v2|cart.shop.svc.cluster.local: 1 endpoint with version=v2: 10.0.2.2:8080 (shop/cart-v2)
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   DestinationRule shop/cart-versions  spec.subsets[1].trafficPolicy: loadBalancer
                                   DestinationRule shop/cart-versions  outbound|80|v1|cart.shop.svc.cluster.local: 1 endpoint with version=v1: 10.0.1.2:8080 (shop/cart-v1)
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   VirtualService shop/cart-routing    no timeout; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                                                       no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:33: VirtualService shop/cart-routing spec.http[2].match[0]
              routes/routes.yaml:86: DestinationRule shop/cart-versions spec.subsets[1]
              routes/routes.yaml:78: DestinationRule shop/cart-versions spec.trafficPolicy
              routes/routes.yaml:89: DestinationRule shop/cart-versions spec.subsets[1].trafficPolicy
              routes/routes.yaml:83: DestinationRule shop/cart-versions spec.subsets[0]
        "#]],
    );
}

#[test]
fn without_an_endpoint() {
    check(
        &["--path", "/beta"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing    spec.http[3].match[0] matches: uri prefix /beta
                                   DestinationRule shop/cart-versions  outbound|80|v3|cart.shop.svc.cluster.local: no ready endpoint with version=v3: 503, response flag UH
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   VirtualService shop/cart-routing    no timeout; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                                                       no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:45: VirtualService shop/cart-routing spec.http[3].match[0]
              routes/routes.yaml:92: DestinationRule shop/cart-versions spec.subsets[2]
              routes/routes.yaml:78: DestinationRule shop/cart-versions spec.trafficPolicy
        "#]],
    );
    check(
        &["--path", "/gamma"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing    spec.http[4].match[0] matches: uri prefix /gamma
                                                                       outbound|80|v4|cart.shop.svc.cluster.local: no DestinationRule of the host defines this subset: 503, response flag NR
                                   DestinationRule shop/cart-versions  spec.trafficPolicy: connectionPool
                                   VirtualService shop/cart-routing    no timeout; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                                                       no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:52: VirtualService shop/cart-routing spec.http[4].match[0]
              routes/routes.yaml:78: DestinationRule shop/cart-versions spec.trafficPolicy
        "#]],
    );
    check(
        &["--path", "/old?x"],
        &expect![[r#"
            ...
              http                 VirtualService shop/cart-routing  spec.http[5].match[0] matches: uri exact /old
                                   VirtualService shop/cart-routing  it is redirected: 301 to http://cart:80/new?x
                                                                     no waypoint stands before Service shop/cart: the connection goes as the stages above say

              routes/routes.yaml:59: VirtualService shop/cart-routing spec.http[5].match[0]
        "#]],
    );
    check(
        &["--method", "POST"],
        &expect![[r#"
            ...
              http                                    no route of VirtualService shop/cart-routing matches: 404
                                                      no waypoint stands before Service shop/cart: the connection goes as the stages above say
        "#]],
    );
}

#[test]
fn for_programs() {
    let output = ask(&["--header", "End-User=jason", "-o", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let want: Expect = expect![[r#"
        {
          "action": "forward",
          "cluster": "outbound|80|v2|cart.shop.svc.cluster.local",
          "endpoints": [
            "10.0.2.2:8080 (shop/cart-v2)"
          ],
          "enforced": false,
          "gates": [
            {
              "gate": "waypoint",
              "policy": null,
              "verdict": "allow"
            },
            {
              "endpoint": "10.0.2.2:8080",
              "gate": "endpoint",
              "policy": null,
              "verdict": "allow"
            }
          ],
          "objects": [
            {
              "field": "spec.http[0].match[0]",
              "object": "VirtualService shop/cart-routing",
              "place": "routes/routes.yaml:11"
            },
            {
              "field": "spec.subsets[1]",
              "object": "DestinationRule shop/cart-versions",
              "place": "routes/routes.yaml:86"
            },
            {
              "field": "spec.trafficPolicy",
              "object": "DestinationRule shop/cart-versions",
              "place": "routes/routes.yaml:78"
            },
            {
              "field": "spec.subsets[1].trafficPolicy",
              "object": "DestinationRule shop/cart-versions",
              "place": "routes/routes.yaml:89"
            }
          ],
          "retries": "3 retries, 2s each, on 5xx,gateway-error,connect-failure,refused-stream",
          "subset": "v2",
          "timeout": "10s"
        }
    "#]];
    want.assert_eq(&format!("{}\n", serde_json::to_string_pretty(&answer["http"]).unwrap()));
    // a connection alone is explained as before
    let alone: Value = serde_json::from_slice(&ask(&["-o", "json"]).stdout).unwrap();
    assert_eq!(alone.get("http"), None);
    assert_eq!(alone["steps"].as_array().unwrap().len() + 6, answer["steps"].as_array().unwrap().len());
}

#[test]
fn calls_that_no_route_is_for() {
    let output =
        command(&["explain", "-f", "routes", "shop/web", "shop/cart-v1:8080", "--path", "/"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("routes are of Services"), "{text}");
    let output =
        command(&["explain", "--agent", "127.0.0.1:1", "shop/web", "cart:80", "--path", "/"]).output().unwrap();
    let want: Expect = expect![[r#"
        exit 1
        ! error: requests and server names are explained from files alone: name them with -f DIR (agents have no routes: waypoints do)
    "#]];
    want.assert_eq(&shown(&output));
}

/// How one of several endpoints is chosen, and which one where the request decides it.
#[test]
fn by_balancing() {
    let check = |port: u16, header: &[&str], want: &Expect| {
        let files = ["explain", "-f", "routes", "shop/web", &format!("stock:{port}"), "--path", "/"];
        let output = command(&[&files, header].concat()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("one of them by "));
        let said: Vec<_> = lines.map(|line| &line[line.find("one of").unwrap()..]).collect();
        want.assert_eq(&said.join("\n"));
    };
    check(
        80,
        &["--header", "x-user=jason"],
        &expect!["one of them by consistentHash (ringHash) of header x-user: 10.0.1.11:8080 (shop/stock-1)"],
    );
    check(
        80,
        &["--header", "x-user=amy"],
        &expect!["one of them by consistentHash (ringHash) of header x-user: 10.0.2.11:8080 (shop/stock-2)"],
    );
    check(80, &[], &expect!["one of them by consistentHash (ringHash) of header x-user"]);
    check(81, &[], &expect!["one of them by ROUND_ROBIN (in 3 priorities of 1, 1, 1)"]);
    check(
        82,
        &["--header", "cookie=session=7"],
        &expect![
            "one of them by consistentHash (maglev) of cookie session: 10.0.2.11:8080 (shop/stock-2) (80% to 2 of eu/*/*, 20% to 1 of us/*/*)"
        ],
    );
    check(
        82,
        &[],
        &expect!["one of them by consistentHash (maglev) of cookie session (80% to 2 of eu/*/*, 20% to 1 of us/*/*)"],
    );
    check(83, &[], &expect!["one of them by LEAST_REQUEST (the mesh's default)"]);
}
