//! Patterns of identities and of trust domains. Their own file because a trust domain is not compared as text: all
//! names of the mesh's own (its trust domain, the aliases, and `cluster.local`, which in a policy stands for the mesh's
//! trust domain) are one, in policies as in TLS. Else a policy that was written before a mesh was renamed would say
//! nothing about it, and a DENY by an alias would deny no connection.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::value::StringMatch;
use crate::{
    Identity, TrustDomain,
    spiffe::{is_segment, is_segment_byte},
    world::MeshSettings,
};

/// A pattern of `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalMatch {
    text: StringMatch,
    trust_domain: StringMatch,
    path: StringMatch,
}

impl PrincipalMatch {
    /// From its form in a policy, without `spiffe://`. Every text is a pattern.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = StringMatch::parse(text);
        let part = |t: &str| Arc::from(t);
        let (trust_domain, path) = match &text {
            StringMatch::Present => (StringMatch::Present, StringMatch::Present),
            StringMatch::Exact(t) => {
                let (domain, path) = t.split_once('/').unwrap_or((t, ""));
                (StringMatch::Exact(part(domain)), StringMatch::Exact(part(path)))
            }
            StringMatch::Prefix(t) => match t.split_once('/') {
                Some((domain, path)) => (StringMatch::Exact(part(domain)), StringMatch::Prefix(part(path))),
                None => (StringMatch::Prefix(Arc::clone(t)), StringMatch::Present),
            },
            // What is before a whole path is the end of a trust domain.
            StringMatch::Suffix(t) => match t.split_once('/').filter(|(_, path)| path.matches('/').count() >= 3) {
                Some((domain, path)) => (StringMatch::Suffix(part(domain)), StringMatch::Exact(part(path))),
                None => (StringMatch::Present, StringMatch::Suffix(Arc::clone(t))),
            },
        };
        Self { text, trust_domain, path }
    }

    /// As written.
    #[must_use]
    pub const fn text(&self) -> &StringMatch {
        &self.text
    }

    /// The pattern of the trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &StringMatch {
        &self.trust_domain
    }

    /// The pattern of `ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[must_use]
    pub const fn path(&self) -> &StringMatch {
        &self.path
    }

    /// It names one identity, without a star.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self.text, StringMatch::Exact(_))
    }

    /// Some identity can match.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        path_is_possible(&self.path) && trust_domain_is_possible(&self.trust_domain)
    }

    /// Whether `identity` matches, in this mesh.
    #[must_use]
    pub fn matches(&self, settings: &MeshSettings, identity: &Identity) -> bool {
        self.path.matches(identity.path()) && trust_domain(&self.trust_domain, settings, identity.trust_domain())
    }
}

impl Serialize for PrincipalMatch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(s)
    }
}

/// Whether a trust domain matches, under any name that it has in this mesh.
pub(super) fn trust_domain(pattern: &StringMatch, settings: &MeshSettings, trust_domain: &TrustDomain) -> bool {
    if settings.is_own(trust_domain) {
        let names = settings.own_trust_domains().map(TrustDomain::as_str);
        return names.chain([TrustDomain::LOCAL]).any(|name| pattern.matches(name));
    }
    let means_own = matches!(pattern, StringMatch::Exact(name) if &**name == TrustDomain::LOCAL);
    !means_own && pattern.matches(trust_domain.as_str())
}

/// Some trust domain can match.
pub(crate) fn trust_domain_is_possible(pattern: &StringMatch) -> bool {
    match pattern {
        StringMatch::Present => true,
        StringMatch::Exact(t) => t.parse::<TrustDomain>().is_ok(),
        StringMatch::Prefix(t) | StringMatch::Suffix(t) => t.is_empty() || t.parse::<TrustDomain>().is_ok(),
    }
}

/// `ns/NAMESPACE/sa/SERVICE-ACCOUNT`, whole or one end of it.
fn path_is_possible(pattern: &StringMatch) -> bool {
    const NAMES: [&str; 4] = ["ns", "", "sa", ""];
    const BACKWARDS: [&str; 4] = ["", "sa", "", "ns"];
    let fits = |name: &str, part: &str| if name.is_empty() { is_segment(part) } else { name == part };
    let (text, names) = match pattern {
        StringMatch::Present => return true,
        StringMatch::Exact(t) => {
            let parts: Vec<_> = t.split('/').collect();
            return parts.len() == NAMES.len() && NAMES.into_iter().zip(parts).all(|(name, part)| fits(name, part));
        }
        StringMatch::Prefix(t) => (t, NAMES),
        StringMatch::Suffix(t) => (t, BACKWARDS),
    };
    let is_start = matches!(pattern, StringMatch::Prefix(_));
    let parts: Vec<_> = if is_start { text.split('/').collect() } else { text.rsplit('/').collect() };
    let Some((cut, whole)) = parts.split_last() else { return true };
    let name = names.get(whole.len());
    let cut_fits = name.is_some_and(|name| match (name.is_empty(), is_start) {
        (true, _) => cut.bytes().all(is_segment_byte),
        (false, true) => name.starts_with(cut),
        (false, false) => name.ends_with(cut),
    });
    cut_fits && names.into_iter().zip(whole).all(|(name, part)| fits(name, part))
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn mesh(own: &str, aliases: &[&str]) -> MeshSettings {
        MeshSettings {
            trust_domain: own.parse().unwrap(),
            trust_domain_aliases: aliases.iter().map(|a| a.parse().unwrap()).collect(),
            ..MeshSettings::default()
        }
    }

    fn id(text: &str) -> Identity {
        format!("spiffe://{text}").parse().unwrap()
    }

    #[test]
    fn all_names_of_a_mesh_are_one() {
        let renamed = mesh("acme.example", &["old.example"]);
        let check = |pattern: &str, identity: &str, expect: bool| {
            let got = PrincipalMatch::parse(pattern).matches(&renamed, &id(identity));
            assert_eq!(got, expect, "{pattern} {identity}");
        };
        for identity in ["acme.example/ns/a/sa/b", "old.example/ns/a/sa/b"] {
            for name in ["acme.example", "old.example", "cluster.local"] {
                check(&format!("{name}/ns/a/sa/b"), identity, true);
                check(&format!("{name}/ns/a/*"), identity, true);
                check(&format!("{name}/*"), identity, true);
                check(&format!("*{}/ns/a/sa/b", &name[3..]), identity, true);
                check(&format!("{name}/ns/a/sa/c"), identity, false);
            }
            for pattern in ["*", "acme*", "*/sa/b", "*/ns/a/sa/b", "*b"] {
                check(pattern, identity, true);
            }
            for pattern in ["other.example/ns/a/sa/b", "other*", "acme.example", "*/ns/sa/b", "*x/ns/a/sa/b", "x/*"] {
                check(pattern, identity, false);
            }
        }
        // A stranger is called what it is called, and never what stands for the mesh.
        check("other.example/ns/a/sa/b", "other.example/ns/a/sa/b", true);
        check("*/ns/a/sa/b", "cluster.local/ns/a/sa/b", true);
        check("cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b", false);
        check("acme.example/ns/a/sa/b", "other.example/ns/a/sa/b", false);
    }

    #[test]
    fn patterns_that_match_no_identity() {
        let check =
            |pattern: &str, expect: bool| assert_eq!(PrincipalMatch::parse(pattern).is_possible(), expect, "{pattern}");
        for possible in [
            "*",
            "a/ns/b/sa/c",
            "a*",
            "a.b/*",
            "a/n*",
            "a/ns/*",
            "a/ns/b*",
            "a/ns/b/*",
            "a/ns/b/s*",
            "a/ns/b/sa/*",
            "a/ns/b/sa/c*",
            "*c",
            "*/c",
            "*a/c",
            "*/sa/c",
            "*b/sa/c",
            "*/b/sa/c",
            "*s/b/sa/c",
            "*/ns/b/sa/c",
            "*a/ns/b/sa/c",
        ] {
            check(possible, true);
        }
        for never in [
            "",
            "a",
            "a/b",
            "a/b/*",
            "a/nsx*",
            "a/ns/b/c*",
            "a/ns//sa/c",
            "a/ns/b/sa/c/",
            "a/ns/b/sa/c/*",
            "A/ns/b/sa/c",
            "A*",
            "*/ns/b",
            "*/x/c",
            "*x/b/sa/c",
            "*c/d/b/sa/c",
            "*/",
            "*a b",
            "a/ns/b/sa/c d*",
            "*A/ns/b/sa/c",
        ] {
            check(never, false);
        }
    }

    proptest! {
        /// In a mesh of one name a pattern is compared with the whole principal.
        #[test]
        fn taking_apart_changes_nothing(
            pattern in "[*]?[a-c./]{0,6}(ns/[ab]/sa/[ab])?[*]?",
            identity in (select(vec!["a", "b.c", "cluster.local"]), "[ab]{1,2}", "[ab]{1,2}"),
        ) {
            let identity = id(&format!("{}/ns/{}/sa/{}", identity.0, identity.1, identity.2));
            let whole = StringMatch::parse(&pattern).matches(identity.principal());
            let pattern = PrincipalMatch::parse(&pattern);
            prop_assert_eq!(pattern.matches(&mesh("cluster.local", &[]), &identity), whole);
            prop_assert!(pattern.is_possible() || !whole);
        }
    }
}
