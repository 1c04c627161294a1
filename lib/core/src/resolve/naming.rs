//! Which VirtualServices and DestinationRules name a host, and which routes of the Gateway API a Service: what is compiled
//! for one Service asks here, and reads no other object. Kept with every change of an object, in maps that versions share.
//!
//! What must hold: the answers are those of reading every object. A property compares the two.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdSet;

use super::Sources;
use crate::{
    Kind, ObjectKey, ObjectName,
    http::Host,
    objects::{DestinationRule, GatewayRoute, Object, ReferenceGrant, VirtualService},
};

/// A host as objects name it. A short name is one of the object's own namespace in any domain of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Short(ObjectName),
    Whole(Host),
}

impl Named {
    fn new(host: &Host, namespace: &str) -> Self {
        match host {
            Host::Name(short) if !short.contains('.') => Self::Short(ObjectName::new(namespace, short)),
            whole => Self::Whole(whole.clone()),
        }
    }
}

/// Objects of one kind by the hosts that they name.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(OrdSet<(Named, ObjectName)>);

impl Hosts {
    /// Those that mean this whole name by a host, of one namespace or of all: the most precise first, level by level.
    /// `service` is the Service of the host, where it is one's.
    pub(super) fn levels<'a, 'k>(
        &'a self,
        host: &'k str,
        service: Option<&'k ObjectName>,
        namespace: Option<&'k str>,
    ) -> impl Iterator<Item = BTreeSet<&'a ObjectName>> + use<'a, 'k> {
        let exact = [service.map(|name| Named::Short(name.clone())), Some(Named::Whole(Host::Name(host.into())))];
        let has_wildcards = self.has_wildcards();
        let ends = host.char_indices().map(|(at, _)| at).filter(move |at| *at > 0 && has_wildcards);
        let ends = ends.filter_map(|at| Some(vec![Named::Whole(Host::Below(host.get(at..)?.into()))]));
        let levels = std::iter::once(exact.into_iter().flatten().collect());
        let levels = levels.chain(ends).chain(std::iter::once(vec![Named::Whole(Host::Any)]));
        levels.map(move |level| level.iter().flat_map(|named| self.get(named, namespace)).collect())
    }

    fn get(&self, named: &Named, namespace: Option<&str>) -> Vec<&ObjectName> {
        let first = (named.clone(), ObjectName::new(namespace.unwrap_or_default(), ""));
        let of_namespace = |name: &ObjectName| namespace.is_none_or(|namespace| name.namespace() == namespace);
        let found = self.0.range(first..).take_while(|(known, name)| known == named && of_namespace(name));
        found.map(|(_, name)| name).collect()
    }

    fn has_wildcards(&self) -> bool {
        let first = (Named::Whole(Host::Below("".into())), ObjectName::new("", ""));
        self.0.range(first..).next().is_some_and(|(named, _)| matches!(named, Named::Whole(Host::Below(_))))
    }
}

/// What is named, by all kinds of routing.
#[derive(Clone, Debug, Default)]
pub(super) struct Naming {
    /// By `spec.hosts`.
    pub(super) virtual_services: Hosts,
    /// By `spec.host`.
    pub(super) destination_rules: Hosts,
    /// Services, and the routes of the Gateway API that name them as a parent.
    routes: OrdSet<(ObjectName, ObjectKey)>,
}

impl Naming {
    /// An object was `old` and is `new`.
    pub(super) fn change(&mut self, old: Option<&Object>, new: Option<&Object>) {
        for object in old.into_iter() {
            self.each(object, false);
        }
        for object in new.into_iter() {
            self.each(object, true);
        }
    }

    /// The routes of a kind that name this Service as a parent.
    fn routes_of<'a>(&'a self, service: &'a ObjectName, kind: Kind) -> impl Iterator<Item = &'a ObjectKey> + 'a {
        let first = (service.clone(), ObjectKey::new(kind, ObjectName::new("", "")));
        let is_one = move |known: &ObjectName, route: &ObjectKey| known == service && route.kind == kind;
        self.routes.range(first..).take_while(move |(known, route)| is_one(known, route)).map(|(_, route)| route)
    }

    fn each(&mut self, object: &Object, is_there: bool) {
        match object {
            Object::VirtualService(v) => {
                let hosts = v.hosts.iter().map(|host| Named::new(host, v.name.namespace()));
                hosts.for_each(|named| put(&mut self.virtual_services.0, (named, v.name.clone()), is_there));
            }
            Object::DestinationRule(rule) => {
                let named = Named::new(&rule.host, rule.name.namespace());
                put(&mut self.destination_rules.0, (named, rule.name.clone()), is_there);
            }
            Object::GatewayRoute(route) => {
                for service in parents(route) {
                    put(&mut self.routes, (service.clone(), route.key()), is_there);
                }
            }
            _ => {}
        }
    }
}

impl Sources {
    /// The VirtualService of this name.
    #[must_use]
    pub fn virtual_service(&self, name: &ObjectName) -> Option<&Arc<VirtualService>> {
        match self.get(&ObjectKey::new(Kind::VirtualService, name.clone())) {
            Some(Object::VirtualService(v)) => Some(v),
            _ => None,
        }
    }

    /// The VirtualServices that mean this whole name by one of their hosts, those that say most about it first, level by
    /// level. `service` is the Service of the host.
    pub(crate) fn virtual_services_of<'a, 'k>(
        &'a self,
        host: &'k str,
        service: Option<&'k ObjectName>,
    ) -> impl Iterator<Item = Vec<&'a Arc<VirtualService>>> + use<'a, 'k> {
        let levels = self.naming.virtual_services.levels(host, service, None);
        levels.map(|level| level.into_iter().filter_map(|name| self.virtual_service(name)).collect())
    }

    /// The same of the DestinationRules of one namespace.
    pub(crate) fn destination_rules_of<'a, 'k>(
        &'a self,
        host: &'k str,
        service: &'k ObjectName,
        namespace: &'k str,
    ) -> impl Iterator<Item = Vec<&'a Arc<DestinationRule>>> + use<'a, 'k> {
        let levels = self.naming.destination_rules.levels(host, Some(service), Some(namespace));
        levels.map(|level| level.into_iter().filter_map(|name| self.destination_rule(name)).collect())
    }

    /// The routes of the Gateway API that name this Service as a parent, by kind and name.
    pub fn routes_of<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = &'a Arc<GatewayRoute>> {
        [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute]
            .into_iter()
            .flat_map(move |kind| self.routes_of_kind(service, kind))
    }

    /// The same, of one kind, by name.
    pub(crate) fn routes_of_kind<'a>(
        &'a self,
        service: &'a ObjectName,
        kind: Kind,
    ) -> impl Iterator<Item = &'a Arc<GatewayRoute>> {
        self.naming.routes_of(service, kind).filter_map(|key| match self.get(key) {
            Some(Object::GatewayRoute(route)) => Some(route),
            _ => None,
        })
    }

    /// The ReferenceGrants of a namespace, by name.
    pub fn reference_grants<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<ReferenceGrant>> {
        self.of_kind(Kind::ReferenceGrant, Some(namespace)).filter_map(|object| match object {
            Object::ReferenceGrant(grant) => Some(grant),
            _ => None,
        })
    }

    /// The DestinationRule of this name.
    #[must_use]
    pub fn destination_rule(&self, name: &ObjectName) -> Option<&Arc<DestinationRule>> {
        match self.get(&ObjectKey::new(Kind::DestinationRule, name.clone())) {
            Some(Object::DestinationRule(rule)) => Some(rule),
            _ => None,
        }
    }
}

fn parents(route: &Arc<GatewayRoute>) -> impl Iterator<Item = &ObjectName> {
    route.parents.iter().filter_map(|parent| parent.target.service())
}

fn put<T: Ord + Clone>(set: &mut OrdSet<T>, one: T, is_there: bool) {
    match is_there {
        true => drop(set.insert(one)),
        false => drop(set.remove(&one)),
    }
}
