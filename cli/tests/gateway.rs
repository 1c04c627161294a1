//! `underpass explain` and `underpass analyze` of routes of the Gateway API: the rule, the backend, what is refused, and what
//! takes the place of what.

mod support;

use expect_test::{Expect, expect};

use support::{command, shown};

/// The part of the answer about the request.
#[track_caller]
fn check(more: &[&str], want: &Expect) {
    let output = command(&[&["explain", "-f", "gateway", "shop/web", "cart:80"], more].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let at = text.find("  http ").unwrap_or_else(|| panic!("{text}"));
    // A first line without blanks: they would be taken for the source's.
    want.assert_eq(&format!("...\n{}", &text[at..]));
}

#[test]
fn by_path_and_header() {
    check(
        &["--path", "/beta/x", "--header", "x-USER=ann"],
        &expect![[r#"
            ...
              http                 HTTPRoute shop/cart  spec.rules[1].matches[0] (beta) matches: uri path prefix /beta, header x-user exact ann
                                   HTTPRoute shop/cart  by weight one of outbound|80||cart-v2.shop.svc.cluster.local 90/100, Service shop/cart-v3 does not exist 10/100: outbound|80||cart-v2.shop.svc.cluster.local
                                                        outbound|80||cart-v2.shop.svc.cluster.local: 1 endpoint: 10.0.2.2:8080 (shop/cart-v2)
                                   HTTPRoute shop/cart  timeout 10s; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                   HTTPRoute shop/cart  the path /beta/x becomes /x
                                                        no waypoint stands before Service shop/cart: the connection goes as the stages above say

              gateway/routes.yaml:21: HTTPRoute shop/cart spec.rules[1].matches[0]
        "#]],
    );
}

#[test]
fn otherwise() {
    // no element of the path is beta
    check(
        &["--path", "/betax", "--header", "x-user=ann"],
        &expect![[r#"
            ...
              http                 HTTPRoute shop/cart  spec.rules[0] matches: every request
                                                        outbound|80||cart.shop.svc.cluster.local: 2 endpoints: 10.0.1.2:8080 (shop/cart-v1), 10.0.2.2:8080 (shop/cart-v2)
                                                        one of them by LEAST_REQUEST (the mesh's default)
                                   HTTPRoute shop/cart  no timeout; 2 retries, on connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable (the mesh's default)
                                                        no waypoint stands before Service shop/cart: the connection goes as the stages above say

              gateway/routes.yaml:17: HTTPRoute shop/cart spec.rules[0]
        "#]],
    );
}

#[test]
fn a_redirect() {
    check(
        &["--path", "/old/x?q"],
        &expect![[r#"
            ...
              http                 HTTPRoute shop/cart  spec.rules[2].matches[0] matches: uri path prefix /old
                                   HTTPRoute shop/cart  it is redirected: 302 to http://cart/new?q
                                                        no waypoint stands before Service shop/cart: the connection goes as the stages above say

              gateway/routes.yaml:31: HTTPRoute shop/cart spec.rules[2].matches[0]
        "#]],
    );
}

#[test]
fn a_backend_that_does_not_exist() {
    check(
        &["--path", "/gone"],
        &expect![[r#"
            ...
              http                 HTTPRoute shop/cart  spec.rules[3].matches[0] matches: uri path prefix /gone
                                   HTTPRoute shop/cart  spec.rules[3]: Service shop/cart-v3 does not exist: it is refused
                                   HTTPRoute shop/cart  it is answered without an endpoint: 500
                                                        no waypoint stands before Service shop/cart: the connection goes as the stages above say

              gateway/routes.yaml:36: HTTPRoute shop/cart spec.rules[3].matches[0]
        "#]],
    );
}

#[test]
fn findings() {
    let output = command(&["analyze", "-f", "gateway"]).output().unwrap();
    let want: Expect = expect![[r#"
        exit 0
        notice: no waypoint stands before Service shop/cart: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> gateway/routes.yaml:15:7
           |
        15 |     - {group: "", kind: Service, name: cart, port: 80}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/cart: spec.parentRefs[0]

        warning: Service shop/cart-v3 does not exist: requests of its share get 500 (IST0101)
          --> gateway/routes.yaml:28:11
           |
        28 |         - {name: cart-v3, port: 80, weight: 10}
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/cart: spec.rules[1].backendRefs[1]

        warning: Service shop/cart-v3 does not exist: requests of its share get 500 (IST0101)
          --> gateway/routes.yaml:38:11
           |
        38 |         - {name: cart-v3, port: 80}
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/cart: spec.rules[3].backendRefs[0]

        notice: no waypoint stands before Service shop/cart: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> gateway/routes.yaml:45:7
           |
        45 |     - {group: "", kind: Service, name: cart}
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/later: spec.parentRefs[0]

        notice: no gateway runs: the route has no effect there
          --> gateway/routes.yaml:46:7
           |
        46 |     - {name: front}
           |       ^^^^^^^^^^^^^
           = in: HTTPRoute shop/later: spec.parentRefs[1]

        warning: is never reached: HTTPRoute shop/cart spec.rules[2].matches[0] matches the same requests (IST0130)
          --> gateway/routes.yaml:49:11
           |
        49 |         - path: {value: /old/}
           |           ^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/later: spec.rules[0].matches[0]

        warning: Service shop/cart has no port 8080: requests of its share get 500 (IST0101)
          --> gateway/routes.yaml:51:11
           |
        51 |         - {name: cart, port: 8080}
           |           ^^^^^^^^^^^^^^^^^^^^^^^^
           = in: HTTPRoute shop/later: spec.rules[0].backendRefs[0]

        warning: HTTPRoute shop/cart is attached to Service shop/cart: on port 80 its rules count, not this one's
          --> gateway/routes.yaml:57:11
           |
        57 |   hosts: [cart]
           |           ^^^^
           = in: VirtualService shop/cart: spec.hosts[0]

        notice: no waypoint stands before Service shop/cart: nothing enforces this there; name one with the label istio.io/use-waypoint
          --> gateway/routes.yaml:57:11
           |
        57 |   hosts: [cart]
           |           ^^^^
           = in: VirtualService shop/cart: spec.hosts[0]

        clean, with warnings: 2 files read, 9 objects served; 0 errors, 5 warnings, 4 notices
    "#]];
    want.assert_eq(&shown(&output));
}
