//! VirtualServices and DestinationRules: hosts, ports, subsets and delegates that do not exist, subsets that select no pod,
//! routes that are never reached, and objects that another one hides. Where Istio's analyzer has a message about it, its
//! code stands behind the words.

use std::{collections::BTreeSet, sync::Arc};

use super::{Known, Level, Say};
use crate::{
    ObjectName,
    http::{Cluster, ClusterKey, Host, HostRules, Unresolved, is_catch_all, service_of, virtual_services},
    labels::selects,
    objects::{
        DestinationRule, HttpAction, HttpMatch, HttpRoute, PortPolicy, RouteTarget, TrafficPolicy, VirtualService,
        WeightedTarget,
    },
};

impl Known<'_> {
    pub(super) fn virtual_service(&self, v: &VirtualService, say: Say<'_>) {
        for (i, host) in v.hosts.iter().enumerate() {
            if self.misses(v.name.namespace(), host) {
                let says = format!("no Service has the host {host}: no request follows these routes (IST0101)");
                say(Level::Warning, &format!("spec.hosts[{i}]"), says);
            }
        }
        let mut everything = None;
        for (i, route) in v.http.iter().enumerate() {
            let at = format!("spec.http[{i}]");
            if let Some(first) = everything {
                let says = format!("is never reached: spec.http[{first}] matches every request (IST0130)");
                say(Level::Warning, &at, says);
            } else if let Some(first) = repeated(&v.http, i) {
                let says = format!("is never reached: spec.http[{first}] matches the same requests (IST0130)");
                say(Level::Warning, &at, says);
            }
            if everything.is_none() && repeated(&v.http, i).is_none() {
                ineffective(&v.http, i, &at, say);
            }
            if everything.is_none() && matches_everything(route) {
                everything = Some(i);
            }
            self.http_route(v, route, &at, say);
        }
        for (i, route) in v.tls.iter().enumerate() {
            self.targets(v, &route.targets, &format!("spec.tls[{i}]"), say);
        }
        for (i, route) in v.tcp.iter().enumerate() {
            self.targets(v, &route.targets, &format!("spec.tcp[{i}]"), say);
        }
        self.hidden(v, say);
    }

    fn http_route(&self, v: &VirtualService, route: &HttpRoute, at: &str, say: Say<'_>) {
        match &route.action {
            HttpAction::Forward(targets) => self.targets(v, targets, at, say),
            HttpAction::Delegate(name) => {
                let says = match self.model.sources().virtual_service(name) {
                    None => format!("VirtualService {name} does not exist: the route is left out (IST0101)"),
                    Some(inner) if !inner.hosts.is_empty() => {
                        format!(
                            "VirtualService {name} has hosts of its own, and takes no requests of others: the route is left out"
                        )
                    }
                    Some(_) => return,
                };
                say(Level::Warning, &format!("{at}.delegate"), says);
            }
            HttpAction::Redirect(_) | HttpAction::Respond(_) => {}
        }
        for (i, mirror) in route.policy.mirrors.iter().enumerate() {
            self.target(v, &mirror.target, &format!("{at}.mirrors[{i}].destination"), "no copy is sent", say);
        }
    }

    fn targets(&self, v: &VirtualService, targets: &[WeightedTarget], at: &str, say: Say<'_>) {
        for (i, one) in targets.iter().enumerate() {
            self.target(v, &one.target, &format!("{at}.route[{i}].destination"), "requests get 503", say);
        }
        let sum: u64 = targets.iter().map(|t| u64::from(t.weight)).sum();
        if targets.len() > 1 && sum != 100 {
            let says = format!("the weights add up to {sum}, not 100: each is a share of {sum}");
            say(Level::Notice, &format!("{at}.route"), says);
        }
    }

    fn target(&self, v: &VirtualService, target: &RouteTarget, at: &str, effect: &str, say: Say<'_>) {
        let namespace = v.name.namespace();
        if self.misses(namespace, &target.host) {
            let says = format!("no Service has the host {}: {effect} (IST0101)", target.host);
            return say(Level::Warning, &format!("{at}.host"), says);
        }
        let world = self.model.world();
        let Host::Name(host) = &*target.host.qualified(namespace, &world.settings().cluster_domain) else { return };
        let Some(service) = service_of(world, host) else { return };
        if target.port.is_none() && service.ports.len() > 1 {
            let says = format!(
                "Service {} has several ports, and none is named: the called one counts (IST0112)",
                service.name
            );
            say(Level::Notice, &format!("{at}.port"), says);
        }
        let port = target.port.or_else(|| service.ports.first().map(|port| port.port));
        let Some(port) = port else { return };
        let key = ClusterKey { host: Arc::clone(host), subset: target.subset.clone(), port };
        let rules = HostRules::of(world, self.model.sources(), host);
        match (Cluster::new(world, &rules, &key).service, &target.subset) {
            (Err(Unresolved::Port), _) => {
                let says = format!("Service {} has no port {port}: {effect} (IST0101)", service.name);
                say(Level::Warning, &format!("{at}.port.number"), says);
            }
            (Err(Unresolved::Subset), Some(subset)) => {
                let says =
                    format!("no DestinationRule of {} defines the subset {subset}: {effect} (IST0101)", service.name);
                say(Level::Warning, &format!("{at}.subset"), says);
            }
            _ => {}
        }
    }

    /// Of several VirtualServices for one host, the one whose routes come before and match everything.
    fn hidden(&self, v: &VirtualService, say: Say<'_>) {
        let world = self.model.world();
        let domain = &world.settings().cluster_domain;
        let mut said = BTreeSet::new();
        for (i, host) in v.hosts.iter().enumerate() {
            let Host::Name(host) = &*host.qualified(v.name.namespace(), domain) else { continue };
            if let Some(service) = service_of(world, host).filter(|_| v.is_for_mesh()) {
                self.gives_way(v, &service.name, &format!("spec.hosts[{i}]"), say);
            }
            let all = virtual_services(world, self.model.sources(), host);
            let before = all.iter().take_while(|other| other.name != v.name);
            let hiding =
                before.filter(|other| other.http.iter().any(matches_everything)).map(|other| &other.name).next();
            let is_there = all.iter().any(|other| other.name == v.name);
            let Some(hiding) = hiding.filter(|_| is_there && v.http.iter().any(matches_everything)) else { continue };
            if said.insert(hiding.clone()) {
                let says = format!(
                    "VirtualService {hiding} is for this host too, and comes first: its route for every request counts, not this one's (IST0109)"
                );
                say(Level::Warning, &format!("spec.hosts[{i}]"), says);
            }
        }
    }

    pub(super) fn destination_rule(&self, rule: &DestinationRule, say: Say<'_>) {
        if self.misses(rule.name.namespace(), &rule.host) {
            let says = format!("no Service has the host {}: the rule has no effect (IST0101)", rule.host);
            return say(Level::Warning, "spec.host", says);
        }
        if rule.callers.is_some() {
            let says = "is for some callers alone, and a waypoint serves all of them: the rule is left out".to_owned();
            say(Level::Warning, "spec.workloadSelector", says);
        }
        certificates(rule, say);
        let world = self.model.world();
        let host = rule.host.qualified(rule.name.namespace(), &world.settings().cluster_domain);
        let Host::Name(host) = &*host else { return };
        let Some(service) = service_of(world, host) else { return };
        self.empty_subsets(rule, &service.name, say);
        let rules = HostRules::of(world, self.model.sources(), host);
        let other =
            |found: &DestinationRule| Some(found.name.clone()).filter(|name| *name != rule.name && rules.has(rule));
        let hiding =
            rules.policy().and_then(|(first, _)| other(first)).filter(|_| rule.policy != TrafficPolicy::default());
        if let Some(first) = hiding {
            let says = format!(
                "DestinationRule {first} is for this host too, and comes first: its trafficPolicy counts, not this one"
            );
            say(Level::Warning, "spec.trafficPolicy", says);
        }
        for (i, subset) in rule.subsets.iter().enumerate() {
            if let Some(first) = rules.subset(&subset.name).and_then(|(first, ..)| other(first)) {
                let says = format!(
                    "DestinationRule {first} defines the subset {} of this host too, and comes first",
                    subset.name
                );
                say(Level::Warning, &format!("spec.subsets[{i}]"), says);
            }
        }
    }

    /// Subsets that select none of the pods that the Service selects.
    fn empty_subsets(&self, rule: &DestinationRule, service: &ObjectName, say: Say<'_>) {
        let Some(selector) = self.model.sources().service(service).and_then(|s| s.selector.as_ref()) else { return };
        let of_service =
            |p: &&Arc<crate::objects::Pod>| p.name.namespace() == service.namespace() && selects(selector, &p.labels);
        let pods: Vec<_> = self.pods.iter().filter(of_service).collect();
        for (i, subset) in rule.subsets.iter().enumerate() {
            if !pods.is_empty() && !pods.iter().any(|p| selects(&subset.labels, &p.labels)) {
                let says = format!("selects none of the pods of Service {service}: requests to it get 503 (IST0173)");
                say(Level::Warning, &format!("spec.subsets[{i}].labels"), says);
            }
        }
    }

    /// A name of a Service that does not exist, in a namespace whose Services are known.
    fn misses(&self, namespace: &str, host: &Host) -> bool {
        let domain = &self.model.world().settings().cluster_domain;
        let Host::Name(name) = &*host.qualified(namespace, domain) else { return false };
        let of = name
            .strip_suffix(&**domain)
            .and_then(|rest| rest.strip_suffix(".svc."))
            .and_then(|rest| rest.split_once('.'));
        of.is_some_and(|(_, namespace)| {
            self.knows_services_of(namespace) && service_of(self.model.world(), name).is_none()
        })
    }
}

fn matches_everything(route: &HttpRoute) -> bool {
    let is_for_all = |m: &HttpMatch| is_catch_all(m) && m.port.is_none() && m.gateways.is_empty();
    route.matches.is_empty() || route.matches.iter().any(is_for_all)
}

/// TLS of a route's own that is begun without saying whose certificates are good.
fn certificates(rule: &DestinationRule, say: Say<'_>) {
    let is_open = |policy: &PortPolicy| {
        policy.tls.as_ref().is_some_and(|tls| {
            tls.begins() && tls.ca_certificates.is_none() && tls.credential_name.is_none() && !tls.skips_verification
        })
    };
    let is_by_secret =
        |policy: &PortPolicy| policy.tls.as_ref().is_some_and(|tls| tls.begins() && tls.credential_name.is_some());
    let subsets = rule.subsets.iter().enumerate();
    let subsets = subsets.map(|(i, subset)| (format!("spec.subsets[{i}].trafficPolicy"), &subset.policy));
    for (at, policy) in std::iter::once(("spec.trafficPolicy".to_owned(), &rule.policy)).chain(subsets) {
        let secret = "waypoints read no Secrets yet: calls are answered 503; name files instead";
        if is_by_secret(&policy.own) {
            say(Level::Warning, &format!("{at}.tls.credentialName"), secret.to_owned());
        }
        for (port, _) in policy.ports.iter().filter(|(_, policy)| is_by_secret(policy)) {
            say(
                Level::Warning,
                &format!("{at}.portLevelSettings"),
                format!("port {port}: tls.credentialName: {secret}"),
            );
        }
        let says = "begins TLS without caCertificates: every authority that the waypoint's machine believes says who may answer";
        if is_open(&policy.own) {
            say(Level::Warning, &format!("{at}.tls"), format!("{says} (IST0128)"));
        }
        for (port, _) in policy.ports.iter().filter(|(_, policy)| is_open(policy)) {
            say(Level::Warning, &format!("{at}.portLevelSettings"), format!("port {port} {says} (IST0129)"));
        }
    }
}

/// Conditions that an earlier route has as well, among others that it has not.
fn ineffective(all: &[HttpRoute], at: usize, field: &str, say: Say<'_>) {
    let Some(route) = all.get(at) else { return };
    for (i, one) in route.matches.iter().enumerate() {
        let earlier = all.iter().take(at).position(|earlier| earlier.matches.iter().any(|known| same(known, one)));
        if let Some(first) = earlier {
            let says = format!("never counts: spec.http[{first}] matches the same requests (IST0131)");
            say(Level::Notice, &format!("{field}.match[{i}]"), says);
        }
    }
}

fn same(a: &HttpMatch, b: &HttpMatch) -> bool {
    let unnamed = |m: &HttpMatch| HttpMatch { name: None, stat_prefix: None, ..m.clone() };
    unnamed(a) == unnamed(b)
}

/// An earlier route that has each of this one's conditions.
fn repeated(all: &[HttpRoute], at: usize) -> Option<usize> {
    let asked = &all.get(at)?.matches;
    let has_all = |earlier: &HttpRoute| asked.iter().all(|m| earlier.matches.iter().any(|known| same(known, m)));
    all.iter().take(at).position(|earlier| !asked.is_empty() && has_all(earlier))
}

#[cfg(test)]
mod tests;
