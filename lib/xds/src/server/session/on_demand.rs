//! Random subscriptions: every name that is asked for is answered, and in the end the client has the newest version of
//! all that it is subscribed to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::testing::{resource, resources};

const ADDRESS: &str = ResourceKind::Address.type_url();

#[derive(Clone, Debug)]
enum Step {
    Subscribe(Vec<u8>),
    Unsubscribe(Vec<u8>),
    /// A resource changes its version and its alias, or goes.
    Change(u8, Option<(u8, u8)>),
    Publish,
    /// The response on its way is answered.
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    let names = || prop::collection::vec(0..9_u8, 1..3);
    prop_oneof![
        2 => names().prop_map(Step::Subscribe),
        1 => names().prop_map(Step::Unsubscribe),
        3 => (0..4_u8, prop::option::weighted(0.7, (0..5_u8, 4..8_u8))).prop_map(|(name, body)| Step::Change(name, body)),
        2 => Just(Step::Publish),
        4 => Just(Step::Answer),
    ]
}

/// 0 to 3 are resources, 4 to 7 aliases.
fn name(number: u8) -> String {
    if number == 8 { "*".into() } else { format!("n{number}") }
}

struct Client {
    session: Session,
    catalog: Catalog,
    world: BTreeMap<u8, (u8, u8)>,
    wildcard: bool,
    names: BTreeSet<String>,
    asked: BTreeSet<String>,
    /// Body and aliases of what the client has.
    view: BTreeMap<String, (String, Vec<String>)>,
    nonce: String,
    now: Instant,
}

impl Client {
    fn new(limits: Limits) -> Self {
        let catalog = Catalog::first(resources("1", [], []));
        let (session, now) = (Session::new(catalog.clone(), limits), Instant::now());
        let mut client = Self {
            session,
            catalog,
            world: BTreeMap::new(),
            wildcard: false,
            names: BTreeSet::new(),
            asked: BTreeSet::new(),
            view: BTreeMap::new(),
            nonce: String::new(),
            now,
        };
        let star = || vec!["*".to_owned()];
        client.send(star(), star(), String::new());
        client.now += Duration::from_secs(2);
        client
    }

    fn send(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>, nonce: String) {
        let request = DeltaDiscoveryRequest {
            type_url: ADDRESS.into(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            response_nonce: nonce,
            ..Default::default()
        };
        self.session.receive(request, self.now).unwrap();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(numbers) => {
                let names: Vec<String> = numbers.into_iter().map(name).collect();
                for name in &names {
                    self.wildcard |= name == "*";
                    self.names.insert(name.clone());
                    self.asked.insert(name.clone());
                }
                self.send(names, Vec::new(), String::new());
            }
            Step::Unsubscribe(numbers) => {
                let names: Vec<String> = numbers.into_iter().map(name).collect();
                for name in &names {
                    self.wildcard &= name != "*";
                    self.names.remove(name);
                    self.asked.remove(name);
                }
                let (wildcard, names_left) = (self.wildcard, &self.names);
                let wanted = |name: &String| names_left.contains(name);
                self.view.retain(|name, (_, aliases)| wildcard || wanted(name) || aliases.iter().any(wanted));
                self.send(Vec::new(), names, String::new());
            }
            Step::Change(name, Some(body)) => drop(self.world.insert(name, body)),
            Step::Change(name, None) => drop(self.world.remove(&name)),
            Step::Publish => self.publish(),
            Step::Answer => {
                let nonce = std::mem::take(&mut self.nonce);
                self.send(Vec::new(), Vec::new(), nonce);
            }
        }
        self.take();
    }

    fn publish(&mut self) {
        let all = self
            .world
            .iter()
            .map(|(number, (version, alias))| resource(&name(*number), &version.to_string(), &[&name(*alias)]));
        self.catalog = self.catalog.next(resources("1", all, []));
        self.session.publish(self.catalog.clone());
    }

    fn take(&mut self) {
        while let Some(response) = self.session.poll(self.now) {
            self.nonce.clone_from(&response.nonce);
            for resource in response.resources {
                self.asked.remove(&resource.name);
                self.asked.retain(|asked| !resource.aliases.contains(asked));
                let body = resource.resource.unwrap_or_default().value;
                let body = String::from_utf8_lossy(&body).into_owned();
                self.view.insert(resource.name, (body, resource.aliases));
            }
            for name in response.removed_resources {
                self.asked.remove(&name);
                self.view.remove(&name);
            }
        }
    }

    /// Lets all arrive.
    fn settle(&mut self) {
        self.publish();
        self.take();
        while !self.nonce.is_empty() {
            self.step(Step::Answer);
        }
    }
}

proptest! {
    #[test]
    fn what_is_subscribed_to_is_the_newest(steps in prop::collection::vec(step(), 0..80), part in 1..4_usize) {
        let mut client = Client::new(Limits { response_resources: part, ..Limits::default() });
        for step in steps {
            client.step(step);
        }
        client.settle();
        client.asked.remove("*");
        prop_assert_eq!(&client.asked, &BTreeSet::new(), "not answered");
        for (number, (version, alias)) in &client.world {
            if client.wildcard || client.names.contains(&name(*number)) || client.names.contains(&name(*alias)) {
                let seen = client.view.get(&name(*number)).map(|(body, _)| body);
                prop_assert_eq!(seen, Some(&version.to_string()), "{} is old or absent", name(*number));
            }
        }
        for number in 0..4 {
            let followed = client.wildcard || client.names.contains(&name(number));
            let gone = !client.world.contains_key(&number);
            prop_assert!(!(followed && gone && client.view.contains_key(&name(number))), "{} stayed", name(number));
        }
    }
}
