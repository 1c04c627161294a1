//! Any object of a served kind, from a tree: what the shapes leave open is looked at here, and then the kind's own
//! converter asked. What an unknown field means is the door's [`Strictness`].

use underpass_core::{Kind, ObjectName, objects::Object};
use underpass_door::{Observation, Strictness};

use super::{
    Converted, FieldFault, Rejected, authorization_policy, destination_rule, endpoint_slice, gateway, grpc_route,
    http_route, mesh_config, namespace, node, peer_authentication, pod, reference_grant, request_authentication,
    service, stand_in, tcp_route, tls_route, virtual_service,
};
use crate::{
    Fault, Path, Segment, Severity,
    yaml::{ShapeError, Tree, with_unknown_fields},
};

/// The object of a kind that a tree says.
///
/// # Errors
/// All that is wrong with it.
pub fn object(kind: Kind, tree: &Tree, strictness: Strictness) -> Result<Converted<Object>, Rejected> {
    let mut faults: Vec<FieldFault> = tree
        .duplicates()
        .into_iter()
        .map(|d| FieldFault { field: d.path, fault: Fault::DuplicateKey { line: d.line, first_line: d.first_line } })
        .collect();
    let has_spec = kind.is_of_waypoints() && kind != Kind::MeshConfig;
    if has_spec || matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication) {
        // The API server refuses these too: `from:` with nothing behind it would read as "from anywhere".
        let is_spec = |p: &Path| matches!(p.segments().first(), Some(Segment::Field(f)) if **f == *"spec");
        let nulls = tree.nulls().into_iter().filter(is_spec);
        faults.extend(nulls.map(|field| FieldFault { field, fault: Fault::Null }));
    }
    if !faults.is_empty() {
        return Err(Rejected(faults));
    }
    let reader = Reader { kind, tree, strictness };
    match kind {
        Kind::Namespace => reader.read(namespace),
        Kind::Node => reader.read(node),
        Kind::Pod => reader.read(pod),
        Kind::Service => reader.read(service),
        Kind::EndpointSlice => reader.read(endpoint_slice),
        Kind::Gateway => reader.read(gateway),
        Kind::AuthorizationPolicy => reader.read(authorization_policy),
        Kind::PeerAuthentication => reader.read(peer_authentication),
        Kind::VirtualService => reader.read(virtual_service),
        Kind::DestinationRule => reader.read(destination_rule),
        Kind::RequestAuthentication => reader.read(request_authentication),
        Kind::HttpRoute => reader.read(http_route),
        Kind::GrpcRoute => reader.read(grpc_route),
        Kind::TlsRoute => reader.read(tls_route),
        Kind::TcpRoute => reader.read(tcp_route),
        Kind::ReferenceGrant => reader.read(reference_grant),
        Kind::MeshConfig => reader.read(mesh_config),
    }
}

/// What a door observes of the object that a tree says, and what is wrong with it. Without a `name`, a broken one has no
/// stand-in.
pub(crate) fn observe(
    kind: Kind,
    name: Option<&ObjectName>,
    tree: &Tree,
    strictness: Strictness,
) -> (Observation, Vec<FieldFault>) {
    match object(kind, tree, strictness) {
        Ok(Converted { object, warnings }) => (Observation::Good(object), warnings),
        Err(Rejected(faults)) => {
            let stand_in = name.and_then(|name| stand_in(kind, name.clone(), tree));
            (Observation::Bad { stand_in }, faults)
        }
    }
}

/// A tree that should have the shape of its kind.
struct Reader<'t> {
    kind: Kind,
    tree: &'t Tree,
    strictness: Strictness,
}

impl Reader<'_> {
    fn read<S, T>(
        &self,
        convert: impl FnOnce(&S) -> Result<Converted<T>, Rejected>,
    ) -> Result<Converted<Object>, Rejected>
    where
        S: for<'de> serde::Deserialize<'de>,
        Object: From<T>,
    {
        let (shape, unknown): (S, _) = with_unknown_fields(self.tree).map_err(|e| Rejected(vec![self.misshapen(e)]))?;
        let unknown = unknown.into_iter().filter_map(|s| {
            let fault = self.strictness.unknown_field(self.kind, &s.path, Some(s.meant), s.known)?;
            Some(FieldFault { field: s.path, fault })
        });
        let unknown: Vec<FieldFault> = unknown.collect();
        let is_bad = unknown.iter().any(|f| f.fault.severity() == Severity::Error);
        match convert(&shape) {
            Ok(Converted { object, mut warnings }) if !is_bad => {
                warnings.extend(unknown);
                Ok(Converted { object: object.into(), warnings })
            }
            Ok(Converted { mut warnings, .. }) | Err(Rejected(mut warnings)) => {
                warnings.extend(unknown);
                Err(Rejected(warnings))
            }
        }
    }

    /// A shape that knows all of its fields refuses others; the fault depends on the door.
    fn misshapen(&self, ShapeError { path: field, fault }: ShapeError) -> FieldFault {
        let fault = match fault {
            Fault::UnknownField { meant, known } => (self.strictness)
                .unknown_field(self.kind, &field, meant, known)
                .unwrap_or(Fault::UnknownField { meant, known }),
            other => other,
        };
        FieldFault { field, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    /// The problems of an object at each door; `+` first where it is served.
    #[track_caller]
    fn check(kind: Kind, json: &str, file: &[&str], server: &[&str]) {
        let documents = yaml::documents(json.as_bytes()).unwrap();
        let tree = documents[0].tree.as_ref().unwrap().as_ref().unwrap();
        let says = |strictness| {
            let (served, faults) = match object(kind, tree, strictness) {
                Ok(Converted { warnings, .. }) => (Some("+".to_owned()), warnings),
                Err(Rejected(faults)) => (None, faults),
            };
            served.into_iter().chain(faults.iter().map(|f| format!("{}: {}", f.field, f.fault))).collect::<Vec<_>>()
        };
        assert_eq!(says(Strictness::File), file, "{json}");
        assert_eq!(says(Strictness::ApiServer), server, "{json}");
    }

    #[test]
    fn unknown_fields_by_door() {
        let newer = "unknown field, probably of a newer version of its API: ignored";
        let closed = "unknown field, probably of a newer version of its API: without it the policy might allow more";
        let policy = |metadata: &str, spec: &str| {
            format!(
                r#"{{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {{"name": "p", "namespace": "a"{metadata}}}, "spec": {{{spec}}}, "status": {{"seen": true}}}}"#
            )
        };
        check(
            Kind::AuthorizationPolicy,
            &policy("", r#""rules": [{"form": []}]"#),
            &["spec.rules[0].form: unknown field: did you mean `from`?"],
            &[&format!("spec.rules[0].form: {closed}")],
        );
        check(
            Kind::AuthorizationPolicy,
            &policy("", r#""unlessAsked": true"#),
            &[
                "spec.unlessAsked: unknown field; known fields: selector, targetRef, targetRefs, rules, action, provider",
            ],
            &[&format!("spec.unlessAsked: {closed}")],
        );
        check(
            Kind::AuthorizationPolicy,
            &policy(r#", "label": {}"#, r#""rules": [{}]"#),
            &["metadata.label: unknown field: did you mean `labels`?"],
            &["+", &format!("metadata.label: {newer}")],
        );
        let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespce": "a"}, "spec": {"hostNetworks": true, "dnsPolicy": "None"}}"#;
        check(
            Kind::Pod,
            pod,
            &[
                "metadata.namespce: unknown field: did you mean `namespace`?",
                "spec.hostNetworks: unknown field, ignored: did you mean `hostNetwork`?",
            ],
            &["+", &format!("metadata.namespce: {newer}"), &format!("spec.hostNetworks: {newer}")],
        );
        // what the mesh does not read and what is broken are the same for both
        let both = &["+"][..];
        check(Kind::AuthorizationPolicy, &policy(r#", "managedFields": []"#, r#""rules": [{}]"#), both, both);
        let both = &["spec.action: `x` is not one of ALLOW, DENY, CUSTOM, AUDIT"][..];
        check(Kind::AuthorizationPolicy, &policy("", r#""action": "x""#), both, both);
    }
}
