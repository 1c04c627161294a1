//! The program, started as an agent starts it: what it says and serves, and how it ends.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, SystemTime},
};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};
use underpass_core::{Identities, TrustDomain, testing::name, world::MeshSettings};
use underpass_identity::Authority;
use underpass_net::{
    buffer::Buffers,
    passing::DescriptorConnection,
    tunnel::{Settings as TunnelSettings, Tunnel},
};
use underpass_proxy::child::{AgentEnd, Begin, CredentialsText, FromChild, ToChild};

use crate::{
    CART,
    mesh::{Answer, TestBody, WORLD, charge, empty, identity, open, request, run, store, until},
};

/// A drain that no test waits for, and the lifetime of certificates.
const LONG: Duration = Duration::from_secs(3600);

/// An address of loopback that no other test, nor another run of this one, has.
fn address(test: u8) -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 60 + test, high, low.max(1)).into()
}

fn says(text: &str) -> String {
    route(&format!("directResponse: {{status: 200, body: {{string: {text}}}}}"))
}

fn route(http: &str) -> String {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cart, namespace: shop}\n";
    format!("{head}spec: {{hosts: [cart], http: [{{{http}}}]}}\n")
}

/// What an agent has, and its child.
struct Agent {
    folder: TempDir,
    authority: Authority,
    address: IpAddr,
    /// Its port is any: the agent gave the child an open listener.
    listener: TcpListener,
    child: Child,
}

impl Agent {
    /// Starts the program with this end of a control socket.
    fn start(address: IpAddr, manifests: &str, control: OwnedFd) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("manifests")).expect("made");
        std::fs::write(folder.path().join("manifests/mesh.yaml"), WORLD).expect("written");
        std::fs::write(folder.path().join("manifests/test.yaml"), manifests).expect("written");
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).expect("bound");
        let (inherited, log) = (listener.try_clone().expect("copied"), folder.path().join("log"));
        // The shell gives them their numbers.
        let child = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" --workers 1 --log debug 3<&0 4<&1 </dev/null >/dev/null"])
            .arg(env!("CARGO_BIN_EXE_underpass-waypoint"))
            .stdin(Stdio::from(control))
            .stdout(Stdio::from(OwnedFd::from(inherited)))
            .stderr(File::create(log).expect("made"))
            .spawn()
            .expect("started");
        let authority = authority(folder.path(), "ca");
        Self { folder, authority, address, listener, child }
    }

    /// A child that serves.
    async fn serving(address: IpAddr, manifests: &str, drain: Duration) -> (Self, AgentEnd) {
        let (control, end) = AgentEnd::pair().expect("pair");
        let agent = Self::start(address, manifests, end);
        control.send(&agent.begin(drain)).await.expect("sent");
        control.send(&credentials(&agent.authority)).await.expect("sent");
        agent.expect(&control, FromChild::Serving { version: 1 }).await;
        (agent, control)
    }

    fn begin(&self, drain: Duration) -> ToChild {
        ToChild::Begin(Box::new(Begin {
            manifests: self.folder.path().join("manifests"),
            node: "node-1".into(),
            gateway: name("shop/w"),
            class: "istio-waypoint".into(),
            pod: name("shop/w"),
            identity: identity("w"),
            addresses: vec![self.address],
            drain,
            mesh: MeshSettings::default(),
        }))
    }

    async fn expect(&self, control: &AgentEnd, message: FromChild) {
        let received = control.receive().await.expect("received");
        assert_eq!(received, Some(message), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    fn change(&self, manifests: &str) {
        std::fs::write(self.folder.path().join("manifests/test.yaml"), manifests).expect("written");
    }

    /// A client's tunnel, under a certificate of this CA.
    async fn tunnel(&self, authority: &Authority) -> Tunnel {
        let (store, own) = store(authority, "web");
        let credential = store.credential(&own, SystemTime::now()).expect("valid");
        let config = store.client(&credential, &Identities::from(identity("w"))).expect("usable");
        let socket = TcpStream::connect(self.listener.local_addr().expect("name")).await.expect("queued");
        let settings = TunnelSettings::default();
        Tunnel::client(socket.into(), &config, &settings, &Buffers::default(), charge()).expect("begun")
    }

    /// The body of the answer to a request.
    async fn ask(&self) -> String {
        let mut sender = http(&self.tunnel(&self.authority).await).await;
        let answer = sender.send_request(request("GET", "/", &[], empty())).await.expect("answered");
        String::from_utf8(Answer::of(answer).await.body.to_vec()).expect("text")
    }

    /// The answer to a plain request at one of the child's own ports.
    async fn plain(&self, port: u16, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(SocketAddr::new(self.address, port)).await.ok()?;
        let asked = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(asked.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    fn signal(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), Signal::SIGTERM).expect("sent");
    }

    /// Waits for its end: the status, and what it wrote.
    async fn ended(mut self) -> (ExitStatus, String) {
        let status = loop {
            match self.child.try_wait().expect("its status") {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        (status, self.log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, unless the test failed
        let _ = self.child.wait();
    }
}

fn authority(folder: &Path, name: &str) -> Authority {
    let directory: PathBuf = folder.join(name);
    Authority::open(&directory, &TrustDomain::default(), SystemTime::now()).expect("CA")
}

fn credentials(authority: &Authority) -> ToChild {
    let own = authority.credential(&identity("w"), LONG, SystemTime::now()).expect("issued");
    ToChild::Credentials(CredentialsText::new(&own, &authority.roots(1).expect("roots")))
}

/// Requests to `/hang` are not answered.
fn hangs() -> String {
    let delay = "fault: {delay: {fixedDelay: 1h, percentage: {value: 100}}}, route: [{destination: {host: cart}}]";
    route(&format!("match: [{{uri: {{exact: /hang}}}}], {delay}}}, {{directResponse: {{status: 200}}"))
}

/// A request that is under way, and stays so: another one of the same tunnel, which came later, has been answered.
async fn under_way(agent: &Agent) -> JoinHandle<bool> {
    let tunnel = agent.tunnel(&agent.authority).await;
    let mut sender = http(&tunnel).await;
    let hanging = spawn_local(async move { sender.send_request(request("GET", "/hang", &[], empty())).await.is_ok() });
    let answer = http(&tunnel).await.send_request(request("GET", "/", &[], empty())).await.expect("answered");
    assert_eq!(answer.status(), 200);
    hanging
}

async fn http(tunnel: &Tunnel) -> http1::SendRequest<TestBody> {
    let stream = open(tunnel, CART).await.expect("accepted");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("begun");
    spawn_local(connection);
    sender
}

#[test]
fn it_serves_what_its_agent_gives_it() {
    run(async {
        let (control, end) = AgentEnd::pair().expect("pair");
        let agent = Agent::start(address(1), &says("one"), end);
        control.send(&agent.begin(LONG)).await.expect("sent");
        // It answers probes before it is ready, and no client: who connects waits.
        let waits = agent.tunnel(&agent.authority).await;
        let waiting = spawn_local(async move {
            let answer = http(&waits).await.send_request(request("GET", "/", &[], empty())).await;
            Answer::of(answer.expect("answered")).await.body
        });
        let ready = loop {
            match agent.plain(15021, "/healthz/ready").await {
                Some(answer) if !answer.contains("manifests") => break answer,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("certificate"), "{ready}");
        assert!(!waiting.is_finished());
        control.send(&credentials(&agent.authority)).await.expect("sent");
        agent.expect(&control, FromChild::Serving { version: 1 }).await;
        assert_eq!(waiting.await.expect("ended"), "one");
        let ready = agent.plain(15021, "/healthz/ready").await.expect("an answer");
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");

        // A route changes; its metrics say so.
        agent.change(&says("two"));
        while agent.ask().await != "two" {}
        for path in ["/stats/prometheus", "/metrics"] {
            let metrics = agent.plain(15020, path).await.expect("an answer");
            for family in ["istio_requests_total{", "underpass_build_info{", "underpass_world_version "] {
                assert!(metrics.contains(&format!("\n{family}")), "{family} of {path}: {metrics}");
            }
        }

        // Another CA: its clients are served from then on, and those of the first one no more.
        let other = authority(agent.folder.path(), "other");
        let under_way = agent.tunnel(&agent.authority).await;
        let mut sender = http(&under_way).await;
        control.send(&credentials(&other)).await.expect("sent");
        until("the tunnel's peer was verified again", || sender.is_closed()).await;
        assert!(sender.send_request(request("GET", "/", &[], empty())).await.is_err());
        let mut sender = http(&agent.tunnel(&other).await).await;
        assert!(sender.send_request(request("GET", "/", &[], empty())).await.is_ok());

        // A drain: what is idle ends, and so does the process.
        control.send(&ToChild::Drain).await.expect("sent");
        agent.expect(&control, FromChild::Drained).await;
        let (status, log) = agent.ended().await;
        assert!(status.success() && !log.contains("PRIVATE KEY"), "{status} {log}");
        assert_eq!(control.receive().await.expect("the end"), None);
    });
}

#[test]
fn without_its_agent_it_ends_when_its_drain_is_over() {
    run(async {
        let (agent, control) = Agent::serving(address(2), &hangs(), Duration::from_millis(100)).await;
        let hanging = under_way(&agent).await;
        drop(control);
        let (status, log) = agent.ended().await;
        assert!(status.success() && log.contains("the agent is gone"), "{status} {log}");
        assert!(!hanging.await.expect("ended"));
    });
}

#[test]
fn a_port_of_its_own_that_is_taken_is_waited_for() {
    run(async {
        let taken = TcpListener::bind(SocketAddr::new(address(6), 15021)).expect("bound");
        let (agent, _control) = Agent::serving(address(6), &says("one"), LONG).await;
        assert_eq!(agent.ask().await, "one");
        assert!(agent.plain(15020, "/metrics").await.is_some());
        drop(taken);
        let ready = loop {
            match agent.plain(15021, "/healthz/ready").await {
                Some(ready) => break ready,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    });
}

#[test]
fn the_first_signal_drains_and_the_second_ends() {
    run(async {
        let (agent, control) = Agent::serving(address(3), &hangs(), LONG).await;
        let hanging = under_way(&agent).await;
        agent.signal();
        while agent.plain(15021, "/healthz/ready").await.is_some() {}
        assert!(!hanging.is_finished(), "{}", agent.log());
        agent.signal();
        agent.expect(&control, FromChild::Drained).await;
        let (status, log) = agent.ended().await;
        assert!(status.success() && log.contains("a signal ends the drain"), "{status} {log}");
        assert!(!hanging.await.expect("ended"));
    });
}

#[test]
fn who_does_not_speak_its_protocol_is_refused() {
    run(async {
        let check = async |test: u8, messages: &[&[u8]], expect: &str| {
            let (own, end) = DescriptorConnection::pair().expect("pair");
            let agent = Agent::start(address(test), "", end.into());
            for message in messages {
                own.send(message, &[]).expect("sent");
            }
            let (status, log) = agent.ended().await;
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.contains(expect), "{log}");
        };
        let other = br#"{"begin":{"protocol":99,"more":true}}"#;
        check(4, &[other], "the other process speaks protocol 99 of waypoints, not 2").await;
        check(4, &[br#""drain""#], "the agent's first message is a drain, and no introduction").await;
        check(4, &[br#"{"credentials":{"own":"secret"}}"#], "32 bytes that are no message").await;
    });
}

#[test]
fn another_identitys_certificate_is_refused() {
    run(async {
        let (control, end) = AgentEnd::pair().expect("pair");
        let agent = Agent::start(address(5), "", end);
        control.send(&agent.begin(LONG)).await.expect("sent");
        let own = agent.authority.credential(&identity("v1"), LONG, SystemTime::now()).expect("issued");
        let text = CredentialsText::new(&own, &agent.authority.roots(1).expect("roots"));
        control.send(&ToChild::Credentials(text)).await.expect("sent");
        let (status, log) = agent.ended().await;
        let says = format!("the certificate is that of {}, not of {}", identity("v1"), identity("w"));
        assert!(!status.success() && log.contains(&says), "{status} {log}");
    });
}

#[test]
fn it_is_not_started_by_hand() {
    let run = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" 3<&- 4<&-", env!("CARGO_BIN_EXE_underpass-waypoint")])
        .output()
        .expect("run");
    let log = String::from_utf8(run.stderr).expect("text");
    assert_eq!(run.status.code(), Some(1), "{log}");
    assert!(log.contains("hands it a control socket as descriptor 3: it cannot be started by hand"), "{log}");
}
