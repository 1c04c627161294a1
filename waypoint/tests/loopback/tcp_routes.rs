//! Routes of connections that are no HTTP: by what is known of client and call, and by the server name of TLS.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    task::spawn_local,
};
use underpass_identity::testing::TestCa;
use underpass_net::tls::{Connector, ServerName, Settings};

use crate::mesh::{Mesh, run, until};

const TCP: &str = "10.96.0.10:70";
/// TLS of the application's own.
const SECURE: &str = "10.96.0.22:443";

/// Subsets, a Service of TLS, and these routes of their connections.
fn manifests(routes: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: secure, namespace: shop, labels: {{istio.io/use-waypoint: w}}}}
spec: {{clusterIP: 10.96.0.22, selector: {{app: cart}}, ports: [{{name: tls, port: 443, targetPort: 7443}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: cart, namespace: shop}}
spec: {{host: cart, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: secure, namespace: shop}}
spec: {{host: secure, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: connections, namespace: shop}}
spec: {{hosts: [cart, secure], {routes}}}
"#
    )
}

/// The endpoints that many connections have gone to, and that bytes came back from.
pub(crate) async fn reached(mesh: &Mesh, pod: &str, authority: &str, first: &[u8]) -> BTreeSet<String> {
    mesh.asked.borrow_mut().clear();
    for _ in 0..16 {
        let mut stream = mesh.connect(pod, authority).await.expect("accepted");
        stream.write_all(first).await.expect("sent");
        let mut back = vec![0; first.len()];
        stream.read_exact(&mut back).await.expect("an echo");
        assert_eq!(back, first, "whole and in order");
    }
    mesh.asked.borrow().iter().map(|asked| format!("{} {}", asked.pod, asked.authority)).collect()
}

pub(crate) fn set<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
    all.map(str::to_owned).into()
}

#[test]
fn by_client_and_port() {
    run(async {
        let by_label =
            "tcp: [{match: [{port: 70, sourceLabels: {app: web}}], route: [{destination: {host: cart, subset: v2}}]}]";
        let mesh = Mesh::new(&manifests(by_label)).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v2 10.0.0.3:7070"]));
        // What no route is for goes to the Service itself.
        let both = set(["v1 10.0.0.2:7070", "v2 10.0.0.3:7070"]);
        assert_eq!(reached(&mesh, "other", TCP, b"a").await, both);
        let other_port = "tcp: [{match: [{port: 72}], route: [{destination: {host: cart, subset: v2}}]}]";
        mesh.change(&manifests(other_port)).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, both);
        assert_eq!(reached(&mesh, "web", "10.96.0.10:72", b"\x01").await, set(["v2 10.0.0.3:7072"]));
        let elsewhere = "tcp: [{route: [{destination: {host: secure, subset: v1, port: {number: 443}}}]}]";
        mesh.change(&manifests(elsewhere)).await;
        assert_eq!(reached(&mesh, "web", TCP, b"a").await, set(["v1 10.0.0.2:7443"]));
        let labels = ["destination_service_name=\"secure\"", "source_workload=\"web\""];
        assert!(mesh.sum("istio_tcp_connections_opened_total", &labels) >= 16.0);
    });
}

#[test]
fn a_subset_that_is_not_there_is_no_other_one() {
    run(async {
        let none = "tcp: [{route: [{destination: {host: cart, subset: v3}}]}]";
        let mesh = Mesh::new(&manifests(none)).await;
        assert_eq!(mesh.connect("web", TCP).await.err(), Some(503));
        assert!(mesh.asked.borrow().is_empty());
    });
}

/// The first bytes of a client of TLS that asks for this name.
pub(crate) async fn hello(name: &str) -> Vec<u8> {
    let (near, mut far) = duplex(16 << 10);
    let roots = TestCa::new("root").roots(1);
    let connector = Connector::new(&roots, &Settings::default(), Duration::MAX).expect("usable");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let client = spawn_local(async move { connector.connect(near, &name).await.map(|_| ()) });
    let mut head = [0; 5];
    far.read_exact(&mut head).await.expect("a record");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    far.read_exact(&mut rest).await.expect("its content");
    client.abort();
    [&head[..], &rest].concat()
}

/// A client that is silent has its server asked, and speaks TLS all the same.
#[test]
fn by_server_name_of_one_that_was_silent() {
    run(async {
        let names =
            "tls: [{match: [{port: 72, sniHosts: [a.example]}], route: [{destination: {host: cart, subset: v2}}]}]";
        let mesh = Mesh::new(&manifests(names)).await;
        let mut stream = mesh.connect("web", "10.96.0.10:72").await.expect("accepted");
        until("a server is asked", || !mesh.asked.borrow().is_empty()).await;
        mesh.asked.borrow_mut().clear();
        let a = hello("a.example").await;
        stream.write_all(&a).await.expect("sent");
        let mut back = vec![0; a.len()];
        stream.read_exact(&mut back).await.expect("an echo");
        let asked: Vec<_> = mesh.asked.borrow().iter().map(|asked| asked.pod).collect();
        assert_eq!((back, asked), (a, vec!["v2"]));
    });
}

#[test]
fn by_server_name() {
    run(async {
        let names =
            "tls: [{match: [{port: 443, sniHosts: [a.example]}], route: [{destination: {host: secure, subset: v1}}]},
            {match: [{port: 443, sniHosts: ['*.example']}], route: [{destination: {host: secure, subset: v2}}]}]";
        let mesh = Mesh::new(&manifests(names)).await;
        let (a, b, other) = (hello("a.example").await, hello("b.example").await, hello("a.other").await);
        assert_eq!(reached(&mesh, "web", SECURE, &a).await, set(["v1 10.0.0.2:7443"]));
        assert_eq!(reached(&mesh, "web", SECURE, &b).await, set(["v2 10.0.0.3:7443"]));
        let both = set(["v1 10.0.0.2:7443", "v2 10.0.0.3:7443"]);
        assert_eq!(reached(&mesh, "web", SECURE, &other).await, both, "no route is for that name");
        assert_eq!(reached(&mesh, "web", SECURE, b"no TLS at all").await, both);
        // Behind them those of `tcp`.
        let last = format!("{names}, tcp: [{{route: [{{destination: {{host: secure, subset: v1}}}}]}}]");
        mesh.change(&manifests(&last)).await;
        assert_eq!(reached(&mesh, "web", SECURE, &b).await, set(["v2 10.0.0.3:7443"]));
        assert_eq!(reached(&mesh, "web", SECURE, &other).await, set(["v1 10.0.0.2:7443"]));
        // Bytes that come one by one are looked at as well.
        let mut stream = mesh.connect("web", SECURE).await.expect("accepted");
        mesh.asked.borrow_mut().clear();
        for byte in &b {
            stream.write_all(&[*byte]).await.expect("sent");
            stream.flush().await.expect("sent");
        }
        let mut back = vec![0; b.len()];
        stream.read_exact(&mut back).await.expect("an echo");
        assert_eq!((back, mesh.asked.borrow()[0].pod), (b, "v2"));
    });
}
