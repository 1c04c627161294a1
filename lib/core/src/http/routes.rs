//! The routes of a Service's port: the rules of all VirtualServices for its host, or of the routes of the Gateway API that
//! are attached to it, compiled, and the clusters that they lead to. Compiled anew when an object changes; requests under way keep those that they began with.

mod tcp;

use std::{collections::BTreeSet, sync::Arc};

use super::{
    ClusterKey, Clusters, Host, RequestHead, RetryPolicy,
    attached::Attached,
    cluster::service_of,
    gateway_rules,
    matcher::Matcher,
    rule::{ForCallers, Place, Route, RouteAction, Rule, RuleSource, Weighted, is_catch_all},
    rules_of_host::virtual_services,
};
use crate::{
    Kind, ObjectKey, ObjectName, World,
    objects::{HttpAction, HttpMatch, HttpPolicy, HttpRoute, MESH_GATEWAY, RouteTarget, VirtualService},
    resolve::Sources,
    world::Service,
};

pub use self::tcp::{ConnectionHead, TcpRoutes, TcpRule, TcpTarget, TcpWay};

/// The rules of one Service's port, in order.
#[derive(Clone, Debug)]
pub struct Routes {
    pub(super) sources: Vec<RuleSource>,
    pub(super) rules: Vec<Rule>,
    matcher: Matcher,
    /// Where requests go that no object with rules is for: the Service itself.
    pub(super) own: ClusterKey,
    pub(super) own_retry: RetryPolicy,
}

/// The routes of a Service's port, and the clusters that they lead to.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The rules.
    pub routes: Routes,
    /// Those of what is no HTTP.
    pub tcp: TcpRoutes,
    /// Every cluster that one of them names, and the Service's own.
    pub clusters: Clusters,
}

impl Compiled {
    /// Some rule leads to a backend that does not exist, and may exist with the next Service.
    #[must_use]
    pub fn has_broken_targets(&self) -> bool {
        self.routes.has_broken_targets() || self.tcp.has_broken_targets()
    }
}

/// What concerns requests to this port of a Service, and connections that are no HTTP. Routes of the Gateway API that are
/// attached to it count in the place of VirtualServices, and those of the sender's namespace in the place of others.
#[must_use]
pub fn compile(world: &World, sources: &Sources, service: &Service, port: u16) -> Compiled {
    let own = ClusterKey::of(service, port);
    let (of_requests, of_connections) = Attached::of(sources, service, port).by_layer();
    let compiler = Compiler { world, sources, port };
    let tcp = compiler.tcp(&service.hostname, &of_connections);
    let mut all = Ordered::default();
    of_requests.each(|routes, callers| gateway_rules::add(world, routes, callers, &mut all));
    if of_requests.producers.is_empty() {
        compiler.add(&service.hostname, &of_requests.namespaces(), &mut all);
    }
    let Ordered { sources: objects, rules } = all;
    let mut clusters = Clusters::default();
    let named = rules.iter().flat_map(Rule::clusters).chain(tcp.clusters()).chain([&own]);
    let named: BTreeSet<_> = named.cloned().collect();
    named.into_iter().for_each(|key| clusters.add(world, sources, key));
    let matcher = Matcher::new(rules.iter().map(Rule::path_key));
    let own_retry = RetryPolicy::mesh_default();
    Compiled { routes: Routes { sources: objects, rules, matcher, own, own_retry }, tcp, clusters }
}

/// Rules in order, with the objects that they are of.
#[derive(Default)]
pub(super) struct Ordered {
    sources: Vec<RuleSource>,
    rules: Vec<Rule>,
}

impl Ordered {
    /// An object whose rules follow; answers its position.
    pub(super) fn source(&mut self, object: ObjectKey, callers: &ForCallers<'_>) -> usize {
        self.sources.push(callers.source(object));
        self.sources.len().saturating_sub(1)
    }

    pub(super) fn extend(&mut self, rules: impl IntoIterator<Item = Rule>) {
        self.rules.extend(rules);
    }
}

impl Routes {
    /// All rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The cluster of the Service itself, which requests go to that no object is for.
    #[must_use]
    pub const fn own_cluster(&self) -> &ClusterKey {
        &self.own
    }

    /// The whole name of the Service that they are of.
    #[must_use]
    pub fn host(&self) -> &Arc<str> {
        &self.own.host
    }

    fn has_broken_targets(&self) -> bool {
        self.rules.iter().any(Rule::is_broken)
    }

    /// The objects whose rules are for the sender of this request, in order.
    pub(super) fn objects_for<'r>(&'r self, head: &RequestHead<'_>) -> impl Iterator<Item = &'r ObjectKey> {
        self.sources.iter().filter(|source| source.is_for(head.source.namespace)).map(|source| &source.object)
    }

    /// The first rule that a request matches.
    pub(super) fn find(&self, head: &RequestHead<'_>) -> Option<&Rule> {
        let rule = |number: u32| self.rules.get(usize::try_from(number).ok()?);
        let is_for =
            |rule: &Rule| self.sources.get(rule.source).is_some_and(|source| source.is_for(head.source.namespace));
        let holds = |number: u32| rule(number).is_some_and(|rule| is_for(rule) && rule.holds(head));
        self.matcher.first(head.path_alone(), holds).and_then(rule)
    }

    /// Some object is for the sender of this request.
    pub(super) fn is_routed(&self, head: &RequestHead<'_>) -> bool {
        self.sources.iter().any(|source| source.is_for(head.source.namespace))
    }
}

impl Rule {
    fn is_broken(&self) -> bool {
        let RouteAction::Forward(targets) = &self.route.action else { return false };
        targets.iter().any(|target| target.cluster.is_err())
    }

    /// The clusters that it leads to, with their weights; none where it leads to none.
    pub fn targets(&self) -> impl Iterator<Item = (&ClusterKey, u32)> {
        let targets = match &self.route.action {
            RouteAction::Forward(targets) => targets.as_slice(),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => &[],
        };
        targets.iter().filter_map(|target| Some((target.cluster.as_ref().ok()?, target.weight)))
    }

    /// Every cluster that it names.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterKey> {
        self.targets().map(|(cluster, _)| cluster).chain(self.route.mirrors.iter().map(|(cluster, _)| cluster))
    }
}

struct Compiler<'a> {
    world: &'a World,
    sources: &'a Sources,
    /// The called one.
    port: u16,
}

impl Compiler<'_> {
    /// The rules of all VirtualServices of a host, for all callers but those of these namespaces.
    fn add(&self, host: &str, except: &Arc<[Arc<str>]>, all: &mut Ordered) {
        let mut last = Vec::new();
        for v in virtual_services(self.world, self.sources, host) {
            let rules = self.virtual_service(all.sources.len(), v);
            // One without a rule for this port is not for its requests, as if it did not exist.
            if rules.is_empty() {
                continue;
            }
            let object = ObjectKey::new(Kind::VirtualService, v.name.clone());
            all.source(object, &ForCallers { only: &v.export_to, except });
            // Behind a rule that every request matches, nothing is reached: also not where another object's rules follow.
            for rule in rules {
                if rule.is_catch_all() {
                    last.push(rule);
                    break;
                }
                all.rules.push(rule);
            }
        }
        all.rules.append(&mut last);
    }

    /// Its rules, in order.
    fn virtual_service(&self, number: usize, v: &VirtualService) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (at, route) in v.http.iter().enumerate() {
            let outer = self.conditions(v, at, route);
            match &route.action {
                HttpAction::Delegate(name) => {
                    for (place, condition) in &outer {
                        rules.extend(self.delegate(number, name, place, condition.as_ref(), &route.policy));
                    }
                }
                action => {
                    let Some(compiled) = self.route(v, action, &route.policy).map(Arc::new) else { continue };
                    rules.extend(outer.into_iter().map(|(place, condition)| Rule {
                        place,
                        through: None,
                        name: route.name.clone(),
                        conditions: condition.into_iter().collect(),
                        source: number,
                        route: Arc::clone(&compiled),
                    }));
                }
            }
        }
        rules
    }

    /// The ways to match a route that calls of this port inside the mesh can take.
    fn conditions(&self, v: &VirtualService, at: usize, route: &HttpRoute) -> Vec<(Place, Option<HttpMatch>)> {
        let key = ObjectKey::new(Kind::VirtualService, v.name.clone());
        let place = |condition| Place { key: key.clone(), route: at, condition };
        if route.matches.is_empty() {
            return vec![(place(None), None)];
        }
        let here = route.matches.iter().enumerate().filter(|(_, m)| self.is_here(&m.gateways, m.port));
        here.map(|(i, m)| (place(Some(i)), Some(m.clone()))).collect()
    }

    /// A condition is on calls of this port inside the mesh.
    fn is_here(&self, gateways: &[Arc<str>], port: Option<u16>) -> bool {
        let is_in_mesh = gateways.is_empty() || gateways.iter().any(|gateway| &**gateway == MESH_GATEWAY);
        is_in_mesh && port.is_none_or(|port| port == self.port)
    }

    /// The routes of another VirtualService, under the conditions of the one that delegates to it. As in Istio a delegate
    /// has no hosts, and delegates to none.
    fn delegate(
        &self,
        number: usize,
        name: &ObjectName,
        through: &Place,
        outer: Option<&HttpMatch>,
        policy: &HttpPolicy,
    ) -> Vec<Rule> {
        let inner = self.sources.virtual_service(name);
        let Some(inner) = inner.filter(|v| v.hosts.is_empty() && v.is_exported_to(Some(through.key.name.namespace())))
        else {
            return Vec::new();
        };
        let mut rules = Vec::new();
        for (at, route) in inner.http.iter().enumerate() {
            let Some(compiled) = self.route(inner, &route.action, &inherited(&route.policy, policy)) else { continue };
            let compiled = Arc::new(compiled);
            rules.extend(self.conditions(inner, at, route).into_iter().map(|(place, own)| Rule {
                place,
                through: Some(through.clone()),
                name: route.name.clone(),
                conditions: outer.cloned().into_iter().chain(own).filter(|m| !is_empty(m)).collect(),
                source: number,
                route: Arc::clone(&compiled),
            }));
        }
        rules
    }

    /// What is done; nothing of a route that delegates.
    fn route(&self, v: &VirtualService, action: &HttpAction, policy: &HttpPolicy) -> Option<Route> {
        let action = match action {
            HttpAction::Forward(targets) => {
                let target = |t: &crate::objects::WeightedTarget| Weighted {
                    cluster: Ok(self.cluster(v, &t.target)),
                    weight: t.weight,
                    headers: t.headers.clone(),
                };
                RouteAction::Forward(targets.iter().map(target).collect())
            }
            HttpAction::Redirect(redirect) => RouteAction::Redirect(redirect.clone()),
            HttpAction::Respond(response) => RouteAction::Respond(response.clone()),
            HttpAction::Delegate(_) => return None,
        };
        let mirrors = policy.mirrors.iter().map(|m| (self.cluster(v, &m.target), m.share));
        Some(Route {
            action,
            rewrite: policy.rewrite.clone(),
            timeout: policy.timeout.flatten(),
            retry: RetryPolicy::of(policy.retries.as_ref()),
            fault: policy.fault.clone(),
            mirrors: mirrors.collect(),
            cors: policy.cors.clone(),
            headers: policy.headers.clone(),
            is_grpc: false,
        })
    }

    /// A target without a port is called at the called one; a Service that has a single other one, there.
    fn cluster(&self, v: &VirtualService, target: &RouteTarget) -> ClusterKey {
        let host: Arc<str> = match &*target.host.qualified(v.name.namespace(), &self.world.settings().cluster_domain) {
            Host::Name(name) => Arc::clone(name),
            other => other.to_string().into(),
        };
        let only = || match service_of(self.world, &host)?.ports.as_slice() {
            [only] => Some(only.port),
            _ => None,
        };
        let port = target.port.or_else(only).unwrap_or(self.port);
        ClusterKey { host, subset: target.subset.clone(), port }
    }
}

fn is_empty(condition: &HttpMatch) -> bool {
    condition.uri.is_none() && is_catch_all(condition)
}

/// What a delegate's route does not say, the route says that delegates to it.
fn inherited(own: &HttpPolicy, outer: &HttpPolicy) -> HttpPolicy {
    fn or<T: Clone>(own: &Option<T>, outer: &Option<T>) -> Option<T> {
        own.clone().or_else(|| outer.clone())
    }
    let pairs = |own: &[(Arc<str>, Arc<str>)], outer: &[(Arc<str>, Arc<str>)]| {
        let missing = outer.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name));
        own.iter().chain(missing).cloned().collect::<Vec<_>>()
    };
    let changes = |own: &crate::objects::HeaderChanges, outer: &crate::objects::HeaderChanges| {
        let more = outer.remove.iter().filter(|name| !own.remove.contains(name));
        crate::objects::HeaderChanges {
            set: pairs(&own.set, &outer.set),
            add: pairs(&own.add, &outer.add),
            remove: own.remove.iter().chain(more).cloned().collect(),
        }
    };
    HttpPolicy {
        rewrite: or(&own.rewrite, &outer.rewrite),
        timeout: or(&own.timeout, &outer.timeout),
        retries: or(&own.retries, &outer.retries),
        fault: or(&own.fault, &outer.fault),
        mirrors: if own.mirrors.is_empty() { outer.mirrors.clone() } else { own.mirrors.clone() },
        cors: or(&own.cors, &outer.cors),
        headers: crate::objects::HeaderOperations {
            request: changes(&own.headers.request, &outer.headers.request),
            response: changes(&own.headers.response, &outer.headers.response),
        },
    }
}

#[cfg(test)]
pub(super) mod tests;
