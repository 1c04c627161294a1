//! References to objects that do not exist, values that can never match, and fields with another effect than they seem
//! to have: for checks of files before they are applied. Not part of the [findings](crate::resolve::Sources::findings),
//! because while a mesh runs pods come and go and all of this is ordinary.
//!
//! What must hold: no false alarm. A namespace of which nothing is known (no pod, no template of pods) is another
//! directory's business, and nothing is said about it.

mod authorizers;
mod callers;
mod gateway_routes;
mod pods;
mod routes;
mod selection;
mod services;
mod tokens;
mod waypoints;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    ObjectKey, ObjectName,
    enrol::EnrolmentReason,
    labels::{Labels, selects},
    objects::{Object, Pod, Service},
    peer_auth,
    resolve::{Finding, Model},
    world::{Takes, Workload},
};

/// The severity of a remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing, and possibly intended.
    Notice,
    /// Probably a mistake.
    Warning,
}

/// A finding about an object, with its severity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Its severity.
    pub level: Level,
    /// The finding.
    pub finding: Finding,
}

/// All remarks, by object and field. `planned` are pods that are not there yet, and will be; `accounts`
/// are service accounts whose pods may come later, or from elsewhere.
#[must_use]
pub fn dangling(
    model: &Model,
    planned: impl IntoIterator<Item = Pod>,
    accounts: impl IntoIterator<Item = ObjectName>,
) -> Vec<Remark> {
    let pods: Vec<Arc<Pod>> = model.sources().pods().cloned().chain(planned.into_iter().map(Arc::new)).collect();
    let running = |pod: &Arc<Pod>| Some(Running { fact: model.workload_of(pod)?, pod: Arc::clone(pod) });
    let known = Known {
        model,
        namespaces: pods.iter().map(|p| p.name.namespace().into()).collect(),
        running: pods.iter().filter_map(running).collect(),
        accounts: accounts.into_iter().chain(pods.iter().map(|p| account_of(p))).collect(),
        pods,
    };
    let mut all = Vec::new();
    for (key, object) in model.sources().objects() {
        let mut say = |level, field: &str, says: String| {
            let finding = Finding { object: ObjectKey::clone(key), field: field.to_owned(), says };
            all.push(Remark { level, finding });
        };
        match object {
            Object::AuthorizationPolicy(p) => known.authorization(p, &mut say),
            Object::PeerAuthentication(p) => known.peer_authentication(p, &mut say),
            Object::Service(s) => known.service(s, &mut say),
            Object::Pod(pod) => known.pod(pod, &mut say),
            Object::VirtualService(v) => {
                known.virtual_service(v, &mut say);
                known.unenforced_virtual_service(v, &mut say);
            }
            Object::DestinationRule(rule) => {
                known.destination_rule(rule, &mut say);
                known.unenforced_destination_rule(rule, &mut say);
            }
            Object::RequestAuthentication(r) => {
                known.request_authentication(r, &mut say);
                known.unchecked_requests(r, &mut say);
            }
            Object::Gateway(gateway) => known.calls_of_pods(gateway, &mut say),
            Object::GatewayRoute(route) => {
                known.gateway_route(route, &mut say);
                known.unenforced_gateway_route(route, &mut say);
            }
            _ => {}
        }
    }
    all.extend(known.repeated_matches());
    all.sort_by(|Remark { finding: a, .. }, Remark { finding: b, .. }| {
        (&a.object, &a.field, &a.says).cmp(&(&b.object, &b.field, &b.says))
    });
    all
}

/// A pod that has not ended, there or not yet, and the fact that follows from it.
struct Running {
    pod: Arc<Pod>,
    fact: Workload,
}

impl Running {
    /// In the mesh, or will be as soon as it has an address.
    fn is_in_mesh(&self) -> bool {
        is_in_mesh(&self.fact)
    }
}

/// What is known: the objects with what follows from them, and what is not there yet.
struct Known<'m> {
    model: &'m Model,
    pods: Vec<Arc<Pod>>,
    running: Vec<Running>,
    /// Those of the pods.
    namespaces: BTreeSet<Arc<str>>,
    accounts: BTreeSet<ObjectName>,
}

type Say<'a> = &'a mut dyn FnMut(Level, &str, String);

fn is_in_mesh(fact: &Workload) -> bool {
    fact.is_enrolled() || fact.enrolment.because() == EnrolmentReason::NoAddress
}

fn account_of(pod: &Pod) -> ObjectName {
    ObjectName::new(pod.name.namespace(), Arc::clone(&pod.service_account))
}

impl Known<'_> {
    fn root(&self) -> &str {
        &self.model.world().settings().root_namespace
    }

    /// Pods of a namespace, of all where it is the root namespace.
    fn in_reach(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let everywhere = namespace == self.root();
        self.pods.iter().map(|p| &**p).filter(move |p| everywhere || p.name.namespace() == namespace)
    }

    /// A selector that fits none of the pods that it could be about.
    fn selects_nothing(&self, namespace: &str, selector: &Labels) -> bool {
        let mut pods = self.in_reach(namespace).peekable();
        pods.peek().is_some() && !pods.any(|p| selects(selector, &p.labels))
    }

    /// The files know every namespace of each pod that they have, but not this one.
    fn is_a_typo(&self, namespace: &str) -> bool {
        self.knows_namespaces()
            && self.model.sources().namespace(namespace).is_none()
            && !self.namespaces.contains(namespace)
            && !self.accounts.iter().any(|a| a.namespace() == namespace)
    }

    /// Each pod's namespace is declared: so will be the others.
    fn knows_namespaces(&self) -> bool {
        !self.namespaces.is_empty() && self.namespaces.iter().all(|n| self.model.sources().namespace(n).is_some())
    }

    fn service(&self, s: &Service, say: Say<'_>) {
        let namespace = s.name.namespace();
        let mut pods = self.pods.iter().filter(|p| p.name.namespace() == namespace).peekable();
        let selector = s.selector.as_ref().filter(|s| !s.is_empty());
        if selector.is_some_and(|sel| pods.peek().is_some() && !pods.any(|p| selects(sel, &p.labels))) {
            let says = format!("selects none of the pods of {namespace}: connections have no endpoint");
            say(Level::Warning, "spec.selector", says);
        }
        self.entry_in_plaintext(s, say);
        self.port_names(s, say);
        self.contradictions(s, say);
    }

    /// What comes from outside the cluster has no identity.
    fn entry_in_plaintext(&self, s: &Service, say: Say<'_>) {
        if s.external.is_empty() && s.node_ports.is_empty() {
            return;
        }
        let world = self.model.world();
        let current = world.endpoints(&s.name).filter(|(w, e)| is_in_mesh(w) && !e.outdated);
        let ends = current.flat_map(|(w, e)| e.ports.iter().map(move |(_, target)| (w, *target)));
        let strict = ends.filter_map(|(w, port)| match peer_auth::takes(world, w, port, &mut ()) {
            (Takes::MutualTls, policy) => policy,
            (Takes::Plaintext, _) => None,
        });
        if let Some(policy) = strict.min() {
            let says = format!(
                "callers from outside the mesh that come by its externalIPs, load balancer or node ports arrive in \
                 plaintext, which PeerAuthentication {policy} refuses"
            );
            say(Level::Warning, "spec.ports", says);
        }
    }
}

#[cfg(test)]
mod tests;
