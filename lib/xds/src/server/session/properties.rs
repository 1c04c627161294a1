//! Both ends against each other: random catalogs, deliveries, losses and refusals. In the end the client has exactly
//! the newest resources, and at no time an address without a policy that it names.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{
    client,
    resource::{self, Resource, Resources},
    testing::{resource, resources},
};

const POLICIES: u8 = 4;
const ADDRESSES: u8 = 6;

/// A step of the walk.
#[derive(Clone, Debug)]
enum Step {
    /// A policy changes or, without a version, goes, together with addresses that name it.
    Policy(u8, Option<u8>),
    /// An address changes its version and the policies that it names, or goes.
    Address(u8, Option<(u8, Vec<u8>)>),
    /// What was changed becomes the newest catalog.
    Publish,
    /// The oldest request arrives.
    Request,
    /// The oldest responses arrive together.
    Responses(usize),
    /// The stream is lost with all that is on its way.
    Lose,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let policies = prop::collection::vec(0..POLICIES, 0..3);
    prop_oneof![
        2 => (0..POLICIES, prop::option::weighted(0.7, 0..5_u8)).prop_map(|(name, version)| Step::Policy(name, version)),
        3 => (0..ADDRESSES, prop::option::weighted(0.8, (0..5_u8, policies)))
            .prop_map(|(name, body)| Step::Address(name, body)),
        3 => Just(Step::Publish),
        4 => Just(Step::Request),
        4 => (1..3_usize).prop_map(Step::Responses),
        1 => Just(Step::Lose),
        1 => (0..1_500_u64).prop_map(Step::Wait),
    ]
}

/// What users have: an address names existing policies alone.
#[derive(Default)]
struct World {
    policies: BTreeMap<u8, u8>,
    addresses: BTreeMap<u8, (u8, Vec<u8>)>,
}

impl World {
    fn resources(&self, source: u64) -> Resources {
        let policies =
            self.policies.iter().map(|(name, version)| resource(&format!("p{name}"), &version.to_string(), &[]));
        let addresses = self.addresses.iter().map(|(name, (version, policies))| {
            let names: Vec<String> = policies.iter().map(|policy| format!("p{policy}")).collect();
            resource(&format!("a{name}"), &format!("{version} {}", names.join(" ")), &[])
        });
        resources(&source.to_string(), addresses, policies)
    }
}

/// The client's program: what was applied, checked at every change.
#[derive(Default)]
struct Applied {
    policies: BTreeMap<Arc<str>, String>,
    addresses: BTreeMap<Arc<str>, String>,
    refuses: bool,
}

impl Applied {
    fn apply(&mut self, batch: client::Batch) -> Vec<client::Rejected> {
        let mut rejected = Vec::new();
        for resource::Change { kind, name, body, .. } in batch.changes {
            let body = body.map(|body| String::from_utf8(body.to_vec()).unwrap());
            if self.refuses
                && kind == ResourceKind::Address
                && body.as_deref().is_some_and(|body| body.starts_with('4'))
            {
                rejected.push(client::Rejected { kind, name, reason: "version: 4".into() });
                continue;
            }
            let map = match kind {
                ResourceKind::Address => &mut self.addresses,
                ResourceKind::Authorization => &mut self.policies,
            };
            match body {
                Some(body) => map.insert(name, body),
                None => map.remove(&name),
            };
            for (address, body) in &self.addresses {
                for policy in body.split(' ').skip(1).filter(|policy| !policy.is_empty()) {
                    assert!(self.policies.contains_key(policy), "{address} names {policy}, which is not applied");
                }
            }
        }
        rejected
    }
}

struct Pair {
    world: World,
    catalog: Catalog,
    source: u64,
    limits: Limits,
    server: Session,
    client: client::Session,
    applied: Applied,
    requests: VecDeque<DeltaDiscoveryRequest>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    now: Instant,
}

impl Pair {
    fn new(limits: Limits, refuses: bool) -> Self {
        let catalog = Catalog::first(World::default().resources(1));
        let mut pair = Self {
            world: World::default(),
            server: Session::new(catalog.clone(), limits.clone()),
            catalog,
            source: 1,
            limits,
            client: client::Session::new(client::Node::default()),
            applied: Applied { refuses, ..Applied::default() },
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            now: Instant::now(),
        };
        pair.lose();
        pair
    }

    fn lose(&mut self) {
        self.server = Session::new(self.catalog.clone(), self.limits.clone());
        self.responses.clear();
        self.requests = self.client.open().into();
    }

    fn publish(&mut self) {
        self.source += 1;
        self.catalog = self.catalog.next(self.world.resources(self.source));
        self.server.publish(self.catalog.clone());
    }

    fn poll(&mut self) {
        self.responses.extend(std::iter::from_fn(|| self.server.poll(self.now)));
    }

    fn deliver(&mut self, number: usize) {
        let number = number.min(self.responses.len());
        for response in self.responses.drain(..number) {
            assert_eq!(self.client.receive(response, self.now), client::Next::Take);
        }
        let rejected = self.applied.apply(self.client.take());
        self.requests.extend(self.client.applied(&rejected));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Policy(name, Some(version)) => drop(self.world.policies.insert(name, version)),
            Step::Policy(name, None) => {
                self.world.policies.remove(&name);
                self.world.addresses.values_mut().for_each(|(_, policies)| policies.retain(|policy| *policy != name));
            }
            Step::Address(name, Some((version, mut policies))) => {
                policies.retain(|policy| self.world.policies.contains_key(policy));
                self.world.addresses.insert(name, (version, policies));
            }
            Step::Address(name, None) => drop(self.world.addresses.remove(&name)),
            Step::Publish => self.publish(),
            Step::Request => {
                if let Some(request) = self.requests.pop_front() {
                    self.server.receive(request, self.now).unwrap();
                }
            }
            Step::Responses(number) => self.deliver(number),
            Step::Lose => self.lose(),
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
        self.poll();
    }

    /// Lets all arrive.
    fn settle(&mut self) {
        self.publish();
        self.step(Step::Wait(2_000));
        while !self.requests.is_empty() || !self.responses.is_empty() {
            self.step(Step::Request);
            self.step(Step::Responses(1));
        }
    }
}

/// The bodies, by name.
fn text(resources: &imbl::OrdMap<Arc<str>, Arc<Resource>>) -> BTreeMap<Arc<str>, String> {
    resources
        .iter()
        .map(|(name, resource)| (name.clone(), String::from_utf8_lossy(&resource.body).into_owned()))
        .collect()
}

proptest! {
    #[test]
    fn the_client_ends_with_the_newest_resources(steps in prop::collection::vec(step(), 0..120), part in 1..4_usize) {
        let mut pair = Pair::new(Limits { response_resources: part, ..Limits::default() }, false);
        for step in steps {
            pair.step(step);
        }
        pair.settle();
        prop_assert_eq!(&pair.applied.addresses, &text(&pair.catalog.resources().addresses));
        prop_assert_eq!(&pair.applied.policies, &text(&pair.catalog.resources().authorizations));
        prop_assert!(pair.client.is_complete());
        prop_assert_eq!(pair.server.phase(), Phase::Current);
    }

    #[test]
    fn what_the_client_refuses_is_all_that_it_lacks(steps in prop::collection::vec(step(), 0..120), part in 1..4_usize) {
        let mut pair = Pair::new(Limits { response_resources: part, ..Limits::default() }, true);
        for step in steps {
            // A refused address keeps naming a policy that may go, which is for its program to close.
            if !matches!(step, Step::Policy(_, None)) {
                pair.step(step);
            }
        }
        pair.settle();
        let good = |all: &BTreeMap<Arc<str>, String>| {
            let newest = text(&pair.catalog.resources().addresses);
            let bad = |name: &Arc<str>| newest.get(name).is_some_and(|body| body.starts_with('4'));
            all.iter().filter(|(name, _)| !bad(name)).map(|(name, body)| (name.clone(), body.clone())).collect()
        };
        let (applied, newest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (good(&pair.applied.addresses), good(&text(&pair.catalog.resources().addresses)));
        prop_assert_eq!(applied, newest);
        prop_assert_eq!(&pair.applied.policies, &text(&pair.catalog.resources().authorizations));
    }
}
