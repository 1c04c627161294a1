//! A policy from its resource: from our extension where that can be read, else from Istio's fields.

use prost::Message as _;
use underpass_core::{
    ObjectName,
    authz::Rule,
    labels::Labels,
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};
use underpass_door::{Fault, ResourceFault};

use super::{Faulty, converted::Refused, exact, plain, unknown};
use crate::{
    contract::{
        istio::security::{self, Authorization},
        underpass::v1::PolicyExtension,
    },
    facts::{extension, names},
};

/// What a resource is.
pub(super) enum Read {
    Policy(AuthorizationPolicy),
    Converted(Refused),
}

/// A resource that is not served as it is.
pub(super) struct Bad {
    pub(super) field: String,
    pub(super) fault: Fault,
    /// What closes all that it selects; none: it enforces nothing.
    pub(super) stand_in: Option<Box<AuthorizationPolicy>>,
}

/// `may_convert`: its name is that of a converted policy.
pub(super) fn read(settings: &MeshSettings, name: &ObjectName, may_convert: bool, body: &[u8]) -> Result<Read, Bad> {
    let bad = |scope: Scope, (field, fault)| Bad { field, fault, stand_in: Some(closing(name, scope).into()) };
    let message = Authorization::decode(body).map_err(|error| {
        let message = error.to_string().into();
        bad(Scope::Namespace, (String::new(), ResourceFault::Unreadable { message }.into()))
    })?;
    let scope = plain::scope(settings, &message).unwrap_or(Scope::Namespace);
    let whole = |fault: ResourceFault| (String::new(), Fault::from(fault));
    let found = format!("{}/{}", message.namespace, message.name);
    if found != names::slashed(name) {
        return Err(bad(Scope::Namespace, whole(ResourceFault::OtherName { found: found.into() })));
    }
    if let Some(number) = unknown::field(body, &unknown::AUTHORIZATION) {
        return Err(bad(scope, whole(ResourceFault::UnknownField { number })));
    }
    if may_convert && let Some(refused) = Refused::of(&message) {
        return Ok(Read::Converted(refused));
    }
    match policy(settings, &message) {
        Ok(policy) => Ok(Read::Policy(policy)),
        // It enforces nothing.
        Err((field, fault)) if message.dry_run => Err(Bad { field, fault, stand_in: None }),
        // Mesh-wide, and nothing but the root namespace is: it closes from there, under a name that no object has.
        Err((field, fault)) if is_elsewhere(settings, &message) => {
            let name = ObjectName::new(settings.root_namespace.clone(), names::slashed(name));
            Err(Bad { field, fault, stand_in: Some(closing(&name, scope).into()) })
        }
        Err(faulty) => Err(bad(scope, faulty)),
    }
}

fn policy(settings: &MeshSettings, message: &Authorization) -> Result<AuthorizationPolicy, Faulty> {
    let ours = extension::find::<PolicyExtension>(&message.extensions)
        .filter(|bytes| unknown::field(bytes, &unknown::POLICY_EXTENSION).is_none())
        .and_then(|bytes| PolicyExtension::decode(bytes).ok())
        .unwrap_or_default();
    let scope = match plain::scope(settings, message)? {
        Scope::Selector(_) => Scope::Selector(labels(&ours)),
        scope => scope,
    };
    if let Some((action, provider, rules)) = ours.exact.as_ref().and_then(exact::policy) {
        let name = ObjectName::new(message.namespace.as_str(), message.name.as_str());
        return Ok(AuthorizationPolicy { name, scope, action, provider, rules, dry_run: message.dry_run });
    }
    Ok(AuthorizationPolicy { scope, ..plain::policy(settings, message)? })
}

/// For the whole mesh, from a namespace that is not the root here.
fn is_elsewhere(settings: &MeshSettings, message: &Authorization) -> bool {
    message.scope == i32::from(security::Scope::Global) && message.namespace != *settings.root_namespace
}

fn labels(ours: &PolicyExtension) -> Labels {
    ours.selector.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// The policy that closes all that this one selects. Where that cannot be read, it is the whole namespace.
pub(super) fn closing(name: &ObjectName, scope: Scope) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: name.clone(),
        scope,
        action: Action::Deny,
        provider: None,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}
