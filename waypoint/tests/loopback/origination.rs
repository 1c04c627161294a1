//! TLS that DestinationRules begin: inside of the tunnel to an endpoint of the mesh, on the connection itself to one outside of it.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, task::spawn_local};
use underpass_identity::{
    ServingCertificate,
    testing::{Leaf, TestCa, pem},
};
use underpass_net::tls::{Acceptor, Protocol, Settings};

use crate::{
    applications::secure,
    mesh::{DEADLINE, Mesh, run},
};

const SECURE: &str = "10.96.0.20:80";
const HOST: &str = "secure.shop.svc.cluster.local";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A Service whose application has TLS of its own; one whose pod is outside the mesh; and their DestinationRules.
fn manifests(tls: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: secure, namespace: shop, labels: {{istio.io/use-waypoint: w}}}}
spec: {{clusterIP: 10.96.0.20, selector: {{app: cart, version: v1}}, ports: [{{name: http, port: 80, targetPort: 8443}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: outside, namespace: shop, labels: {{app: outside, istio.io/dataplane-mode: none}}}}
spec: {{serviceAccountName: outside, nodeName: node-1, containers: [{{name: app}}]}}
status: {{phase: Running, podIP: 10.0.0.9, conditions: [{{type: Ready, status: "True"}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: outside, namespace: shop, labels: {{istio.io/use-waypoint: w}}}}
spec: {{clusterIP: 10.96.0.21, selector: {{app: outside}}, ports: [{{name: http, port: 80, targetPort: 8443}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: secure, namespace: shop}}
spec: {{host: secure, trafficPolicy: {{tls: {tls}}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: outside, namespace: shop}}
spec: {{host: outside, trafficPolicy: {{tls: {tls}}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: secure, namespace: shop}}
spec: {{hosts: [secure, outside], http: [{{retries: {{attempts: 0}}, route: [{{destination: {{host: secure}}}}], match: [{{authority: {{prefix: secure}}}}]}}, {{retries: {{attempts: 0}}, route: [{{destination: {{host: outside}}}}]}}]}}
"#
    )
}

/// A CA, and what a server of it shows for [`HOST`].
fn server() -> (TestCa, Rc<Acceptor>) {
    let now = SystemTime::now();
    let ca = TestCa::valid("root", now - DAY, now + DAY);
    let leaf = Leaf {
        dns_names: vec![HOST.to_owned(), "outside.example".to_owned()],
        not_before: now - DAY,
        not_after: now + DAY,
        ..Leaf::of("spiffe://other.example/ns/a/sa/b")
    };
    let (key, chain) = ca.sign(&leaf);
    let certificate = ServingCertificate::new(key, chain).expect("usable");
    let acceptor = Acceptor::new(&certificate, &Settings::default(), DEADLINE, Protocol::Http1).expect("usable");
    (ca, Rc::new(acceptor))
}

fn write(ca: &TestCa, file: &Path) {
    // As an atomic exchange does it: another file takes the name.
    let new = file.with_extension("new");
    fs::write(&new, pem("CERTIFICATE", &ca.root())).expect("written");
    fs::rename(&new, file).expect("renamed");
}

/// A mesh, the pod outside of it, and a file of `caCertificates`.
async fn mesh(tls: impl Fn(&Path) -> String) -> (Mesh, TestCa, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let mesh = Mesh::with(&manifests(&tls(&folder.path().join("ca.pem"))), |settings| {
        settings.tls_files = Duration::ZERO; // each connection looks
    })
    .await;
    let (ca, acceptor) = server();
    mesh.node.tls.replace(Some(acceptor));
    write(&ca, &folder.path().join("ca.pem"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    mesh.switch.listen(SocketAddr::from(([10, 0, 0, 9], 8443)), listener.local_addr().expect("name"));
    let node = Rc::clone(&mesh.node);
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accepted");
            spawn_local(secure("outside", socket, Rc::clone(&node)));
        }
    });
    (mesh, ca, folder)
}

/// What is answered to a request for the endpoint in the mesh, and to one for that outside.
async fn both(mesh: &Mesh) -> [String; 2] {
    let inside = mesh.get("web", SECURE, "/", &[("host", "secure")]).await.short();
    [inside, mesh.get("web", "10.96.0.21:80", "/", &[("host", "outside")]).await.short()]
}

#[test]
fn a_server_is_believed_by_its_authority_and_name() {
    run(async {
        let simple =
            |file: &Path| format!("{{mode: SIMPLE, caCertificates: {}, subjectAltNames: [{HOST}]}}", file.display());
        let (mesh, _ca, folder) = mesh(simple).await;
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        let file = folder.path().join("ca.pem");
        // By its own name, which one of the two servers has.
        mesh.change(&manifests(&format!("{{mode: SIMPLE, caCertificates: {}}}", file.display()))).await;
        assert_eq!(both(&mesh).await, ["200 v1", "503"]);
        mesh.change(&manifests(&format!("{{mode: SIMPLE, caCertificates: {}, sni: outside.example}}", file.display())))
            .await;
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        mesh.change(&manifests(&format!(
            "{{mode: SIMPLE, caCertificates: {}, subjectAltNames: [else.example]}}",
            file.display()
        )))
        .await;
        assert_eq!(both(&mesh).await, ["503", "503"]);
        mesh.change(&manifests("{mode: SIMPLE, insecureSkipVerify: true}")).await;
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        // Without TLS such a server has no answer.
        mesh.change(&manifests("{mode: DISABLE}")).await;
        assert!(both(&mesh).await.iter().all(|answer| answer.starts_with("50")));
    });
}

#[test]
fn files_are_exchanged_in_place() {
    run(async {
        let simple = |file: &Path| {
            format!(
                "{{mode: SIMPLE, caCertificates: {}, subjectAltNames: [{HOST}]}}, \
                 connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}",
                file.display()
            )
        };
        let (mesh, ca, folder) = mesh(simple).await;
        let file = folder.path().join("ca.pem");
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        let (other, acceptor) = server();
        write(&other, &file);
        assert_eq!(both(&mesh).await, ["503", "503"], "the servers are of another authority than the file");
        mesh.node.tls.replace(Some(acceptor));
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        // What cannot be read leaves the last good one.
        fs::write(&file, "nonsense").expect("written");
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        fs::remove_file(&file).expect("removed");
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
        write(&ca, &file);
        assert_eq!(both(&mesh).await, ["503", "503"]);
    });
}

#[test]
fn without_its_files_nothing_is_called() {
    run(async {
        let (mesh, ca, folder) = mesh(|file| {
            let missing = file.with_file_name("missing.pem");
            format!("{{mode: SIMPLE, caCertificates: {}, subjectAltNames: [{HOST}]}}", missing.display())
        })
        .await;
        assert_eq!(both(&mesh).await, ["503", "503"]);
        assert!(mesh.node.requests.borrow().is_empty());
        write(&ca, &folder.path().join("missing.pem"));
        assert_eq!(both(&mesh).await, ["200 v1", "200 outside"]);
    });
}

#[test]
fn mutual_tls_of_the_mesh_is_the_tunnel() {
    run(async {
        let (mesh, ..) = mesh(|_| "{mode: ISTIO_MUTUAL}".into()).await;
        // The one in the mesh is asked inside of the tunnel, without TLS of its own; the other one not at all.
        assert_eq!(both(&mesh).await, ["503", "503"]);
        let asked = mesh.asked.borrow().iter().filter(|asked| asked.authority == "10.0.0.2:8443").count();
        assert_eq!((asked, mesh.node.requests.borrow().len()), (1, 0));
    });
}
