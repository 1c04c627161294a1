//! A control plane and a node of a test.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use underpass_core::{Few, Kind};
use underpass_door::Reached;
use underpass_xds::{
    access::{Authenticator, Caller, CallerPod, Refusal, RefusalKind},
    certificates::{Issuer, Request},
    client::{self, Batch, Node, Progress, Rejected},
    connect::ControlPlane,
    resource::{Change, ContentHash, Resource, ResourceKind, Resources},
    server::{Counters, Heard, Limits, Services, serve},
};

use crate::pipe::Pipe;

/// All that is awaited is awaited for so long, of a clock that moves only while all wait.
const DEADLINE: Duration = Duration::from_secs(600);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not in {DEADLINE:?}"))
}

/// Knows the tokens `agent` and `ztunnel`, and remembers all that it was asked.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<Vec<String>>);

impl Tokens {
    pub(crate) fn seen(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with the lock").clone()
    }
}

impl Authenticator for Tokens {
    async fn authenticate(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        let token = token.ok_or_else(|| Refusal::new(RefusalKind::Unauthenticated, "no token"))?;
        self.0.lock().expect("no test panics with the lock").push(token.into());
        if !token.starts_with("agent") && !token.starts_with("ztunnel") {
            return Err(Refusal::new(RefusalKind::Unauthenticated, "unknown token"));
        }
        let pod = CallerPod { name: format!("{token}-1").into(), uid: "u".into() };
        let namespace = "system".into();
        Ok(Caller { namespace, service_account: token.into(), pod: Some(pod), node: Some("node-1".into()) })
    }
}

/// Issues a chain that says what was asked.
pub(crate) struct Ca;

impl Issuer for Ca {
    async fn issue(&self, caller: Caller, request: Request) -> Result<Vec<String>, Refusal> {
        match request.impersonated.as_deref() {
            Some("denied") => Err(Refusal::new(RefusalKind::PermissionDenied, "no pod of denied on node-1")),
            Some("unknown") => Err(Refusal::new(RefusalKind::Unavailable, "pods are not known yet")),
            Some("slow") => std::future::pending().await,
            Some("short") => Ok(vec!["leaf".into()]),
            identity => Ok(vec![
                format!("{} for {identity:?} by {caller} in {:?}", request.csr_pem, request.validity),
                "roots".into(),
            ]),
        }
    }
}

/// A control plane.
pub(crate) struct Server {
    pub(crate) pipe: Pipe,
    pub(crate) resources: watch::Sender<Resources>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) heard: Arc<Streams>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn new(resources: Resources) -> Self {
        Self::limited(resources, Limits::default())
    }

    pub(crate) fn limited(resources: Resources, limits: Limits) -> Self {
        let (pipe, incoming) = Pipe::new();
        let (resources, receiver) = watch::channel(resources);
        let (tokens, counters) = (Arc::new(Tokens::default()), Arc::new(Counters::default()));
        let heard = Arc::new(Streams::default());
        let services = Services {
            resources: receiver,
            authenticator: tokens.clone(),
            issuer: Arc::new(Ca),
            limits,
            counters: counters.clone(),
            heard: heard.clone(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(Box::pin(incoming), services, async move { drop(stopped.await) }));
        Self { pipe, resources, tokens, counters, heard, stop: Some(stop), task }
    }

    /// Drains, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        within("the server drains", &mut self.task).await.expect("the server does not panic");
    }

    /// Ends at once.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// A resource whose body is `body`.
pub(crate) fn resource(name: &str, body: &str) -> Resource {
    let (name, body) = (name.into(), body.as_bytes());
    Resource { name, aliases: Few::new(), version: ContentHash::of(body), body: body.into() }
}

pub(crate) fn resources(
    source: &str,
    addresses: impl IntoIterator<Item = Resource>,
    policies: impl IntoIterator<Item = Resource>,
) -> Resources {
    let map = |one: Resource| (one.name.clone(), Arc::new(one));
    Resources {
        addresses: addresses.into_iter().map(map).collect(),
        authorizations: policies.into_iter().map(map).collect(),
        source: source.into(),
        versions: source.parse().ok().map(of_pods).into_iter().collect(),
    }
}

/// Pods are known up to this version, at which they changed.
fn of_pods(known: u64) -> (Kind, Reached) {
    (Kind::Pod, Reached { known, changed: known })
}

/// What clients had applied, stream by stream: the versions of pods.
#[derive(Default)]
pub(crate) struct Streams(pub(crate) Mutex<Vec<u64>>);

impl Heard for Streams {
    fn heard(&self, _: &Caller, applied: &BTreeMap<Kind, u64>) {
        self.0.lock().expect("no test panics with the lock").push(applied[&Kind::Pod]);
    }
}

/// What a node has applied: kind and name to body.
pub(crate) type State = BTreeMap<(ResourceKind, String), String>;

pub(crate) fn state(resources: &Resources) -> State {
    let all = ResourceKind::ALL.into_iter().flat_map(|kind| resources.of(kind).values().map(move |one| (kind, one)));
    let text = |one: &Resource| String::from_utf8(one.body.to_vec()).expect("text");
    all.map(|(kind, one)| ((kind, one.name.to_string()), text(one))).collect()
}

/// Applies to a map that a test waits for, and rejects bodies that are `bad`.
pub(crate) struct Apply(watch::Sender<(State, bool)>);

impl client::Apply for Apply {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        self.0.send_modify(|(state, complete)| {
            *complete = batch.complete;
            for Change { kind, name, body, .. } in batch.changes {
                match body.map(|body| String::from_utf8(body.to_vec()).expect("text")) {
                    Some(body) if body == "bad" => {
                        rejected.push(Rejected { kind, name, reason: "body: bad".into() });
                    }
                    Some(body) => drop(state.insert((kind, name.to_string()), body)),
                    None => drop(state.remove(&(kind, name.to_string()))),
                }
            }
        });
        rejected
    }
}

/// A node: our client and what it applied.
pub(crate) struct Agent {
    pub(crate) state: watch::Receiver<(State, bool)>,
    pub(crate) progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl Agent {
    pub(crate) fn new(pipe: &Pipe, token: Option<PathBuf>) -> Self {
        let (sender, state) = watch::channel((State::new(), false));
        let (progress, receiver) = watch::channel(Progress::default());
        let control_plane = ControlPlane { token, ..ControlPlane::new("control.system.svc:15012") };
        let session = client::Session::new(Node { pod: "agent-1".into(), ..Node::default() });
        let connect = Arc::new(pipe.clone());
        let task = tokio::spawn(async move {
            let ended = client::run(control_plane, connect, session, Apply(sender), progress, || 0).await;
            panic!("the client ended: {ended:?}");
        });
        Self { state, progress: receiver, task }
    }

    /// Waits until exactly these resources are applied.
    pub(crate) async fn has(&mut self, resources: &Resources) {
        let expected = state(resources);
        let same = self.state.wait_for(|(state, complete)| *complete && *state == expected);
        if timeout(DEADLINE, same).await.is_err() {
            panic!(
                "expected {expected:?}\n     got {:?}\nprogress {:?}",
                *self.state.borrow(),
                *self.progress.borrow()
            );
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file with a token, for as long as it lives.
pub(crate) fn token(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("the token is written");
    file
}
