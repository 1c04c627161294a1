//! Every transition of the ledger, and that no sequence of them leaves more behind than the last good versions.

use proptest::{collection::vec, prelude::*};
use underpass_core::{
    authz::Rule,
    testing::{pod, policy},
    world::Action,
};

use super::*;

/// A version of the one policy of these tests.
fn version(action: Action, rules: usize) -> Object {
    policy("a/p", action, vec![Rule::default(); rules]).into()
}

/// A door's words in these tests: `good N`, `bad`, `bad N` with stand-in N, `unknown`, `gone`.
fn says(text: &str) -> Observation {
    let (word, version_of) = text.split_once(' ').unwrap_or((text, ""));
    let rules = version_of.parse().ok();
    match word {
        "good" => Observation::Good(version(Action::Allow, rules.expect("a version"))),
        "bad" => Observation::Bad { stand_in: rules.map(|rules| version(Action::Deny, rules)) },
        "unknown" => Observation::Unknown,
        "gone" => Observation::Gone,
        _ => panic!("{text}"),
    }
}

/// The served version: `good N`, `stand-in N` or `nothing`.
fn print(object: Option<&Object>) -> String {
    match object {
        None => "nothing".into(),
        Some(Object::AuthorizationPolicy(p)) if p.action == Action::Allow => format!("good {}", p.rules.len()),
        Some(Object::AuthorizationPolicy(p)) => format!("stand-in {}", p.rules.len()),
        Some(other) => panic!("{other:?}"),
    }
}

/// A door says one thing after another; what is served in the end, what the last word changed, and what an error leads
/// to.
#[track_caller]
fn check(words: &[&str], served: &str, changed: &str, effect: Effect) {
    let key = version(Action::Allow, 0).key();
    let mut ledger = Ledger::default();
    let change = words.iter().map(|word| ledger.apply(&key, says(word))).last().flatten();
    let change = match &change {
        None => "-".to_owned(),
        Some(Change::Put(object)) => format!("put {}", print(Some(object))),
        Some(Change::Remove(of)) if *of == key => "remove".into(),
        Some(other) => panic!("{other:?}"),
    };
    let got = (print(ledger.get(&key)), change, ledger.effect(&key));
    assert_eq!(got, (served.to_owned(), changed.to_owned(), effect), "{words:?}");
    assert_eq!(ledger.is_empty(), served == "nothing");
}

#[test]
fn cases_without_a_served_version() {
    use Effect::{Absent, Closed, LastGood};
    check(&["good 1"], "good 1", "put good 1", LastGood);
    check(&["bad 1"], "stand-in 1", "put stand-in 1", Closed);
    check(&["bad"], "nothing", "-", Absent);
    check(&["unknown"], "nothing", "-", Absent);
    check(&["gone"], "nothing", "-", Absent);
}

#[test]
fn a_good_version_goes_on_until_it_is_gone_or_there_is_a_better_one() {
    use Effect::{Absent, LastGood};
    check(&["good 1", "good 2"], "good 2", "put good 2", LastGood);
    check(&["good 1", "good 1"], "good 1", "-", LastGood);
    check(&["good 1", "bad 1"], "good 1", "-", LastGood);
    check(&["good 1", "bad"], "good 1", "-", LastGood);
    check(&["good 1", "unknown"], "good 1", "-", LastGood);
    check(&["good 1", "gone"], "nothing", "remove", Absent);
    // through any number of mistakes
    check(&["good 1", "bad", "unknown", "bad 2", "good 1"], "good 1", "-", LastGood);
    // and what is gone is not remembered
    check(&["good 1", "gone", "unknown"], "nothing", "-", Absent);
    check(&["good 1", "gone", "bad"], "nothing", "-", Absent);
}

#[test]
fn a_stand_in_goes_with_what_it_stands_in_for() {
    use Effect::{Absent, Closed, LastGood};
    check(&["bad 1", "good 1"], "good 1", "put good 1", LastGood);
    check(&["bad 1", "bad 2"], "stand-in 2", "put stand-in 2", Closed);
    check(&["bad 1", "bad 1"], "stand-in 1", "-", Closed);
    check(&["bad 1", "bad"], "nothing", "remove", Absent);
    check(&["bad 1", "unknown"], "stand-in 1", "-", Closed);
    check(&["bad 1", "gone"], "nothing", "remove", Absent);
    // it never comes back over a good version, and does where that is gone
    check(&["bad 1", "good 1", "bad 1"], "good 1", "-", LastGood);
    check(&["good 1", "gone", "bad 1"], "stand-in 1", "put stand-in 1", Closed);
}

/// A stand-in that equals the good version is told apart from it all the same.
#[test]
fn a_stand_in_is_no_good_version() {
    let (key, closed) = (version(Action::Deny, 1).key(), version(Action::Deny, 1));
    let mut ledger = Ledger::default();
    ledger.apply(&key, says("bad 1"));
    assert_eq!(ledger.apply(&key, Observation::Good(closed.clone())), None, "nothing changes");
    assert_eq!(ledger.effect(&key), Effect::LastGood);
    assert_eq!(ledger.apply(&key, says("bad 2")), None);
    assert_eq!(ledger.get(&key), Some(&closed));
}

#[test]
fn all_that_is_not_named_is_gone() {
    let pods = [pod("a/x", "10.0.0.1"), pod("a/y", "10.0.0.2"), pod("a/z", "10.0.0.3")].map(Object::from);
    let [x, y, z] = pods.clone().map(|object| (object.key(), Observation::Good(object)));
    let mut ledger = Ledger::default();
    let batch = ledger.replace([z.clone(), y.clone()].into());
    assert_eq!(batch.changes, [Change::Put(pods[1].clone()), Change::Put(pods[2].clone())]);
    // `y` may still be there, `z` is not: what goes is taken away before anything is put
    let batch = ledger.replace([x.clone(), (y.0.clone(), Observation::Unknown)].into());
    assert_eq!(batch.changes, [Change::Remove(z.0.clone()), Change::Put(pods[0].clone())]);
    assert_eq!(ledger.keys().collect::<Vec<_>>(), [&x.0, &y.0]);
    // one word about one object is none about the others
    assert_eq!(ledger.apply(&x.0, Observation::Gone), Some(Change::Remove(x.0)));
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger.replace(BTreeMap::new()).changes, [Change::Remove(y.0)]);
    assert!(ledger.is_empty());
}

/// One observation of each of a few policies.
fn some_words() -> impl Strategy<Value = BTreeMap<ObjectKey, Observation>> {
    let word = (0..3_usize, 0..6_u8, 1..4_usize).prop_map(|(which, word, rules)| {
        let version = |action| Object::from(policy(&format!("a/p{which}"), action, vec![Rule::default(); rules]));
        let says = match word {
            0 | 1 => Observation::Good(version(Action::Allow)),
            2 => Observation::Bad { stand_in: Some(version(Action::Deny)) },
            3 => Observation::Bad { stand_in: None },
            4 => Observation::Unknown,
            _ => Observation::Gone,
        };
        (version(Action::Allow).key(), says)
    });
    vec(word, 0..4).prop_map(|words| words.into_iter().collect())
}

/// The version that must be served after all observations of an object, from the last one back: the last good version
/// since it was last gone, else the last stand-in.
fn expected(history: &[Observation]) -> Option<&Object> {
    let since = history.iter().rposition(|says| *says == Observation::Gone).map_or(0, |gone| gone + 1);
    let said = || history[since..].iter().rev();
    let good = said().find_map(|says| if let Observation::Good(object) = says { Some(object) } else { None });
    let stand_in = || {
        said().find_map(|says| if let Observation::Bad { stand_in } = says { Some(stand_in.as_ref()) } else { None })
    };
    good.or_else(|| stand_in().flatten())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn only_the_last_good_versions_are_left_of_the_past(times in vec(some_words(), 1..12)) {
        let mut ledger = Ledger::default();
        let mut one_by_one = Ledger::default();
        let mut served: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut histories: BTreeMap<ObjectKey, Vec<Observation>> = BTreeMap::new();
        let keys: Vec<ObjectKey> = (0..3).map(|i| policy(&format!("a/p{i}"), Action::Deny, vec![])).map(|p| Object::from(p).key()).collect();
        for words in &times {
            for key in &keys {
                let says = words.get(key).cloned().unwrap_or(Observation::Gone);
                one_by_one.apply(key, says.clone());
                histories.entry(key.clone()).or_default().push(says);
            }
            for change in ledger.replace(words.clone()).changes {
                match change {
                    Change::Put(object) => prop_assert_ne!(served.insert(object.key(), object.clone()), Some(object)),
                    Change::Remove(key) => prop_assert!(served.remove(&key).is_some(), "{}", key),
                }
            }
            for key in &keys {
                prop_assert_eq!(ledger.get(key), expected(&histories[key]), "{:#?}", histories[key]);
                prop_assert_eq!(ledger.get(key), served.get(key), "the changes lead to what is served");
            }
            prop_assert_eq!(&ledger, &one_by_one, "all at once is one after the other");
        }
        // A ledger that was told nothing but what is served is the same.
        let mut fresh = Ledger::default();
        for (key, object) in served {
            let says = match ledger.effect(&key) {
                Effect::LastGood => Observation::Good(object),
                Effect::Closed => Observation::Bad { stand_in: Some(object) },
                Effect::Absent => panic!("{key} is served"),
            };
            fresh.apply(&key, says);
        }
        prop_assert_eq!(ledger, fresh);
    }
}
