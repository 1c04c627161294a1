//! TCPRoutes and TLSRoutes of the Gateway API: weights, backends that are not there, server names, and changes while connections
//! are open.

use std::collections::BTreeSet;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    mesh::{Mesh, run},
    tcp_routes::{hello, reached, set},
};

const TCP: &str = "10.96.0.10:70";
const ANY: &str = "10.96.0.10:60";
/// TLS of the application's own.
const SECURE: &str = "10.96.0.22:443";

/// A Service of each version, one of TLS before both, and these routes.
fn manifests(routes: &[&str]) -> String {
    let backend = |name: &str, version: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {ip}, selector: \
             {{version: {version}}}, ports: [{{name: tcp, port: 70, targetPort: 7070}}]}}\n---\n"
        )
    };
    let secure = "apiVersion: v1\nkind: Service\nmetadata: {name: secure, namespace: shop, labels: {istio.io/use-waypoint: w}}\n\
                  spec: {clusterIP: 10.96.0.22, selector: {app: cart}, ports: [{name: tls, port: 443, targetPort: 7443}]}\n---\n";
    let routes: String =
        routes.iter().map(|route| format!("apiVersion: gateway.networking.k8s.io/v1\n{route}\n---\n")).collect();
    let (one, two) = (backend("one", "v1", "10.96.0.31"), backend("two", "v2", "10.96.0.32"));
    format!("{one}{two}{secure}{routes}")
}

fn tcp_route(backends: &str) -> String {
    format!(
        "kind: TCPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{parentRefs: [{{group: '', kind: Service, name: cart, port: 70}}], \
         rules: [{{backendRefs: [{backends}]}}]}}"
    )
}

fn tls_route(name: &str, parent: &str, names: &str, backend: &str) -> String {
    format!(
        "kind: TLSRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], \
         hostnames: [{names}], rules: [{{backendRefs: [{{name: {backend}, port: 70}}]}}]}}"
    )
}

/// The statuses and endpoints that connections get, until there are so many different ones.
async fn outcomes(mesh: &Mesh, different: usize) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..1000 {
        match mesh.connect("web", TCP).await {
            Err(status) => drop(all.insert(status.to_string())),
            Ok(mut stream) => {
                stream.write_all(b"a").await.expect("sent");
                stream.read_exact(&mut [0]).await.expect("an echo");
                let asked = mesh.asked.borrow_mut().pop().expect("an endpoint");
                all.insert(asked.pod.to_owned());
            }
        }
        if all.len() == different {
            break;
        }
    }
    all
}

#[test]
fn shares_of_backends_and_of_those_that_are_not_there() {
    run(async {
        let mesh =
            Mesh::new(&manifests(&[&tcp_route("{name: one, port: 70, weight: 3}, {name: two, port: 70}")])).await;
        assert_eq!(outcomes(&mesh, 2).await, set(["v1", "v2"]));
        mesh.change(&manifests(&[&tcp_route("{name: one, port: 70, weight: 0}, {name: two, port: 70}")])).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v2 10.0.0.3:7070"]));
        mesh.change(&manifests(&[&tcp_route("{name: three, port: 70}, {name: two, port: 70}")])).await;
        assert_eq!(outcomes(&mesh, 2).await, set(["503", "v2"]));
        // A backend of another namespace needs no grant at a Service.
        let elsewhere = r#"
apiVersion: v1
kind: Service
metadata: {name: three, namespace: front}
spec: {clusterIP: 10.96.0.33, ports: [{name: tcp, port: 70, targetPort: 7070}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: three-1, namespace: front, labels: {kubernetes.io/service-name: three}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.2]}]
ports: [{name: tcp, port: 7070}]
"#;
        let to_it = manifests(&[&tcp_route("{name: three, namespace: front, port: 70}")]);
        mesh.change(&to_it).await;
        assert_eq!(mesh.connect("web", TCP).await.err(), Some(503), "it is not there yet");
        mesh.change(&format!("{to_it}{elsewhere}")).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v1 10.0.0.2:7070"]));
        mesh.change(&manifests(&[&tcp_route("{name: one, port: 70, weight: 0}")])).await;
        assert_eq!(mesh.connect("web", TCP).await.err(), Some(503), "no backend has a weight");
    });
}

#[test]
fn a_change_leaves_open_connections() {
    run(async {
        let mesh = Mesh::new(&manifests(&[&tcp_route("{name: one, port: 70}")])).await;
        let mut open = mesh.connect("web", TCP).await.expect("accepted");
        let mut echo = async |byte: u8| {
            open.write_all(&[byte]).await.expect("sent");
            let mut back = [0];
            open.read_exact(&mut back).await.expect("an echo");
            back[0]
        };
        assert_eq!(echo(1).await, 1);
        mesh.change(&manifests(&[&tcp_route("{name: two, port: 70}")])).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v2 10.0.0.3:7070"]));
        assert_eq!(echo(2).await, 2);
        mesh.change(&manifests(&[])).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v1 10.0.0.2:7070", "v2 10.0.0.3:7070"]));
        assert_eq!(echo(3).await, 3);
    });
}

/// Bytes come back of no endpoint: the connection is reset, or ends.
async fn is_refused(mesh: &Mesh, authority: &str, first: &[u8]) -> bool {
    mesh.asked.borrow_mut().clear();
    let mut stream = mesh.connect("web", authority).await.expect("accepted");
    stream.write_all(first).await.expect("sent");
    let read = stream.read(&mut [0]).await;
    read.ok().is_none_or(|n| n == 0) && mesh.asked.borrow().is_empty()
}

#[test]
fn by_server_name() {
    run(async {
        let at_secure = "name: secure";
        let routes =
            [tls_route("below", at_secure, "'*.example'", "one"), tls_route("whole", at_secure, "a.example", "two")];
        let mesh = Mesh::new(&manifests(&[&routes[0], &routes[1]])).await;
        let (a, b, other) = (hello("a.example").await, hello("b.example").await, hello("a.other").await);
        assert_eq!(reached(&mesh, "web", SECURE, &a).await, set(["v2 10.0.0.3:7070"]));
        assert_eq!(reached(&mesh, "web", SECURE, &b).await, set(["v1 10.0.0.2:7070"]));
        assert!(is_refused(&mesh, SECURE, &other).await, "no route is for that name");
        assert!(is_refused(&mesh, SECURE, b"no TLS at all").await);
    });
}

/// Where a port says no protocol, TLS is told by its first bytes.
#[test]
fn by_server_name_where_no_protocol_is_said() {
    run(async {
        let at_any = "name: cart, port: 60";
        let route = tls_route("any", at_any, "a.example", "two");
        let mesh = Mesh::new(&manifests(&[&route])).await;
        let (a, other) = (hello("a.example").await, hello("a.other").await);
        assert_eq!(reached(&mesh, "web", ANY, &a).await, set(["v2 10.0.0.3:7070"]));
        // What comes with it is read with it, and not lost.
        let more = [&a[..], &[7; 700]].concat();
        assert_eq!(reached(&mesh, "web", ANY, &more).await, set(["v2 10.0.0.3:7070"]));
        assert!(is_refused(&mesh, ANY, &other).await);
        assert!(is_refused(&mesh, ANY, b"\x01").await);
        // A request is none of its connections.
        assert_eq!(mesh.get("web", ANY, "/", &[]).await.status, 200);
    });
}
