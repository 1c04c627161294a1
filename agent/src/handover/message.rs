//! The messages of a hand-over, between the agents of one node. Pure: bytes in, values out.
//!
//! What must hold: a change of anything here is a new [`PROTOCOL`]; another one is refused by name, before anything
//! changes hands.

use serde::{Deserialize, Serialize};

/// The version of every message here.
pub(super) const PROTOCOL: u32 = 3;

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
        /// The version of the kernel tables that are filled: the successor's, or one that it knows.
        tables: u32,
    },
    /// Two listeners, outbound and inbound, of each of these network namespaces.
    Pods(Vec<u64>),
    /// The listeners of the admin API, readiness and metrics, told apart by their addresses.
    Servers,
    /// The successor has applied everything, and serves.
    Taken,
    /// The predecessor accepts no more. It ends when it has drained.
    Leaving,
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
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default() // numbers and strings: it cannot fail
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
        Hello { protocol: 3, abi: 4, node: "n".into(), version: "0.1.0".into() }
    }

    /// The serialised form: a change of a line here is a change of [`PROTOCOL`].
    #[test]
    fn golden() {
        assert_eq!(PROTOCOL, 3);
        for (message, text) in [
            (Message::Hello(hello()), r#"{"hello":{"protocol":3,"abi":4,"node":"n","version":"0.1.0"}}"#),
            (Message::Refuse { why: "no".into() }, r#"{"refuse":{"why":"no"}}"#),
            (
                Message::Offer { cgroup: 7, earlier: vec![5], pods: 2, servers: 3, tables: 4 },
                r#"{"offer":{"cgroup":7,"earlier":[5],"pods":2,"servers":3,"tables":4}}"#,
            ),
            (Message::Pods(vec![1, u64::MAX]), r#"{"pods":[1,18446744073709551615]}"#),
            (Message::Servers, r#""servers""#),
            (Message::Taken, r#""taken""#),
            (Message::Leaving, r#""leaving""#),
        ] {
            assert_eq!(String::from_utf8(message.encode()).unwrap(), text);
            assert_eq!(Message::decode(text.as_bytes()), Some(message));
        }
        for text in [
            "",
            "{}",
            "taken",
            r#""gone""#,
            r#"{"offer":{"cgroup":7,"earlier":[],"pods":2,"servers":3,"tables":4,"more":1}}"#,
        ] {
            assert_eq!(Message::decode(text.as_bytes()), None, "{text}");
        }
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
        check(|other| other.protocol = 4, Some("it speaks hand-over protocol 4, not 3"));
        check(|other| other.abi = 5, None);
        check(|other| other.abi = 3, None);
        check(|other| other.abi = 2, Some("its kernel tables are of version 2, which version 4 does not know"));
        check(|other| other.node = "m".into(), Some("it runs for node m, not n"));
    }
}
