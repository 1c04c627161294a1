//! The messages between an agent and a waypoint that it has started as its child. Pure: bytes in, values out.
//!
//! What must hold: a change of anything here is a new [`PROTOCOL`]; another one is refused by name, before anything else of its
//! message is read. A key is never printed, and wiped with the message that had it, where it is ours to wipe: serde_json unescapes in
//! memory of its own.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use underpass_core::{
    Identity, ObjectName, TrustDomain, enrol::EnrolledBy, http::PathNormalization, spiffe::ParseIdentityError,
    world::MeshSettings,
};
use underpass_identity::{Credential, Roots, certificate};
use underpass_net::passing::MOST_BYTES;
use zeroize::Zeroizing;

use super::Error;
use crate::credentials::Credentials;

/// The version of every message here.
pub const PROTOCOL: u32 = 2;

/// What an agent says to its child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToChild {
    /// Who it is, and of what mesh: the first message, and only that.
    Begin(Box<Begin>),
    /// Its certificate and the roots of the mesh: the second message, and again whenever either changes.
    Credentials(CredentialsText),
    /// Settings of the mesh that changed.
    Mesh(#[serde(with = "mesh")] MeshSettings),
    /// Take nothing new, finish what is open, and end.
    Drain,
}

/// What a child says to its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromChild {
    /// It accepts, under its certificate, and routes by a World.
    Serving {
        /// The version of that World, of the child's own count.
        version: u64,
    },
    /// Nothing is open any more; it ends.
    Drained,
}

/// The introduction of a child to what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BeginText", into = "BeginText")]
pub struct Begin {
    /// The directory of manifests that describes the mesh.
    pub manifests: PathBuf,
    /// The node that it runs on.
    pub node: String,
    /// The Gateway that it is an instance of.
    pub gateway: ObjectName,
    /// The GatewayClass of that.
    pub class: Arc<str>,
    /// The pod that it is.
    pub pod: ObjectName,
    /// The identity that it shows.
    pub identity: Identity,
    /// Its addresses, of each family the first counts. Metrics and readiness are served at each of them.
    pub addresses: Vec<IpAddr>,
    /// The longest time that open connections may go on once it drains. Whole milliseconds.
    pub drain: Duration,
    /// The settings of the mesh.
    pub mesh: MeshSettings,
}

/// A certificate with its key, and the roots of the mesh, in memory that is wiped when dropped; and never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsText {
    /// The roots, as PEM.
    roots: String,
    /// Key and chain ([`Credential::to_pem`]).
    own: Zeroizing<String>,
}

impl fmt::Debug for CredentialsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsText").finish_non_exhaustive()
    }
}

impl CredentialsText {
    /// The text of this certificate and these roots.
    #[must_use]
    pub fn new(own: &Credential, roots: &Roots) -> Self {
        let roots = roots.certificates().iter().map(|root| certificate::pem(root).to_string()).collect();
        Self { roots, own: own.to_pem() }
    }

    /// The credentials in it, of a child that has to show `identity`. Roots that are the same as `before` keep their
    /// number.
    ///
    /// # Errors
    /// Where one of them cannot be read, or the certificate is another identity's.
    pub fn read(&self, identity: &Identity, before: Option<&Credentials>) -> Result<Credentials, Error> {
        let unreadable = |source| Error::Credentials { source };
        let own = Credential::from_pem(&self.own).map_err(unreadable)?;
        if own.identity() != identity {
            return Err(Error::Identity { found: own.identity().clone(), expected: identity.clone() });
        }
        let read = |generation| Roots::from_pem(generation, &self.roots).map(Arc::new).map_err(unreadable);
        let roots = match before {
            None => read(1)?,
            Some(before) => {
                let certificates = certificate::certificates_from_pem(&self.roots).map_err(unreadable)?;
                let next = before.roots.successor(certificates).map_err(unreadable)?;
                next.map_or_else(|| Arc::clone(&before.roots), Arc::new)
            }
        };
        Ok(Credentials { roots, own: [(identity.clone(), Arc::new(own))].into() })
    }
}

/// [`Begin`] on the wire.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginText {
    protocol: u32,
    manifests: PathBuf,
    node: String,
    gateway: Name,
    class: Arc<str>,
    pod: Name,
    identity: String,
    addresses: Vec<IpAddr>,
    drain_ms: u64,
    #[serde(with = "mesh")]
    mesh: MeshSettings,
}

/// The name of an object in a namespace.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    namespace: String,
    name: String,
}

impl From<&ObjectName> for Name {
    fn from(name: &ObjectName) -> Self {
        Self { namespace: name.namespace().to_owned(), name: name.name().to_owned() }
    }
}

impl From<Name> for ObjectName {
    fn from(Name { namespace, name }: Name) -> Self {
        Self::new(namespace, name)
    }
}

impl From<Begin> for BeginText {
    fn from(begin: Begin) -> Self {
        let Begin { manifests, node, gateway, class, pod, identity, addresses, drain, mesh } = begin;
        Self {
            protocol: PROTOCOL,
            manifests,
            node,
            gateway: Name::from(&gateway),
            class,
            pod: Name::from(&pod),
            identity: identity.to_string(),
            addresses,
            drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
            mesh,
        }
    }
}

impl TryFrom<BeginText> for Begin {
    type Error = ParseIdentityError;

    fn try_from(text: BeginText) -> Result<Self, Self::Error> {
        let BeginText {
            protocol: _, // read first, by `ToChild::decode`
            manifests,
            node,
            gateway,
            class,
            pod,
            identity,
            addresses,
            drain_ms,
            mesh,
        } = text;
        let (identity, drain) = (identity.parse()?, Duration::from_millis(drain_ms));
        let (gateway, pod) = (gateway.into(), pod.into());
        Ok(Self { manifests, node, gateway, class, pod, identity, addresses, drain, mesh })
    }
}

/// The settings of the mesh on the wire.
mod mesh {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{
        Arc, Deserialize, EnrolledBy, MeshSettings, ParseIdentityError, PathNormalization, Serialize, TrustDomain,
    };

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Text {
        cluster: Arc<str>,
        root_namespace: Arc<str>,
        trust_domain: String,
        trust_domain_aliases: Vec<String>,
        cluster_domain: Arc<str>,
        sidecar_keys: bool,
        path_normalization: String,
        enrolled_by_redirection: bool,
    }

    pub(super) fn serialize<S: Serializer>(mesh: &MeshSettings, serializer: S) -> Result<S::Ok, S::Error> {
        let MeshSettings {
            cluster,
            root_namespace,
            trust_domain,
            trust_domain_aliases,
            cluster_domain,
            sidecar_keys,
            path_normalization,
            enrolled_by,
        } = mesh;
        let text = Text {
            cluster: Arc::clone(cluster),
            root_namespace: Arc::clone(root_namespace),
            trust_domain: trust_domain.to_string(),
            trust_domain_aliases: trust_domain_aliases.iter().map(ToString::to_string).collect(),
            cluster_domain: Arc::clone(cluster_domain),
            sidecar_keys: *sidecar_keys,
            path_normalization: path_normalization.to_string(),
            enrolled_by_redirection: match enrolled_by {
                EnrolledBy::Labels => false,
                EnrolledBy::Redirection => true,
            },
        };
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MeshSettings, D::Error> {
        let text = Text::deserialize(deserializer)?;
        let domain = |text: &String| text.parse::<TrustDomain>();
        let own = domain(&text.trust_domain).map_err(D::Error::custom)?;
        let paths: PathNormalization = text.path_normalization.parse().map_err(D::Error::custom)?;
        let aliases: Result<Vec<_>, ParseIdentityError> = text.trust_domain_aliases.iter().map(domain).collect();
        Ok(MeshSettings {
            cluster: text.cluster,
            root_namespace: text.root_namespace,
            trust_domain: own,
            trust_domain_aliases: aliases.map_err(D::Error::custom)?,
            cluster_domain: text.cluster_domain,
            sidecar_keys: text.sidecar_keys,
            path_normalization: paths,
            enrolled_by: if text.enrolled_by_redirection { EnrolledBy::Redirection } else { EnrolledBy::Labels },
        })
    }
}

/// The part of a first message that every version of it has.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnyVersion {
    Begin { protocol: u32 },
}

impl ToChild {
    /// The bytes of the message.
    ///
    /// # Errors
    /// [`Error::Unsendable`] where they are more than a message may have, or a path in it is no Unicode.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        encode(self)
    }

    /// The message of these bytes.
    ///
    /// # Errors
    /// [`Error::Protocol`] for the first message of another version, [`Error::Message`] for what is no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match serde_json::from_slice(bytes) {
            Ok(AnyVersion::Begin { protocol }) if protocol != PROTOCOL => Err(Error::Protocol { found: protocol }),
            _ => decode(bytes),
        }
    }
}

impl FromChild {
    /// The bytes of the message.
    ///
    /// # Errors
    /// None that occurs: it is short.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        encode(self)
    }

    /// The message of these bytes.
    ///
    /// # Errors
    /// [`Error::Message`] for what is no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode(bytes)
    }
}

fn encode(message: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Never longer than at first: growing would leave copies of a key behind.
    let mut bytes = Zeroizing::new(vec![0; MOST_BYTES]);
    let mut rest = bytes.as_mut_slice();
    serde_json::to_writer(&mut rest, message).map_err(|source| Error::Unsendable { source })?;
    let unused = rest.len();
    bytes.truncate(MOST_BYTES - unused);
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // What cannot be read is not repeated: there may be a key in it.
    serde_json::from_slice(bytes).map_err(|error| Error::Message {
        bytes: bytes.len(),
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use underpass_core::testing::name;
    use underpass_identity::testing::{Leaf, TestCa};

    use super::*;

    const W: &str = "spiffe://cluster.local/ns/shop/sa/w";

    fn begin() -> Begin {
        Begin {
            manifests: "/etc/mesh".into(),
            node: "n".into(),
            gateway: name("shop/w"),
            class: "istio-waypoint".into(),
            pod: name("shop/w-1"),
            identity: W.parse().unwrap(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            drain: Duration::from_secs(30),
            mesh: MeshSettings {
                trust_domain_aliases: vec!["old".parse().unwrap()],
                path_normalization: PathNormalization::MergeSlashes,
                enrolled_by: EnrolledBy::Redirection,
                ..MeshSettings::default()
            },
        }
    }

    const MESH: &str = r#"{"cluster":"Kubernetes","root_namespace":"istio-system","trust_domain":"cluster.local","trust_domain_aliases":["old"],"cluster_domain":"cluster.local","sidecar_keys":true,"path_normalization":"MERGE_SLASHES","enrolled_by_redirection":true}"#;

    fn begin_text(protocol: u32) -> String {
        format!(
            r#"{{"begin":{{"protocol":{protocol},"manifests":"/etc/mesh","node":"n","gateway":{{"namespace":"shop","name":"w"}},"class":"istio-waypoint","pod":{{"namespace":"shop","name":"w-1"}},"identity":"{W}","addresses":["10.0.0.1","fd00::1"],"drain_ms":30000,"mesh":{MESH}}}}}"#
        )
    }

    /// The serialised form: a change of a line here is a change of [`PROTOCOL`].
    #[test]
    fn golden() {
        assert_eq!(PROTOCOL, 2);
        let credentials = CredentialsText { roots: "r".into(), own: Zeroizing::new("k\nc".into()) };
        for (message, text) in [
            (ToChild::Begin(Box::new(begin())), begin_text(2)),
            (ToChild::Credentials(credentials), r#"{"credentials":{"roots":"r","own":"k\nc"}}"#.to_owned()),
            (ToChild::Mesh(begin().mesh), format!(r#"{{"mesh":{MESH}}}"#)),
            (ToChild::Drain, r#""drain""#.to_owned()),
        ] {
            assert_eq!(str::from_utf8(&message.encode().unwrap()).unwrap(), text);
            assert_eq!(ToChild::decode(text.as_bytes()).unwrap(), message);
        }
        for (message, text) in
            [(FromChild::Serving { version: 7 }, r#"{"serving":{"version":7}}"#), (FromChild::Drained, r#""drained""#)]
        {
            assert_eq!(str::from_utf8(&message.encode().unwrap()).unwrap(), text);
            assert_eq!(FromChild::decode(text.as_bytes()).unwrap(), message);
        }
    }

    #[test]
    fn what_is_no_message_is_refused_without_being_repeated() {
        let check = |text: &str, says: &str| {
            assert_eq!(ToChild::decode(text.as_bytes()).unwrap_err().to_string(), says, "{text}");
        };
        check("", "0 bytes that are no message (line 1, column 0)");
        check(r#""gone""#, "6 bytes that are no message (line 1, column 6)");
        check(r#"{"credentials":{"own":"secret"}}"#, "32 bytes that are no message (line 1, column 31)");
        let more = begin_text(PROTOCOL).replace(r#""node""#, r#""more":1,"node""#);
        assert!(matches!(ToChild::decode(more.as_bytes()), Err(Error::Message { .. })));
        let other = begin_text(PROTOCOL).replace(W, "spiffe://cluster.local/w");
        assert!(matches!(ToChild::decode(other.as_bytes()), Err(Error::Message { .. })));
        // Another version is named, also where the rest of it is unknown.
        let says = "the other process speaks protocol 3 of waypoints, not 2: agent and waypoint are of two versions";
        check(&begin_text(3), says);
        check(r#"{"begin":{"protocol":3,"unknown":[1]}}"#, says);
    }

    #[test]
    fn what_is_too_long_is_not_sent_and_a_key_not_printed() {
        let message = |bytes: usize| {
            ToChild::Credentials(CredentialsText { roots: String::new(), own: Zeroizing::new("k".repeat(bytes)) })
        };
        assert_eq!(format!("{:?}", message(3)), "Credentials(CredentialsText { .. })");
        assert!(message(60_000).encode().is_ok());
        assert!(matches!(message(MOST_BYTES).encode(), Err(Error::Unsendable { .. })));
    }

    #[test]
    fn credentials_survive_their_text() {
        let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
        let identity: Identity = W.parse().unwrap();
        let text = |ca: &TestCa| CredentialsText::new(&ca.credential(&Leaf::of(W)), &ca.roots(7));
        let first = text(&ca).read(&identity, None).unwrap();
        assert_eq!((first.roots.generation(), first.own.keys().collect::<Vec<_>>()), (1, vec![&identity]));
        // Renewed under the same roots, and under others.
        let renewed = text(&ca).read(&identity, Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&renewed.roots, &first.roots));
        assert_ne!(renewed.own[&identity].serial(), first.own[&identity].serial());
        let moved = text(&other).read(&identity, Some(&renewed)).unwrap();
        assert_eq!(moved.roots.generation(), 2);
        assert_eq!(moved.roots.certificates(), other.roots(1).certificates());
        // Of another identity; unreadable.
        let another: Identity = "spiffe://cluster.local/ns/shop/sa/v".parse().unwrap();
        assert!(matches!(text(&ca).read(&another, None), Err(Error::Identity { .. })));
        let unreadable = CredentialsText { roots: "none".into(), ..text(&ca) };
        assert!(matches!(unreadable.read(&identity, None), Err(Error::Credentials { .. })));
    }
}
