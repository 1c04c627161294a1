//! A cluster for the command: an API server on loopback that lists the pods of agents, and forwards a port of each to an admin server, or
//! does not.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use expect_test::Expect;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};
use underpass_telemetry::admin::{Limits, Listener, Router, Server};

use crate::support::{command, shown};

/// The namespace of agents.
const NAMESPACE: &str = "underpass-system";

/// What becomes of the port of a pod.
pub(crate) enum Port {
    /// An agent answers.
    Serves(Router),
    /// The kubelet says this of it.
    Refused(&'static str),
    /// The API server refuses to forward it.
    Forbidden,
    /// Nothing is said.
    Silent,
}

/// The same, where it leads to.
enum Way {
    To(SocketAddr),
    Refused(&'static str),
    Forbidden,
    Silent,
}

#[derive(Default)]
struct State {
    pods: Vec<Value>,
    ways: BTreeMap<String, Way>,
    objects: BTreeMap<String, Value>,
    written: Vec<(String, Value)>,
}

/// The cluster.
pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    runtime: Runtime,
    servers: Vec<Server>,
    home: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&serving);
                let serve = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(answer(&state, request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve);
                tokio::spawn(connection.with_upgrades());
            }
        });
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "tester", "user": {"token": "secret-token"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "tester", "namespace": "shop"}}],
        });
        std::fs::write(home.path().join("config"), kubeconfig.to_string()).unwrap();
        Self { state, runtime, servers: Vec::new(), home }
    }

    /// Adds the agent of a node.
    pub(crate) fn agent(mut self, node: &str, port: Port) -> Self {
        let name = format!("underpass-agent-of-{node}");
        let way = match port {
            Port::Refused(says) => Way::Refused(says),
            Port::Forbidden => Way::Forbidden,
            Port::Silent => Way::Silent,
            Port::Serves(router) => {
                let listener = Listener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
                let server = self.runtime.block_on(async { listener.serve(router, Limits::default()).unwrap() });
                let address = server.target().address().unwrap();
                self.servers.push(server);
                Way::To(address)
            }
        };
        self.state.lock().unwrap().ways.insert(name.clone(), way);
        self.pod(
            "underpass-agent",
            &name,
            json!({"nodeName": node}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        )
    }

    /// Adds a pod of a component.
    pub(crate) fn pod(self, component: &str, name: &str, spec: Value, status: Value) -> Self {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "main", "image": "example.org/underpass:9.9.8"}]);
        let metadata = json!({"name": name, "labels": {"app.kubernetes.io/name": component}});
        self.state.lock().unwrap().pods.push(json!({"metadata": metadata, "spec": spec, "status": status}));
        self
    }

    /// Adds an object by its path.
    pub(crate) fn object(self, path: &str, object: Value) -> Self {
        self.state.lock().unwrap().objects.insert(path.to_owned(), object);
        self
    }

    /// What was written: method and path, and what was sent.
    pub(crate) fn written(&self) -> Vec<(String, Value)> {
        self.state.lock().unwrap().written.clone()
    }

    pub(crate) fn output(&self, args: &[&str]) -> std::process::Output {
        command(args).env("KUBECONFIG", self.home.path().join("config")).output().unwrap()
    }

    pub(crate) fn check(&self, args: &[&str], want: &Expect) {
        want.assert_eq(&shown(&self.output(args)));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _entered = self.runtime.enter(); // servers end on their own runtime
        self.servers.clear();
    }
}

type Answer = Response<Full<Bytes>>;

fn said(status: u16, value: &Value) -> Answer {
    Response::builder().status(status).body(Full::from(value.to_string())).unwrap()
}

fn refused(code: u16, reason: &str, message: &str) -> Answer {
    said(code, &json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}))
}

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    if path == pods {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let state = state.lock().unwrap();
        let asked = |pod: &&Value| {
            let component = pod["metadata"]["labels"]["app.kubernetes.io/name"].as_str().unwrap();
            query.contains(&format!("%3D{component}"))
        };
        let items: Vec<&Value> = state.pods.iter().filter(asked).collect();
        return said(200, &json!({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items}));
    }
    if let Some(pod) = path.strip_prefix(&format!("{pods}/")).and_then(|rest| rest.strip_suffix("/portforward")) {
        return forward(state, pod, request);
    }
    let method = request.method().clone();
    if method == hyper::Method::PATCH {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut state = state.lock().unwrap();
        let patch: Value = serde_json::from_slice(&body).unwrap();
        state.written.push((format!("{method} {path}"), patch.clone()));
        let Some(object) = state.objects.get_mut(&path) else { return said(200, &json!({})) };
        let given = &patch["metadata"]["resourceVersion"];
        if !given.is_null() && *given != object["metadata"]["resourceVersion"] {
            return refused(409, "Conflict", "the object has been modified");
        }
        merge(object, patch);
        return said(200, object);
    }
    match state.lock().unwrap().objects.get(&path) {
        Some(object) => said(200, object),
        None => refused(404, "NotFound", &format!("no {path}")),
    }
}

/// RFC 7396.
fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return *into = patch };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.as_object_mut().unwrap().remove(&key)),
            value => merge(&mut into[&key], value),
        }
    }
}

/// A WebSocket whose binary messages begin with their channel: 0 the port's bytes, 1 what is said against it. The first message of each is
/// the port, little endian.
fn forward(state: &Mutex<State>, pod: &str, request: Request<Incoming>) -> Answer {
    let state = state.lock().unwrap();
    let (to, says) = match state.ways.get(pod) {
        None => return refused(404, "NotFound", &format!("pods \"{pod}\" not found")),
        Some(Way::Forbidden) => {
            let message =
                format!("pods \"{pod}\" is forbidden: User \"tester\" cannot create resource \"pods/portforward\"");
            return refused(403, "Forbidden", &message);
        }
        Some(Way::To(address)) => (Some(*address), None),
        Some(Way::Refused(says)) => (None, Some(*says)),
        Some(Way::Silent) => (None, None),
    };
    assert_eq!(request.uri().query().unwrap().trim_start_matches('&'), "ports=15000");
    let accept = derive_accept_key(request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes());
    tokio::spawn(async move {
        let stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        for channel in [0, 1] {
            let [low, high] = 15000_u16.to_le_bytes();
            socket.send(Message::binary(vec![channel, low, high])).await.unwrap();
        }
        if let Some(says) = says {
            let _ = socket.send(Message::binary([&[1][..], says.as_bytes()].concat())).await; // the client has gone
        }
        match to {
            Some(to) => pump(socket, TcpStream::connect(to).await.unwrap()).await,
            // Held until the client gives up.
            None => while socket.next().await.is_some_and(|message| message.is_ok()) {},
        }
    });
    let upgrade =
        Response::builder().status(101).header(header::UPGRADE, "websocket").header(header::CONNECTION, "Upgrade");
    let upgrade = upgrade.header(header::SEC_WEBSOCKET_ACCEPT, accept);
    upgrade.header(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io").body(Full::default()).unwrap()
}

async fn pump(mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>, mut agent: TcpStream) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(message))) if message.first() == Some(&0) => agent.write_all(&message[1..]).await.unwrap(),
                Some(Ok(_)) => {}
                _ => return,
            },
            read = agent.read(&mut bytes) => match read {
                Ok(n) if n > 0 => {
                    let sent = socket.send(Message::binary([&[0][..], &bytes[..n]].concat())).await;
                    if sent.is_err() { return }
                }
                _ => {
                    let _ = tokio::time::timeout(Duration::from_secs(5), socket.close(None)).await; // the client has gone
                    return;
                }
            },
        }
    }
}
