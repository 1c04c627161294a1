//! Policies that select no pods, only pods outside the mesh, or pods without the port that they name; and ALLOW rules
//! that plaintext passes, because they only exclude callers.

use std::collections::BTreeSet;

use crate::{
    ObjectName,
    authz::{Condition, Rule, Source},
    dangling::{Known, Level, Running, Say},
    labels::selects,
    objects::{MtlsMode, OwnProxy, PeerAuthentication, Service},
    peer_auth,
    world::{Action, AuthorizationPolicy, RuleValue, Scope, ServicePort, Takes, TargetPort, Value},
};

impl Known<'_> {
    pub(super) fn authorization(&self, p: &AuthorizationPolicy, say: Say<'_>) {
        self.callers(p, say);
        self.targets_of_policy(p.name.namespace(), p.targets(), "the policy has no effect on it", say);
        self.unchecked_tokens(p, say);
        self.absent_authorizer(p, say);
        let (namespace, effect) = (p.name.namespace(), without_pods(p.action));
        if self.is_undeclared(namespace) {
            return say(Level::Warning, "metadata.namespace", format!("{}: {effect}", undeclared(namespace)));
        }
        if matches!(&p.scope, Scope::Selector(selector) if self.selects_nothing(namespace, selector)) {
            let of = if namespace == self.root() { "of the mesh".to_owned() } else { format!("of {namespace}") };
            say(Level::Warning, "spec.selector", format!("selects none of the pods {of}: {effect}"));
        }
        let selected: Vec<_> = self.running.iter().filter(|w| self.model.world().applies(p, &w.fact)).collect();
        let judged: Vec<_> = selected.iter().copied().filter(|w| w.is_in_mesh()).collect();
        let is_mesh_wide = namespace == self.root() && p.scope == Scope::Namespace;
        if !judged.is_empty() {
            self.ports(p, &judged, say);
            self.plaintext(p, &judged, say);
        } else if !selected.is_empty() && !is_mesh_wide && !selected.iter().any(|w| has_sidecar(w)) {
            let says = format!("selects only pods {}, where no policy is enforced: {effect}", outside(&selected));
            say(Level::Warning, field_of(&p.scope), says);
        }
    }

    pub(super) fn peer_authentication(&self, p: &PeerAuthentication, say: Say<'_>) {
        let (namespace, is_root) = (p.name.namespace(), p.name.namespace() == self.root());
        if self.is_undeclared(namespace) {
            return say(Level::Warning, "metadata.namespace", format!("{}: it has no effect", undeclared(namespace)));
        }
        if p.selector.as_ref().is_some_and(|s| !is_root && self.selects_nothing(namespace, s)) {
            say(Level::Warning, "spec.selector", format!("selects none of the pods of {namespace}: it has no effect"));
        }
        self.overridden(p, is_root, say);
        let is_strict = p.mode == MtlsMode::Strict || p.ports.values().any(|m| *m == MtlsMode::Strict);
        let selects = |w: &&Running| {
            let by_labels = p.selector.as_ref().is_none_or(|selector| selects(selector, &w.pod.labels));
            w.pod.name.namespace() == namespace && by_labels
        };
        let selected: Vec<_> = self.running.iter().filter(selects).collect();
        if !is_strict || is_root || selected.is_empty() || selected.iter().any(|w| w.is_in_mesh()) {
            return;
        }
        let says = match selected.iter().find(|w| has_sidecar(w)) {
            Some(w) => format!(
                "selects only pods outside the mesh, and {} has a sidecar of its own: callers from the mesh arrive in \
                 plaintext there, and are refused",
                w.pod.name
            ),
            None => format!("selects only pods {}, where no plaintext is refused", outside(&selected)),
        };
        say(Level::Warning, if p.selector.is_some() { "spec.selector" } else { "spec.mtls.mode" }, says);
    }

    /// The oldest wins; among those of one age, the first by name.
    fn overridden(&self, p: &PeerAuthentication, is_root: bool, say: Say<'_>) {
        let precedes = |o: &PeerAuthentication| (o.created, &o.name) < (p.created, &p.name);
        let winner = (self.model.sources().peer_authentications())
            .filter(|o| o.name.namespace() == p.name.namespace() && o.selector == p.selector && precedes(o))
            .min_by_key(|o| (o.created, &o.name));
        if let Some(winner) = winner.filter(|_| !(is_root && p.selector.is_some())) {
            let says = format!("{} selects the same pods and takes precedence: this one has no effect", winner.name);
            say(Level::Warning, "", says);
        }
    }

    /// The root namespace is for policies alone: it need not be declared.
    fn is_undeclared(&self, namespace: &str) -> bool {
        namespace != self.root() && self.is_a_typo(namespace)
    }

    /// A policy means ports of pods. A port of a Service that leads elsewhere is a mistake; another port that no pod
    /// has probably is, but a container need not declare where it listens.
    fn ports(&self, p: &AuthorizationPolicy, judged: &[&Running], say: Say<'_>) {
        let led: Vec<_> = judged.iter().flat_map(|w| self.services_of(w)).collect();
        let declared: BTreeSet<u16> = judged.iter().flat_map(|w| w.pod.ports.iter().map(|p| p.port)).collect();
        let is_known = judged.iter().all(|w| !w.pod.ports.is_empty()) && !led.is_empty();
        for RuleValue { field, is_not, value, .. } in p.rule_values() {
            let Value::Port(port) = value else { continue };
            if declared.contains(&port) || led.iter().any(|l| l.target == port) {
                continue;
            }
            let effect = p.action.with_nothing(is_not);
            if let Some(ServiceTarget { service, target, .. }) = led.iter().find(|l| l.port == port) {
                let says = format!(
                    "{port} is a port of Service {service}, whose target port is {target}: policies match target ports, \
                     and {effect}; write {target}"
                );
                say(Level::Warning, &field, says);
            } else if is_known {
                let declared: Vec<_> = declared.iter().map(ToString::to_string).collect();
                let says = format!("no selected pod declares port {port}; declared: {}", declared.join(", "));
                say(Level::Notice, &field, format!("{says}. If none listens there, {effect}"));
            }
        }
    }

    /// Where Services lead on a pod, by its labels or by slices.
    fn services_of<'a>(&'a self, Running { pod, fact }: &'a Running) -> impl Iterator<Item = ServiceTarget<'a>> {
        let is_there = |s: &Service| {
            let by_selector = s.selector.as_ref().is_some_and(|sel| !sel.is_empty() && selects(sel, &pod.labels));
            s.name.namespace() == pod.name.namespace() && by_selector
        };
        let selected = self.model.sources().services().filter(move |s| is_there(s)).flat_map(|s| {
            let target = |target: &TargetPort| match target {
                TargetPort::Number(n) => Some(*n),
                TargetPort::Name(name) => pod.port_named(name),
            };
            let lead = move |p: &ServicePort| {
                Some(ServiceTarget { service: &s.name, port: p.port, target: target(&p.target)? })
            };
            s.ports.iter().filter_map(lead)
        });
        let current = fact.endpoints.iter().filter(|e| !e.outdated);
        let sliced = current.flat_map(|e| {
            e.ports.iter().map(|(port, target)| ServiceTarget { service: &e.service, port: *port, target: *target })
        });
        selected.chain(sliced)
    }

    /// Plaintext has no identity, so that every `not` is true of it.
    fn plaintext(&self, p: &AuthorizationPolicy, judged: &[&Running], say: Say<'_>) {
        if p.action != Action::Allow || p.dry_run {
            return;
        }
        for (i, rule) in p.rules.iter().enumerate() {
            let ports: Vec<u16> = rule.to.iter().flat_map(|o| o.ports.values.iter().copied()).collect();
            // A port of which nothing is said takes what the others take.
            let ports = if ports.is_empty() { vec![0] } else { ports };
            let world = self.model.world();
            let takes = |w: &Running| {
                ports.iter().any(|port| peer_auth::takes(world, &w.fact, *port, &mut ()).0 == Takes::Plaintext)
            };
            let Some(open) = judged.iter().find(|w| takes(w)) else { continue };
            for at in only_not(rule) {
                let says = format!(
                    "this rule only excludes callers, and plaintext, which has no identity, is not excluded: it is allowed, as \
                     {} accepts plaintext; add `principals: [\"*\"]`, or require mutual TLS (PeerAuthentication, STRICT)",
                    open.pod.name
                );
                say(Level::Warning, &format!("spec.rules[{i}]{at}"), says);
            }
        }
    }
}

/// The effect of a policy that selects no pod.
const fn without_pods(action: Action) -> &'static str {
    match action {
        Action::Allow => "it has no effect",
        Action::Deny => "it denies no connection, and the traffic that it should block is allowed",
        Action::Custom => "its provider is asked about nothing, and the traffic that it should judge is allowed",
        Action::Audit => "it counts nothing",
    }
}

/// A port of a Service, and where it leads on one pod.
struct ServiceTarget<'a> {
    service: &'a ObjectName,
    port: u16,
    target: u16,
}

fn has_sidecar(w: &Running) -> bool {
    w.pod.proxy == Some(OwnProxy::Sidecar)
}

fn outside(pods: &[&Running]) -> &'static str {
    if pods.iter().all(|w| w.pod.host_network) { "of the host network" } else { "outside the mesh" }
}

fn undeclared(namespace: &str) -> String {
    format!("no namespace `{namespace}` is declared, and no pod is in it")
}

const fn field_of(scope: &Scope) -> &'static str {
    match scope {
        Scope::Selector(_) => "spec.selector",
        Scope::Namespace | Scope::Targets(_) => "",
    }
}

/// Where a rule asks an identity only what it is not; an address that it asks for is a reason of its own.
fn only_not(rule: &Rule) -> Vec<String> {
    let of_when: Vec<_> = rule.when.iter().filter_map(asked).collect();
    if of_when.iter().any(|(is, _)| *is) || !rule.l7_fields().is_empty() {
        return Vec::new();
    }
    let when_not = of_when.iter().any(|(_, is_not)| *is_not);
    if rule.from.is_empty() {
        return when_not.then(|| ".when".to_owned()).into_iter().collect();
    }
    let open = |s: &Source| {
        let (is, is_not) = asked_of(s);
        !is && (is_not || when_not)
    };
    let sources = rule.from.iter().enumerate().filter(|(_, s)| open(s));
    sources.map(|(j, _)| format!(".from[{j}].source")).collect()
}

/// Whether a condition lists callers that must match, and callers that must not.
fn asked(condition: &Condition) -> Option<(bool, bool)> {
    match condition {
        Condition::SourceNamespace(m) | Condition::SourceTrustDomain(m) => Some(lists(m)),
        Condition::SourcePrincipal(m) => Some(lists(m)),
        Condition::SourceServiceAccount(m) => Some(lists(m)),
        Condition::SourceIp(m) => Some((!m.values.is_empty(), false)),
        Condition::DestinationIp(_) | Condition::DestinationPort(_) | Condition::L7(_) => None,
    }
}

fn asked_of(s: &Source) -> (bool, bool) {
    let all = [
        lists(&s.principals),
        lists(&s.namespaces),
        lists(&s.service_accounts),
        lists(&s.trust_domains),
        (!s.ip_blocks.values.is_empty(), false),
    ];
    (all.iter().any(|(is, _)| *is), all.iter().any(|(_, is_not)| *is_not))
}

fn lists<T>(m: &crate::authz::Match<T>) -> (bool, bool) {
    (!m.values.is_empty(), !m.not_values.is_empty())
}
