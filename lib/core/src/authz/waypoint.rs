//! The parts of a rule that only a waypoint can judge: values of HTTP requests, of their tokens, of TLS. Its own file
//! because nothing at L4 reads these values. There their names alone count: [`super::l7`] says what a rule that has
//! them means.
//!
//! A source and an operation have them behind a pointer, and so has a condition: most policies have none, and what is
//! in the World is there on every node.

use std::{borrow::Cow, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Match, PathMatch, StringMatch};

/// Of `from[].source`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceL7 {
    /// `issuer/subject` of the request's token.
    pub request_principals: Match<StringMatch>,
    /// The address of the original client.
    pub remote_ip_blocks: Match<IpNet>,
}

/// Of `to[].operation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OperationL7 {
    /// `:authority`. In lower case: hosts are compared without regard to it.
    pub hosts: Match<StringMatch>,
    /// `:method`.
    pub methods: Match<StringMatch>,
    /// The path of `:path`.
    pub paths: Match<PathMatch>,
}

/// Of `when[]`: a key, and what its values are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum L7Condition {
    /// `remote.ip`: the address of the original client.
    RemoteIp(Match<IpNet>),
    /// `connection.sni`: the name that a TLS client asked for.
    ConnectionSni(Match<StringMatch>),
    /// `request.headers[NAME]`.
    RequestHeader(HeaderName, Match<StringMatch>),
    /// `request.auth.principal`: `issuer/subject` of the request's token.
    RequestPrincipal(Match<StringMatch>),
    /// `request.auth.audiences`.
    RequestAudiences(Match<StringMatch>),
    /// `request.auth.presenter`.
    RequestPresenter(Match<StringMatch>),
    /// `request.auth.claims[NAME]...`.
    RequestClaim(ClaimPath, Match<StringMatch>),
    /// `experimental.envoy.filters...`, as written: Envoy alone has such metadata.
    EnvoyFilter {
        /// The whole key.
        key: Arc<str>,
        /// Its values.
        values: Match<Arc<str>>,
    },
}

/// The name of a request's header: in lower case, as HTTP/2 sends it (RFC 9113, 8.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName {
    name: Arc<str>,
    written: Arc<str>,
}

/// The reason why a text is not the name of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header name consists of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~, or is :authority, :method, :path or :scheme")]
pub struct ParseHeaderNameError;

/// The path of a claim in a token: names from the outermost object to the innermost, at least one, none empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimPath(Arc<[Arc<str>]>);

impl SourceL7 {
    /// Behind a pointer, where it asks for anything.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        let asks = self.fields().next().is_some();
        asks.then(|| Box::new(self))
    }

    /// The names of the lists that are there.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let requests = present(["requestPrincipals", "notRequestPrincipals"], &self.request_principals);
        requests.chain(present(["remoteIpBlocks", "notRemoteIpBlocks"], &self.remote_ip_blocks))
    }
}

impl OperationL7 {
    /// Behind a pointer, where it asks for anything.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        let asks = self.fields().next().is_some();
        asks.then(|| Box::new(self))
    }

    /// The names of the lists that are there.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let hosts = present(["hosts", "notHosts"], &self.hosts);
        let methods = present(["methods", "notMethods"], &self.methods);
        hosts.chain(methods).chain(present(["paths", "notPaths"], &self.paths))
    }
}

fn present<T>([name, not_name]: [&'static str; 2], m: &Match<T>) -> impl Iterator<Item = &'static str> + use<T> {
    let there = |name, values: &[T]| (!values.is_empty()).then_some(name);
    [there(name, &m.values), there(not_name, &m.not_values)].into_iter().flatten()
}

impl L7Condition {
    /// The key, as written.
    #[must_use]
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Self::RemoteIp(_) => "remote.ip".into(),
            Self::ConnectionSni(_) => "connection.sni".into(),
            Self::RequestHeader(name, _) => format!("request.headers[{}]", name.written).into(),
            Self::RequestPrincipal(_) => "request.auth.principal".into(),
            Self::RequestAudiences(_) => "request.auth.audiences".into(),
            Self::RequestPresenter(_) => "request.auth.presenter".into(),
            Self::RequestClaim(path, _) => format!("request.auth.claims[{}]", path.0.join("][")).into(),
            Self::EnvoyFilter { key, .. } => (&**key).into(),
        }
    }
}

impl HeaderName {
    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl FromStr for HeaderName {
    type Err = ParseHeaderNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // RFC 9110, 5.6.2. Of a request that has another pseudo-header nothing is ever judged (RFC 9113, 8.3).
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let is_pseudo = matches!(text, ":authority" | ":method" | ":path" | ":scheme");
        if !is_pseudo && (text.is_empty() || !text.bytes().all(is_token)) {
            return Err(ParseHeaderNameError);
        }
        Ok(Self { name: text.to_ascii_lowercase().into(), written: text.into() })
    }
}

impl Serialize for HeaderName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name)
    }
}

impl ClaimPath {
    /// From what is between the first bracket of a key and the last: `a][b` of `[a][b]`. Where brackets do not pair up,
    /// they are part of one name. None: a name is empty, or nothing but brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut names: Vec<_> = text.split("][").collect();
        if names.iter().any(|name| name.contains(['[', ']'])) {
            names = vec![text];
        }
        let are_there = names.iter().all(|name| !name.trim_matches(['[', ']']).is_empty());
        are_there.then(|| Self(names.into_iter().map(Arc::from).collect()))
    }

    /// The names, the outermost first.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers() {
        let check = |text: &str, expect: Option<&str>| {
            let name = text.parse::<HeaderName>();
            assert_eq!(name.as_ref().map(HeaderName::as_str).ok(), expect, "{text:?}");
            let key = name.map(|name| L7Condition::RequestHeader(name, Match::default()).key().into_owned());
            assert_eq!(key.ok(), expect.map(|_| format!("request.headers[{text}]")), "as written");
        };
        check("x-a", Some("x-a"));
        check("User-Agent", Some("user-agent"));
        check("X_!#$%&'*+-.^`|~9", Some("x_!#$%&'*+-.^`|~9"));
        check(":path", Some(":path"));
        for never in ["", "x y", "a:b", ":x", ":Path", "x]", "ü", "a\0"] {
            check(never, None);
        }
    }

    #[test]
    fn paths_of_claims() {
        let check = |text: &str, expect: &[&str]| {
            let path = ClaimPath::parse(text).unwrap();
            assert!(path.names().eq(expect.iter().copied()), "{path:?}");
            assert_eq!(L7Condition::RequestClaim(path, Match::default()).key(), format!("request.auth.claims[{text}]"));
        };
        check("iss", &["iss"]);
        check("a][b][c d", &["a", "b", "c d"]);
        check("https://example.org/x", &["https://example.org/x"]);
        check("a]b", &["a]b"]);
        check("a[b][c", &["a[b][c"]);
        for never in ["", "[", "]", "[]", "a][", "][a", "a][][b"] {
            assert_eq!(ClaimPath::parse(never), None, "{never}");
        }
    }
}
