//! What refers to something that is not there, and what can never match: for the one who checks files before they are
//! applied. Not part of [`Sources::findings`], because while a mesh runs pods come and go and all of this is ordinary.
//!
//! What must hold: no false alarm. A namespace of which nothing is known (no pod, no template of pods) is another
//! directory's business, and nothing is said about it.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ObjectKey, TrustDomain,
    authz::{Condition, Match, PrincipalMatch, Rule, StringMatch},
    labels::{Labels, selects},
    objects::{Object, PeerAuthentication, Service},
    resolve::{Finding, Sources},
    spiffe::Identity,
    world::{Action, AuthorizationPolicy, MeshSettings, Scope},
};

/// Pods that are not there yet, but will be.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Their namespace.
    pub namespace: Arc<str>,
    /// Their service account.
    pub service_account: Arc<str>,
    /// Their labels.
    pub labels: Labels,
}

/// Every reference that dangles, by object and field.
#[must_use]
pub fn dangling(
    sources: &Sources,
    settings: &MeshSettings,
    planned: impl IntoIterator<Item = Planned>,
) -> Vec<Finding> {
    let pods = sources.pods().map(|pod| Planned {
        namespace: pod.name.namespace().into(),
        service_account: Arc::clone(&pod.service_account),
        labels: pod.labels.clone(),
    });
    let pods: Vec<Planned> = pods.chain(planned).collect();
    let known = Known { sources, settings, namespaces: pods.iter().map(|p| Arc::clone(&p.namespace)).collect(), pods };
    let mut all = Vec::new();
    for (key, object) in sources.objects() {
        let mut say = |field: &str, says: String| {
            all.push(Finding { object: ObjectKey::clone(key), field: field.to_owned(), says });
        };
        match object {
            Object::AuthorizationPolicy(p) => known.authorization(p, &mut say),
            Object::PeerAuthentication(p) => known.peer_authentication(p, &mut say),
            Object::Service(s) => known.service(s, &mut say),
            _ => {}
        }
    }
    all.sort_by(|a, b| (&a.object, &a.field, &a.says).cmp(&(&b.object, &b.field, &b.says)));
    all
}

struct Known<'w> {
    sources: &'w Sources,
    settings: &'w MeshSettings,
    pods: Vec<Planned>,
    namespaces: BTreeSet<Arc<str>>,
}

type Say<'a> = &'a mut dyn FnMut(&str, String);

impl Known<'_> {
    fn root(&self) -> &str {
        &self.settings.root_namespace
    }

    /// A selector that none of the pods fits that it could be about.
    fn selects_nothing(&self, namespace: &str, selector: &Labels) -> bool {
        let in_reach = |p: &&Planned| namespace == self.root() || *p.namespace == *namespace;
        let mut pods = self.pods.iter().filter(in_reach).peekable();
        pods.peek().is_some() && !pods.any(|p| selects(selector, &p.labels))
    }

    fn service(&self, s: &Service, say: Say<'_>) {
        let Some(selector) = s.selector.as_ref().filter(|s| !s.is_empty()) else { return };
        let mut pods = self.pods.iter().filter(|p| *p.namespace == *s.name.namespace()).peekable();
        if pods.peek().is_some() && !pods.any(|p| selects(selector, &p.labels)) {
            let says = format!("selects none of the pods of {}: connections have no endpoint", s.name.namespace());
            say("spec.selector", says);
        }
    }

    fn peer_authentication(&self, p: &PeerAuthentication, say: Say<'_>) {
        let (namespace, is_root) = (p.name.namespace(), p.name.namespace() == self.root());
        if p.selector.as_ref().is_some_and(|s| !is_root && self.selects_nothing(namespace, s)) {
            say("spec.selector", format!("selects none of the pods of {namespace}: it has no effect"));
        }
        // The oldest wins; among those of one age, the first by name.
        let beats = |o: &PeerAuthentication| (o.created, &o.name) < (p.created, &p.name);
        let winner = (self.sources.peer_authentications())
            .filter(|o| o.name.namespace() == namespace && o.selector == p.selector && beats(o))
            .min_by_key(|o| (o.created, &o.name));
        if let Some(winner) = winner.filter(|_| !(is_root && p.selector.is_some())) {
            say("", format!("{} is about the same pods and wins: this one has no effect", winner.name));
        }
    }

    fn authorization(&self, p: &AuthorizationPolicy, say: Say<'_>) {
        let namespace = p.name.namespace();
        if matches!(&p.scope, Scope::Selector(selector) if self.selects_nothing(namespace, selector)) {
            let of = if namespace == self.root() { "of the mesh".to_owned() } else { format!("of {namespace}") };
            say("spec.selector", format!("selects none of the pods {of}: it has no effect"));
        }
        let effect = match p.action {
            Action::Allow => "it allows nobody",
            Action::Deny => "it denies nobody",
        };
        for (i, rule) in p.rules.iter().enumerate() {
            self.rule(rule, &format!("spec.rules[{i}]"), effect, say);
        }
    }

    fn rule(&self, rule: &Rule, at: &str, effect: &str, say: Say<'_>) {
        for (i, source) in rule.from.iter().enumerate() {
            let at = format!("{at}.from[{i}].source");
            self.principals(&source.principals, &format!("{at}.principals"), effect, say);
            self.in_namespaces(&source.namespaces, &format!("{at}.namespaces"), effect, say);
            for (j, account) in source.service_accounts.values.iter().enumerate() {
                if let Some(why) = self.no_account(&account.namespace, &account.name) {
                    say(&format!("{at}.serviceAccounts[{j}]"), format!("{why}: {effect}"));
                }
            }
        }
        for (i, condition) in rule.when.iter().enumerate() {
            let at = format!("{at}.when[{i}].values");
            match condition {
                Condition::SourcePrincipal(m) => self.principals(m, &at, effect, say),
                Condition::SourceNamespace(m) => self.in_namespaces(m, &at, effect, say),
                _ => {}
            }
        }
    }

    fn principals(&self, m: &Match<PrincipalMatch>, at: &str, effect: &str, say: Say<'_>) {
        for (i, value) in m.values.iter().enumerate() {
            let StringMatch::Exact(text) = value.text() else { continue };
            let why = match format!("spiffe://{text}").parse::<Identity>() {
                Err(_) => Some("is no identity: write TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT".to_owned()),
                Ok(id) => {
                    let settings = self.settings;
                    if settings.is_own(id.trust_domain()) || id.trust_domain().as_str() == TrustDomain::LOCAL {
                        self.no_account(id.namespace(), id.service_account())
                    } else {
                        let own: Vec<_> = settings.own_trust_domains().map(TrustDomain::as_str).collect();
                        Some(format!("is of another trust domain than {}", own.join(", ")))
                    }
                }
            };
            if let Some(why) = why {
                say(&format!("{at}[{i}]"), format!("{why}: {effect}"));
            }
        }
    }

    fn in_namespaces(&self, m: &Match<StringMatch>, at: &str, effect: &str, say: Say<'_>) {
        for (i, value) in m.values.iter().enumerate() {
            let StringMatch::Exact(namespace) = value else { continue };
            // A namespace that stands in the files, and no pod of it; others may be in other files.
            if self.sources.namespace(namespace).is_none() && self.is_a_slip(namespace) {
                say(&format!("{at}[{i}]"), format!("no namespace `{namespace}` is known: {effect}"));
            }
        }
    }

    /// The files know every namespace of each pod they have, but not this one.
    fn is_a_slip(&self, namespace: &str) -> bool {
        let declared = |n: &Arc<str>| self.sources.namespace(n).is_some();
        !self.namespaces.contains(namespace) && !self.namespaces.is_empty() && self.namespaces.iter().all(declared)
    }

    /// Nobody of a namespace whose pods are known has this service account.
    fn no_account(&self, namespace: &str, name: &str) -> Option<String> {
        if self.sources.namespace(namespace).is_none() && self.is_a_slip(namespace) {
            return Some(format!("no namespace `{namespace}` is known"));
        }
        let mut pods = self.pods.iter().filter(|p| &*p.namespace == namespace).peekable();
        pods.peek()?;
        (!pods.any(|p| &*p.service_account == name))
            .then(|| format!("no pod of {namespace} has service account `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::Source,
        objects::Namespace,
        testing::{labels, model, name, peer_authentication, pod, policy, service},
    };

    fn said(objects: Vec<Object>, planned: &[(&str, &str, &str)]) -> String {
        let planned = planned.iter().map(|(namespace, account, app)| Planned {
            namespace: (*namespace).into(),
            service_account: (*account).into(),
            labels: labels(&format!("app={app}")),
        });
        let model = model(objects);
        let lines = dangling(model.sources(), model.world().settings(), planned).into_iter();
        lines.map(|f| format!("{} {}: {}\n", f.object.name, f.field, f.says)).collect()
    }

    fn namespace(name: &str) -> Object {
        Namespace { name: crate::ObjectName::cluster(name), labels: Labels::new(), distribution: None }.into()
    }

    fn from(principals: &[&str], namespaces: &[&str]) -> Rule {
        let principals =
            Match { values: principals.iter().map(|t| PrincipalMatch::parse(t)).collect(), not_values: Vec::new() };
        let list = |texts: &[&str]| Match {
            values: texts.iter().map(|t| StringMatch::parse(t)).collect(),
            not_values: Vec::new(),
        };
        let source = Source { principals, namespaces: list(namespaces), ..Source::default() };
        Rule { from: vec![source], to: Vec::new(), when: Vec::new() }
    }

    #[test]
    fn selectors() {
        let wrong = || Object::from(service("default/s app=b 10.96.0.1 80"));
        let pod_a = || Object::from(pod("default/a", "10.0.0.1"));
        assert_eq!(
            said(vec![wrong(), pod_a()], &[]),
            "default/s spec.selector: selects none of the pods of default: connections have no endpoint\n"
        );
        // A deployment will make them; of another namespace nothing is known; nothing at all is known.
        assert_eq!(said(vec![wrong(), pod_a()], &[("default", "b", "b")]), "");
        assert_eq!(said(vec![wrong(), pod("other/a", "10.0.0.1").into()], &[]), "");
        assert_eq!(said(vec![wrong()], &[]), "");

        let mut scoped = policy("default/p", Action::Allow, Vec::new());
        scoped.scope = Scope::Selector(labels("app=b"));
        assert_eq!(
            said(vec![scoped.clone().into(), pod_a()], &[]),
            "default/p spec.selector: selects none of the pods of default: it has no effect\n"
        );
        scoped.name = name("istio-system/p");
        assert!(said(vec![scoped.clone().into(), pod_a()], &[]).contains("of the mesh"));
        assert_eq!(said(vec![scoped.into(), pod_a(), pod("other/b", "10.0.0.2").into()], &[]), "");
    }

    #[test]
    fn peer_authentications_of_the_same_pods() {
        let p = |text: &str| Object::from(peer_authentication(text));
        assert_eq!(
            said(vec![p("default/a - STRICT"), p("default/b - PERMISSIVE @5")], &[]),
            "default/a : default/b is about the same pods and wins: this one has no effect\n"
        );
        assert_eq!(said(vec![p("default/a - STRICT"), p("other/b - STRICT"), p("default/c app=a STRICT")], &[]), "");
    }

    #[test]
    fn callers_that_nobody_is() {
        let world = |rule: Rule| {
            let all = [namespace("default"), pod("default/a", "10.0.0.1").into()];
            let policy = policy("default/p", Action::Allow, vec![rule]).into();
            said(all.into_iter().chain([policy]).collect(), &[])
        };
        let principal = |text: &str| world(from(&[text], &[]));
        assert_eq!(principal("cluster.local/ns/default/sa/a"), "");
        assert_eq!(principal("*"), "");
        assert_eq!(principal("cluster.local/ns/default/*"), "");
        assert_eq!(
            principal("cluster.local/ns/default/sa/b"),
            "default/p spec.rules[0].from[0].source.principals[0]: no pod of default has service account `b`: it allows nobody\n"
        );
        assert!(principal("cluster.local/ns/defualt/sa/a").contains("no namespace `defualt` is known"));
        assert!(principal("other.org/ns/default/sa/a").contains("is of another trust domain than cluster.local"));
        assert!(principal("default/a").contains("is no identity"));
        assert_eq!(world(from(&[], &["default"])), "");
        assert!(world(from(&[], &["defualt"])).contains("no namespace `defualt` is known: it allows nobody"));
    }

    #[test]
    fn other_namespaces_may_be_in_other_files() {
        let p = policy("default/p", Action::Deny, vec![from(&["cluster.local/ns/x/sa/y"], &["x"])]);
        assert_eq!(said(vec![p.into(), pod("default/a", "10.0.0.1").into()], &[]), "");
    }
}
