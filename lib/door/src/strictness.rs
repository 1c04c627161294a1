//! The treatment of fields that the mesh does not know. In a file such a field is a typo, and the intended one would be
//! missing without a word. An API server has compared the object with a schema: the schema is newer than
//! the mesh, and an upgrade of it must not take away objects that were served.
//!
//! What must hold: a policy is never served without a part that might narrow it. Which parts those are cannot be known,
//! so it is all but `metadata` and `status`. Fields that other objects may have one day grant no access.

use underpass_core::Kind;

use crate::{Fault, Path, Segment};

/// The key of `metadata` that tells one object of a name from another.
const NAMESPACE: &str = "namespace";

/// The treatment of unknown fields, by door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Of files, which no schema has checked: typos.
    File,
    /// Of an API server, which has: fields of a newer schema.
    ApiServer,
}

impl Strictness {
    /// The fault of an unknown field of an object: an error, where the object is not served as it is, or a warning,
    /// where it is served by what is known. Nothing, where it is only one of the many fields that the mesh does not
    /// read.
    ///
    /// `meant` is the field that its name is near to, of those that are `known` where it stands.
    #[must_use]
    pub fn unknown_field(
        self,
        kind: Kind,
        field: &Path,
        meant: Option<&'static str>,
        known: &'static [&'static str],
    ) -> Option<Fault> {
        let is_policy = is_policy(kind);
        if kind.is_of_waypoints() && kind != Kind::MeshConfig && !is_policy && may_narrow(field) {
            // A route without a condition is another route: no typo may take one away.
            return Some(match self {
                Self::File => Fault::UnknownField { meant, known },
                Self::ApiServer => Fault::NewerField,
            });
        }
        match (self, meant) {
            (Self::File, _) if is_policy && may_narrow(field) => Some(Fault::UnknownField { meant, known }),
            (Self::ApiServer, _) if is_policy && may_narrow(field) => Some(Fault::NewerPolicyField),
            (_, None) => None,
            // Passed over, a misspelled namespace would make another object of this one.
            (Self::File, Some(name)) if is_policy || name == NAMESPACE => Some(Fault::UnknownField { meant, known }),
            (Self::File, Some(meant)) => Some(Fault::PassedOver { meant }),
            (Self::ApiServer, Some(_)) => Some(Fault::NewerField),
        }
    }
}

/// Objects of this kind grant or restrict access.
const fn is_policy(kind: Kind) -> bool {
    match kind {
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => true,
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::ReferenceGrant
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::MeshConfig => false,
    }
}

/// Without this part a policy might allow more.
fn may_narrow(field: &Path) -> bool {
    !matches!(field.segments().first(), Some(Segment::Field(name)) if matches!(&**name, "metadata" | "status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Severity::{self, Error, Warning};

    const KNOWN: &[&str] = &["namespace", "labels", "from"];

    /// The severity of an unknown field, in a file and from an API server; empty: not reported.
    #[track_caller]
    fn check(kind: Kind, field: &str, meant: Option<&'static str>, file: Option<Severity>, server: Option<Severity>) {
        let says = |strictness: Strictness| strictness.unknown_field(kind, &Path::parse(field), meant, KNOWN);
        let got = [Strictness::File, Strictness::ApiServer].map(|s| says(s).map(|fault| fault.severity()));
        assert_eq!(got, [file, server], "{kind} {field} {meant:?}");
        // One of an API server is no typo.
        assert!(!says(Strictness::ApiServer).is_some_and(|fault| fault.to_string().contains("did you mean")));
    }

    #[test]
    fn fields_that_could_narrow_a_policy_are_errors_of_every_door() {
        for kind in [Kind::AuthorizationPolicy, Kind::PeerAuthentication, Kind::RequestAuthentication] {
            for field in ["spec.rules[0].form", "spec.form", "spec.selector.form", "form", ""] {
                check(kind, field, Some("from"), Some(Error), Some(Error));
                check(kind, field, None, Some(Error), Some(Error));
            }
        }
    }

    #[test]
    fn other_fields_are_errors_only_as_typos() {
        for kind in [Kind::AuthorizationPolicy, Kind::PeerAuthentication] {
            for field in ["metadata.lables", "status.lables"] {
                check(kind, field, Some("labels"), Some(Error), Some(Warning));
                check(kind, field, None, None, None);
            }
        }
    }

    #[test]
    fn other_kinds_are_served_by_what_is_known() {
        let routes = |kind: &Kind| kind.is_of_waypoints() && *kind != Kind::MeshConfig && !is_policy(*kind);
        for kind in Kind::ALL.into_iter().filter(routes) {
            for field in ["spec.http[0].mathc", "form", ""] {
                check(kind, field, Some("from"), Some(Error), Some(Warning));
                check(kind, field, None, Some(Error), Some(Warning));
            }
            check(kind, "metadata.lables", Some("labels"), Some(Warning), Some(Warning));
            check(kind, "metadata.annotatoins", None, None, None);
        }
        for kind in Kind::ALL.into_iter().filter(|kind| !is_policy(*kind) && !routes(kind)) {
            for field in ["spec.form", "metadata.lables", "form"] {
                check(kind, field, Some("labels"), Some(Warning), Some(Warning));
                check(kind, field, None, None, None);
            }
            check(kind, "metadata.namespce", Some("namespace"), Some(Error), Some(Warning));
        }
    }
}
