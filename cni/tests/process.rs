//! The plugin as a runtime starts it: variables, standard input and output, and an agent's socket.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::Value;
use tempfile::TempDir;
use underpass_cni::{
    namespaces::Namespaces,
    protocol::{self, Answer, Request},
};

/// The time within which the plugin comes to the agent of a test.
const DEADLINE_S: i64 = 60;
const RESULT: &str =
    r#"{"cniVersion":"1.0.0","x":{"b":1,"a":[]},"ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}"#;

/// A node: folder, socket and list.
struct Node {
    directory: TempDir,
}

/// What a process said.
struct Said {
    code: Option<i32>,
    out: String,
}

impl Node {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, rest: &str) -> String {
        let (socket, list) = (self.path("cni.sock"), self.path("list.json"));
        format!(
            r#"{{"cniVersion":"1.0.0","name":"net","type":"underpass-cni","socket":{socket:?},"namespaces":{list:?},"exempt":["kube-system"]{rest}}}"#,
        )
    }

    fn call(&self, command: &str, namespace: &str, stdin: &str) -> Said {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=a;K8S_POD_UID=uid");
        run(
            &[
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", "container"),
                ("CNI_NETNS", "/proc/self/ns/net"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", "/opt/cni/bin"),
                ("CNI_ARGS", &args),
            ],
            stdin,
        )
    }

    fn add(&self, namespace: &str) -> Said {
        self.call("ADD", namespace, &self.config(&format!(",\"prevResult\":{RESULT}")))
    }

    /// An agent that gives one answer, or none and hangs up; the request that it got, with the inode of the descriptor.
    fn agent(&self, answer: Option<Answer>) -> thread::JoinHandle<(Request, Option<u64>)> {
        let path = self.path("cni.sock");
        let _ = std::fs::remove_file(&path);
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        // accept() goes by it: a plugin that never comes is an error, and no test that waits for ever.
        setsockopt(&listener, ReceiveTimeout, &TimeVal::seconds(DEADLINE_S)).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(8).unwrap()).unwrap();
        thread::spawn(move || {
            let accepted = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).expect("the plugin comes");
            let connection = owned(accepted);
            let (request, descriptor) = protocol::receive::<Request>(&connection).unwrap().expect("a request");
            if let Some(answer) = answer {
                protocol::send(&connection, &answer, None).unwrap();
            }
            (request, descriptor.map(|descriptor| File::from(descriptor).metadata().unwrap().ino()))
        })
    }
}

#[allow(unsafe_code, reason = "a descriptor that the kernel has just made for this process")]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: accept4 made it, and nothing else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn run(variables: &[(&str, &str)], stdin: &str) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_underpass-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that refuses its environment reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Said { code: output.status.code(), out: String::from_utf8(output.stdout).unwrap() }
}

impl Said {
    /// The message of the error with this code.
    fn failed(&self, code: u64) -> String {
        let error: Value = serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out));
        assert_eq!(
            (self.code, &error["code"], &error["cniVersion"]),
            (Some(1), &code.into(), &"1.0.0".into()),
            "{error}"
        );
        assert!(error["details"].is_string(), "{error}");
        error["msg"].as_str().unwrap().to_owned()
    }

    fn passed(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(0), out));
    }
}

#[test]
fn a_pod_is_captured_before_it_starts() {
    let node = Node::new();
    for answer in [Answer::Done, Answer::Outside] {
        let agent = node.agent(Some(answer));
        node.add("shop").passed(RESULT);
        let (request, descriptor) = agent.join().unwrap();
        let Request::Add(sandbox) = request else { panic!("{request:?}") };
        assert_eq!(
            (&*sandbox.container, sandbox.pod.to_string(), &*sandbox.pod.uid),
            ("container", "shop/a".into(), "uid")
        );
        let addresses: Vec<_> = sandbox.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.2", "fd00::2"]);
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(descriptor, Some(own), "the descriptor is the network namespace");
    }
}

#[test]
fn a_pod_that_cannot_be_captured_does_not_start() {
    let node = Node::new();
    let refusal = || Some(Answer::Refused { why: "no room for \"shop\"".into() });
    let agent = node.agent(refusal());
    let msg = node.add("shop").failed(11);
    assert_eq!(msg, "pod shop/a is in the mesh and cannot be captured: no room for \"shop\"");
    agent.join().unwrap();
    let agent = node.agent(refusal());
    node.add("kube-system").passed(RESULT);
    agent.join().unwrap();
}

#[test]
fn without_an_agent_the_list_decides() {
    let node = Node::new();
    let waits = |namespace: &str, why: &str| {
        let socket = node.path("cni.sock");
        let want = format!(
            "pod {namespace}/a waits for the mesh: no agent of Underpass answers at {} ({why})",
            socket.display()
        );
        assert_eq!(node.add(namespace).failed(11), want);
    };
    waits("other", "No such file or directory");
    node.add("kube-system").passed(RESULT);
    Namespaces { enrolled: ["shop".to_owned()].into() }.write(&node.path("list.json")).unwrap();
    waits("shop", "No such file or directory");
    node.add("other").passed(RESULT);
    let agent = node.agent(None);
    // It hung up, and no other came.
    waits("shop", "Connection refused");
    agent.join().unwrap();
}

#[test]
fn a_sandbox_ends_with_an_agent_and_without() {
    let node = Node::new();
    let agent = node.agent(Some(Answer::Refused { why: "no".into() }));
    node.call("DEL", "shop", &node.config("")).passed("");
    assert_eq!(agent.join().unwrap(), (Request::Delete { container: "container".into() }, None));
    let agent = node.agent(Some(Answer::Done));
    node.call("GC", "shop", &node.config(r#","cni.dev/valid-attachments":[{"containerID":"x","ifname":"eth0"}]"#))
        .passed("");
    assert_eq!(agent.join().unwrap(), (Request::Keep { containers: vec!["x".into()] }, None));
    for command in ["DEL", "CHECK", "GC", "STATUS"] {
        for stdin in [node.config(""), "garbage".to_owned(), String::new()] {
            node.call(command, "shop", &stdin).passed("");
        }
    }
}

#[test]
fn a_call_that_is_none_is_an_error_of_the_specification() {
    let node = Node::new();
    node.call("VERSION", "", r#"{"cniVersion":"1.0.0"}"#)
        .passed(r#"{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#);
    assert!(node.call("ADD", "shop", &node.config("")).failed(7).contains("prevResult"));
    let said = node.call("ADD", "shop", "garbage");
    assert!(said.out.contains(r#""cniVersion":"1.1.0","code":6,"#) && said.code == Some(1), "{}", said.out);
    for (variables, says) in [(&[][..], "CNI_COMMAND is not set"), (&[("CNI_COMMAND", "ADD")], "CNI_CONTAINERID")] {
        let said = run(variables, &node.config(""));
        assert!(said.code == Some(1) && said.out.contains(says) && said.out.contains(r#""code":4,"#), "{}", said.out);
    }
}
