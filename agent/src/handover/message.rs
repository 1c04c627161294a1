//! The messages of a hand-over, between the agents of one node. Pure: bytes in, values out.
//!
//! What must hold: a change of anything here is a new [`PROTOCOL`]; another one is refused by name, before anything
//! changes hands.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use underpass_net::passing::MOST_BYTES;
use zeroize::Zeroizing;

/// The version of every message here.
pub(super) const PROTOCOL: u32 = 5;

/// One message; which descriptors come with it stands beside each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Message {
    /// The successor introduces itself.
    Hello(Hello),
    /// The predecessor refuses.
    Refuse {
        /// The reason, for people.
        why: String,
    },
    /// The predecessor agrees. With the lock of the node, and the process of each of its own predecessors.
    Offer {
        /// Its cgroup, by which the kernel knows its sockets until it has ended.
        cgroup: u64,
        /// The cgroups of its own predecessors, which still drain.
        earlier: Vec<u64>,
        /// Number of pods whose listeners follow.
        pods: usize,
        /// Number of servers whose listeners follow.
        servers: usize,
        /// Number of certificates that follow.
        certificates: usize,
        /// Number of waypoints whose networks follow.
        waypoints: usize,
        /// The version of the kernel tables that are filled: the successor's, or one that it knows.
        tables: u32,
    },
    /// Two listeners, outbound and inbound, of each of these network namespaces.
    Pods(Vec<u64>),
    /// The listeners of the admin API, readiness and metrics, told apart by their addresses.
    Servers,
    /// A certificate that serves.
    Certificate(CertificateText),
    /// The network of a waypoint of this node: its namespace, and its listener.
    Waypoint(WaypointText),
    /// The successor has applied everything, and serves.
    Taken,
    /// The predecessor accepts no more. It ends when it has drained.
    Leaving,
}

/// A certificate of an identity with its key, in memory that is wiped when dropped; and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateText {
    /// Key and chain ([`underpass_identity::Credential::to_pem`]).
    pub(super) pem: Zeroizing<String>,
    /// The serial number of the root that certifies it, in hexadecimal, where it is known.
    pub(super) issuer: Option<String>,
}

impl fmt::Debug for CertificateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateText").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The pod of a waypoint, and what its network was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaypointText {
    /// The namespace of the pod.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The port of the listener.
    pub(super) port: u16,
}

/// The introduction of an agent: node and versions, which must fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    /// [`PROTOCOL`].
    pub(super) protocol: u32,
    /// [`underpass_abi::VERSION`] of the kernel tables by which it decides.
    pub(super) abi: u32,
    /// The name of its node.
    pub(super) node: String,
    /// The version of the program, for people.
    pub(super) version: String,
}

impl Hello {
    /// The introduction of this program.
    pub(super) fn new(node: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { protocol: PROTOCOL, abi: underpass_abi::VERSION, node: node.to_owned(), version }
    }

    /// The reason for which this agent cannot succeed `other`; none where it can. An earlier version's tables are read by the
    /// later agent, and written by it on the way back, so only that one must know both: `is_known` says which `other` knows.
    pub(super) fn misfit(&self, other: &Self, is_known: fn(u32) -> bool) -> Option<String> {
        if self.protocol != other.protocol {
            return Some(format!("it speaks hand-over protocol {}, not {}", self.protocol, other.protocol));
        }
        if self.abi < other.abi && !is_known(self.abi) {
            return Some(format!(
                "its kernel tables are of version {}, which version {} does not know",
                self.abi, other.abi
            ));
        }
        (self.node != other.node).then(|| format!("it runs for node {}, not {}", self.node, other.node))
    }
}

impl Message {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Reserved once: growing would leave copies of a key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
        let _ = serde_json::to_writer(&mut *bytes, self); // numbers and strings: it cannot fail
        bytes
    }

    /// Whether it can be sent.
    pub(super) fn fits(&self) -> bool {
        self.encode().len() <= MOST_BYTES
    }

    /// Parses a message; none where the bytes are no message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { protocol: 5, abi: 4, node: "n".into(), version: "0.1.0".into() }
    }

    /// The serialised form: a change of a line here is a change of [`PROTOCOL`].
    #[test]
    fn golden() {
        assert_eq!(PROTOCOL, 5);
        let certificate = |issuer: Option<&str>| CertificateText {
            pem: Zeroizing::new("k\nc".into()),
            issuer: issuer.map(Into::into),
        };
        for (message, text) in [
            (Message::Hello(hello()), r#"{"hello":{"protocol":5,"abi":4,"node":"n","version":"0.1.0"}}"#),
            (Message::Refuse { why: "no".into() }, r#"{"refuse":{"why":"no"}}"#),
            (
                Message::Offer {
                    cgroup: 7,
                    earlier: vec![5],
                    pods: 2,
                    servers: 3,
                    certificates: 1,
                    waypoints: 1,
                    tables: 4,
                },
                r#"{"offer":{"cgroup":7,"earlier":[5],"pods":2,"servers":3,"certificates":1,"waypoints":1,"tables":4}}"#,
            ),
            (Message::Pods(vec![1, u64::MAX]), r#"{"pods":[1,18446744073709551615]}"#),
            (Message::Servers, r#""servers""#),
            (Message::Certificate(certificate(Some("0a"))), r#"{"certificate":{"pem":"k\nc","issuer":"0a"}}"#),
            (Message::Certificate(certificate(None)), r#"{"certificate":{"pem":"k\nc","issuer":null}}"#),
            (
                Message::Waypoint(WaypointText {
                    namespace: "shop".into(),
                    name: "w".into(),
                    addresses: vec!["10.9.1.7".parse().unwrap(), "fd09::7".parse().unwrap()],
                    port: 15008,
                }),
                r#"{"waypoint":{"namespace":"shop","name":"w","addresses":["10.9.1.7","fd09::7"],"port":15008}}"#,
            ),
            (Message::Taken, r#""taken""#),
            (Message::Leaving, r#""leaving""#),
        ] {
            assert_eq!(str::from_utf8(&message.encode()).unwrap(), text);
            assert_eq!(Message::decode(text.as_bytes()), Some(message));
        }
        for text in [
            "",
            "{}",
            "taken",
            r#""gone""#,
            r#"{"offer":{"cgroup":7,"earlier":[],"pods":2,"servers":3,"certificates":1,"waypoints":1,"tables":4,"more":1}}"#,
        ] {
            assert_eq!(Message::decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_not_printed_and_what_is_too_large_not_sent() {
        let message = |bytes: usize| {
            Message::Certificate(CertificateText { pem: Zeroizing::new("k".repeat(bytes)), issuer: None })
        };
        assert_eq!(format!("{:?}", message(3)), "Certificate(CertificateText { issuer: None, .. })");
        assert!(message(60_000).fits() && !message(MOST_BYTES).fits());
    }

    #[test]
    fn only_a_fitting_agent_may_succeed() {
        let check = |change: fn(&mut Hello), says: Option<&str>| {
            let mut other = hello();
            change(&mut other);
            assert_eq!(other.misfit(&hello(), |version| version >= 3).as_deref(), says);
        };
        check(|_| {}, None);
        check(|other| other.version = "9.9.9".into(), None);
        check(|other| other.protocol = 6, Some("it speaks hand-over protocol 6, not 5"));
        check(|other| other.abi = 5, None);
        check(|other| other.abi = 3, None);
        check(|other| other.abi = 2, Some("its kernel tables are of version 2, which version 4 does not know"));
        check(|other| other.node = "m".into(), Some("it runs for node m, not n"));
    }
}
