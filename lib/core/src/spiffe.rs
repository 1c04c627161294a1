//! The identity of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, parsed once and never
//! again. Its own file because certificates, policies, logs and metrics must mean the same thing by it.
//!
//! What must hold: two identities are equal if and only if they are the same URI, byte for byte, and no namespace or
//! service account, however it is spelled, can make one workload's identity read as another's.

use std::{borrow::Cow, fmt, hash, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

/// The longest trust domain (SPIFFE-ID, 2.1).
pub const TRUST_DOMAIN_MAX_BYTES: usize = 255;
/// The longest SPIFFE id (SPIFFE-ID, 2.3).
pub const ID_MAX_BYTES: usize = 2048;

/// The reason why a text is not the identity of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentityError {
    /// It is something else.
    #[error("it does not start with `spiffe://`")]
    Scheme,
    /// The host part.
    #[error("a trust domain is 1 to 255 of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    /// Another SPIFFE id than a workload's.
    #[error("the path is not `/ns/<namespace>/sa/<service account>`")]
    Path,
    /// A name inside the path.
    #[error("a namespace and a service account consist of A-Z, a-z, 0-9, `.`, `-` and `_`, and are not `.` or `..`")]
    Segment,
    /// No implementation accepts it.
    #[error("it is longer than 2048 bytes")]
    TooLong,
}

/// `namespace` or `service account` can stand in an identity as it is (SPIFFE-ID, 2.2).
#[must_use]
pub fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && text.bytes().all(is_segment_byte)
}

pub(crate) const fn is_segment_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

/// The realm of one root of trust, `cluster.local` by default in the field. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// What Istio's documents call the trust domain of any mesh: the default, and in a policy the mesh's own.
    pub const LOCAL: &str = "cluster.local";

    /// The trust domain's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, as in Istio's mesh configuration.
    fn default() -> Self {
        Self(Arc::from(Self::LOCAL))
    }
}

impl FromStr for TrustDomain {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_MAX_BYTES || !text.bytes().all(byte) {
            return Err(ParseIdentityError::TrustDomain);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The identity of a workload. Cheap to clone; ordered and hashed as its URI.
#[derive(Clone)]
pub struct Identity {
    trust_domain: TrustDomain,
    /// The whole URI: every accessor borrows from it.
    uri: Arc<str>,
    /// Where the namespace starts and ends in `uri`; the service account starts behind `/sa/`.
    namespace: (u16, u16),
}

impl Identity {
    /// The identity of pods in `namespace` that run as `service_account`.
    ///
    /// Total, so that every pod of a World has one. A byte that cannot stand in a SPIFFE id is written as `%XX`; the
    /// result is distinct from every other identity and refused by [`Identity::from_str`], so that no certificate
    /// can carry it: such a pod has no peers. The doors refuse such names before (see [`is_segment`]).
    #[must_use]
    pub fn new(trust_domain: &TrustDomain, namespace: &str, service_account: &str) -> Self {
        let (namespace, service_account) = (escape(namespace), escape(service_account));
        let uri = format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}");
        let start = SCHEME.len() + trust_domain.as_str().len() + NAMESPACE.len();
        // Longer namespaces than Kubernetes has (63) saturate: the accessors then cut, the URI stays whole.
        let at = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        Self {
            trust_domain: trust_domain.clone(),
            uri: uri.into(),
            namespace: (at(start), at(start + namespace.len())),
        }
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.uri.get(usize::from(self.namespace.0)..usize::from(self.namespace.1)).unwrap_or_default()
    }

    /// The name of the Kubernetes service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.uri.get(usize::from(self.namespace.1) + SERVICE_ACCOUNT.len()..).unwrap_or_default()
    }

    /// `spiffe://...`, as a certificate carries it.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI without `spiffe://`, as Istio's policies and metrics write it.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The principal behind its trust domain: `ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub(crate) fn path(&self) -> &str {
        self.principal().get(self.trust_domain.as_str().len().saturating_add(1)..).unwrap_or_default()
    }

    /// A certificate can carry this identity: [`Identity::from_str`] accepts its URI.
    #[must_use]
    pub fn is_issuable(&self) -> bool {
        self.uri.parse::<Self>().is_ok()
    }
}

/// Injective: `%` itself is escaped, and a dot only where the whole segment is dots.
fn escape(segment: &str) -> Cow<'_, str> {
    if is_segment(segment) || segment.is_empty() {
        return Cow::Borrowed(segment);
    }
    let dots = matches!(segment, "." | "..");
    let mut out = String::with_capacity(segment.len() * 3);
    for b in segment.bytes() {
        if is_segment_byte(b) && !dots {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    Cow::Owned(out)
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > ID_MAX_BYTES {
            return Err(ParseIdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(ParseIdentityError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let mut parts = path.split('/');
        let mut part = || parts.next();
        let (Some(""), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) =
            (part(), part(), part(), part(), part(), part())
        else {
            return Err(ParseIdentityError::Path);
        };
        if !is_segment(namespace) || !is_segment(service_account) {
            return Err(ParseIdentityError::Segment);
        }
        Ok(Self::new(&trust_domain, namespace, service_account))
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for Identity {}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl hash::Hash for Identity {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_into_its_parts() {
        let id: Identity = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!(id.namespace(), "default");
        assert_eq!(id.service_account(), "bookinfo-productpage");
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/bookinfo-productpage");
        assert_eq!(id.to_string(), id.uri());
        assert_eq!(id, Identity::new(&TrustDomain::default(), "default", "bookinfo-productpage"));
    }

    #[test]
    fn refuses_by_name() {
        use ParseIdentityError as E;
        let check = |text: &str, want: E| assert_eq!(text.parse::<Identity>(), Err(want), "{text}");
        check("", E::Scheme);
        check("cluster.local/ns/a/sa/b", E::Scheme);
        check("SPIFFE://cluster.local/ns/a/sa/b", E::Scheme);
        check("spiffe://", E::TrustDomain);
        check("spiffe:///ns/a/sa/b", E::TrustDomain);
        check("spiffe://Cluster.local/ns/a/sa/b", E::TrustDomain);
        check("spiffe://user@td/ns/a/sa/b", E::TrustDomain);
        check("spiffe://td:15008/ns/a/sa/b", E::TrustDomain);
        check("spiffe://td?x=y/ns/a/sa/b", E::TrustDomain);
        check(&format!("spiffe://{}/ns/a/sa/b", "t".repeat(256)), E::TrustDomain);
        check("spiffe://td", E::Path);
        check("spiffe://td/", E::Path);
        check("spiffe://td/ns/a", E::Path);
        check("spiffe://td/ns/a/sa/b/", E::Path);
        check("spiffe://td/ns/a/sa/b/c", E::Path);
        check("spiffe://td//ns/a/sa/b", E::Path);
        check("spiffe://td/sa/a/ns/b", E::Path);
        check("spiffe://td/ns//sa/b", E::Segment);
        check("spiffe://td/ns/a/sa/", E::Segment);
        check("spiffe://td/ns/../sa/b", E::Segment);
        check("spiffe://td/ns/a/sa/.", E::Segment);
        check("spiffe://td/ns/a%2Fb/sa/c", E::Segment);
        check("spiffe://td/ns/a/sa/b?q", E::Segment);
        check("spiffe://td/ns/a/sa/b#f", E::Segment);
        check("spiffe://td/ns/a/sa/ü", E::Segment);
        check("spiffe://td/ns/a/sa/b\0", E::Segment);
        check(&format!("spiffe://td/ns/a/sa/{}", "b".repeat(2048)), E::TooLong);
    }

    #[test]
    fn a_name_cannot_forge_another() {
        let td = TrustDomain::default();
        let victim = Identity::new(&td, "a", "admin");
        for (namespace, service_account) in [("a/sa/admin", ""), ("a", "x/../admin"), ("x/../a", "admin"), ("a", ".")] {
            let id = Identity::new(&td, namespace, service_account);
            assert_ne!(id, victim);
            assert!(!id.is_issuable(), "{id}");
        }
        assert_ne!(Identity::new(&td, "a/sa/b", "c"), Identity::new(&td, "a", "b/sa/c"));
        assert_ne!(Identity::new(&td, ".", "a"), Identity::new(&td, "%2E", "a"));
        assert!(victim.is_issuable());
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(td in "[a-z0-9._-]{1,20}", ns in "[a-z0-9-]{1,63}", sa in "[a-zA-Z0-9._-]{1,63}") {
            prop_assume!(is_segment(&sa));
            let id = Identity::new(&td.parse().unwrap(), &ns, &sa);
            prop_assert_eq!(id.namespace(), &ns);
            prop_assert_eq!(id.service_account(), &sa);
            prop_assert_eq!(&id.to_string().parse::<Identity>().unwrap(), &id);
        }

        #[test]
        fn new_is_injective(a in "[a-c/%.\u{e9}]{0,4}", b in "[a-c/%.]{0,4}", c in "[a-c/%.\u{e9}]{0,4}", d in "[a-c/%.]{0,4}") {
            let td = TrustDomain::default();
            let same = (&a, &b) == (&c, &d);
            prop_assert_eq!(Identity::new(&td, &a, &b) == Identity::new(&td, &c, &d), same);
        }

        #[test]
        fn parsed_identities_print_the_same(text in "spiffe://[a-z./]{0,12}/ns/[a-z./%]{0,8}/sa/[a-z./%]{0,8}") {
            if let Ok(id) = text.parse::<Identity>() {
                prop_assert_eq!(id.uri(), text);
            }
        }
    }
}
