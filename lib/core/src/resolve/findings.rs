//! Findings: surprises about objects that are valid, reported on the object, because its author expects something else
//! than what happens. What is invalid never gets here; the door reports that.

use std::net::IpAddr;

use serde::Serialize;

use super::Resolver;
use crate::{
    Kind, ObjectKey,
    objects::{MtlsMode, Object, PeerAuthentication, Service},
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};

/// A surprise about a valid object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object.
    pub object: ObjectKey,
    /// The field, as a path in the manifest; empty for the object as a whole.
    pub field: String,
    /// The effect, and what to write instead.
    pub says: String,
}

impl Resolver {
    /// All findings about one object, by field and text.
    pub(super) fn find(&self, key: &ObjectKey) -> Vec<Finding> {
        let mut all = Vec::new();
        let mut say = |field: String, says: String| all.push(Finding { object: key.clone(), field, says });
        match self.sources.get(key) {
            Some(Object::AuthorizationPolicy(p)) => authorization(p, &mut say),
            Some(Object::PeerAuthentication(p)) => peer_authentication(p, &self.settings, &mut say),
            Some(Object::Service(s)) => {
                service(s, &mut say);
                self.find_attachment(&s.labels, s.name.namespace(), &mut say);
                self.claims(key, &s.vips, &mut say);
                s.external().for_each(|ip| self.taken(s, ip, &mut say));
            }
            Some(Object::Namespace(n)) => self.find_attachment(&n.labels, n.name.name(), &mut say),
            Some(Object::Gateway(gateway)) => self.find_waypoint(gateway, &mut say),
            Some(Object::Pod(pod)) if pod.has_own_addresses() => {
                self.find_attachment(&pod.labels, pod.name.namespace(), &mut say);
                let (held, former): (Vec<_>, Vec<_>) = pod.addresses.iter().partition(|ip| self.holds(pod, **ip));
                self.claims(key, &held, &mut say);
                for ip in former {
                    let holders: Vec<_> = self.holders(ip).iter().map(ToString::to_string).collect();
                    let holders = holders.join(" and ");
                    let says = format!(
                        "{ip} now belongs to {holders}: this pod is terminating and is not reached at this address"
                    );
                    say("status.podIPs".into(), says);
                }
            }
            _ => {}
        }
        all.sort_by(|a, b| (&a.field, &a.says).cmp(&(&b.field, &b.says)));
        all
    }

    /// Another owner of an external address of a service.
    fn taken(&self, service: &Service, ip: IpAddr, say: &mut impl FnMut(String, String)) {
        if self.is_external(service, ip) {
            return;
        }
        let by: Vec<_> = self.others(service, ip).map(|other| other.to_string()).collect();
        let owner = if by.is_empty() { "a node".to_owned() } else { by.join(" and ") };
        let says = format!(
            "{ip} belongs to {owner}: connections to this Service at this address bypass the mesh and arrive in plaintext"
        );
        say("spec.externalIPs".into(), says);
    }

    /// Other claimants of an object's addresses.
    fn claims(&self, key: &ObjectKey, addresses: &[IpAddr], say: &mut impl FnMut(String, String)) {
        for ip in addresses {
            let holders = self.holders(*ip);
            let pods = holders.iter().map(|name| ObjectKey::new(Kind::Pod, name.clone()));
            let services = self.index.vips.get(ip).iter().map(|name| ObjectKey::new(Kind::Service, name.clone()));
            let others: Vec<_> = pods.chain(services).filter(|other| other != key).map(|o| o.to_string()).collect();
            if !others.is_empty() {
                let others = others.join(" and ");
                say(String::new(), format!("{ip} is also claimed by {others}: connections to it are refused"));
            }
        }
    }
}

fn service(s: &Service, say: &mut impl FnMut(String, String)) {
    if let Some(name) = &s.external_name {
        let says = format!(
            "an ExternalName Service has no address of its own: callers connect to the addresses of {name}, and nothing set on this Service applies there"
        );
        say("spec.externalName".into(), says);
    }
}

fn authorization(p: &AuthorizationPolicy, say: &mut impl FnMut(String, String)) {
    if let Scope::Targets(targets) = &p.scope {
        let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let says = format!("applies at the waypoint of {}: no node enforces it", targets.join(", "));
        say("spec.targetRefs".into(), says);
        return;
    }
    let effect = match p.action {
        Action::Allow => "without one this rule allows nothing",
        Action::Deny => "without one this rule denies every connection that its other fields match",
        Action::Custom => "without one every connection that the other fields of a rule match is denied",
        Action::Audit => "without one nothing is counted",
    };
    for asked in p.rule_values().into_iter().filter(|asked| !asked.value.is_possible()) {
        let effect = p.action.with_nothing(asked.is_not);
        say(asked.field, format!("{}: {effect}", asked.value.must_be()));
    }
    for f in p.waypoint_fields() {
        say(f.field, format!("{} can only be judged by a waypoint: {effect}", f.name));
    }
    let without_rules = match p.action {
        Action::Allow => return,
        Action::Deny => "no rules: this policy denies nothing",
        Action::Custom => "no rules: its provider is asked about nothing",
        Action::Audit => "no rules: this policy counts nothing",
    };
    if p.rules.is_empty() {
        say("spec.rules".into(), without_rules.into());
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
