//! What must hold for every directory.

use proptest::{prelude::*, sample::Index};
use underpass_config::{
    json,
    testing::{print, served, some_manifest, some_manifests, some_served, to_json},
};
use underpass_core::{objects::Object, provision, resolve::Model};
use underpass_door::{Observation, Severity, Update};

use crate::Shelf;

/// Objects spread over files, several documents each.
fn files(objects: &[Object], homes: &[Index], count: usize) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = (0..count).map(|i| (format!("{i}.yaml"), String::new())).collect();
    for (object, home) in objects.iter().zip(homes) {
        let text = &mut files[home.index(count)].1;
        *text += "---\n";
        *text += &print(object);
    }
    // An empty file does not take back what it gave.
    files.retain(|(_, text)| !text.is_empty());
    files
}

fn read(files: &[(String, String)]) -> (Shelf, String) {
    let mut shelf = Shelf::new();
    let said = put(&mut shelf, files);
    (shelf, said)
}

fn put(shelf: &mut Shelf, files: &[(String, String)]) -> String {
    let files: Vec<_> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    errors(&shelf.put(&files))
}

/// Errors only: what a waypoint's label means here is a warning.
fn errors(update: &Update) -> String {
    update.errors().map(|p| format!("{p}\n")).collect()
}

fn homes() -> impl Strategy<Value = Vec<Index>> {
    proptest::collection::vec(any::<Index>(), 12)
}

/// These objects of files, with what stands beside them.
fn model(objects: impl IntoIterator<Item = Object>) -> Model {
    let objects: Vec<_> = objects.into_iter().collect();
    let derived = provision::derived(&objects, |key| objects.iter().any(|object| object.key() == *key));
    underpass_core::testing::model(objects.iter().cloned().chain(derived.into_values()))
}

fn check_same(got: &Shelf, expect: &Model) -> Result<(), TestCaseError> {
    let (got, expect): (Vec<_>, Vec<_>) = (got.sources().objects().collect(), expect.sources().objects().collect());
    prop_assert!(got == expect, "got {got:#?}\nexpected {expect:#?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn printed_objects_are_read_back(object in some_manifest()) {
        for (file, text) in [("a.yaml", print(&object)), ("a.json", to_json(&object).to_string())] {
            let mut shelf = Shelf::new();
            let update = shelf.put(&[(file, &text)]);
            prop_assert_eq!(errors(&update), "", "{}", text);
            check_same(&shelf, &model([object.clone()]))?;
        }
    }

    #[test]
    fn an_api_server_gives_the_same_object(object in some_manifest(), adds in some_served()) {
        let text = served(&object, adds).to_string();
        let claim = json::object(object.key().kind, &text).expect("a name");
        prop_assert!(claim.faults.iter().all(|f| f.fault.severity() < Severity::Error), "{:?}: {text}", claim.faults);
        prop_assert_eq!(&*claim.resource_version, adds.resource_version.to_string());
        prop_assert_eq!((claim.key, claim.observed), (object.key(), Observation::Good(object)), "{}", text);
    }

    #[test]
    fn no_order_of_files_and_documents_matters(
        objects in some_manifests(),
        homes in homes(),
        shuffled in Just(()).prop_perturb(|(), rng| rng),
    ) {
        let (shelf, said) = read(&files(&objects, &homes, 3));
        prop_assert_eq!(said, "");
        check_same(&shelf, &model(objects.clone()))?;
        let mut rng = shuffled;
        let mut mixed = objects;
        for i in (1..mixed.len()).rev() {
            mixed.swap(i, rng.random_range(0..=i));
        }
        let mut files = files(&mixed, &homes, 4);
        files.reverse();
        check_same(&read(&files).0, &shelf.model)?;
    }

    #[test]
    fn going_from_one_state_to_another_is_reading_the_other(
        before in some_manifests(),
        after in some_manifests(),
        homes in homes(),
    ) {
        let (mut shelf, _) = read(&files(&before, &homes, 3));
        put(&mut shelf, &files(&after, &homes, 2));
        check_same(&shelf, &model(after))?;
    }

    #[test]
    fn moving_objects_between_files_is_no_change(objects in some_manifests(), one in homes(), other in homes()) {
        let (mut shelf, _) = read(&files(&objects, &one, 3));
        let moved = files(&objects, &other, 5);
        let moved: Vec<_> = moved.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        prop_assert!(shelf.put(&moved).batch.is_empty());
    }

    #[test]
    fn a_broken_document_changes_no_other(
        objects in some_manifests().prop_filter("some", |o| !o.is_empty()),
        homes in homes(),
        which in any::<Index>(),
        how in 0..BREAKERS.len(),
        at in any::<Index>(),
    ) {
        let which = which.index(objects.len());
        let mut texts: Vec<String> = objects.iter().map(print).collect();
        let text = &mut texts[which];
        let line = at.index(text.lines().count());
        let place = text.split_inclusive('\n').take(line).map(str::len).sum();
        text.insert_str(place, BREAKERS[how]);
        let mut broken: Vec<(String, String)> = (0..3).map(|i| (format!("{i}.yaml"), String::new())).collect();
        for (text, home) in texts.iter().zip(&homes) {
            broken[home.index(3)].1 += &format!("---\n{text}");
        }

        // while running: everything stays
        let (mut shelf, _) = read(&files(&objects, &homes, 3));
        let said = put(&mut shelf, &broken);
        prop_assert!(said.contains("error: "), "{said}");
        prop_assert!(said.contains(&format!("{}.yaml", homes[which].index(3))), "{said}");
        check_same(&shelf, &model(objects.clone()))?;

        // and at start all others are there
        let (fresh, _) = read(&broken);
        for object in objects.iter().enumerate().filter(|(i, _)| *i != which).map(|(_, o)| o) {
            let fresh: Vec<&Object> = fresh.sources().get(&object.key()).into_iter().collect();
            prop_assert_eq!(fresh, vec![object], "{}", said);
        }

        // mended, it is as if nothing had been
        put(&mut shelf, &files(&objects, &homes, 3));
        check_same(&shelf, &model(objects))?;
    }
}

/// Lines that no document survives, wherever they stand.
const BREAKERS: &[&str] = &["}\n", "\"open\n", "- : [\n", "*none\n", "\u{1}\n", "kind: 1\nkind: 2\n"];
