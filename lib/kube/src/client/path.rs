//! Paths of the API: the collections of objects that are read and written here, and names inside of them.

use underpass_core::Kind;

/// The longest name of an object: a DNS name.
const MAX_NAME_BYTES: usize = 253;

/// The objects of one kind, in a version of its API: `/api/v1` and `pods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Collection {
    root: &'static str,
    plural: &'static str,
}

const fn collection(root: &'static str, plural: &'static str) -> Collection {
    Collection { root, plural }
}

/// Versions of one shape.
const fn istio(plural: &'static str) -> [Collection; 2] {
    [collection("/apis/security.istio.io/v1", plural), collection("/apis/security.istio.io/v1beta1", plural)]
}

/// Versions of one shape.
const fn networking(plural: &'static str) -> [Collection; 3] {
    [
        collection("/apis/networking.istio.io/v1", plural),
        collection("/apis/networking.istio.io/v1beta1", plural),
        collection("/apis/networking.istio.io/v1alpha3", plural),
    ]
}

/// Versions of one shape.
const fn gateway(plural: &'static str) -> [Collection; 2] {
    [
        collection("/apis/gateway.networking.k8s.io/v1", plural),
        collection("/apis/gateway.networking.k8s.io/v1beta1", plural),
    ]
}

impl Collection {
    pub(crate) const SECRETS: Self = collection("/api/v1", "secrets");
    pub(crate) const CONFIG_MAPS: Self = collection("/api/v1", "configmaps");
    pub(crate) const NODES: Self = collection("/api/v1", "nodes");
    pub(crate) const PODS: Self = collection("/api/v1", "pods");
    pub(crate) const CORE_EVENTS: Self = collection("/api/v1", "events");
    pub(crate) const EVENTS: Self = collection("/apis/events.k8s.io/v1", "events");
    pub(crate) const DAEMON_SETS: Self = collection("/apis/apps/v1", "daemonsets");
    pub(crate) const DEPLOYMENTS: Self = collection("/apis/apps/v1", "deployments");
    pub(crate) const JOBS: Self = collection("/apis/batch/v1", "jobs");
    pub(crate) const LEASES: Self = collection("/apis/coordination.k8s.io/v1", "leases");
    pub(crate) const TOKEN_REVIEWS: Self = collection("/apis/authentication.k8s.io/v1", "tokenreviews");
    pub(crate) const ACCESS_REVIEWS: Self = collection("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews");
    pub(crate) const NETWORK_POLICIES: Self = collection("/apis/networking.k8s.io/v1", "networkpolicies");
    pub(crate) const DEFINITIONS: Self = collection("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions");
    pub(crate) const VALIDATING_WEBHOOKS: Self =
        collection("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations");
    pub(crate) const MUTATING_WEBHOOKS: Self =
        collection("/apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations");
    pub(crate) const SERVICE_ACCOUNTS: Self = collection("/api/v1", "serviceaccounts");
    pub(crate) const NAMESPACES: Self = collection("/api/v1", "namespaces");
    pub(crate) const SERVICES: Self = collection("/api/v1", "services");
    const ENDPOINT_SLICES: Self = collection("/apis/discovery.k8s.io/v1", "endpointslices");
    const GATEWAYS: [Self; 2] = [
        collection("/apis/gateway.networking.k8s.io/v1", "gateways"),
        collection("/apis/gateway.networking.k8s.io/v1beta1", "gateways"),
    ];
    const AUTHORIZATION_POLICIES: [Self; 2] = istio("authorizationpolicies");
    const PEER_AUTHENTICATIONS: [Self; 2] = istio("peerauthentications");
    const REQUEST_AUTHENTICATIONS: [Self; 2] = istio("requestauthentications");
    const VIRTUAL_SERVICES: [Self; 3] = networking("virtualservices");
    const DESTINATION_RULES: [Self; 3] = networking("destinationrules");
    const HTTP_ROUTES: [Self; 2] = gateway("httproutes");
    const GRPC_ROUTES: [Self; 1] = [collection("/apis/gateway.networking.k8s.io/v1", "grpcroutes")];
    const TLS_ROUTES: [Self; 3] = [
        collection("/apis/gateway.networking.k8s.io/v1", "tlsroutes"),
        collection("/apis/gateway.networking.k8s.io/v1alpha3", "tlsroutes"),
        collection("/apis/gateway.networking.k8s.io/v1alpha2", "tlsroutes"),
    ];
    const TCP_ROUTES: [Self; 2] = [
        collection("/apis/gateway.networking.k8s.io/v1", "tcproutes"),
        collection("/apis/gateway.networking.k8s.io/v1alpha2", "tcproutes"),
    ];
    const REFERENCE_GRANTS: [Self; 2] = gateway("referencegrants");

    /// Of a kind of core's, in each version of its API, the preferred one first.
    pub(crate) const fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Namespace => &[Self::NAMESPACES],
            Kind::Node => &[Self::NODES],
            Kind::Pod => &[Self::PODS],
            Kind::Service => &[Self::SERVICES],
            Kind::EndpointSlice => &[Self::ENDPOINT_SLICES],
            Kind::Gateway => &Self::GATEWAYS,
            Kind::AuthorizationPolicy => &Self::AUTHORIZATION_POLICIES,
            Kind::PeerAuthentication => &Self::PEER_AUTHENTICATIONS,
            Kind::VirtualService => &Self::VIRTUAL_SERVICES,
            Kind::DestinationRule => &Self::DESTINATION_RULES,
            Kind::RequestAuthentication => &Self::REQUEST_AUTHENTICATIONS,
            Kind::HttpRoute => &Self::HTTP_ROUTES,
            Kind::GrpcRoute => &Self::GRPC_ROUTES,
            Kind::TlsRoute => &Self::TLS_ROUTES,
            Kind::TcpRoute => &Self::TCP_ROUTES,
            Kind::ReferenceGrant => &Self::REFERENCE_GRANTS,
            Kind::MeshConfig => &[Self::CONFIG_MAPS],
        }
    }

    /// It is of this `apiVersion`.
    pub(crate) fn is_of(self, api_version: &str) -> bool {
        self.root.strip_prefix("/apis/").or_else(|| self.root.strip_prefix("/api/")) == Some(api_version)
    }

    /// All of its objects.
    pub(crate) fn all(self) -> String {
        format!("{}/{}", self.root, self.plural)
    }

    /// One object without a namespace; the name [`is_name`].
    pub(crate) fn named(self, name: &str) -> String {
        format!("{}/{}/{name}", self.root, self.plural)
    }

    /// Its objects in a namespace, which [`is_name`].
    pub(crate) fn within(self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.root, self.plural)
    }

    /// One object in a namespace; both names are names.
    pub(crate) fn one(self, namespace: &str, name: &str) -> String {
        format!("{}/namespaces/{namespace}/{}/{name}", self.root, self.plural)
    }
}

/// A text that can name an object, and be a part of a path: callers of other programs give names too, and `..` is none.
pub(crate) fn is_name(text: &str) -> bool {
    let is_end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= MAX_NAME_BYTES
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && text.split('.').all(|part| is_end(part.as_bytes().first()) && is_end(part.as_bytes().last()))
}

/// A value of a query: everything but unreserved characters is escaped (RFC 3986, 2.1 and 2.3).
pub(crate) fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for good in ["a", "kube-system", "node-1.example.com", "0", &"a".repeat(253)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a..b", "-a", "a-", "A", "a?b", "a%2fb", "a.-b", "ä", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn paths() {
        let policies = Collection::of(Kind::AuthorizationPolicy);
        assert_eq!(policies[0].all(), "/apis/security.istio.io/v1/authorizationpolicies");
        assert_eq!(policies[1].all(), "/apis/security.istio.io/v1beta1/authorizationpolicies");
        assert_eq!(Collection::PODS.one("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(Collection::SECRETS.within("a"), "/api/v1/namespaces/a/secrets");
        assert_eq!(escape("spec.nodeName=n-1,a b/ä"), "spec.nodeName%3Dn-1%2Ca%20b%2F%C3%A4");
    }
}
