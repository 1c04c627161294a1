//! Mutual TLS modes of workloads as policies, in istiod's encoding, and their names.
//!
//! A policy belongs to a PeerAuthentication by its name, and says which ports differ. Several PeerAuthentications may
//! select one workload, so that workloads differ in what one name means to them: then all but the first in order have
//! a hash behind the name. A name is so a function of the World, and a change of one workload touches those that share
//! its PeerAuthentication, and only where the first one changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use underpass_core::{
    ObjectName, World,
    world::{Mtls, PortMode, Takes, Uid, Workload},
};

use crate::{
    contract::istio::security::{
        Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType,
    },
    facts::names,
    resource::ContentHash,
};

/// The effective modes of a workload: `default` has what its namespace or the mesh says, `ports` what differs from it.
pub(super) fn effective(world: &World, workload: &Workload) -> Mtls {
    let of = |port: u16| world.mtls(workload, port);
    let own = workload.mtls.default_mode();
    // A port that none of its own modes is about has its default.
    let default = own.or_else(|| (0..=u16::MAX).find(|port| workload.mtls.of_port(*port).is_none()).and_then(of));
    let ports = workload.mtls.ports().filter(|(_, mode)| Some(*mode) != default);
    Mtls::new(default.cloned(), ports.map(|(port, mode)| (port, mode.clone())).collect())
}

/// The ports that differ from the default in what they accept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exceptions {
    /// The default is mutual TLS.
    is_strict: bool,
    ports: BTreeSet<u16>,
}

/// What a workload names among its policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Naming {
    /// Nothing: it accepts plaintext.
    #[default]
    Nothing,
    /// The static policy.
    Strict,
    /// The policy of this PeerAuthentication with these exceptions.
    Ports(ObjectName, Exceptions),
}

impl Naming {
    pub(super) fn of(mtls: &Mtls) -> Self {
        let is_strict = |mode: Option<&PortMode>| mode.is_some_and(|mode| mode.takes == Takes::MutualTls);
        let default = is_strict(mtls.default_mode());
        let mut differing = mtls.ports().filter(|(_, mode)| is_strict(Some(mode)) != default).peekable();
        match differing.peek() {
            None if default => Self::Strict,
            None => Self::Nothing,
            Some((_, first)) => {
                let of = first.by.clone();
                Self::Ports(of, Exceptions { is_strict: default, ports: differing.map(|(port, _)| port).collect() })
            }
        }
    }
}

type Shared = BTreeMap<Exceptions, BTreeSet<Uid>>;

/// What all workloads name.
#[derive(Debug, Default)]
pub(super) struct Converted {
    named: BTreeMap<Uid, Naming>,
    strict: usize,
    shared: BTreeMap<ObjectName, Shared>,
    /// PeerAuthentications whose workloads have changed since [`Self::settle`], each as it was.
    before: BTreeMap<ObjectName, Vec<Exceptions>>,
}

impl Converted {
    /// A workload names this from now on.
    pub(super) fn set(&mut self, uid: &Uid, naming: Naming) {
        if self.named.get(uid).unwrap_or(&Naming::Nothing) == &naming {
            return;
        }
        match self.named.remove(uid) {
            Some(Naming::Strict) => self.strict = self.strict.saturating_sub(1),
            Some(Naming::Ports(of, exceptions)) => self.edit(&of, |shared| {
                if let Some(users) = shared.get_mut(&exceptions) {
                    users.remove(uid);
                    if users.is_empty() {
                        shared.remove(&exceptions);
                    }
                }
            }),
            Some(Naming::Nothing) | None => {}
        }
        match &naming {
            Naming::Nothing => return,
            Naming::Strict => self.strict += 1,
            Naming::Ports(of, exceptions) => self.edit(of, |shared| {
                shared.entry(exceptions.clone()).or_default().insert(uid.clone());
            }),
        }
        self.named.insert(uid.clone(), naming);
    }

    fn edit(&mut self, of: &ObjectName, change: impl FnOnce(&mut Shared)) {
        let shared = self.shared.entry(of.clone()).or_default();
        self.before.entry(of.clone()).or_insert_with(|| shared.keys().cloned().collect());
        change(shared);
        if shared.is_empty() {
            self.shared.remove(of);
        }
    }

    /// Some workload names the static policy.
    pub(super) const fn has_strict(&self) -> bool {
        self.strict > 0
    }

    /// `namespace/name` of the policy that a workload names.
    pub(super) fn name(&self, uid: &Uid, root: &str) -> Option<String> {
        match self.named.get(uid)? {
            Naming::Nothing => None,
            Naming::Strict => Some(format!("{root}/{}", names::STATIC_STRICT)),
            Naming::Ports(of, exceptions) => {
                let is_first = self.shared.get(of).and_then(|shared| shared.keys().next()) == Some(exceptions);
                Some(names::slashed(&policy_name(of, exceptions, is_first)))
            }
        }
    }

    /// What has changed since the last time: policies to put or, without content, to remove, and the workloads that name
    /// another policy now though nothing changed about them.
    pub(super) fn settle(&mut self) -> (BTreeMap<ObjectName, Option<Authorization>>, BTreeSet<Uid>) {
        let (mut policies, mut renamed) = (BTreeMap::new(), BTreeSet::new());
        for (of, before) in std::mem::take(&mut self.before) {
            let none = Shared::new();
            let now = self.shared.get(&of).unwrap_or(&none);
            for (i, exceptions) in before.iter().enumerate() {
                policies.insert(policy_name(&of, exceptions, i == 0), None);
            }
            for (i, exceptions) in now.keys().enumerate() {
                let name = policy_name(&of, exceptions, i == 0);
                let message = authorization(&name, exceptions.groups());
                policies.insert(name, Some(message));
            }
            let first = now.keys().next();
            if before.first() != first {
                for exceptions in before.first().into_iter().chain(first) {
                    renamed.extend(now.get(exceptions).into_iter().flatten().cloned());
                }
            }
        }
        (policies, renamed)
    }
}

fn policy_name(of: &ObjectName, exceptions: &Exceptions, is_first: bool) -> ObjectName {
    let name = format!("{}{}", names::CONVERTED, of.name());
    let content = || Authorization { groups: exceptions.groups(), ..Authorization::default() };
    let name = if is_first { name } else { format!("{name}_{}", ContentHash::of(&content().encode_to_vec())) };
    ObjectName::new(Arc::<str>::from(of.namespace()), name)
}

/// The static policy.
pub(super) fn strict(root: &str) -> Authorization {
    authorization(&ObjectName::new(root, names::STATIC_STRICT), vec![group([plaintext()])])
}

impl Exceptions {
    fn groups(&self) -> Vec<Group> {
        let ports = self.ports.iter().copied().map(u32::from);
        match self.is_strict {
            true => {
                let all_but = |port| Match { not_destination_ports: vec![port], ..Match::default() };
                vec![group([plaintext()].into_iter().chain(ports.map(all_but)))]
            }
            false => ports.map(|port| group([Match { destination_ports: vec![port], ..plaintext() }])).collect(),
        }
    }
}

/// A caller without identity.
fn plaintext() -> Match {
    let any = StringMatch { match_type: Some(MatchType::Presence(())) };
    Match { not_principals: vec![any], ..Match::default() }
}

fn group(all: impl IntoIterator<Item = Match>) -> Group {
    Group { rules: all.into_iter().map(|one| Rules { matches: vec![one] }).collect() }
}

fn authorization(name: &ObjectName, groups: Vec<Group>) -> Authorization {
    Authorization {
        name: name.name().into(),
        namespace: name.namespace().into(),
        scope: Scope::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups,
        ..Authorization::default()
    }
}
