//! Any conversation with an API server that its rules allow ends in the server's state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};
use underpass_config::json::{self, Claim};
use underpass_core::{
    Kind, ObjectKey, ObjectName,
    objects::{Change, Object},
    world::Action as Verdict,
};

use super::{
    contents::Contents,
    list_watch::{Action, Event, Failure, ListWatch, Output, Step},
};

const KIND: Kind = Kind::AuthorizationPolicy;

/// What happens at the server, or between it and us.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// An object is made or changed: which one, its content; an odd one is broken.
    Write(u8, u8),
    /// An object is deleted.
    Delete(u8),
    /// The next part of what the action asks for arrives, at most so many objects or events.
    Answer(u8),
    /// An event that the watch has passed on is passed on again.
    Repeat(u8),
    /// A bookmark.
    Bookmark,
    /// The server forgets what was: versions, and rests of lists.
    Compact,
    /// Another reader knows the server's newest version, and so long passes, in seconds.
    Overtake(u8),
    /// The watch ends.
    End,
    /// A failure.
    Fail(u8),
    /// The server is restored: it counts from an earlier version.
    Restore,
    /// What is ready is handed on.
    HandOn,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..4u8, 0..6u8).prop_map(|(which, content)| Happening::Write(which, content)),
        2 => (0..4u8).prop_map(Happening::Delete),
        8 => (1..4u8).prop_map(Happening::Answer),
        1 => any::<u8>().prop_map(Happening::Repeat),
        1 => Just(Happening::Bookmark),
        1 => Just(Happening::Compact),
        1 => (0..40u8).prop_map(Happening::Overtake),
        1 => Just(Happening::End),
        1 => (0..4u8).prop_map(Happening::Fail),
        1 => Just(Happening::Restore),
        3 => Just(Happening::HandOn),
    ]
}

/// An API server with one collection.
#[derive(Debug, Default)]
struct Server {
    version: u64,
    objects: BTreeMap<u8, (u64, u8)>,
    /// Every change that is not forgotten: its version, its object, and its content; none: deleted.
    history: Vec<(u64, u8, Option<u8>)>,
    /// Watches from before this version have expired.
    oldest: u64,
}

fn claim(which: u8, version: u64, content: u8) -> Claim {
    let rules = if content % 2 == 1 {
        r#"[{"from":[]}]"#.to_owned()
    } else {
        format!("[{}]", vec!["{}"; usize::from(content) / 2].join(","))
    };
    let text = format!(
        r#"{{"metadata":{{"name":"p{which}","namespace":"a","resourceVersion":"{version}"}},"spec":{{"rules":{rules}}}}}"#
    );
    json::object(KIND, &text).unwrap()
}

fn name(which: u8) -> ObjectName {
    ObjectName::new("a", format!("p{which}"))
}

impl Server {
    fn write(&mut self, which: u8, content: Option<u8>) {
        if content.is_none() && !self.objects.contains_key(&which) {
            return;
        }
        self.version += 1;
        self.history.push((self.version, which, content));
        match content {
            Some(content) => drop(self.objects.insert(which, (self.version, content))),
            None => drop(self.objects.remove(&which)),
        }
    }
}

fn event(change: (u64, u8, Option<u8>)) -> Event<Claim> {
    let (version, which, content) = change;
    let text: Arc<str> = version.to_string().into();
    match content {
        Some(content) => Event::Put { version: text, item: claim(which, version, content) },
        None => Event::Removed { version: text, name: name(which) },
    }
}

/// Client, server, and what has been handed on.
struct Rig {
    server: Server,
    machine: ListWatch<Claim>,
    action: Action,
    contents: Contents,
    now: Instant,
    /// The rest of the list that is under way, and the version of that list.
    list: Option<(u64, Vec<Claim>)>,
    /// The version up to which the watch has passed changes on.
    passed: u64,
    served: BTreeMap<ObjectKey, Object>,
    /// Known to be deleted since then.
    deleted: BTreeSet<ObjectKey>,
    /// Good versions that the server ever had.
    goods: BTreeSet<(ObjectKey, String)>,
}

impl Rig {
    fn new() -> Self {
        let (machine, action) = ListWatch::begin(1);
        Self {
            server: Server::default(),
            machine,
            action,
            contents: Contents::new([KIND]),
            now: Instant::now(),
            list: None,
            passed: 0,
            served: BTreeMap::new(),
            deleted: BTreeSet::new(),
            goods: BTreeSet::new(),
        }
    }

    fn tell(&mut self, event: Event<Claim>) {
        self.now += Duration::from_millis(700);
        let Step { output, action } = self.machine.next(event, self.now, 3);
        if let Some(output) = output {
            match &output {
                Output::Removed(name) => drop(self.deleted.insert(ObjectKey::new(KIND, name.clone()))),
                Output::Replaced(all) => {
                    let is_listed = |key: &ObjectKey| all.iter().any(|claim| claim.key == *key);
                    self.deleted.extend(self.served.keys().filter(|key| !is_listed(key)).cloned());
                }
                Output::Put(_) | Output::Absent => {}
            }
            self.contents.take(KIND, output);
        }
        let Some(mut action) = action else { return };
        while let Action::Wait(time) = action {
            self.now += time;
            action = self.machine.next(Event::Waited, self.now, 5).action.expect("an action after a wait");
        }
        match &action {
            Action::Watch { from, .. } => self.passed = from.parse().unwrap(),
            Action::List { next: None, .. } => self.list = None,
            _ => {}
        }
        self.action = action;
    }

    fn answer(&mut self, most: usize) {
        match self.action.clone() {
            Action::List { next, .. } => {
                let server = &self.server;
                let all = || server.objects.iter().map(|(which, (v, content))| claim(*which, *v, *content)).collect();
                let (version, mut rest) = match next {
                    Some(_) => match self.list.take() {
                        Some(list) => list,
                        None => return self.tell(Event::Failed(Failure::Expired)),
                    },
                    None => (server.version, all()),
                };
                let items = rest.drain(..most.min(rest.len())).collect();
                let next = (!rest.is_empty()).then(|| "rest".into());
                self.list = Some((version, rest));
                self.tell(Event::Page { version: version.to_string().into(), items, next });
            }
            Action::Watch { .. } if self.passed < self.server.oldest || self.passed > self.server.version => {
                self.tell(Event::Failed(Failure::Expired));
            }
            Action::Watch { .. } => {
                for _ in 0..most {
                    let next = self.server.history.iter().find(|(version, ..)| *version > self.passed).copied();
                    let (Some(next), Action::Watch { .. }) = (next, &self.action) else { return };
                    self.passed = next.0;
                    self.tell(event(next));
                }
            }
            Action::Wait(_) => unreachable!("waited out"),
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), TestCaseError> {
        let is_watching = matches!(self.action, Action::Watch { .. });
        match what {
            Happening::Write(which, content) => {
                self.server.write(which, Some(content));
                let Claim { key, observed, .. } = claim(which, 0, content);
                if content % 2 == 0 {
                    self.goods.insert((key, format!("{observed:?}")));
                }
            }
            Happening::Delete(which) => self.server.write(which, None),
            Happening::Answer(most) => self.answer(most.into()),
            Happening::Repeat(which) if is_watching => {
                let passed: Vec<_> = self.server.history.iter().filter(|(v, ..)| *v <= self.passed).copied().collect();
                if let Some(again) = passed.get(usize::from(which) % passed.len().max(1)) {
                    self.tell(event(*again));
                }
            }
            Happening::Bookmark if is_watching => {
                self.tell(Event::Bookmark { version: self.passed.to_string().into() });
            }
            Happening::Overtake(seconds) => {
                self.tell(Event::Overtaken { version: self.server.version });
                self.now += Duration::from_secs(seconds.into());
                if self.machine.overdue().is_some_and(|due| self.now >= due) {
                    self.tell(Event::Overdue);
                }
            }
            Happening::Compact => {
                (self.server.oldest, self.list) = (self.server.version, None);
            }
            Happening::End if is_watching => self.tell(Event::Ended),
            Happening::Fail(how) => {
                let other = |is_refusal| Failure::Other { cause: "x".into(), is_refusal, retry_after: None };
                self.tell(Event::Failed(match how {
                    0 => Failure::Expired,
                    1 => Failure::TooLarge,
                    2 => other(false),
                    _ => other(true),
                }));
            }
            // Every watch of what was is refused from then on: the API server has restarted.
            Happening::Restore => {
                self.server.version = self.server.version.saturating_sub(2).max(1);
                self.server.history.clear();
                (self.server.oldest, self.list) = (self.server.version, None);
                let version = self.server.version;
                self.server.objects.values_mut().for_each(|(v, _)| *v = (*v).min(version));
                self.tell(Event::Failed(Failure::Expired));
            }
            Happening::HandOn => self.hand_on()?,
            Happening::Repeat(_) | Happening::Bookmark | Happening::End => {}
        }
        Ok(())
    }

    /// Takes the update, and checks that each of its changes is one.
    fn hand_on(&mut self) -> Result<(), TestCaseError> {
        let Some(update) = self.contents.update() else { return Ok(()) };
        for change in update.batch.changes {
            match change {
                Change::Remove(key) => prop_assert!(self.served.remove(&key).is_some(), "{key} was not there"),
                Change::Put(object) => {
                    let before = self.served.insert(object.key(), object.clone());
                    prop_assert_ne!(before.as_ref(), Some(&object), "no difference");
                    prop_assert!(
                        !is_stand_in(&object) || before.is_none() || self.deleted.contains(&object.key()),
                        "a stand-in took the place of {before:?}"
                    );
                }
            }
        }
        self.deleted.clear();
        Ok(())
    }

    /// Lets everything arrive.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            let is_there = matches!(self.action, Action::Watch { .. }) && self.passed == self.server.version;
            if is_there {
                return self.hand_on();
            }
            self.answer(2);
        }
        prop_assert!(false, "never there: {:?} {:?}", self.machine, self.server);
        Ok(())
    }
}

/// The written policies are all ALLOW.
fn is_stand_in(object: &Object) -> bool {
    matches!(object, Object::AuthorizationPolicy(p) if p.action == Verdict::Deny)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_conversation_ends_in_the_state_of_the_server(all in vec(happening(), 0..60)) {
        let mut rig = Rig::new();
        for what in &all {
            rig.happen(*what)?;
        }
        rig.settle()?;
        let keys: BTreeSet<_> = rig.server.objects.keys().map(|which| ObjectKey::new(KIND, name(*which))).collect();
        prop_assert_eq!(rig.served.keys().cloned().collect::<BTreeSet<_>>(), keys);
        for (which, (version, content)) in &rig.server.objects {
            let Claim { key, observed, .. } = claim(*which, *version, *content);
            let served = &rig.served[&key];
            let text = format!("{:?}", underpass_door::Observation::Good(served.clone()));
            if content % 2 == 0 {
                prop_assert_eq!(text, format!("{observed:?}"), "the newest good version");
            } else {
                prop_assert!(is_stand_in(served) || rig.goods.contains(&(key, text)), "a good version, or closed");
            }
        }
        // and it is the end
        rig.hand_on()?;
        prop_assert!(rig.contents.update().is_none());
    }
}
