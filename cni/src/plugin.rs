//! One call of the runtime: what it asks for, and what becomes of the agent's answer. Pure; `main` reads and asks.
//!
//! What must hold: a pod that is in the mesh, or may be, starts captured or not at all; every other pod starts, with an agent or
//! without. The end of a sandbox fails for no reason, because a runtime tries it for ever.

use std::{fmt, io, path::PathBuf};

use serde::Serialize;

use crate::{
    client::NoAnswer,
    config::{Environment, NEWEST, NetworkConfig, Previous, VERSIONS, version_of},
    failure::{Code, Failure},
    namespaces::{self, Namespaces},
    protocol::{Answer, Request, Sandbox},
};

/// CNI_COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A sandbox has its addresses.
    Add,
    /// It ends.
    Del,
    /// It is looked at.
    Check,
    /// Sandboxes that are left.
    Gc,
    /// Whether the plugin works.
    Status,
    /// The versions that it speaks.
    Version,
}

impl Command {
    /// Reads the variable.
    ///
    /// # Errors
    /// InvalidEnvironment for a command that the specification does not have, or none.
    pub fn parse(variable: Option<&str>) -> Result<Self, Failure> {
        Ok(match variable {
            Some("ADD") => Self::Add,
            Some("DEL") => Self::Del,
            Some("CHECK") => Self::Check,
            Some("GC") => Self::Gc,
            Some("STATUS") => Self::Status,
            Some("VERSION") => Self::Version,
            other => {
                let given = other.map_or_else(|| "is not set".to_owned(), |other| format!("is {other:?}"));
                let msg = format!("CNI_COMMAND {given}: ADD, DEL, CHECK, GC, STATUS or VERSION");
                return Err(Failure::new(Code::InvalidEnvironment, msg, "a container runtime starts underpass-cni"));
            }
        })
    }
}

/// What is to be done about a call.
#[derive(Debug)]
pub enum Step {
    /// Print this, which may be nothing.
    Print(String),
    /// Tell the agent, and print nothing. Its answer changes nothing, nor does its absence.
    Tell {
        /// Where it listens.
        socket: PathBuf,
        /// What it is told.
        request: Request,
    },
    /// Ask the agent about a pod.
    Ask(Box<Question>),
}

/// A pod that waits for an answer.
#[derive(Debug)]
pub struct Question {
    /// The network's configuration.
    pub config: NetworkConfig,
    /// The request.
    pub sandbox: Sandbox,
    previous: Previous,
}

/// The version in which a call is answered.
#[must_use]
pub fn version(stdin: &[u8]) -> String {
    version_of(stdin).filter(|version| VERSIONS.contains(&version.as_str())).unwrap_or_else(|| NEWEST.to_owned())
}

/// Decides about a call by the variables of its environment and its standard input.
///
/// # Errors
/// Of an ADD: what it lacks, or cannot be read. No other command fails.
pub fn decide(command: Command, variable: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Step, Failure> {
    let tell = |request: Option<Request>| match (NetworkConfig::parse(stdin), request) {
        (Ok(config), Some(request)) => Step::Tell { socket: config.socket, request },
        _ => Step::Print(String::new()),
    };
    Ok(match command {
        Command::Add => add(Environment::of_add(variable)?, stdin)?,
        Command::Del => {
            let container = variable("CNI_CONTAINERID").filter(|container| !container.is_empty());
            tell(container.map(|container| Request::Delete { container }))
        }
        Command::Gc => {
            let left = NetworkConfig::parse(stdin).ok().and_then(|config| config.valid_attachments());
            tell(left.map(|containers| Request::Keep { containers }))
        }
        // An agent that is away must not make the node unready, or no pod outside the mesh would start there either, the
        // control plane's among them: STATUS asks no agent. What became of a captured pod is the agent's to look after, not CHECK's.
        Command::Status | Command::Check => Step::Print(String::new()),
        Command::Version => Step::Print(versions(stdin)),
    })
}

fn add(environment: Environment, stdin: &[u8]) -> Result<Step, Failure> {
    let config = NetworkConfig::parse(stdin)?;
    let previous = config.previous()?;
    let Some(pod) = environment.pod else {
        return Ok(Step::Print(previous.json(&config.version)?));
    };
    let addresses = previous.addresses()?;
    let sandbox = Sandbox { container: environment.container, pod, netns: environment.netns, addresses };
    Ok(Step::Ask(Box::new(Question { config, sandbox, previous })))
}

/// The answer to VERSION, in the version of the question.
fn versions(stdin: &[u8]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        cni_version: String,
        supported_versions: [&'static str; 4],
    }
    let cni_version = version_of(stdin).unwrap_or_else(|| NEWEST.to_owned());
    // Text alone: there is nothing in it that JSON does not know.
    serde_json::to_string(&Shape { cni_version, supported_versions: VERSIONS }).unwrap_or_default()
}

impl Question {
    /// What the plugin prints, by the agent's answer; `list` is read where there is none.
    ///
    /// # Errors
    /// TryAgainLater where the pod may not start.
    pub fn conclude(
        self,
        answer: Result<Answer, NoAnswer>,
        list: impl FnOnce() -> io::Result<Option<Namespaces>>,
    ) -> Result<String, Failure> {
        let (config, pod) = (&self.config, &self.sandbox.pod);
        let socket = config.socket.display();
        match answer {
            Ok(Answer::Done | Answer::Outside) => {}
            Ok(Answer::Refused { .. }) if config.exempt.contains(&pod.namespace) => {}
            Ok(Answer::Refused { why }) => {
                let msg = format!("pod {pod} is in the mesh and cannot be captured: {why}");
                return Err(Failure::new(Code::TryAgainLater, msg, format!("by the agent at {socket}")));
            }
            Err(reason) => {
                let (list, source) = known(list(), &config.namespaces.display());
                if namespaces::waits(list.as_ref(), &config.exempt, &pod.namespace) {
                    let msg =
                        format!("pod {pod} waits for the mesh: no agent of Underpass answers at {socket} ({reason})");
                    return Err(Failure::new(Code::TryAgainLater, msg, source));
                }
            }
        }
        self.previous.json(&config.version)
    }
}

/// The list, and why a pod waits by it. A list that cannot be read is none.
fn known(read: io::Result<Option<Namespaces>>, path: &impl fmt::Display) -> (Option<Namespaces>, String) {
    match read {
        Ok(Some(list)) => (Some(list), format!("its namespace has pods in the mesh by {path}")),
        Ok(None) => (None, format!("all pods wait but those of exempt namespaces: there is no {path}")),
        Err(e) => (None, format!("all pods wait but those of exempt namespaces: cannot read {path}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.2/24","interface":0}],"extra":{"b":1,"a":2}}"#;
    const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_UID=u";

    fn stdin(rest: &str) -> String {
        let own = r#""cniVersion":"1.0.0","name":"n","type":"underpass-cni","socket":"/s","namespaces":"/l","exempt":["kube-system"]"#;
        format!("{{{own}{rest}}}")
    }

    fn step(command: Command, args: &str, stdin: &str) -> Result<Step, Failure> {
        let variables = [("CNI_CONTAINERID", "c"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", args)];
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        decide(command, variable, stdin.as_bytes())
    }

    fn question(namespace: &str) -> Box<Question> {
        let args = POD.replace("shop", namespace);
        match step(Command::Add, &args, &stdin(&format!(",\"prevResult\":{RESULT}"))).unwrap() {
            Step::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_are_the_specifications() {
        for known in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
            Command::parse(Some(known)).unwrap();
        }
        for (other, says) in [(None, "is not set"), (Some("add"), "\"add\""), (Some(""), "\"\"")] {
            let failure = Command::parse(other).unwrap_err();
            assert!(failure.code == Code::InvalidEnvironment && failure.msg.contains(says), "{failure:?}");
        }
    }

    #[test]
    fn a_pod_is_asked_about_with_its_addresses() {
        let sandbox = question("shop").sandbox;
        let addresses: Vec<_> = sandbox.addresses.iter().map(ToString::to_string).collect();
        assert_eq!((&*sandbox.container, &*sandbox.pod.uid, addresses), ("c", "u", vec!["10.0.0.2".to_owned()]));
        assert_eq!((sandbox.netns, sandbox.pod.to_string()), ("/n".into(), "shop/a".to_owned()));
        // No pod of Kubernetes.
        let step = step(Command::Add, "", &stdin(&format!(",\"prevResult\":{RESULT}"))).unwrap();
        assert!(matches!(&step, Step::Print(text) if text == RESULT), "{step:?}");
    }

    #[test]
    fn an_add_that_lacks_something_fails() {
        let nothing = decide(Command::Add, |_| None, stdin("").as_bytes()).unwrap_err();
        assert_eq!(nothing.code, Code::InvalidEnvironment);
        assert!(nothing.msg.ends_with("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"), "{nothing}");
        for (text, code) in [
            ("garbage", Code::Decoding),
            (r#"{"cniVersion":"0.1.0"}"#, Code::IncompatibleVersion),
            (&stdin(""), Code::InvalidConfiguration),
            (&stdin(r#","prevResult":{"ips":[{"address":"x"}]}"#), Code::Decoding),
        ] {
            assert_eq!(step(Command::Add, POD, text).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn other_commands_never_fail() {
        use Command::{Check, Del, Gc, Status};
        let left = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
        for (command, text, told) in [
            (Del, stdin(""), Some(Request::Delete { container: "c".into() })),
            (Gc, stdin(left), Some(Request::Keep { containers: vec!["a".into()] })),
            (Gc, stdin(""), None),
            (Check, stdin(""), None),
            (Status, stdin(""), None),
            (Del, "garbage".to_owned(), None),
            (Gc, "{}".to_owned(), None),
            (Check, String::new(), None),
            (Status, "[".to_owned(), None),
        ] {
            match (step(command, "", &text).unwrap(), told) {
                (Step::Tell { socket, request }, Some(told)) => assert_eq!((socket, request), ("/s".into(), told)),
                (Step::Print(said), None) => assert_eq!(said, "", "{command:?} {text}"),
                (step, told) => panic!("{command:?} {text}: {step:?}, not {told:?}"),
            }
        }
        let nothing = decide(Del, |_| None, stdin("").as_bytes()).unwrap();
        assert!(matches!(&nothing, Step::Print(said) if said.is_empty()), "{nothing:?}");
    }

    #[test]
    fn versions_are_answered_in_the_version_of_the_question() {
        let all = r#""supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
        for (text, version) in [(r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), ("", "1.1.0"), ("{}", "1.1.0")] {
            let step = step(Command::Version, "", text).unwrap();
            let want = format!("{{\"cniVersion\":\"{version}\",{all}");
            assert!(matches!(&step, Step::Print(said) if *said == want), "{step:?}");
        }
        assert_eq!(
            [&b"{\"cniVersion\":\"0.4.0\"}"[..], b"{\"cniVersion\":\"9\"}", b"["].map(version),
            ["0.4.0", NEWEST, NEWEST]
        );
    }

    #[test]
    fn answer_and_list_decide_whether_a_pod_starts() {
        let refused = || Ok(Answer::Refused { why: "no \"room\"".to_owned() });
        let away = || Err(NoAnswer::Io(io::Error::from_raw_os_error(2)));
        let enrolled = || Ok(Some(Namespaces { enrolled: ["shop".to_owned(), "kube-system".to_owned()].into() }));
        let none = || Ok(None);
        let broken = || Err(io::Error::new(io::ErrorKind::InvalidData, "EOF"));
        let gone = "waits for the mesh: no agent of Underpass answers at /s (No such file or directory)";
        type List = fn() -> io::Result<Option<Namespaces>>;
        let check = |namespace: &str, answer: Result<Answer, NoAnswer>, list: List, want: Result<(), [&str; 2]>| {
            let concluded = question(namespace).conclude(answer, list);
            match (&concluded, want) {
                (Ok(printed), Ok(())) => assert_eq!(printed, RESULT),
                (Err(failure), Err([msg, details])) => {
                    assert_eq!(failure.code, Code::TryAgainLater);
                    assert_eq!(failure.msg, format!("pod {namespace}/a {msg}"));
                    assert!(failure.details.contains(details), "{failure:?}");
                }
                (is, want) => panic!("{namespace}: {is:?}, not {want:?}"),
            }
        };
        check("shop", Ok(Answer::Done), none, Ok(()));
        check("shop", Ok(Answer::Outside), none, Ok(()));
        let cannot = "is in the mesh and cannot be captured: no \"room\"";
        check("shop", refused(), enrolled, Err([cannot, "/s"]));
        check("other", refused(), enrolled, Err([cannot, "/s"]));
        check("kube-system", refused(), enrolled, Ok(()));
        check("shop", away(), enrolled, Err([gone, "by /l"]));
        check(
            "shop",
            Err(NoAnswer::HungUp),
            enrolled,
            Err([&gone.replace("No such file or directory", "it hung up"), "/l"]),
        );
        check("other", away(), enrolled, Ok(()));
        check("kube-system", away(), enrolled, Ok(()));
        check("other", away(), none, Err([gone, "there is no /l"]));
        check("kube-system", away(), none, Ok(()));
        check("other", away(), broken, Err([gone, "cannot read /l: EOF"]));
        check("kube-system", away(), broken, Ok(()));
    }
}
