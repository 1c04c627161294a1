//! The life of waypoints whose processes are shell scripts, in the test's own network namespace: what is started, how it ends, and
//! what is said about it.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

use tempfile::TempDir;
use underpass_core::{Few, testing::name};
use underpass_identity::testing::{Leaf, TestCa};
use underpass_net::netns::Netns;
use underpass_telemetry::metrics::Registry;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

/// Waypoints whose program is this script, which has the file `$OUT` to write to, and those that it has started.
struct Node {
    folder: TempDir,
    waypoints: Waypoints,
    credentials: watch::Sender<Arc<Credentials>>,
    registry: Registry,
}

fn instance(pod: &str, port: u16) -> Instance {
    Instance {
        node: "n".into(),
        pod: name(pod),
        number: 7,
        gateway: name(pod),
        class: "istio-waypoint".into(),
        port,
        addresses: Few::one("10.9.1.7".parse().unwrap()),
    }
}

fn lent(instance: &Instance) -> Lent {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let netns = fs::File::open("/proc/self/ns/net").unwrap().into();
    Lent { pod: instance.pod.clone(), at: At::of(instance), netns, listener }
}

fn credentials(accounts: &[&str]) -> Arc<Credentials> {
    let ca = TestCa::new("root");
    let one = |account: &&str| {
        let uri = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        (uri.parse().unwrap(), Arc::new(ca.credential(&Leaf::of(&uri))))
    };
    Arc::new(Credentials { roots: Arc::new(ca.roots(1)), own: accounts.iter().map(one).collect() })
}

impl Node {
    fn new(script: &str, drain: Duration, accounts: &[&str], inherited: Vec<Lent>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("waypoint");
        let out = folder.path().join("out");
        fs::write(&program, format!("#!/bin/sh\nOUT={}\n{script}\n", out.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (credentials, follow) = watch::channel(credentials(accounts));
        let (mesh, settings) = watch::channel(MeshSettings::default());
        let registry = Registry::default();
        let shared = Shared {
            program: Program { path: program, arguments: Vec::new() },
            manifests: "/etc/mesh".into(),
            node: "node-1".into(),
            drain,
            credentials: follow,
            mesh: settings,
            board: Board::new(&registry),
        };
        Self { folder, waypoints: Waypoints::with(shared, mesh, inherited), credentials, registry }
    }

    fn written(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    /// Waits until this is so of the only one.
    async fn until(&mut self, what: &str, is: impl Fn(&WaypointStatus) -> bool) -> WaypointStatus {
        let began = Instant::now();
        loop {
            if let [status] = &self.waypoints.shared.board.list()[..]
                && is(status)
            {
                return status.clone();
            }
            assert!(began.elapsed() < DEADLINE, "{what}: {:?}", self.waypoints.shared.board.list());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn drained(&mut self) {
        self.waypoints.drain();
        let all = async {
            while !self.waypoints.is_empty() {
                self.waypoints.turn().await;
            }
        };
        tokio::time::timeout(DEADLINE, all).await.expect("drained in time");
        assert!(self.waypoints.shared.board.list().is_empty() && self.waypoints.known.is_empty());
    }
}

#[tokio::test]
async fn one_that_ends_is_started_again_and_its_end_is_said() {
    let w = instance("shop/w", 15008);
    let mut node = Node::new("exit 3", Duration::ZERO, &["w"], vec![lent(&w)]);
    node.waypoints.set(vec![w]);
    assert!(node.waypoints.is_empty(), "not before this process is the agent");
    node.waypoints.start();
    let status = node.until("restarted twice", |s| s.restarts >= 2 && s.state == State::Restarting).await;
    assert_eq!((status.pid, status.problem.as_deref()), (None, Some("exit status: 3")));
    let text = node.registry.text();
    assert!(text.contains(r#"underpass_waypoints{state="restarting"} 1"#), "{text}");
    assert!(text.contains(r#"underpass_waypoint_restarts_total{gateway_name="w",gateway_namespace="shop"}"#), "{text}");
    node.waypoints.set(Vec::new());
    node.drained().await;
}

#[tokio::test]
async fn it_has_its_sockets_and_its_own_certificate_alone_and_ends_with_the_agents_end() {
    let w = instance("shop/w", 15008);
    // Both descriptors are sockets; the messages come as they are. It ends where the agent closes its end.
    let script = "test -S /proc/self/fd/3 && test -S /proc/self/fd/4 && cat <&3 >$OUT; echo end >>$OUT";
    let mut node = Node::new(script, Duration::ZERO, &["other"], vec![lent(&w)]);
    node.waypoints.set(vec![w]);
    node.waypoints.start();
    node.until("starting", |s| s.state == State::Starting && s.pid.is_none()).await;
    assert_eq!(node.written(), "", "not before it has a certificate");
    node.credentials.send_replace(credentials(&["w", "other"]));
    node.until("started", |s| s.pid.is_some()).await;
    let began = Instant::now();
    while !node.written().contains("credentials") && began.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let text = node.written();
    assert!(text.contains(r#""gateway":{"namespace":"shop","name":"w"}"#), "{text}");
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "its own and the root: {text}");
    // Of another identity nothing comes.
    let (all, own) = (credentials(&["other"]), Arc::clone(&node.credentials.borrow()));
    let mut next = Credentials { roots: Arc::clone(&own.roots), own: own.own.clone() };
    next.own.extend(all.own.iter().map(|(identity, credential)| (identity.clone(), Arc::clone(credential))));
    node.credentials.send_replace(Arc::new(next));
    // Between two others it has taken this change.
    for cluster in ["one", "two"] {
        node.waypoints.set_mesh(MeshSettings { cluster: cluster.into(), ..MeshSettings::default() });
        while !node.written().contains(&format!("\"{cluster}\"")) && began.elapsed() < DEADLINE {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    node.drained().await;
    let text = node.written();
    assert!(text.contains("\"two\"") && text.matches("credentials").count() == 1, "{text}");
}

#[tokio::test]
async fn what_does_not_drain_in_time_is_killed() {
    let w = instance("shop/w", 15008);
    let mut node = Node::new("echo $$ >$OUT; exec sleep 1000", Duration::ZERO, &["w"], vec![lent(&w)]);
    node.waypoints.set(vec![w]);
    node.waypoints.start();
    let pid = node.until("started", |s| s.pid.is_some()).await.pid.unwrap();
    node.drained().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is reaped");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let w = instance("shop/w", 15008);
    let mut node = Node::new("", Duration::ZERO, &["w"], vec![lent(&w)]);
    fs::remove_file(node.folder.path().join("waypoint")).unwrap();
    node.waypoints.set(vec![w]);
    node.waypoints.start();
    let status = node.until("restarting", |s| s.state == State::Restarting).await;
    let problem = status.problem.unwrap_or_default();
    assert!(
        problem.starts_with("start a process in network namespace") && problem.contains("waypoint: No such file"),
        "{problem}"
    );
    node.drained().await;
}

#[tokio::test]
async fn networks_pass_on() {
    let (w, moved) = (instance("shop/w", 15008), instance("shop/w", 15009));
    let mut node = Node::new("exec sleep 1000", Duration::ZERO, &["w"], vec![lent(&w)]);
    node.waypoints.set(vec![w.clone()]);
    assert!(node.waypoints.lend().unwrap().is_empty());
    node.waypoints.start();
    node.until("started", |s| s.pid.is_some()).await;
    let lent = node.waypoints.lend().unwrap();
    let [one] = &lent[..] else { panic!("{lent:?}") };
    assert_eq!((&one.pod, &one.at), (&w.pod, &At::of(&w)));
    let netns = Netns::from_fd(one.netns.try_clone().unwrap()).unwrap();
    assert_eq!(netns.cookie(), Netns::own().unwrap().cookie());
    // What replaces it waits for its end.
    node.waypoints.set(vec![moved]);
    assert_eq!(node.waypoints.known.len(), 1);
    tokio::time::timeout(DEADLINE, node.waypoints.turn()).await.expect("ended in time");
    assert_eq!(node.waypoints.known.values().map(|k| k.instance.port).collect::<Vec<_>>(), [15009]);
    tokio::time::timeout(DEADLINE, node.waypoints.shut_down()).await.expect("killed in time");
}
