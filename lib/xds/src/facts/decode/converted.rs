//! Converted policies, turned back into mutual TLS modes.
//!
//! What must hold: a name of a converted policy that a workload has, and whose policy is not known, means mutual TLS on
//! all ports; and a policy that goes while workloads still name it counts until they do not.

use std::collections::{BTreeMap, BTreeSet};

use underpass_core::{
    ObjectName,
    world::{Mtls, PortMode, Takes},
};

use crate::{
    contract::{
        istio::security::{Action, Authorization, Group, Match, Scope, StringMatch, string_match::MatchType},
        underpass::v1::MtlsSources,
    },
    facts::names,
};

/// What one converted policy refuses to plaintext.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// All ports but these; none: only those in `ports`.
    all_but: Option<BTreeSet<u16>>,
    ports: BTreeSet<u16>,
}

/// `namespace/name` is that of a converted policy.
pub(super) fn is_converted(root: &str, name: &ObjectName) -> bool {
    name.name().starts_with(names::CONVERTED) || is_static(root, name)
}

fn is_static(root: &str, name: &ObjectName) -> bool {
    name.namespace() == root && name.name() == names::STATIC_STRICT
}

impl Refused {
    /// Plaintext on any port.
    pub(super) fn everything() -> Self {
        Self { all_but: Some(BTreeSet::new()), ports: BTreeSet::new() }
    }

    /// The content of a converted policy; none: it is another policy under such a name.
    pub(super) fn of(message: &Authorization) -> Option<Self> {
        let is_one = message.scope == i32::from(Scope::WorkloadSelector)
            && message.action == i32::from(Action::Deny)
            && !message.dry_run
            && message.extensions.is_empty()
            && !message.groups.is_empty();
        let mut refused = Self::default();
        for group in is_one.then_some(&message.groups)? {
            refused.add(group)?;
        }
        Some(refused)
    }

    fn add(&mut self, group: &Group) -> Option<()> {
        let (mut is_about_plaintext, mut but, mut ports) = (false, BTreeSet::new(), None);
        for rules in &group.rules {
            let [one] = &*rules.matches else { return None };
            match Asks::of(one)? {
                Asks::Plaintext => is_about_plaintext = true,
                Asks::NotOn(all) => but.extend(all),
                Asks::PlaintextOn(all) => ports = ports.is_none().then_some(Some(all))?,
            }
        }
        match ports {
            Some(all) if group.rules.len() == 1 => self.ports.extend(all),
            None if is_about_plaintext => {
                self.all_but = Some(match self.all_but.take() {
                    Some(known) => known.intersection(&but).copied().collect(),
                    None => but,
                });
            }
            Some(_) | None => return None,
        }
        Some(())
    }

    fn refuses(&self, port: u16) -> bool {
        self.ports.contains(&port) || self.all_but.as_ref().is_some_and(|but| !but.contains(&port))
    }

    fn named(&self) -> impl Iterator<Item = u16> + '_ {
        self.ports.iter().chain(self.all_but.iter().flatten()).copied()
    }
}

/// The three matches of converted policies.
enum Asks {
    Plaintext,
    PlaintextOn(Vec<u16>),
    NotOn(Vec<u16>),
}

impl Asks {
    fn of(one: &Match) -> Option<Self> {
        let ports = |all: &[u32]| all.iter().map(|port| u16::try_from(*port).ok()).collect::<Option<Vec<_>>>();
        let (on, not_on) = (ports(&one.destination_ports)?, ports(&one.not_destination_ports)?);
        let any = [StringMatch { match_type: Some(MatchType::Presence(())) }];
        let is_plaintext = one.not_principals == any;
        let (not_principals, destination_ports, not_destination_ports) = Default::default();
        let rest = Match { not_principals, destination_ports, not_destination_ports, ..one.clone() };
        if rest != Match::default() {
            return None;
        }
        match (is_plaintext, one.not_principals.is_empty(), on.is_empty(), not_on.is_empty()) {
            (true, _, true, true) => Some(Self::Plaintext),
            (true, _, false, true) => Some(Self::PlaintextOn(on)),
            (_, true, true, false) => Some(Self::NotOn(not_on)),
            _ => None,
        }
    }
}

/// The modes of a workload that names these policies. `by` has the PeerAuthentications behind them, where it is told.
pub(super) fn mtls(root: &str, named: &[(ObjectName, Refused)], by: Option<&MtlsSources>) -> Mtls {
    let told = |text: &String| names::split(text);
    let of_name = |name: &ObjectName| match name.name().strip_prefix(names::CONVERTED) {
        Some(written) if !is_static(root, name) => {
            let pure = written.split_once('_').map_or(written, |(pure, _)| pure);
            ObjectName::new(name.namespace(), pure)
        }
        _ => name.clone(),
    };
    let default_by = by.and_then(|by| by.by.as_ref()).and_then(told);
    let ports_by: BTreeMap<u16, ObjectName> = by
        .iter()
        .flat_map(|by| &by.ports)
        .filter_map(|(port, name)| Some((u16::try_from(*port).ok()?, told(name)?)))
        .collect();
    let strict = named.iter().find(|(_, refused)| refused.all_but.is_some());
    let default = match (strict, &default_by) {
        (Some((name, _)), by) => {
            Some(PortMode { takes: Takes::MutualTls, by: by.clone().unwrap_or_else(|| of_name(name)) })
        }
        (None, Some(by)) => Some(PortMode { takes: Takes::Plaintext, by: by.clone() }),
        (None, None) => None,
    };
    let mode = |port: u16| {
        let refusing = named.iter().find(|(_, refused)| refused.refuses(port));
        let takes = if refusing.is_some() { Takes::MutualTls } else { Takes::Plaintext };
        let about = || named.iter().find(|(_, refused)| refused.named().any(|named| named == port));
        let by = ports_by.get(&port).cloned().or_else(|| refusing.or_else(about).map(|(name, _)| of_name(name)));
        by.map(|by| PortMode { takes, by })
    };
    let ports: BTreeSet<u16> =
        named.iter().flat_map(|(_, refused)| refused.named()).chain(ports_by.keys().copied()).collect();
    let ports = ports.into_iter().filter_map(|port| Some((port, mode(port)?)));
    let ports = ports.filter(|(_, mode)| Some(mode) != default.as_ref()).collect();
    Mtls::new(default, ports)
}
