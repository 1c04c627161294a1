//! The agent as one process: manifests, World, certificates, tables, tunnel, admin, all as they run on a node, with tables in
//! memory and sockets on loopback. The test plays the sandboxes: what a kernel would hand over, it hands over.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use underpass_abi::{CgroupId, Cookie, Map, Marks};
use underpass_agent::{
    config::{self, Running, Sources},
    datapath::InMemory,
    handover::{self, Claim},
    node,
    pods::{AnnouncedPod, Event, WaitingPod},
    preflight::{Checked, Claimed, Servers},
    reports::Counters,
    signals::Signals,
    source::Source,
    surroundings::Surroundings,
};
use underpass_core::{
    ObjectName, TrustDomain,
    addr::HBONE_PORT,
    testing::{ambient, model},
};
use underpass_identity::Authority;
use underpass_net::netns::Netns;
use underpass_telemetry::{
    Format,
    access_log::{self, AccessLog, Target},
    admin::{Listener, view::RefusedHandshake},
    log,
};
use underpass_ztunnel::{sockets::Ends, testing::Switch};

/// The timeout of every wait.
const DEADLINE: Duration = Duration::from_secs(60);
/// The levels of the log, of which a process has one.
static LEVELS: OnceLock<log::Levels> = OnceLock::new();
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const Z: &str = "10.0.0.9";

fn pod(name: &str, address: &str, labels: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, uid: uid-{name}, labels: {{{labels}}}}}
spec: {{nodeName: node-1, serviceAccountName: {name}, containers: [{{name: app, image: app}}]}}
status:
  phase: Running
  conditions: [{{type: Ready, status: 'True'}}]
  podIP: {address}
  podIPs: [{{ip: {address}}}]
"
    )
}

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";
const DENY_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a, namespace: default}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]}
";

fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if began.elapsed() > DEADLINE => panic!("waited in vain for {what}"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// A running agent, and what a kernel would do around it.
struct Agent {
    folder: tempfile::TempDir,
    switch: Arc<Switch>,
    tables: InMemory,
    events: mpsc::UnboundedSender<Event>,
    admin: SocketAddr,
    readiness: SocketAddr,
    settings: watch::Sender<Arc<Running>>,
    stop: mpsc::UnboundedSender<()>,
    thread: JoinHandle<()>,
}

impl Agent {
    fn start(manifests: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let directory = folder.path().join("manifests");
        fs::create_dir(&directory).expect("directory");
        for (file, text) in manifests {
            fs::write(directory.join(file), text).expect("written");
        }
        let directory = directory.to_str().expect("UTF-8").to_owned();
        let state = folder.path().join("state");
        let shown = state.to_str().expect("UTF-8");
        let args = ["--node", "node-1", "--manifests", &directory, "--state", shown, "--drain", "0"];
        let args = std::iter::once("underpass-agent").chain(args).map(Into::into).collect();
        let loaded = config::load(&Sources { args, env: BTreeMap::new() }, |file| fs::read(file)).expect("settings");
        let (settings, follow) = watch::channel(Arc::new(Running::from(loaded)));
        let switch = Arc::new(Switch::default());
        let tables = InMemory::new(Marks::DEFAULT);
        let mut tunnel = underpass_ztunnel::Settings::new(0);
        tunnel.sockets = Arc::<Switch>::clone(&switch);
        let (events, received) = mpsc::unbounded_channel();
        let surroundings = Surroundings {
            path: tables.clone(),
            counters: Counters::none(),
            kernel_log: None,
            tunnel,
            cgroup_root: "/nonexistent/underpass".into(),
            marks: Marks::DEFAULT,
            events: (events.clone(), received),
        };
        let checked = checked(folder.path());
        let (admin, readiness) = (address(&checked.servers.admin), address(&checked.servers.readiness));
        let (stop, requests) = mpsc::unbounded_channel();
        let thread = std::thread::spawn(move || {
            let levels =
                LEVELS.get_or_init(|| log::init(Format::Text, "info".parse().expect("a filter")).expect("levels"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let mut stop = Signals::of(requests);
            runtime.block_on(node::run_in(surroundings, &follow, checked, levels, &mut stop)).expect("it ran");
        });
        let agent = Self { folder, switch, tables, events, admin, readiness, settings, stop, thread };
        wait_until("readiness", || get(readiness, "/healthz/ready").filter(|(status, _)| *status == 200));
        agent
    }

    /// Changes a manifest; nothing: removes it.
    fn edit(&self, file: &str, text: Option<&str>) {
        let path = self.folder.path().join("manifests").join(file);
        match text {
            None => fs::remove_file(path).expect("removed"),
            Some(text) => {
                let aside = self.folder.path().join("aside");
                fs::write(&aside, text).expect("written");
                fs::rename(aside, path).expect("renamed");
            }
        }
    }

    /// Destinations that are in the mesh.
    fn destinations(&self) -> usize {
        self.tables.with(|tables| tables.len(Map::Mesh))
    }

    /// A sandbox of a pod was found and set up. Answers where captured connections of it are handed over.
    fn enrolled(&self, pod: &str, address: &str, cookie: u64) -> SocketAddr {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            listener.set_nonblocking(true).expect("option");
            (listener.local_addr().expect("name"), listener)
        };
        let ((captured, outbound), (at, inbound)) = (listen(), listen());
        self.switch.listen(SocketAddr::new(ip(address), HBONE_PORT), at);
        let pod = AnnouncedPod {
            pod: model([ambient(&format!("default/{pod}"), address, "").into()]).local_pods("node-1").remove(0),
            cookie: Cookie(cookie),
            netns: Arc::new(Netns::own().expect("own namespace")),
            outbound,
            inbound,
            late: false,
        };
        self.events.send(Event::Added(Box::new(pod))).expect("the node listens");
        captured
    }

    /// A connection that an application of `from` opened to `to`, and the kernel handed over.
    fn captured(&self, listener: SocketAddr, from: &str, to: &str) -> TcpStream {
        let ends = Ends { from: SocketAddr::new(ip(from), 50_000), to: SocketAddr::new(ip(to), 80) };
        let socket = self.switch.connect(listener, ends).expect("connected");
        socket.set_nonblocking(false).expect("option");
        socket.set_read_timeout(Some(DEADLINE)).expect("option");
        socket
    }

    /// An application at `address` that sends back what it gets.
    fn echo(&self, address: &str) {
        self.echo_at(SocketAddr::new(ip(address), 80));
    }

    fn echo_at(&self, address: SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        self.switch.listen(address, listener.local_addr().expect("name"));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.expect("accepted");
                // Fails where a connection is reset.
                std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
            }
        });
    }

    /// The answer of the admin API.
    fn ask(&self, path: &str) -> Value {
        let (status, body) = get(self.admin, path).expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Waits for a line of the access log with these fields.
    fn line(&self, fields: &[(&str, &str)]) {
        let fits = |line: &Value| fields.iter().all(|(key, value)| line[*key] == **value);
        wait_until(&format!("a line with {fields:?}"), || self.lines().iter().find(|line| fits(line)).map(|_| ()));
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Stops the agent, and answers the whole log.
    fn end(self) -> Vec<Value> {
        let Self { folder, stop, thread, .. } = self;
        stop.send(()).expect("it runs");
        thread.join().expect("no panic");
        let text = fs::read_to_string(folder.path().join("access.log")).expect("a log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Status and body.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect(address).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn address(listener: &Listener) -> SocketAddr {
    listener.target().address().expect("an address")
}

fn checked(folder: &Path) -> Checked {
    let anywhere = "127.0.0.1:0".parse().expect("address");
    let target = Target::File(folder.join("access.log"));
    let kernel = underpass_loader::Settings {
        bpffs: folder.join("bpffs"),
        instance: "node-1".into(),
        cgroup_root: "/nonexistent".into(),
        marks: Marks::DEFAULT,
        mesh_entries: underpass_abi::limits::MESH,
        log: false,
    };
    let log = access_log::Settings { format: Format::Json, target, ..access_log::Settings::default() };
    Checked {
        source: Source::Manifests {
            directory: folder.join("manifests"),
            authority: Authority::open(&folder.join("state/ca"), &TrustDomain::default(), SystemTime::now())
                .map(Box::new)
                .expect("CA"),
        },
        servers: Servers {
            admin_socket: Listener::unix(&folder.join("admin.sock")).expect("bound"),
            unpublished: None,
            admin: Listener::loopback(anywhere).expect("bound"),
            readiness: Listener::any(anywhere).expect("bound"),
            metrics: Listener::any(anywhere).expect("bound"),
            probe: Some(Listener::unix(&folder.join("probe.sock")).expect("bound")),
        },
        access_log: AccessLog::start(&log).expect("log"),
        own_cgroup: CgroupId(7),
        claim: match handover::HandoverAddress::new(&folder.join("state"), &kernel).claim(false).expect("claimed") {
            Claim::Alone(lock) => Claimed::Alone(lock),
            Claim::Successor(_) => panic!("no other agent runs here"),
        },
        kernel,
    }
}

fn talk(socket: &mut TcpStream) {
    socket.write_all(b"hello").expect("sent");
    let mut answer = [0; 5];
    socket.read_exact(&mut answer).expect("heard");
    assert_eq!(&answer, b"hello");
}

fn is_reset(socket: &mut TcpStream) {
    let read = socket.read(&mut [0; 16]).expect_err("it is reset");
    assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);
}

/// An echo server at the tunnel's port of `to` is no peer of a handshake: it is refused, and shown.
fn refused_handshakes_are_shown(agent: &Agent, of_a: SocketAddr, to: &str) {
    assert_eq!(agent.ask("/connections/refused"), Value::Array(Vec::new()));
    agent.echo_at(SocketAddr::new(ip(to), HBONE_PORT));
    is_reset(&mut agent.captured(of_a, A, to));
    agent.line(&[("reason", "tls_protocol"), ("refused_by", "us"), ("source_workload", "a")]);
    let shown: Vec<RefusedHandshake> =
        serde_json::from_value(agent.ask("/connections/refused")).expect("as the command reads it");
    let [one] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!((one.times, &*one.reason, &*one.refused_by, &*one.direction), (1, "tls_protocol", "us", "outbound"));
    assert_eq!((one.source.workload.as_deref(), one.destination.address.ip()), (Some("default/a"), ip(to)));
    assert!(one.detail.starts_with("the peer broke the protocol"), "{}", one.detail);
}

#[test]
fn from_a_manifest_to_an_open_connection() {
    let far = pod("far", "10.0.0.8", "").replace("node-1", "node-9");
    let manifests = [("a.yaml", pod("a", A, AMBIENT)), ("b.yaml", pod("b", B, AMBIENT)), ("z.yaml", pod("z", Z, ""))];
    let agent = Agent::start(&[&manifests[..], &[("far.yaml", far)]].concat());
    assert_eq!(agent.destinations(), 2, "a and b, and not z");
    agent.echo(B);
    let (of_a, of_b) = (agent.enrolled("a", A, 1), agent.enrolled("b", B, 2));
    let mut open = agent.captured(of_a, A, B);
    talk(&mut open);
    is_reset(&mut agent.captured(of_b, B, A)); // no application listens there
    agent.line(&[("direction", "inbound"), ("reason", "connect_failed"), ("source_workload", "b")]);
    let dump = agent.ask("/config_dump");
    let certificates = dump["certificates"].as_array().expect("certificates");
    let identities: Vec<_> = certificates.iter().filter_map(|c| c["identity"].as_str()).collect();
    assert_eq!(identities, ["a", "b"].map(|n| format!("spiffe://cluster.local/ns/default/sa/{n}")));

    let pods = |query: &str| agent.ask(&format!("/workloads{query}")).as_array().map(Vec::len);
    assert_eq!(["", "?node=node-1", "?node=node-9"].map(pods), [Some(4), Some(3), Some(1)]);
    let described = agent.ask("/describe/pod?name=default/a");
    assert!(described["state"].is_object() && described["mtls"]["mode"] == "PERMISSIVE", "{described:#}");
    assert_eq!(agent.ask("/status")["control_plane"], Value::Null, "it reads manifests");

    // A pod comes into the mesh: the kernel would capture connections to it from now on.
    agent.edit("z.yaml", Some(&pod("z", Z, AMBIENT)));
    wait_until("z in the tables", || (agent.destinations() == 3).then_some(()));
    refused_handshakes_are_shown(&agent, of_a, Z);
    agent.edit("z.yaml", Some(&pod("z", Z, "")));
    wait_until("z out of the tables", || (agent.destinations() == 2).then_some(()));
    talk(&mut open);

    // A policy that denies ends it, and says so.
    agent.edit("policy.yaml", Some(DENY_A));
    is_reset(&mut open);
    agent.line(&[("direction", "inbound"), ("reason", "denied"), ("policy", "default/not-a")]);
    agent.line(&[("direction", "outbound"), ("reason", "server_reset"), ("source_workload", "a")]);
    is_reset(&mut agent.captured(of_a, A, B));
    // One that cannot be understood changes nothing but what is reported.
    agent.edit("policy.yaml", Some(&DENY_A.replace("principals", "principles")));
    wait_until("the problem", || {
        let problems = agent.ask("/config_dump")["reports"]["manifests"]["problems"].to_string();
        problems.contains("not-a").then_some(())
    });
    is_reset(&mut agent.captured(of_a, A, B));
    agent.edit("policy.yaml", None);
    let mut open = wait_until("a connection that is allowed", || {
        let mut socket = agent.captured(of_a, A, B);
        let answered = socket.write_all(b"hello").is_ok() && socket.read_exact(&mut [0; 5]).is_ok();
        answered.then_some(socket)
    });

    // The caller gets another identity: what it opened ends, and the next one has another certificate.
    agent.edit("a.yaml", Some(&manifests[0].1.replace("serviceAccountName: a", "serviceAccountName: x")));
    is_reset(&mut open);
    agent.line(&[("direction", "outbound"), ("reason", "identity"), ("source_workload", "a")]);
    let as_x = ("source_identity", "spiffe://cluster.local/ns/default/sa/x");
    let mut open = wait_until("a connection as x", || {
        let mut socket = agent.captured(of_a, A, B);
        let answered = socket.write_all(b"hello").is_ok() && socket.read_exact(&mut [0; 5]).is_ok();
        answered.then_some(socket)
    });
    // Its object is gone, and its sandbox lives: nothing goes on that cannot be judged.
    agent.edit("a.yaml", None);
    is_reset(&mut open);
    agent.line(&[("direction", "outbound"), ("reason", "pod_gone"), as_x]);
    is_reset(&mut agent.captured(of_a, A, B));
    let lines = agent.end();
    assert!(lines.iter().all(|line| line["reason"] != "internal"), "{lines:#?}");
}

#[test]
fn settings_of_the_mesh_are_followed_while_it_runs() {
    let manifests = [("a.yaml", pod("a", A, "sidecar.istio.io/inject: 'true'")), ("b.yaml", pod("b", B, AMBIENT))];
    let agent = Agent::start(&manifests);
    assert_eq!(agent.destinations(), 2);
    let set = |change: &dyn Fn(&mut config::Config)| {
        agent.settings.send_modify(|running| {
            let mut config = config::Config::clone(&running.config);
            change(&mut config);
            *running = Arc::new(Running { config: Arc::new(config), ..Running::clone(running) });
        });
    };
    set(&|config| config.sidecar_keys = false);
    wait_until("a out of the tables", || (agent.destinations() == 1).then_some(()));
    let version = agent.ask("/config_dump")["world"]["version"].as_u64();
    // One that nothing of the mesh follows from makes no World.
    set(&|config| config.release_drain = Duration::from_secs(7));
    set(&|config| (config.sidecar_keys, config.root_namespace) = (true, "default".to_owned()));
    wait_until("a in the tables", || (agent.destinations() == 2).then_some(()));
    let dump = agent.ask("/config_dump");
    assert_eq!(dump["world"]["settings"]["root_namespace"], "default");
    assert!(
        dump["world"]["version"].as_u64() > version && dump["objects"].as_array().is_some_and(|all| all.len() == 2)
    );
    agent.end();
}

fn without_room(name: &str) -> WaitingPod {
    let problem = "no room for another pod".to_owned();
    WaitingPod { name: ObjectName::new("default", name), uid: name.into(), problem, no_room: true }
}

#[test]
fn a_node_without_room_for_a_pod_is_not_ready() {
    let agent = Agent::start(&[("b.yaml", pod("b", B, AMBIENT))]);
    let no_room = |pods| agent.events.send(Event::Waiting(pods)).expect("the node listens");
    no_room(vec![without_room("late")]);
    let ready = |status: u16, part: &str| {
        let answered = || get(agent.readiness, "/healthz/ready");
        wait_until(part, || answered().filter(|(found, text)| *found == status && text.contains(part)));
    };
    ready(503, "room for pods");
    ready(503, "default/late");
    no_room(Vec::new());
    ready(200, "");
    agent.end();
}

#[test]
fn a_pause_ends_when_it_is_asked_to() {
    let program = env!("CARGO_BIN_EXE_underpass-agent");
    let mut pausing = std::process::Command::new(program).arg("pause").spawn().unwrap();
    // It catches SIGTERM (bit 14): a process that does not ends by it, with another status.
    let status = format!("/proc/{}/status", pausing.id());
    wait_until("the pause to begin", || {
        let text = fs::read_to_string(&status).ok()?;
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        (u64::from_str_radix(caught, 16).ok()? & 1 << 14 != 0).then_some(())
    });
    assert!(pausing.try_wait().unwrap().is_none());
    let pid = nix::unistd::Pid::from_raw(pausing.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(pausing.wait().unwrap().code(), Some(0));
}

/// The exit status and standard error of `underpass-agent probe`.
fn probe(question: &str, socket: &Path) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_underpass-agent"));
    let command = command.env_clear().env("UNDERPASS_PROBE_SOCKET", socket).args(["probe", question]);
    let output = command.output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn probes_ask_this_very_process() {
    let agent = Agent::start(&[("b.yaml", pod("b", B, AMBIENT))]);
    let socket = agent.folder.path().join("probe.sock");
    let asked = |question| probe(question, &socket);
    for question in ["live", "ready"] {
        assert_eq!(asked(question), (Some(0), String::new()), "{question}");
    }
    let no_room = vec![without_room("late"), without_room("later")];
    agent.events.send(Event::Waiting(no_room)).expect("the node listens");
    let (code, said) = wait_until("the probe to say no", || Some(asked("ready")).filter(|(code, _)| *code != Some(0)));
    assert!(code == Some(1) && said.contains("not ready: room for pods: pod default/late is not enrolled"), "{said}");
    assert_eq!(asked("live"), (Some(0), String::new()));

    let none = probe("live", &agent.folder.path().join("none.sock"));
    assert!(none.0 == Some(1) && none.1.contains("cannot connect to ") && none.1.contains("none.sock"), "{none:?}");
    let (code, said) = asked("well");
    assert!(code == Some(2) && said.contains("[possible values: live, ready]"), "{said}");
    agent.end();
    assert!(!socket.exists());
}
