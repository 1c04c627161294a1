//! The World in lists, by an agent's: `workloads`, `services`, `policies`, `explain`.

use expect_test::expect;
use underpass_core::{
    objects::{Object, Service},
    testing::{ambient, labels, model, pod, service},
};
use underpass_telemetry::admin::{
    Method, Request, Response, Router, StatusCode,
    view::{self, PodState},
};

use super::{Agent, answers};

fn objects() -> Vec<Object> {
    vec![
        ambient("shop/cart-1", "10.0.2.2 fd00::2", "app=cart").into(),
        ambient("shop/web", "10.0.1.2", "app=web").into(),
        pod("legacy/old", "10.0.2.9").into(),
        service("shop/cart app=cart 10.96.0.10,fd96::10 80=8080 9090").into(),
        service("shop/lost app=lost 10.96.0.12 80").into(),
        waypoint("shop/wants app=cart 10.96.0.13 80", false).into(),
        waypoint("shop/would app=cart 10.96.0.14 80", true).into(),
    ]
}

fn waypoint(text: &str, waypoint_optional: bool) -> Service {
    Service { labels: labels("istio.io/use-waypoint=w"), waypoint_optional, ..service(text) }
}

fn of_world() -> Agent {
    let model = model(objects());
    let world = model.world();
    let mut workloads = view::workloads(world);
    for w in workloads.iter_mut().filter(|w| w.namespace == "shop") {
        let problem = (w.name == "web").then(|| "its address is not there".to_owned());
        w.state = Some(PodState { state: if problem.is_some() { "waiting" } else { "enrolled" }.into(), problem });
    }
    let router = answers(Router::new(), "/workloads", serde_json::to_value(workloads).unwrap());
    let router = answers(router, "/services", serde_json::to_value(view::services(world)).unwrap());
    let router = answers(router, "/policies", serde_json::to_value(view::policies(world, model.sources())).unwrap());
    Agent::start(router.route(Method::GET, "/explain", move |request: Request| {
        let asked = |key| request.query(key).unwrap_or_default().to_owned();
        let (source, destination) = (asked("source"), asked("destination"));
        let explained = underpass_core::explain::explain(model.world(), Some(model.sources()), &source, &destination);
        std::future::ready(match explained {
            Ok(explanation) => Response::json(&explanation),
            Err(unknown) => Response::error(StatusCode::NOT_FOUND, unknown),
        })
    }))
}

#[test]
fn workloads() {
    let agent = of_world();
    agent.check(
        &["workloads"],
        &expect![[r#"
        exit 0
        NAMESPACE  NAME    NODE    ADDRESSES          READY  MESH  STATE
        legacy     old     node-1  10.0.2.9           yes    no    -
        shop       cart-1  node-1  10.0.2.2, fd00::2  yes    yes   enrolled
        shop       web     node-1  10.0.1.2           yes    yes   waiting
    "#]],
    );
    agent.check(&["workloads", "-n", "shop", "-o", "wide"], &expect![[r#"
        exit 0
        NAMESPACE  NAME    NODE    ADDRESSES          READY  MESH  STATE     BECAUSE                            IDENTITY                                  PROBLEM
        shop       cart-1  node-1  10.0.2.2, fd00::2  yes    yes   enrolled  pod label istio.io/dataplane-mode  spiffe://cluster.local/ns/shop/sa/cart-1  -
        shop       web     node-1  10.0.1.2           yes    yes   waiting   pod label istio.io/dataplane-mode  spiffe://cluster.local/ns/shop/sa/web     its address is not there
    "#]]);
    agent.check(
        &["workloads", "-n", "none"],
        &expect![[r#"
        exit 0
        no pods
    "#]],
    );
}

#[test]
fn services() {
    of_world().check(&["services", "-o", "wide"], &expect![[r#"
        exit 0
        NAMESPACE  NAME   TYPE       ADDRESSES             PORTS           READY  MESH  TRAFFIC  WAYPOINT            HOST                          ENDPOINTS
        shop       cart   ClusterIP  10.96.0.10, fd96::10  80->8080, 9090  1/1    yes   -        -                   cart.shop.svc.cluster.local   shop/cart-1
        shop       lost   ClusterIP  10.96.0.12            80              0/0    no    -        -                   lost.shop.svc.cluster.local   -
        shop       wants  ClusterIP  10.96.0.13            80              1/1    yes   -        shop/w (not ready)  wants.shop.svc.cluster.local  shop/cart-1
        shop       would  ClusterIP  10.96.0.14            80              1/1    yes   -        shop/w (optional)   would.shop.svc.cluster.local  shop/cart-1
    "#]]);
    of_world().check(
        &["services", "-n", "shop", "-o", "yaml"],
        &expect![[r#"
            exit 0
            - namespace: shop
              name: cart
              host: cart.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.10"
              - fd96::10
              ports:
              - name: p80
                port: 80
                target: "8080"
              - name: p9090
                port: 9090
                target: "9090"
              endpoints:
              - addresses:
                - "10.0.2.2"
                - fd00::2
                workload: shop/cart-1
                ready: true
                draining: false
                weight: 1
                node: node-1
                zone: null
                in_mesh: true
              in_mesh: true
              waypoint: null
              waypoint_ready: false
              waypoint_optional: false
              traffic: []
            - namespace: shop
              name: lost
              host: lost.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.12"
              ports:
              - name: p80
                port: 80
                target: "80"
              endpoints: []
              in_mesh: false
              waypoint: null
              waypoint_ready: false
              waypoint_optional: false
              traffic: []
            - namespace: shop
              name: wants
              host: wants.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.13"
              ports:
              - name: p80
                port: 80
                target: "80"
              endpoints:
              - addresses:
                - "10.0.2.2"
                - fd00::2
                workload: shop/cart-1
                ready: true
                draining: false
                weight: 1
                node: node-1
                zone: null
                in_mesh: true
              in_mesh: true
              waypoint: shop/w
              waypoint_ready: false
              waypoint_optional: false
              traffic: []
            - namespace: shop
              name: would
              host: would.shop.svc.cluster.local
              type: ClusterIP
              vips:
              - "10.96.0.14"
              ports:
              - name: p80
                port: 80
                target: "80"
              endpoints:
              - addresses:
                - "10.0.2.2"
                - fd00::2
                workload: shop/cart-1
                ready: true
                draining: false
                weight: 1
                node: node-1
                zone: null
                in_mesh: true
              in_mesh: true
              waypoint: shop/w
              waypoint_ready: false
              waypoint_optional: true
              traffic: []
        "#]],
    );
}

#[test]
fn explain_by_the_world_of_the_agent() {
    let agent = of_world();
    agent.check(&["explain", "shop/web", "cart:80"], &expect![[r#"
        exit 0
        allowed: no policy forbids it (path hbone)

          resolve                                 source is pod shop/web (10.0.1.2)
                                                  destination is service cart.shop.svc.cluster.local (10.96.0.10), port 80
          enrolment            Pod shop/web       in the mesh: pod label istio.io/dataplane-mode
          capture                                 the kernel hands the connection to the tunnel
          route                Service shop/cart  10.96.0.10:80 -> endpoint 10.0.2.2:8080 (shop/cart-1)
                                                  HBONE to 10.0.2.2:15008 for 10.0.2.2:8080 (shop/cart-1), expecting spiffe://cluster.local/ns/shop/sa/cart-1
          peer-authentication                     no PeerAuthentication applies: port 8080 accepts mutual TLS and plaintext
          authorization                           no ALLOW policy applies: allowed
    "#]]);
    agent.check(&["explain", "shop/unknown", "cart:80"], &expect![[r#"
        exit 1
        ! error: source "shop/unknown": no pod of that name, and it is not an address; write namespace/pod or an IP address
    "#]]);
}
