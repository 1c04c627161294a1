//! Callers in policies that do not exist: trust domains, namespaces and service accounts.

use crate::{
    Kind, TrustDomain,
    authz::{PrincipalMatch, ServiceAccount, StringMatch},
    dangling::{Known, Level, Say},
    world::{AuthorizationPolicy, RuleValue, Value},
};

/// What is known about a value.
enum Why {
    /// Nothing has it.
    Never(String),
    /// It is not what it seems to be.
    Means(String),
}

impl Known<'_> {
    pub(super) fn callers(&self, p: &AuthorizationPolicy, say: Say<'_>) {
        for RuleValue { field, is_not, value, .. } in p.rule_values() {
            let why = match value {
                // The World has a finding about it, on the object.
                value if !value.is_possible() => None,
                Value::Principal(p) => self.principal(p),
                Value::Namespace(n) => self.namespace(n).map(Why::Never),
                Value::TrustDomain(t) => self.trust_domain(t),
                Value::ServiceAccount(ServiceAccount { namespace, name }) => {
                    self.no_account(namespace, name).map(Why::Never)
                }
                Value::Port(_) => None,
            };
            match why {
                Some(Why::Never(why)) => {
                    say(Level::Warning, &field, format!("{why}: {}", p.action.with_nothing(is_not)))
                }
                Some(Why::Means(says)) => say(Level::Notice, &field, says),
                None => {}
            }
        }
    }

    fn principal(&self, p: &PrincipalMatch) -> Option<Why> {
        let of_domain = self.trust_domain(p.trust_domain());
        match of_domain {
            Some(Why::Never(_)) => of_domain,
            _ => self.path(p.path()).map(Why::Never).or(of_domain),
        }
    }

    fn trust_domain(&self, pattern: &StringMatch) -> Option<Why> {
        let settings = self.model.world().settings();
        let is_local = matches!(pattern, StringMatch::Exact(t) if &**t == TrustDomain::LOCAL);
        if settings.own_trust_domains().any(|own| pattern.matches(own.as_str())) {
            return None;
        }
        if is_local {
            let own = &settings.trust_domain;
            return Some(Why::Means(format!("`{}` stands for the mesh's own trust domain, {own}", TrustDomain::LOCAL)));
        }
        let own: Vec<_> = settings.own_trust_domains().map(TrustDomain::as_str).collect();
        let says = format!("names another trust domain than {}", own.join(", "));
        (!pattern.matches(TrustDomain::LOCAL)).then_some(Why::Never(says))
    }

    /// `ns/NAMESPACE/sa/SERVICE-ACCOUNT`, as far as it is written.
    fn path(&self, pattern: &StringMatch) -> Option<String> {
        let (StringMatch::Exact(text) | StringMatch::Prefix(text)) = pattern else { return None };
        let mut parts = text.split('/').skip(1);
        let (namespace, rest) = (parts.next()?, parts.nth(1));
        match (pattern, rest) {
            (StringMatch::Exact(_), Some(name)) => self.no_account(namespace, name),
            // The namespace itself is a beginning only.
            (_, None) if text.matches('/').count() < 2 => None,
            (_, start) => self.no_namespace(namespace).or_else(|| self.no_account_with(namespace, start?)),
        }
    }

    fn namespace(&self, pattern: &StringMatch) -> Option<String> {
        match pattern {
            StringMatch::Present => None,
            StringMatch::Exact(name) => self.no_namespace(name),
            StringMatch::Prefix(_) | StringMatch::Suffix(_) => {
                let declared = self.model.sources().objects().filter(|(k, _)| k.kind == Kind::Namespace);
                let mut all = declared.map(|(k, _)| k.name.name()).chain(self.accounts.iter().map(|a| a.namespace()));
                let none = self.knows_namespaces() && !all.any(|n| pattern.matches(n));
                none.then(|| "no known namespace has such a name".to_owned())
            }
        }
    }

    fn no_namespace(&self, name: &str) -> Option<String> {
        self.is_a_typo(name).then(|| format!("no namespace `{name}` is known"))
    }

    /// None of a namespace whose pods are known has this service account.
    fn no_account(&self, namespace: &str, name: &str) -> Option<String> {
        let none = || format!("no pod of {namespace} has service account `{name}`");
        self.no_namespace(namespace).or_else(|| self.has_no_account(namespace, |a| a == name).then(none))
    }

    fn no_account_with(&self, namespace: &str, start: &str) -> Option<String> {
        let none = || format!("no pod of {namespace} has a service account `{start}*`");
        self.has_no_account(namespace, |a| a.starts_with(start)).then(none)
    }

    fn has_no_account(&self, namespace: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.namespaces.contains(namespace)
            && !self.accounts.iter().any(|a| a.namespace() == namespace && fits(a.name()))
    }
}
