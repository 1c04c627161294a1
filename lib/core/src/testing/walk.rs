//! A walk through Worlds: small changes, one after the other, as a cluster makes them. Its own file because a walk
//! keeps what is there and changes one thing about it, and most of its pods have addresses of their own and can talk;
//! where [`some_object`](super::some_object) makes up the worst.

use std::{net::IpAddr, sync::Arc};

use proptest::{prelude::*, sample::select};

use super::{
    NAMESPACES, some_gateway, some_labels, some_namespace, some_node, some_peer_authentication, some_pod, some_policy,
    some_service, some_slice, some_weight,
};
use crate::{
    Few, ObjectName,
    authz::Rule,
    enrol::DATAPLANE_MODE,
    labels::Labels,
    objects::{Batch, Object, Phase, Pod},
    resolve::{Model, Sources},
    world::{Action, AuthorizationPolicy},
};

/// One change. Numbers name what is there, modulo how many there are: a walk can be cut anywhere, and still makes
/// sense.
#[derive(Clone, Debug)]
pub enum Step {
    /// This object comes, or becomes this.
    Put(Object),
    /// An object goes.
    Remove(usize),
    /// A pod's labels change.
    Labels(usize, Arc<Labels>),
    /// A pod's service account.
    Account(usize, &'static str),
    /// A pod's addresses.
    Addresses(usize, Few<IpAddr>),
    /// A pod becomes ready, or is ready no longer.
    Ready(usize),
    /// A pod's weight.
    Weight(usize, u16),
    /// A pod ends, or runs.
    Phase(usize),
    /// Nothing changes: a World of another version.
    Nothing,
}

impl Step {
    /// The change that this step makes of these objects.
    #[must_use]
    pub fn batch(&self, sources: &Sources) -> Batch {
        let mut batch = Batch::default();
        let mut edit = |n: &usize, change: &mut dyn FnMut(&mut Pod)| {
            let count = sources.pods().count();
            if let Some(pod) = sources.pods().nth(n % count.max(1)) {
                let mut pod = Pod::clone(pod);
                change(&mut pod);
                batch.put(pod);
            }
        };
        match self {
            Self::Labels(n, labels) => edit(n, &mut |pod| pod.labels = labels.as_ref().clone()),
            Self::Account(n, account) => edit(n, &mut |pod| pod.service_account = (*account).into()),
            Self::Addresses(n, addresses) => edit(n, &mut |pod| pod.addresses.clone_from(addresses)),
            Self::Weight(n, weight) => edit(n, &mut |pod| pod.weight = *weight),
            Self::Ready(n) => edit(n, &mut |pod| pod.ready = !pod.ready),
            Self::Phase(n) => edit(n, &mut |pod| {
                pod.phase = if pod.phase == Phase::Running { Phase::Terminal } else { Phase::Running };
            }),
            Self::Put(object) => batch.put(object.clone()),
            Self::Remove(n) => {
                let object = sources.objects().nth(n % sources.len().max(1));
                object.into_iter().for_each(|(key, _)| batch.remove(key.clone()));
            }
            Self::Nothing => {}
        }
        batch
    }
}

fn some_addresses() -> impl Strategy<Value = Few<IpAddr>> {
    (1u8..12, 1u16..12, 0u8..3).prop_map(|(v4, v6, families)| {
        let (v4, v6) = (IpAddr::from([10, 0, 0, v4]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, v6]));
        match families {
            0 => Few::one(v4),
            1 => Few::one(v6),
            _ => Few::from([v4, v6]),
        }
    })
}

/// Mostly in the mesh, mostly running, and mostly with addresses that no other pod has.
fn some_usual_pod() -> impl Strategy<Value = Pod> {
    let odd = || prop::bool::weighted(0.1);
    (some_pod(), odd(), odd(), odd()).prop_map(|(mut w, odd_address, odd_phase, odd_mode)| {
        let namespace = NAMESPACES.iter().position(|n| *n == w.name.namespace()).unwrap_or(0);
        let number = w.name.name().trim_start_matches('x').parse::<usize>().unwrap_or(0);
        let own = namespace * 4 + number;
        if !odd_address {
            w.addresses = Few::from([
                IpAddr::from([10, 0, 0, u8::try_from(own).unwrap_or(0)]),
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(own).unwrap_or(0)]),
            ]);
        }
        if !odd_phase {
            w = Pod {
                phase: Phase::Running,
                ready: true,
                draining: false,
                deleted: false,
                host_network: false,
                proxy: None,
                ..w
            };
        }
        if !odd_mode {
            w.labels.insert(DATAPLANE_MODE.into(), "ambient".into());
        }
        w
    })
}

/// One of each namespace, and most ALLOW policies allow all.
fn one_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    (some_policy(), prop::bool::weighted(0.6)).prop_map(|(mut policy, allows_all)| {
        policy.name = ObjectName::new(policy.name.namespace(), "x1");
        if allows_all && policy.action == Action::Allow {
            policy.rules.push(Rule::default());
        }
        policy
    })
}

/// Any step of a walk.
pub fn some_step() -> impl Strategy<Value = Step> {
    let object = prop_oneof![
        6 => some_usual_pod().prop_map(Object::from),
        3 => some_service().prop_map(Object::from),
        1 => some_slice().prop_map(Object::from),
        1 => some_node().prop_map(Object::from),
        1 => some_gateway().prop_map(Object::from),
        2 => some_namespace().prop_map(Object::from),
        4 => one_policy().prop_map(Object::from),
        3 => some_peer_authentication().prop_map(Object::from),
    ];
    prop_oneof![
        10 => object.prop_map(Step::Put),
        4 => any::<usize>().prop_map(Step::Remove),
        3 => (any::<usize>(), some_labels()).prop_map(|(n, labels)| Step::Labels(n, labels.into())),
        1 => (any::<usize>(), select(vec!["x1", "x2", "x3"])).prop_map(|(n, account)| Step::Account(n, account)),
        1 => (any::<usize>(), some_addresses()).prop_map(|(n, addresses)| Step::Addresses(n, addresses)),
        1 => any::<usize>().prop_map(Step::Ready),
        1 => (any::<usize>(), some_weight()).prop_map(|(n, weight)| Step::Weight(n, weight)),
        1 => any::<usize>().prop_map(Step::Phase),
        1 => Just(Step::Nothing),
    ]
}

/// A call of an address. Numbers are modulo how many there are.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which pod calls.
    pub from: usize,
    /// Which address of the World it calls.
    pub to: usize,
    /// On which port.
    pub port: u16,
    /// The dice.
    pub roll: u64,
}

/// Any call.
pub fn some_call() -> impl Strategy<Value = Call> {
    let parts = (any::<usize>(), any::<usize>(), select(vec![80u16, 443, 8080]), any::<u64>());
    parts.prop_map(|(from, to, port, roll)| Call { from, to, port, roll })
}

/// Everything that a World derives from its facts, and what was found about its objects, as text: models that answer
/// alike have equal ones.
#[must_use]
pub fn answers(model: &Model) -> String {
    let world = model.world();
    let mut text = format!("{:?}\n", model.sources().findings().collect::<Vec<_>>());
    for ip in world.addresses() {
        text += &format!("{ip} {:?}\n", world.addressed(ip));
    }
    for w in world.workloads() {
        let policies: Vec<_> = world.authorization_policies(w).map(|p| &p.name).collect();
        let mtls: Vec<_> = [80, 443, 8080].iter().map(|port| world.mtls(w, *port)).collect();
        let speaks: Vec<_> = world.identities().map(|identity| world.speaks_for_callers_of(identity, w)).collect();
        text += &format!("{w:?} {:?} {policies:?} {mtls:?} {speaks:?}\n", world.identity(w));
    }
    for s in world.services() {
        let endpoints: Vec<_> = world.endpoints(&s.name).map(|(w, e)| (&w.uid, e)).collect();
        let waypoint = s.waypoint.as_ref().map(|waypoint| (world.instances(waypoint), world.identities_of(waypoint)));
        text += &format!("{s:?} {} {endpoints:?} {waypoint:?}\n", world.is_in_mesh(s));
    }
    for node in super::NODES {
        text += &format!("{node} {:?}\n", model.local_pods(node));
    }
    text
}
