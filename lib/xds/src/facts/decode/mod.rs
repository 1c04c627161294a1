//! Changes of resources, decoded into changes of facts.
//!
//! What is served of a resource, by what came and what was served before:
//!
//! ```text
//!                     nothing                    a stand-in           a good version
//! good                it                         it                   it
//! bad policy          what closes it: stand-in   a stand-in           the last good one
//! bad converted one   plaintext refused          plaintext refused    the last good one
//! bad address         nothing                                         the last good one
//! removed             nothing                    nothing              nothing; a converted one counts while it is named
//! ```

mod converted;
mod exact;
pub(super) mod plain;
mod policy;
mod service;
mod unknown;
mod values;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use underpass_core::{
    Kind, ObjectKey, ObjectName,
    world::{AuthorizationPolicy, Fact, FactKey, Facts, MeshSettings, Uid, Workload},
};
use underpass_door::{Effect, Fault, ObjectId, Path, Problem, ResourceFault, Source};

use self::{converted::Refused, policy::Bad};
pub(super) use self::{
    service::balancing,
    workload::{WEIGHT, endpoints},
};
use super::names;
use crate::{
    contract::{
        istio::workload::{Address, address::Type},
        underpass::v1::MtlsSources,
    },
    resource::{Change, ResourceKind},
};

/// What follows from changes of resources.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Changes of facts, which become visible together.
    pub facts: Facts,
    /// The problems of these resources, with the kind of each.
    pub problems: Vec<(ResourceKind, Problem)>,
}

/// A field, empty for the whole, and its fault.
pub(super) type Faulty = (String, Fault);

/// The facts behind the address of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Served {
    Workload(Uid),
    Service(ObjectName),
}

/// What a policy of one name is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// A fact.
    Good,
    /// A fact in its place, under this name.
    StandIn(ObjectName),
    /// No fact: modes of workloads.
    Converted(Refused),
    /// The same, never understood.
    Closed,
    /// The same, removed while workloads name it.
    Gone(Refused),
}

/// A workload that names converted policies.
#[derive(Debug)]
struct Naming {
    /// As it was read: without policies and modes.
    workload: Arc<Workload>,
    policies: Box<[ObjectName]>,
    by: Option<MtlsSources>,
}

/// Remembers what was served, and which workloads name which converted policies.
#[derive(Debug)]
pub struct Decoder {
    settings: Arc<MeshSettings>,
    addresses: BTreeMap<Arc<str>, Served>,
    policies: BTreeMap<ObjectName, Known>,
    naming: BTreeMap<Uid, Naming>,
    /// By converted policy: who names it.
    named: BTreeMap<ObjectName, BTreeSet<Uid>>,
    problems: BTreeMap<(ResourceKind, Arc<str>), Vec<Problem>>,
}

impl Decoder {
    /// Without resources. Other settings of the mesh are another decoder, which is given all resources anew.
    #[must_use]
    pub const fn new(settings: Arc<MeshSettings>) -> Self {
        Self {
            settings,
            addresses: BTreeMap::new(),
            policies: BTreeMap::new(),
            naming: BTreeMap::new(),
            named: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// All current problems, by kind and resource.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Takes changes, in the order they came.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Decoded {
        let (mut step, mut touched) = (Step::default(), BTreeSet::new());
        for Change { kind, name, body, .. } in changes {
            let problems = match kind {
                ResourceKind::Address => self.address(&name, body.as_deref(), &mut step),
                ResourceKind::Authorization => self.authorization(&name, body.as_deref(), &mut step),
            };
            let key = (kind, name);
            match problems.is_empty() {
                true => drop(self.problems.remove(&key)),
                false => drop(self.problems.insert(key.clone(), problems)),
            }
            touched.insert(key);
        }
        for naming in step.renamed.iter().filter_map(|uid| self.naming.get(uid)) {
            step.facts.put(Fact::Workload(Arc::new(self.finished(naming))));
        }
        for name in step.unnamed.iter().filter(|name| !self.named.contains_key(*name)) {
            if let Some(Known::Gone(_)) = self.policies.get(name) {
                self.policies.remove(name);
            }
        }
        let of = |key: &(ResourceKind, Arc<str>)| {
            let all = self.problems.get(key).into_iter().flatten();
            all.map(|problem| (key.0, problem.clone())).collect::<Vec<_>>()
        };
        let problems = touched.iter().flat_map(of).collect();
        Decoded { facts: step.facts, problems }
    }

    fn address(&mut self, name: &Arc<str>, body: Option<&[u8]>, step: &mut Step) -> Vec<Problem> {
        let Some(body) = body else {
            if let Some(served) = self.addresses.remove(name) {
                self.remove(served, step);
            }
            return Vec::new();
        };
        let told = |(field, fault): Faulty, effect| problem(name, None, &field, fault, effect);
        match self.read(name, body) {
            Ok(read) => {
                let served = match &read {
                    Read::Workload(read) => Served::Workload(read.workload.uid.clone()),
                    Read::Service(service) => Served::Service(service.name.clone()),
                };
                let before = self.addresses.insert(Arc::clone(name), served.clone());
                if let Some(before) = before.filter(|before| *before != served) {
                    self.remove(before, step);
                }
                match read {
                    Read::Service(service) => {
                        step.facts.put(Fact::Service(service));
                        Vec::new()
                    }
                    Read::Workload(mut read) => {
                        let warnings = std::mem::take(&mut read.warnings);
                        self.put(*read, step);
                        warnings.into_iter().map(|warning| told(warning, None)).collect()
                    }
                }
            }
            Err(faulty) => {
                let effect = if self.addresses.contains_key(name) { Effect::LastGood } else { Effect::Absent };
                vec![told(faulty, Some(effect))]
            }
        }
    }

    fn read(&self, name: &str, body: &[u8]) -> Result<Read, Faulty> {
        let whole = |fault: ResourceFault| (String::new(), Fault::from(fault));
        let message = Address::decode(body)
            .map_err(|error| whole(ResourceFault::Unreadable { message: error.to_string().into() }))?;
        let (read, found) = match message.r#type.ok_or_else(|| whole(ResourceFault::UnknownType))? {
            Type::Workload(message) => {
                let read = workload::workload(&self.settings, &message)?;
                (Read::Workload(Box::new(read)), message.uid)
            }
            Type::Service(message) => {
                let service = service::service(&self.settings, &message)?;
                (Read::Service(Arc::new(service)), format!("{}/{}", message.namespace, message.hostname))
            }
        };
        if found != name {
            return Err(whole(ResourceFault::OtherName { found: found.into() }));
        }
        Ok(read)
    }

    fn put(&mut self, read: workload::Read, step: &mut Step) {
        let workload::Read { mut workload, policies, by, .. } = read;
        let uid = workload.uid.clone();
        self.forget_naming(&uid, step);
        let root = &*self.settings.root_namespace;
        let converted = policies.iter().filter(|name| converted::is_converted(root, name));
        let mut names_some = false;
        for name in converted {
            names_some = true;
            self.named.entry(name.clone()).or_default().insert(uid.clone());
        }
        if !names_some {
            workload.mtls = converted::mtls(root, &[], by.as_ref());
            workload.policies = policies.into();
            return step.facts.put(Fact::Workload(Arc::new(workload)));
        }
        let (workload, policies) = (Arc::new(workload), policies.into());
        self.naming.insert(uid.clone(), Naming { workload, policies, by });
        step.renamed.insert(uid);
    }

    fn remove(&mut self, served: Served, step: &mut Step) {
        match served {
            Served::Workload(uid) => {
                self.forget_naming(&uid, step);
                step.facts.remove(FactKey::Workload(uid));
            }
            Served::Service(name) => step.facts.remove(FactKey::Service(name)),
        }
    }

    /// A removed policy that no workload names any more is forgotten with the last one.
    fn forget_naming(&mut self, uid: &Uid, step: &mut Step) {
        step.renamed.remove(uid);
        let Some(naming) = self.naming.remove(uid) else { return };
        for name in &naming.policies {
            let Some(users) = self.named.get_mut(name) else { continue };
            users.remove(uid);
            if users.is_empty() {
                self.named.remove(name);
                step.unnamed.insert(name.clone());
            }
        }
    }

    fn authorization(&mut self, text: &Arc<str>, body: Option<&[u8]>, step: &mut Step) -> Vec<Problem> {
        let Some(name) = names::split(text) else {
            let fault = Fault::Name { found: Arc::clone(text), rule: "namespace/name" };
            return body.map(|_| problem(text, None, "", fault, Some(Effect::Absent))).into_iter().collect();
        };
        let may_convert = converted::is_converted(&self.settings.root_namespace, &name);
        if may_convert {
            step.renamed.extend(self.named.get(&name).into_iter().flatten().cloned());
        }
        let Some(body) = body else {
            let now = match self.policies.get(&name) {
                Some(Known::Converted(refused) | Known::Gone(refused)) if self.named.contains_key(&name) => {
                    Some(Known::Gone(refused.clone()))
                }
                _ => None,
            };
            self.serve(&name, now, None, step);
            return Vec::new();
        };
        let Bad { field, fault, stand_in } = match policy::read(&self.settings, &name, may_convert, body) {
            Ok(policy::Read::Policy(policy)) => {
                self.serve(&name, Some(Known::Good), Some(policy), step);
                return Vec::new();
            }
            Ok(policy::Read::Converted(refused)) => {
                self.serve(&name, Some(Known::Converted(refused)), None, step);
                return Vec::new();
            }
            Err(bad) => bad,
        };
        let effect = match self.policies.get(&name) {
            Some(Known::Good | Known::Converted(_) | Known::Gone(_)) => Effect::LastGood,
            _ if may_convert => {
                self.serve(&name, Some(Known::Closed), None, step);
                Effect::Closed
            }
            _ => {
                let effect = if stand_in.is_some() { Effect::Closed } else { Effect::Absent };
                let now = stand_in.as_ref().map(|it| Known::StandIn(it.name.clone()));
                self.serve(&name, now, stand_in.map(|it| *it), step);
                effect
            }
        };
        vec![problem(text, Some(&name), &field, fault, Some(effect))]
    }

    /// The policy of this name is `now`, with `fact` where that is one.
    fn serve(&mut self, name: &ObjectName, now: Option<Known>, fact: Option<AuthorizationPolicy>, step: &mut Step) {
        let former = match self.policies.remove(name) {
            Some(Known::Good) => Some(name.clone()),
            Some(Known::StandIn(other)) => Some(other),
            Some(Known::Converted(_) | Known::Closed | Known::Gone(_)) | None => None,
        };
        let is_other = |former: &ObjectName| fact.as_ref().is_none_or(|fact| fact.name != *former);
        if let Some(former) = former.filter(is_other) {
            step.facts.remove(FactKey::Policy(former));
        }
        if let Some(fact) = fact {
            step.facts.put(Fact::Policy(Arc::new(fact)));
        }
        if let Some(now) = now {
            self.policies.insert(name.clone(), now);
        }
    }

    /// The workload with its policies and modes.
    fn finished(&self, naming: &Naming) -> Workload {
        let root = &*self.settings.root_namespace;
        let (mut policies, mut modes) = (Vec::new(), Vec::new());
        for name in &naming.policies {
            let known = self.policies.get(name);
            let refused = match known {
                _ if !converted::is_converted(root, name) => None,
                Some(Known::Good | Known::StandIn(_)) => None,
                Some(Known::Converted(refused) | Known::Gone(refused)) => Some(refused.clone()),
                Some(Known::Closed) | None => Some(Refused::everything()),
            };
            match refused {
                Some(refused) => modes.push((name.clone(), refused)),
                None => policies.push(name.clone()),
            }
        }
        let mtls = converted::mtls(root, &modes, naming.by.as_ref());
        Workload { policies: policies.into(), mtls, ..naming.workload.as_ref().clone() }
    }
}

/// A message of an address, read.
enum Read {
    Workload(Box<workload::Read>),
    Service(Arc<underpass_core::world::Service>),
}

/// What one call comes to.
#[derive(Default)]
struct Step {
    facts: Facts,
    /// Workloads whose facts are to be made at the end: what they name may have changed.
    renamed: BTreeSet<Uid>,
    /// Converted policies that no workload names any more, unless one does at the end.
    unnamed: BTreeSet<ObjectName>,
}

fn problem(
    resource: &Arc<str>,
    policy: Option<&ObjectName>,
    field: &str,
    reason: Fault,
    effect: Option<Effect>,
) -> Problem {
    let source = Source::ControlPlane { resource: Arc::clone(resource) };
    let object = policy.map(|name| ObjectId::from(&ObjectKey::new(Kind::AuthorizationPolicy, name.clone())));
    Problem { object, field: Path::parse(field), effect, ..Problem::new(source, reason) }
}
