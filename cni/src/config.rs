//! What a runtime gives the plugin: the variables of the environment, and the network's configuration on standard input with the
//! result of the plugins before. Parsed once; nothing of it is guessed.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    failure::{Code, Failure},
    object::Object,
    protocol::PodName,
};

/// The versions of the specification that the plugin speaks, oldest first: those in which plugins are chained.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The newest one.
pub const NEWEST: &str = "1.1.0";

/// The network's configuration with the plugin's own keys.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `cniVersion`, one of [`VERSIONS`].
    pub version: String,
    /// `socket`: where the agent listens.
    pub socket: PathBuf,
    /// `namespaces`: the file of the list of namespaces whose pods wait.
    pub namespaces: PathBuf,
    /// `exempt`: the namespaces whose pods never wait.
    pub exempt: BTreeSet<String>,
    whole: Object,
}

/// `cniVersion` of a configuration; none where there is none, or nothing that can be read.
#[must_use]
pub fn version_of(stdin: &[u8]) -> Option<String> {
    serde_json::from_slice::<Object>(stdin).ok()?.read("cniVersion").ok()?
}

impl NetworkConfig {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Decoding for what is no JSON object, IncompatibleVersion, InvalidConfiguration for a key of our own that is missing or is
    /// of another type.
    pub fn parse(stdin: &[u8]) -> Result<Self, Failure> {
        let whole: Object = serde_json::from_slice(stdin)
            .map_err(|e| Failure::new(Code::Decoding, "cannot read the network configuration", e.to_string()))?;
        let invalid =
            |key: &str, why: String| Failure::new(Code::InvalidConfiguration, format!("invalid `{key}`"), why);
        let version: Option<String> = whole.read("cniVersion").map_err(|e| invalid("cniVersion", e.to_string()))?;
        let version = version.unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            let msg = format!("cniVersion {version:?} of the network is none that underpass-cni speaks");
            return Err(Failure::new(Code::IncompatibleVersion, msg, format!("it speaks {}", VERSIONS.join(", "))));
        }
        let path = |key: &str| -> Result<PathBuf, Failure> {
            let path: Option<PathBuf> = whole.read(key).map_err(|e| invalid(key, e.to_string()))?;
            path.filter(|path| path.is_absolute()).ok_or_else(|| invalid(key, "write an absolute path".to_owned()))
        };
        let (socket, namespaces) = (path("socket")?, path("namespaces")?);
        let exempt: Option<_> = whole.read("exempt").map_err(|e| invalid("exempt", e.to_string()))?;
        Ok(Self { version, socket, namespaces, exempt: exempt.unwrap_or_default(), whole })
    }

    /// `prevResult`, the result of the plugins before.
    ///
    /// # Errors
    /// InvalidConfiguration without one, Decoding for one that cannot be read.
    pub fn previous(&self) -> Result<Previous, Failure> {
        let previous = self.whole.read("prevResult").map_err(|e| result(e.to_string()))?;
        let result = previous.ok_or_else(|| {
            let msg = "there is no prevResult: underpass-cni follows the plugin that gives a pod its addresses";
            Failure::new(Code::InvalidConfiguration, msg, "chain it behind that plugin")
        })?;
        Ok(Previous { result })
    }

    /// `cni.dev/valid-attachments`: the containers that are left of all; none where the configuration does not say so.
    #[must_use]
    pub fn valid_attachments(&self) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Attachment {
            #[serde(rename = "containerID")]
            container: String,
        }
        let attachments: Vec<Attachment> = self.whole.read("cni.dev/valid-attachments").ok()??;
        // A container is attached once for each of its interfaces.
        let containers: BTreeSet<_> = attachments.into_iter().map(|attachment| attachment.container).collect();
        Some(containers.into_iter().collect())
    }
}

/// The result of the plugins before.
#[derive(Clone, Debug)]
pub struct Previous {
    result: Object,
}

fn result(why: impl Into<String>) -> Failure {
    Failure::new(Code::Decoding, "cannot read prevResult", why)
}

impl Previous {
    /// The addresses of the sandbox: those of its own interfaces, and those of none. A plugin before may give the node's end
    /// of a pair an address as well.
    ///
    /// # Errors
    /// Decoding for an address or an interface that cannot be.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        #[derive(Deserialize)]
        struct Interface {
            #[serde(default)]
            sandbox: Option<String>,
        }
        #[derive(Deserialize)]
        struct Ip {
            address: String,
            #[serde(default)]
            interface: Option<usize>,
        }
        let interfaces: Vec<Interface> =
            self.result.read("interfaces").map_err(|e| result(e.to_string()))?.unwrap_or_default();
        let ips: Vec<Ip> = self.result.read("ips").map_err(|e| result(e.to_string()))?.unwrap_or_default();
        let mut addresses = Vec::new();
        for ip in ips {
            let address = ip.address.split_once('/').map_or(&*ip.address, |(address, _)| address);
            let address: IpAddr = address.parse().map_err(|e| result(format!("address {:?}: {e}", ip.address)))?;
            let is_inside = match ip.interface.map(|number| (number, interfaces.get(number))) {
                None => true,
                Some((_, Some(interface))) => interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty()),
                Some((number, None)) => return Err(result(format!("{address} is of the interface {number} of none"))),
            };
            if is_inside {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The result as the plugin prints it: as it was, with the version of the configuration, which a runtime goes by.
    ///
    /// # Errors
    /// Decoding.
    pub fn json(mut self, version: &str) -> Result<String, Failure> {
        let is_given = self.result.read::<String>("cniVersion").is_ok_and(|given| given.as_deref() == Some(version));
        if !is_given {
            self.result.set("cniVersion", &version).map_err(|e| result(e.to_string()))?;
        }
        serde_json::to_string(&self.result).map_err(|e| result(e.to_string()))
    }
}

/// The variables of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
    /// The pod in CNI_ARGS; none: this is no sandbox of Kubernetes.
    pub pod: Option<PodName>,
}

impl Environment {
    /// Reads the variables of an ADD.
    ///
    /// # Errors
    /// InvalidEnvironment with the names of all that are missing.
    pub fn of_add(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let [container, netns, interface] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
            .map(|name| (name, variable(name).filter(|value| !value.is_empty())));
        let missing: Vec<_> =
            [&container, &netns, &interface].into_iter().filter(|(_, v)| v.is_none()).map(|(n, _)| *n).collect();
        let (Some(container), Some(netns), true) = (container.1, netns.1, missing.is_empty()) else {
            let msg = format!("missing in the environment: {}", missing.join(", "));
            return Err(Failure::new(Code::InvalidEnvironment, msg, "of an ADD"));
        };
        let pod = pod(&variable("CNI_ARGS").unwrap_or_default());
        Ok(Self { container, netns: Path::new(&netns).to_owned(), pod })
    }
}

/// The pod in CNI_ARGS, `NAME=VALUE;NAME=VALUE`; none where its namespace or uid is not given.
fn pod(arguments: &str) -> Option<PodName> {
    let value = |name: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, value)| *own == name && !value.is_empty()).map(|(_, value)| value.to_owned())
    };
    let (namespace, uid) = (value("K8S_POD_NAMESPACE")?, value("K8S_POD_UID")?);
    Some(PodName { namespace, name: value("K8S_POD_NAME").unwrap_or_default(), uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> NetworkConfig {
        let own = r#""cniVersion":"1.0.0","name":"n","type":"underpass-cni","socket":"/s","namespaces":"/l""#;
        NetworkConfig::parse(format!("{{{own}{rest}}}").as_bytes()).unwrap()
    }

    #[test]
    fn a_configuration_that_lacks_something_is_refused_by_its_key() {
        use Code::{Decoding, IncompatibleVersion, InvalidConfiguration};
        for (text, code, says) in [
            ("", Decoding, "cannot read the network configuration"),
            ("[]", Decoding, "cannot read the network configuration"),
            ("{}", IncompatibleVersion, "cniVersion \"\""),
            (r#"{"cniVersion":1}"#, InvalidConfiguration, "`cniVersion`"),
            (r#"{"cniVersion":"0.2.0"}"#, IncompatibleVersion, "\"0.2.0\""),
            (r#"{"cniVersion":"2.0.0"}"#, IncompatibleVersion, "\"2.0.0\""),
            (r#"{"cniVersion":"0.3.1"}"#, InvalidConfiguration, "`socket`"),
            (r#"{"cniVersion":"0.4.0","socket":7}"#, InvalidConfiguration, "`socket`"),
            (r#"{"cniVersion":"0.4.0","socket":"s"}"#, InvalidConfiguration, "`socket`"),
            (r#"{"cniVersion":"1.1.0","socket":"/s"}"#, InvalidConfiguration, "`namespaces`"),
            (
                r#"{"cniVersion":"1.1.0","socket":"/s","namespaces":"/l","exempt":"a"}"#,
                InvalidConfiguration,
                "`exempt`",
            ),
        ] {
            let failure = NetworkConfig::parse(text.as_bytes()).unwrap_err();
            assert!(failure.code == code && failure.msg.contains(says), "{text}: {failure:?}");
        }
        assert!(config("").exempt.is_empty());
        assert_eq!(config(r#","exempt":["b","a"]"#).exempt, ["a", "b"].map(str::to_owned).into());
        assert_eq!((version_of(b"{").as_deref(), version_of(b"{\"cniVersion\":\"9\"}").as_deref()), (None, Some("9")));
    }

    #[test]
    fn addresses_are_those_of_the_sandbox() {
        let check = |result: &str, want: Result<&[&str], &str>| {
            let addresses = config(&format!(",\"prevResult\":{result}")).previous().unwrap().addresses();
            let addresses = addresses.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
            match (&addresses, want) {
                (Ok(are), Ok(want)) => assert_eq!(are, want, "{result}"),
                (Err(failure), Err(says)) => assert!(failure.details.contains(says), "{result}: {failure:?}"),
                _ => panic!("{result}: {addresses:?}"),
            }
        };
        let interfaces =
            r#""interfaces":[{"name":"cni0"},{"name":"veth","sandbox":""},{"name":"eth0","sandbox":"/run/netns/a"}]"#;
        let ips = |ips: &str| format!("{{{interfaces},\"ips\":[{ips}]}}");
        check(
            &ips(r#"{"address":"10.0.0.2/24","interface":2},{"address":"fd00::2/64","interface":2}"#),
            Ok(&["10.0.0.2", "fd00::2"]),
        );
        check(&ips(r#"{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.3/24","interface":1}"#), Ok(&[]));
        check(&ips(r#"{"version":"4","address":"10.0.0.2/24","gateway":"10.0.0.1"}"#), Ok(&["10.0.0.2"]));
        check(&ips(r#"{"address":"10.0.0.2/24","interface":null}"#), Ok(&["10.0.0.2"]));
        check(r#"{"ips":[{"address":"10.0.0.2/32"}]}"#, Ok(&["10.0.0.2"]));
        check("{}", Ok(&[]));
        check(&ips(r#"{"address":"10.0.0.2/24","interface":3}"#), Err("interface 3"));
        check(&ips(r#"{"address":"10.0.0/24"}"#), Err("10.0.0/24"));
        check(r#"{"ips":{}}"#, Err("invalid type"));
        let failure = config("").previous().unwrap_err();
        assert!(failure.code == Code::InvalidConfiguration && failure.msg.contains("prevResult"), "{failure:?}");
        assert_eq!(config(",\"prevResult\":7").previous().unwrap_err().code, Code::Decoding);
    }

    #[test]
    fn the_result_is_passed_on_as_it_was() {
        let check = |result: &str, want: &str| {
            let printed = config(&format!(",\"prevResult\":{result}")).previous().unwrap().json("1.0.0").unwrap();
            assert_eq!(printed, want);
        };
        let whole = r#"{"x":{"b":1,"a":2.0},"cniVersion":"1.0.0","ips":[],"dns":{}}"#;
        check(whole, whole);
        check(r#"{"ips":[]}"#, r#"{"ips":[],"cniVersion":"1.0.0"}"#);
        check(r#"{"cniVersion":"0.4.0","ips":[]}"#, r#"{"cniVersion":"1.0.0","ips":[]}"#);
    }

    #[test]
    fn a_pod_has_a_namespace_and_a_uid() {
        let check = |arguments: &str, want: Option<[&str; 3]>| {
            let pod = pod(arguments).map(|pod| [pod.namespace, pod.name, pod.uid]);
            assert_eq!(pod, want.map(|want| want.map(str::to_owned)), "{arguments}");
        };
        let whole =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u=1";
        check(whole, Some(["shop", "a", "u=1"]));
        check("K8S_POD_NAMESPACE=shop;K8S_POD_UID=u", Some(["shop", "", "u"]));
        for none in ["", ";;", "K8S_POD_UID=u", "K8S_POD_NAMESPACE=shop", "K8S_POD_NAMESPACE=;K8S_POD_UID=u", "a;b"] {
            check(none, None);
        }
    }

    #[test]
    fn attachments_are_containers_once_each() {
        let check = |rest: &str, want: Option<&[&str]>| {
            let want = want.map(|want| want.iter().map(|&one| one.to_owned()).collect::<Vec<_>>());
            assert_eq!(config(rest).valid_attachments(), want, "{rest}");
        };
        let list = r#","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"},{"containerID":"a","ifname":"x"},{"containerID":"b","ifname":"y"}]"#;
        check(list, Some(&["a", "b"]));
        check(r#","cni.dev/valid-attachments":[]"#, Some(&[]));
        // To have forgotten all of them would be worse than to forget none.
        check("", None);
        check(r#","cni.dev/valid-attachments":[{"ifname":"x"}]"#, None);
    }
}
