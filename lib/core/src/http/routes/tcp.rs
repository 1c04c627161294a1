//! Routes of connections that are no HTTP: `tls` and `tcp` of VirtualServices, TLSRoutes and TCPRoutes of the Gateway API. Beside
//! [`super`], whose rules read requests.
//!
//! What must hold: of VirtualServices a rule of `tls` is for TLS alone, and comes before those of `tcp`, and a connection that no
//! rule matches goes to the Service itself, as in Istio; where a route of the Gateway API is for the sender, it goes nowhere.

mod gateway;

use std::{net::IpAddr, sync::Arc};

use super::Compiler;
use crate::{
    Kind, ObjectKey,
    http::{
        BrokenRef, ClusterKey, Dice, Host, Source,
        action::by_weight,
        attached::Attached,
        rule::{ForCallers, RuleSource},
        rules_of_host::virtual_services_with,
    },
    objects::{ConnectionMatch, VirtualService, WeightedTarget},
};

/// A connection as far as its route needs it. Lent.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionHead<'c> {
    /// The called address.
    pub called: IpAddr,
    /// The client's.
    pub client: IpAddr,
    /// The server name of TLS, in lower case; none: it names none, or is no TLS.
    pub server_name: Option<&'c str>,
    /// The client.
    pub source: Source<'c>,
}

/// The rules of one Service's port for what is no HTTP, in order.
#[derive(Clone, Debug, Default)]
pub struct TcpRoutes {
    sources: Vec<RuleSource>,
    rules: Vec<TcpRule>,
    reads_server_names: bool,
}

/// One route.
#[derive(Clone, Debug)]
pub struct TcpRule {
    /// The object.
    pub object: ObjectKey,
    /// The list in its `spec` that the route is in: `tls`, `tcp` or `rules`.
    pub list: &'static str,
    /// The position there.
    pub position: usize,
    /// The position of its object among the sources of all rules.
    source: usize,
    /// One of these holds; none are there: any connection matches. Ports and gateways are dealt with.
    matches: Vec<ConnectionMatch>,
    /// Rules of one route share them.
    targets: Arc<[TcpTarget]>,
}

/// One of several clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// Or why connections of this share are refused.
    pub cluster: Result<ClusterKey, BrokenRef>,
    /// Its share of the sum.
    pub weight: u32,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub enum TcpWay<'r> {
    /// To the Service itself: no rule is for it.
    Own,
    /// To a cluster that a rule leads to.
    To(&'r TcpRule, &'r ClusterKey),
    /// Nowhere: this object is for its sender, and no rule matches.
    NoRule(&'r ObjectKey),
    /// Nowhere: its share of a rule is a backend that cannot be served; without one the rule has no backend with a weight.
    NoBackend(&'r TcpRule, Option<&'r BrokenRef>),
}

impl TcpRoutes {
    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Some rule asks for the server name of TLS.
    #[must_use]
    pub const fn read_server_names(&self) -> bool {
        self.reads_server_names
    }

    pub(super) fn has_broken_targets(&self) -> bool {
        self.rules.iter().flat_map(|rule| &*rule.targets).any(|target| target.cluster.is_err())
    }

    /// Where a connection goes.
    #[must_use]
    pub fn find(&self, head: &ConnectionHead<'_>, dice: Dice) -> TcpWay<'_> {
        let is_for = |source: &RuleSource| source.is_for(head.source.namespace);
        let holds = |rule: &&TcpRule| self.sources.get(rule.source).is_some_and(is_for) && rule.holds(head);
        if let Some(rule) = self.rules.iter().find(holds) {
            return rule.way(dice);
        }
        let is_whole = |source: &&RuleSource| source.object.kind != Kind::VirtualService;
        let closed = self.sources.iter().filter(is_whole).find(|source| is_for(source));
        closed.map_or(TcpWay::Own, |source| TcpWay::NoRule(&source.object))
    }

    /// Every cluster that one of them names.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterKey> {
        self.rules.iter().flat_map(|rule| &*rule.targets).filter_map(|target| target.cluster.as_ref().ok())
    }

    /// An object whose rules follow; answers its position.
    fn source(&mut self, object: ObjectKey, callers: &ForCallers<'_>) -> usize {
        self.sources.push(callers.source(object));
        self.sources.len().saturating_sub(1)
    }

    fn extend(&mut self, rules: impl IntoIterator<Item = TcpRule>) {
        for rule in rules {
            self.reads_server_names |= rule.matches.iter().any(|m| !m.server_names.is_empty());
            self.rules.push(rule);
        }
    }
}

impl TcpRule {
    /// The field of the route.
    #[must_use]
    pub fn field(&self) -> String {
        format!("spec.{}[{}]", self.list, self.position)
    }

    /// Where it leads to, with weights.
    #[must_use]
    pub fn targets(&self) -> &[TcpTarget] {
        &self.targets
    }

    /// What it asks for.
    #[must_use]
    pub fn words(&self) -> String {
        match &*self.matches {
            [] => "every connection".to_owned(),
            all => all.iter().map(words).collect::<Vec<_>>().join("; or "),
        }
    }

    fn holds(&self, head: &ConnectionHead<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| holds(m, head))
    }

    /// To one of its targets, as likely as its weight.
    fn way(&self, dice: Dice) -> TcpWay<'_> {
        match by_weight(&self.targets, |target| target.weight, dice).map(|target| &target.cluster) {
            Some(Ok(cluster)) => TcpWay::To(self, cluster),
            Some(Err(why)) => TcpWay::NoBackend(self, Some(why)),
            None => TcpWay::NoBackend(self, None),
        }
    }
}

fn holds(m: &ConnectionMatch, head: &ConnectionHead<'_>) -> bool {
    let is_named = |host: &Host| head.server_name.is_some_and(|name| host.matches(name));
    (m.server_names.is_empty() || m.server_names.iter().any(is_named))
        && (m.destinations.is_empty() || m.destinations.iter().any(|net| net.contains(&head.called)))
        && m.source.is_none_or(|net| net.contains(&head.client))
        && m.source_namespace.as_deref().is_none_or(|namespace| head.source.namespace == Some(namespace))
        && head.source.has(&m.source_labels)
}

fn words(m: &ConnectionMatch) -> String {
    let list = |all: Vec<String>| all.join("|");
    let names = list(m.server_names.iter().map(ToString::to_string).collect());
    let nets = list(m.destinations.iter().map(ToString::to_string).collect());
    let labels = m.source_labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let parts = [
        ("server name", names),
        ("called address", nets),
        ("source", m.source.map_or_else(String::new, |net| net.to_string())),
        ("source labels", labels),
        ("source namespace", m.source_namespace.as_deref().unwrap_or_default().to_owned()),
    ];
    let said: Vec<_> =
        parts.iter().filter(|(_, what)| !what.is_empty()).map(|(of, what)| format!("{of} {what}")).collect();
    if said.is_empty() { "every connection".to_owned() } else { said.join(", ") }
}

impl Compiler<'_> {
    /// What concerns connections: of these routes, which are of connections alone, and of the VirtualServices of a host where
    /// there is none for all callers.
    pub(super) fn tcp(&self, host: &str, attached: &Attached<'_>) -> TcpRoutes {
        let mut all = TcpRoutes::default();
        attached.each(|routes, callers| gateway::add(self.world, routes, callers, &mut all));
        if attached.producers.is_empty() {
            self.tcp_of_virtual_services(host, &attached.namespaces(), &mut all);
        }
        all
    }

    /// The rules of all VirtualServices of a host, for all callers but those of these namespaces.
    fn tcp_of_virtual_services(&self, host: &str, except: &Arc<[Arc<str>]>, all: &mut TcpRoutes) {
        for v in virtual_services_with(self.world, self.sources, host, |v| !v.tls.is_empty()) {
            let routes = v.tls.iter().map(|route| (&route.matches, &route.targets));
            self.add_tcp(v, "tls", routes, except, all);
        }
        for v in virtual_services_with(self.world, self.sources, host, |v| !v.tcp.is_empty()) {
            let routes = v.tcp.iter().map(|route| (&route.matches, &route.targets));
            self.add_tcp(v, "tcp", routes, except, all);
        }
    }

    /// The rules of one list.
    fn add_tcp<'r>(
        &self,
        v: &VirtualService,
        list: &'static str,
        routes: impl Iterator<Item = (&'r Vec<ConnectionMatch>, &'r Vec<WeightedTarget>)>,
        except: &Arc<[Arc<str>]>,
        all: &mut TcpRoutes,
    ) {
        let object = ObjectKey::new(Kind::VirtualService, v.name.clone());
        let source = all.source(object.clone(), &ForCallers { only: &v.export_to, except });
        let rule = |(position, (matches, targets)): (usize, (&Vec<ConnectionMatch>, &Vec<WeightedTarget>))| {
            let here: Vec<_> = matches.iter().filter(|m| self.is_here(&m.gateways, m.port)).cloned().collect();
            // Its conditions are all for other ports, or for gateways.
            if here.is_empty() && !matches.is_empty() {
                return None;
            }
            let target =
                |one: &WeightedTarget| TcpTarget { cluster: Ok(self.cluster(v, &one.target)), weight: one.weight };
            let targets = targets.iter().map(target).collect();
            Some(TcpRule { object: object.clone(), list, position, source, matches: here, targets })
        };
        all.extend(routes.enumerate().filter_map(rule));
    }
}

#[cfg(test)]
mod tests;
