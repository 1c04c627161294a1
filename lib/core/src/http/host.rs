//! Hosts as VirtualServices and DestinationRules name them: a short name of their own namespace, a whole name, or a
//! wildcard. Its own file because both kinds, and requests, must mean the same host by them.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// A host, or several by their common end. In lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// One: `reviews`, or a whole name.
    Name(Arc<str>),
    /// `*.example.com`, as `.example.com`: every name below it.
    Below(Arc<str>),
    /// `*`.
    Any,
}

impl Host {
    /// From its form in an object, which the door has checked.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix('*') {
            Some("") => Self::Any,
            Some(end) => Self::Below(end.to_ascii_lowercase().into()),
            None => Self::Name(text.to_ascii_lowercase().into()),
        }
    }

    /// As Istio completes it: a name without a dot is a Service of the object's own namespace, every other name is whole.
    #[must_use]
    pub fn qualified<'h>(&'h self, namespace: &str, cluster_domain: &str) -> Cow<'h, Self> {
        match self {
            Self::Name(short) if !short.contains('.') => {
                Cow::Owned(Self::Name(format!("{short}.{namespace}.svc.{cluster_domain}").into()))
            }
            whole => Cow::Borrowed(whole),
        }
    }

    /// Whether it stands for this whole name, in lower case.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => &**own == name,
            Self::Below(end) => name.len() > end.len() && name.ends_with(&**end),
            Self::Any => true,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Below(end) => write!(f, "*{end}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_host_stands_for() {
        let name = "reviews.default.svc.cluster.local";
        for (text, expect) in [
            ("reviews", true),
            ("Reviews", true),
            ("reviews.default.svc.cluster.local", true),
            // as in Istio a name with a dot is whole
            ("reviews.default", false),
            ("reviews.default.svc", false),
            ("ratings", false),
            ("*.default.svc.cluster.local", true),
            ("*.svc.cluster.local", true),
            ("*.other.svc.cluster.local", false),
            ("*.reviews.default.svc.cluster.local", false),
            ("*", true),
        ] {
            let host = Host::parse(text);
            assert_eq!(host.qualified("default", "cluster.local").matches(name), expect, "{text}");
            assert_eq!(host.qualified("other", "cluster.local").matches(name), expect && text.contains(['.', '*']));
        }
    }
}
