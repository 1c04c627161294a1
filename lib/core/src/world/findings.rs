//! What is surprising about objects that are valid: said loudly, on the object, because its author expects something
//! else than what happens. What is invalid never gets here; the door reports that.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use crate::{
    Kind, ObjectKey,
    world::{
        Action, AuthorizationPolicy, MeshSettings, MtlsMode, Object, PeerAuthentication, Scope, Service, index::Index,
    },
};

/// One thing to know about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object.
    pub object: ObjectKey,
    /// The field, as a path in the manifest; empty for the object as a whole.
    pub field: String,
    /// What happens, and what to write instead.
    pub says: String,
}

pub(super) fn find(settings: &MeshSettings, objects: &BTreeMap<ObjectKey, Object>, index: &Index) -> Vec<Finding> {
    let mut all = Vec::new();
    for (key, object) in objects {
        let mut say = |field: String, says: String| all.push(Finding { object: key.clone(), field, says });
        match object {
            Object::AuthorizationPolicy(p) => authorization(p, &mut say),
            Object::PeerAuthentication(p) => peer_authentication(p, settings, &mut say),
            Object::Service(s) => service(s, &mut say),
            _ => {}
        }
    }
    for (ip, owners) in claims(index).into_iter().filter(|(_, owners)| owners.len() > 1) {
        for owner in &owners {
            let others: Vec<_> = owners.iter().filter(|o| *o != owner).map(ToString::to_string).collect();
            let says = format!("{ip} is claimed by {} too: connections to it are refused", others.join(" and "));
            all.push(Finding { object: owner.clone(), field: String::new(), says });
        }
    }
    all.sort_by(|a, b| (&a.object, &a.field, &a.says).cmp(&(&b.object, &b.field, &b.says)));
    all
}

fn claims(index: &Index) -> BTreeMap<IpAddr, Vec<ObjectKey>> {
    let mut claims: BTreeMap<IpAddr, Vec<ObjectKey>> = BTreeMap::new();
    for (ip, owners) in &index.workloads {
        claims.entry(*ip).or_default().extend(owners.iter().map(|w| ObjectKey::new(Kind::Pod, w.name.clone())));
    }
    for (ip, owners) in &index.vips {
        claims.entry(*ip).or_default().extend(owners.iter().map(|s| ObjectKey::new(Kind::Service, s.name.clone())));
    }
    claims
}

fn service(s: &Service, say: &mut impl FnMut(String, String)) {
    if let Some(name) = &s.external_name {
        let says = format!(
            "an ExternalName has no address of its own: callers get {name}'s, which this service says nothing about"
        );
        say("spec.externalName".into(), says);
    }
}

fn authorization(p: &AuthorizationPolicy, say: &mut impl FnMut(String, String)) {
    if let Scope::Targets(targets) = &p.scope {
        let says = format!("applies at the waypoint of {} and there is none: it has no effect", targets.join(", "));
        say("spec.targetRefs".into(), says);
        return;
    }
    let effect = match p.action {
        Action::Allow => "this rule allows nothing",
        Action::Deny => "this rule denies every connection that its other fields match",
    };
    for f in p.waypoint_fields() {
        say(f.field, format!("{} can only be judged by a waypoint: {effect}", f.name));
    }
    if p.action == Action::Deny && p.rules.is_empty() {
        say("spec.rules".into(), "no rules: this policy denies nothing".into());
    }
}

fn peer_authentication(p: &PeerAuthentication, settings: &MeshSettings, say: &mut impl FnMut(String, String)) {
    if p.selector.is_some() && p.name.namespace() == &*settings.root_namespace {
        say("spec.selector".into(), "a PeerAuthentication of the root namespace with a selector is ignored".into());
        return;
    }
    let served = "DISABLE is served as PERMISSIVE: mutual TLS is always accepted";
    if p.mode == MtlsMode::Disable {
        say("spec.mtls.mode".into(), served.into());
    }
    for (port, _) in p.ports.iter().filter(|(_, m)| **m == MtlsMode::Disable) {
        say(format!("spec.portLevelMtls.{port}.mode"), served.into());
    }
    if p.selector.is_none() && !p.ports.is_empty() {
        say("spec.portLevelMtls".into(), "port-level modes need a selector: they are ignored".into());
    }
}
