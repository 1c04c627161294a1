//! The decision about a certificate: who may have which identity. Pure: the caller, what is known of pods, and a verdict.
//!
//! An agent (a trusted account) gets the identities of pods that run on its own node, named in the request. Every other caller
//! gets its own identity alone. In both cases the token must be bound to a pod that lives, under the same uid and account: a
//! token outlives its pod.
//!
//! What must hold: a pod that is not known yet is no reason to refuse for good ([`Denied::is_final`]); the API server is asked
//! once, and only its contradiction is final.

use std::{collections::BTreeSet, sync::Arc};

use underpass_core::{
    Identity, ObjectName,
    world::{Account, MeshSettings},
};
use underpass_xds::access::Caller;

/// A pod, as the API server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its service account, in its namespace.
    pub service_account: Arc<str>,
    /// The node that it runs on; none: it is not scheduled.
    pub node: Option<Arc<str>>,
    /// It has ended, by `status.phase`.
    pub ended: bool,
}

/// What is known of pods.
pub trait Pods {
    /// The pod of this name; none: it is not known, or does not exist.
    fn pod(&self, name: &ObjectName) -> Option<Pod>;

    /// A pod of this account runs on this node.
    fn runs_on(&self, node: &str, account: &Account) -> bool;
}

/// The reason for which a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token proves an account, and no pod.
    #[error("the token is bound to no pod")]
    NoPod,
    /// The caller's pod is not known.
    #[error("pod {0} is not known")]
    UnknownPod(ObjectName),
    /// The caller's pod is another one by now, or has another account.
    #[error("pod {0} is not the one of the token")]
    OtherPod(ObjectName),
    /// The caller's pod has ended.
    #[error("pod {0} has ended")]
    Ended(ObjectName),
    /// The token says another node than the pod has.
    #[error("pod {0} does not run on node {1}")]
    OtherNode(ObjectName, Arc<str>),
    /// The caller asks for another identity than its own, and is no agent.
    #[error("{0} may ask for no identity but its own")]
    NotTrusted(String),
    /// The named identity is no identity.
    #[error("{0:?} is not an identity")]
    NotAnIdentity(String),
    /// The named identity is another mesh's.
    #[error("{0} is not of this trust domain")]
    OtherTrustDomain(Identity),
    /// No pod of the identity is known on the agent's node.
    #[error("no pod of {0} runs on node {1}")]
    NotOnNode(Identity, Arc<str>),
}

impl Denied {
    /// For metrics: `unknown_pod`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoPod => "no_pod",
            Self::UnknownPod(_) => "unknown_pod",
            Self::OtherPod(_) => "other_pod",
            Self::Ended(_) => "ended",
            Self::OtherNode(..) => "other_node",
            Self::NotTrusted(_) => "not_trusted",
            Self::NotAnIdentity(_) => "not_an_identity",
            Self::OtherTrustDomain(_) => "other_trust_domain",
            Self::NotOnNode(..) => "not_on_node",
        }
    }

    /// Newer knowledge of pods could not lead to another verdict.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::UnknownPod(_) | Self::OtherPod(_) | Self::NotOnNode(..) | Self::OtherNode(..) => false,
            Self::NoPod | Self::Ended(_) | Self::NotTrusted(_) | Self::NotAnIdentity(_) | Self::OtherTrustDomain(_) => {
                true
            }
        }
    }
}

/// The verdict about `caller`, who names `wanted` or asks for its own identity.
///
/// # Errors
/// The reason of the refusal.
pub fn decide(
    caller: &Caller,
    wanted: Option<&str>,
    trusted: &BTreeSet<Account>,
    settings: &MeshSettings,
    pods: &dyn Pods,
) -> Result<Identity, Denied> {
    let own = Account { namespace: Arc::clone(&caller.namespace), name: Arc::clone(&caller.service_account) };
    let bound = caller.pod.as_ref().ok_or(Denied::NoPod)?;
    let name = ObjectName::new(Arc::clone(&own.namespace), Arc::clone(&bound.name));
    let is_agent = trusted.contains(&own);
    // Before anything is looked up: what can never be granted costs the API server nothing.
    let wanted = wanted.map(|text| identity(text, settings)).transpose()?;
    let of_own = Identity::new(&settings.trust_domain, &own.namespace, &own.name);
    if let Some(wanted) = &wanted
        && !is_agent
        && *wanted != of_own
    {
        return Err(Denied::NotTrusted(caller.to_string()));
    }
    let Some(pod) = pods.pod(&name) else { return Err(Denied::UnknownPod(name)) };
    if pod.uid != bound.uid || pod.service_account != own.name {
        return Err(Denied::OtherPod(name));
    }
    if pod.ended {
        return Err(Denied::Ended(name));
    }
    if let Some(says) = caller.node.as_ref().filter(|says| pod.node.as_ref() != Some(says)) {
        return Err(Denied::OtherNode(name, Arc::clone(says)));
    }
    let Some(wanted) = wanted.filter(|wanted| *wanted != of_own) else { return Ok(of_own) };
    let node = pod.node.ok_or(Denied::UnknownPod(name))?;
    let account = Account { namespace: wanted.namespace().into(), name: wanted.service_account().into() };
    if pods.runs_on(&node, &account) { Ok(wanted) } else { Err(Denied::NotOnNode(wanted, node)) }
}

fn identity(text: &str, settings: &MeshSettings) -> Result<Identity, Denied> {
    let identity: Identity = text.parse().map_err(|_| Denied::NotAnIdentity(text.chars().take(256).collect()))?;
    if *identity.trust_domain() == settings.trust_domain {
        Ok(identity)
    } else {
        Err(Denied::OtherTrustDomain(identity))
    }
}

#[cfg(test)]
mod tests {
    use underpass_xds::access::CallerPod;

    use super::*;

    const AGENT: (&str, &str) = ("underpass-system", "underpass-agent");

    /// Pods: name, uid, account, node.
    struct Table(&'static [(&'static str, &'static str, &'static str, &'static str)]);

    const PODS: Table = Table(&[
        ("underpass-system/agent-1", "u1", "underpass-agent", "n1"),
        ("underpass-system/agent-2", "u2", "underpass-agent", "n2"),
        ("default/web-1", "u3", "web", "n1"),
        ("default/db-1", "u4", "db", "n2"),
        ("default/job", "u5", "job", "ended"),
        ("default/new", "u6", "web", ""),
    ]);

    impl Pods for Table {
        fn pod(&self, name: &ObjectName) -> Option<Pod> {
            let found = self.0.iter().find(|(of, ..)| *of == name.to_string())?;
            let node = Some(found.3.into()).filter(|_| !found.3.is_empty());
            Some(Pod { uid: found.1.into(), service_account: found.2.into(), node, ended: found.3 == "ended" })
        }

        fn runs_on(&self, node: &str, account: &Account) -> bool {
            let is_of = |name: &str| name.split('/').next() == Some(&account.namespace);
            self.0.iter().any(|(name, _, sa, on)| is_of(name) && **sa == *account.name && *on == node)
        }
    }

    fn caller((namespace, account): (&str, &str), pod: Option<(&str, &str)>, node: Option<&str>) -> Caller {
        Caller {
            namespace: namespace.into(),
            service_account: account.into(),
            pod: pod.map(|(name, uid)| CallerPod { name: name.into(), uid: uid.into() }),
            node: node.map(Into::into),
        }
    }

    #[track_caller]
    fn check(caller: &Caller, wanted: Option<&str>, expect: Result<&str, &str>) {
        let trusted = BTreeSet::from([Account { namespace: AGENT.0.into(), name: AGENT.1.into() }]);
        let got = decide(caller, wanted, &trusted, &MeshSettings::default(), &PODS);
        let got = got.as_ref().map(Identity::uri).map_err(Denied::as_str);
        assert_eq!(got, expect, "{caller} {wanted:?}");
    }

    const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
    const DB: &str = "spiffe://cluster.local/ns/default/sa/db";
    const OWN: &str = "spiffe://cluster.local/ns/underpass-system/sa/underpass-agent";

    #[test]
    fn an_agent_gets_the_identities_of_its_own_node() {
        let agent = caller(AGENT, Some(("agent-1", "u1")), Some("n1"));
        check(&agent, Some(WEB), Ok(WEB));
        check(&agent, Some(DB), Err("not_on_node"));
        check(&caller(AGENT, Some(("agent-2", "u2")), None), Some(DB), Ok(DB));
        check(&agent, None, Ok(OWN));
        check(&agent, Some(OWN), Ok(OWN));
        check(&agent, Some("spiffe://cluster.local/ns/default/sa/job"), Err("not_on_node"));
    }

    #[test]
    fn others_get_their_own_identity_alone() {
        let web = caller(("default", "web"), Some(("web-1", "u3")), Some("n1"));
        check(&web, None, Ok(WEB));
        check(&web, Some(WEB), Ok(WEB));
        check(&web, Some(DB), Err("not_trusted"));
        // an account of the same name elsewhere is no agent
        check(&caller(("default", AGENT.1), Some(("web-1", "u3")), None), Some(DB), Err("not_trusted"));
    }

    #[test]
    fn a_token_is_worth_as_much_as_its_pod() {
        check(&caller(AGENT, None, Some("n1")), Some(WEB), Err("no_pod"));
        check(&caller(AGENT, Some(("agent-9", "u9")), None), Some(WEB), Err("unknown_pod"));
        check(&caller(AGENT, Some(("agent-1", "u0")), None), Some(WEB), Err("other_pod"));
        check(&caller(("default", "db"), Some(("web-1", "u3")), None), None, Err("other_pod"));
        check(&caller(AGENT, Some(("agent-1", "u1")), Some("n2")), Some(DB), Err("other_node"));
        check(&caller(("default", "job"), Some(("job", "u5")), None), None, Err("ended"));
        // not scheduled yet, as far as is known
        check(&caller(("default", "web"), Some(("new", "u6")), None), None, Ok(WEB));
    }

    #[test]
    fn what_is_no_identity_of_this_mesh_is_refused_before_anything_is_looked_up() {
        let agent = caller(AGENT, Some(("agent-9", "u9")), None);
        for text in ["", "default/web", "spiffe://cluster.local/ns/default", "spiffe://cluster.local/ns/a/sa/b/c"] {
            check(&agent, Some(text), Err("not_an_identity"));
        }
        check(&agent, Some("spiffe://other.example/ns/default/sa/web"), Err("other_trust_domain"));
    }

    #[test]
    fn newer_knowledge_changes_only_what_is_about_pods() {
        let agent = |pod, node| caller(AGENT, Some(pod), node);
        let trusted = BTreeSet::from([Account { namespace: AGENT.0.into(), name: AGENT.1.into() }]);
        let is_final = |caller: &Caller, wanted| {
            decide(caller, wanted, &trusted, &MeshSettings::default(), &PODS).unwrap_err().is_final()
        };
        assert!(!is_final(&agent(("agent-9", "u9"), None), Some(WEB)));
        assert!(!is_final(&agent(("agent-1", "u0"), None), Some(WEB)));
        assert!(!is_final(&agent(("agent-1", "u1"), None), Some(DB)));
        assert!(is_final(&agent(("agent-1", "u1"), None), Some("x")));
        assert!(is_final(&caller(("default", "web"), None, None), None));
    }
}
