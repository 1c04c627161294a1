//! The whole way: an application's captured connection, its node's tunnel, the waypoint, the tunnel of the endpoint's node, and the
//! application there. What both nodes write down says who called.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::SystemTime};

use http_body_util::BodyExt as _;
use hyper::{client::conn::http1, server::conn::http1 as server1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_local,
};
use underpass_core::{
    Few, World,
    addr::HBONE_PORT,
    testing::name,
    world::{Account, MeshSettings, Uid},
};
use underpass_net::netns::Netns;
use underpass_proxy::credentials::Credentials;
use underpass_telemetry::{
    Format,
    access_log::{self, AccessLog, Target},
    metrics::Registry,
};
use underpass_ztunnel::{Inputs, Pod, Settings, Ztunnel, sockets::Ends, testing::Switch};

use crate::mesh::{Answer, DEADLINE, Mesh, empty, identity, ip, request, run};

/// The node of the pods `web`, `other` and `v1`, beside a mesh.
struct Node {
    switch: Arc<Switch>,
    /// The loopback addresses of the listeners that applications' connections come to.
    outbound: Vec<(&'static str, SocketAddr)>,
    ztunnel: Ztunnel,
    log: PathBuf,
    _access_log: Arc<AccessLog>,
    _world: watch::Sender<Arc<World>>,
    _credentials: watch::Sender<Arc<Credentials>>,
    _folder: tempfile::TempDir,
}

const PODS: [(&str, &str); 3] = [("front", "web"), ("front", "other"), ("shop", "v1")];

impl Node {
    async fn new(mesh: &Mesh) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("access.log");
        let to_file =
            access_log::Settings { format: Format::Json, target: Target::File(log.clone()), ..Default::default() };
        let access_log = Arc::new(AccessLog::start(&to_file).expect("log"));
        let own = PODS.map(|(_, pod)| {
            let credential = mesh.authority.credential(&identity(pod), DEADLINE * 10, SystemTime::now());
            (identity(pod), Arc::new(credential.expect("issued")))
        });
        let roots = Arc::new(mesh.authority.roots(1).expect("roots"));
        let (credentials, all_credentials) =
            watch::channel(Arc::new(Credentials { roots, own: own.into_iter().collect() }));
        let (world, worlds) = watch::channel(mesh.world());
        let inputs = Inputs {
            world: worlds,
            credentials: all_credentials,
            access_log: Arc::clone(&access_log),
            metrics: Registry::default(),
        };
        let mut settings = Settings::new(0);
        settings.sockets = Arc::<Switch>::clone(&mesh.switch);
        let ztunnel = Ztunnel::start(&settings, &inputs).expect("started");
        let mut outbound = Vec::new();
        for (cookie, (namespace, pod)) in (1..).zip(PODS) {
            outbound.push((pod, add(&ztunnel, mesh, cookie, namespace, pod)));
        }
        let application = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        mesh.switch.listen(SocketAddr::new(ip("v1"), 8080), application.local_addr().expect("name"));
        spawn_local(async move {
            loop {
                let (socket, _) = application.accept().await.expect("accepted");
                let echo = service_fn(async |request: http::Request<hyper::body::Incoming>| {
                    let path = request.uri().path().to_owned();
                    Ok::<_, hyper::Error>(
                        http::Response::builder()
                            .header("x-path", path)
                            .body(request.into_body().boxed())
                            .expect("response"),
                    )
                });
                spawn_local(server1::Builder::new().serve_connection(TokioIo::new(socket), echo));
            }
        });
        Self {
            switch: Arc::clone(&mesh.switch),
            outbound,
            ztunnel,
            log,
            _access_log: access_log,
            _world: world,
            _credentials: credentials,
            _folder: folder,
        }
    }

    /// A connection that an application of `pod` opened and the kernel handed over.
    fn captured(&self, pod: &str, to: &str) -> TcpStream {
        let (_, really) = self.outbound.iter().find(|(name, _)| *name == pod).expect("a pod");
        let ends = Ends { from: SocketAddr::new(ip(pod), 50_000), to: to.parse().expect("address") };
        TcpStream::from_std(self.switch.connect(*really, ends).expect("connected")).expect("registered")
    }

    /// The first line of the log that has these fields.
    async fn line(&self, fields: &[(&str, &str)]) -> Value {
        loop {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            if let Some(line) = lines.find(|line| fields.iter().all(|(key, value)| line[*key] == **value)) {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

fn add(ztunnel: &Ztunnel, mesh: &Mesh, cookie: u64, namespace: &str, pod: &str) -> SocketAddr {
    let listener = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("option");
        (listener.local_addr().expect("name"), listener)
    };
    let ((outbound_at, outbound), (inbound_at, inbound)) = (listener(), listener());
    mesh.switch.listen(SocketAddr::new(ip(pod), HBONE_PORT), inbound_at);
    let name = name(&format!("{namespace}/{pod}"));
    ztunnel.add(Pod {
        uid: Uid::of_pod(&MeshSettings::default().cluster, &name),
        name,
        addresses: Few::one(ip(pod)),
        account: Account { namespace: namespace.into(), name: pod.into() },
        cookie,
        netns: Arc::new(Netns::own().expect("own namespace")),
        outbound,
        inbound,
        expected_within: None,
    });
    outbound_at
}

#[test]
fn an_application_calls_another_through_the_waypoint() {
    run(async {
        // The destination's own policy: web may read, and no other; judged by the source that the waypoint names.
        let policy = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  selector: {matchLabels: {version: v1}}
  rules: [{from: [{source: {principals: [cluster.local/ns/front/sa/web]}}], to: [{operation: {methods: [GET]}}]}]
---
"#;
        let mesh = Mesh::new(&format!("{policy}{}", crate::routes::ALL_TO_V1)).await;
        let node = Node::new(&mesh).await;
        let ask = async |pod: &str, method: &str| {
            let socket = node.captured(pod, "10.96.0.10:80");
            let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.expect("begun");
            spawn_local(connection);
            Answer::of(sender.send_request(request(method, "/x", &[], empty())).await.expect("answered")).await
        };
        let answer = ask("web", "GET").await;
        assert_eq!((answer.status, answer.header("x-path")), (200, "/x"));
        assert_eq!(ask("web", "DELETE").await.status, 403);
        assert_eq!(ask("other", "GET").await.status, 403);
        // Straight to the pod nothing judges what only a waypoint can.
        let mut straight = node.captured("web", "10.0.0.2:8080");
        let asked = tokio::io::AsyncWriteExt::write_all(&mut straight, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = tokio::io::AsyncReadExt::read_to_end(&mut straight, &mut Vec::new()).await;
        assert!(asked.is_err() || answer.is_err(), "refused by a reset");
        // What is carried is written down when it ends.
        mesh.shut_down().await;
        let inbound = node.line(&[("direction", "inbound"), ("via", &identity("w").to_string())]).await;
        for (field, value) in [
            ("source_identity", identity("web").to_string()),
            ("source_workload", "web".to_owned()),
            ("policy", "shop/readers".to_owned()),
        ] {
            assert_eq!(inbound[field], value, "{inbound}");
        }
        let outbound = node.line(&[("direction", "outbound"), ("source_workload", "web")]).await;
        let passed = identity("w").to_string();
        assert_eq!((&outbound["service"], &outbound["via"]), (&"shop/cart".into(), &passed.into()), "{outbound}");
        node.ztunnel.shut_down();
    });
}
