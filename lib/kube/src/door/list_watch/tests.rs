//! The states of a collection as tables: events in, outputs and actions out.

use super::*;

/// A collection under test, and its clock.
struct Rig {
    machine: ListWatch<&'static str>,
    now: Instant,
}

/// Every delay is half of what it may be.
const RANDOM: u64 = 0;

impl Rig {
    fn new(versions: usize) -> Self {
        let (machine, action) = ListWatch::begin(versions);
        assert_eq!(action, list(0, PAGE, None));
        Self { machine, now: Instant::now() }
    }

    /// One that watches from version 10.
    fn watching() -> Self {
        let mut rig = Self::new(1);
        rig.check(page("10", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "10")));
        rig
    }

    #[track_caller]
    fn check(&mut self, event: Event<&'static str>, output: Option<Output<&'static str>>, action: Option<Action>) {
        let described = format!("{event:?} in {:?}", self.machine);
        let step = self.machine.next(event, self.now, RANDOM);
        assert_eq!(step, Step { output, action }, "{described}");
    }

    /// It fails, waits for `ms`, and then does this.
    #[track_caller]
    fn fails(&mut self, failure: Failure, ms: u64, then: Action) {
        self.check(Event::Failed(failure), None, Some(wait(ms)));
        self.check(Event::Waited, None, Some(then));
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }
}

fn page(version: &str, items: &[&'static str], next: Option<&str>) -> Event<&'static str> {
    Event::Page { version: version.into(), items: items.to_vec(), next: next.map(Arc::from) }
}

fn list(at: usize, limit: u32, next: Option<&str>) -> Action {
    Action::List { at, limit, next: next.map(Arc::from) }
}

fn watch(at: usize, from: &str) -> Action {
    Action::Watch { at, from: from.into() }
}

/// As short as a delay may be.
fn wait(ms: u64) -> Action {
    Action::Wait(Duration::from_millis(ms))
}

fn put(version: &str, item: &'static str) -> Event<&'static str> {
    Event::Put { version: version.into(), item }
}

fn bookmark(version: &str) -> Event<&'static str> {
    Event::Bookmark { version: version.into() }
}

fn name(text: &str) -> ObjectName {
    ObjectName::new("ns", text)
}

fn removed(version: &str, of: &str) -> Event<&'static str> {
    Event::Removed { version: version.into(), name: name(of) }
}

fn other() -> Failure {
    Failure::Other { cause: "500".into(), is_refusal: false, retry_after: None }
}

fn refusal() -> Failure {
    Failure::Other { cause: "400".into(), is_refusal: true, retry_after: None }
}

#[test]
fn pages_make_one_list() {
    let mut rig = Rig::new(1);
    rig.check(page("7", &["a", "b"], Some("t1")), None, Some(list(0, PAGE, Some("t1"))));
    rig.check(page("7", &[], Some("t2")), None, Some(list(0, PAGE, Some("t2"))));
    assert_eq!(rig.machine.health().phase, Phase::Listing);
    rig.check(page("7", &["c"], None), Some(Output::Replaced(vec!["a", "b", "c"])), Some(watch(0, "7")));
    let health = rig.machine.health();
    assert_eq!((health.phase, &*health.resource_version, health.synced), (Phase::Watching, "7", Some(rig.now)));
}

#[test]
fn a_page_that_failed_is_asked_for_again() {
    let mut rig = Rig::new(1);
    rig.check(page("7", &["a"], Some("t1")), None, Some(list(0, PAGE, Some("t1"))));
    rig.fails(other(), 250, list(0, PAGE, Some("t1")));
    rig.fails(other(), 500, list(0, PAGE, Some("t1")));
    rig.check(page("7", &["b"], None), Some(Output::Replaced(vec!["a", "b"])), Some(watch(0, "7")));
}

#[test]
fn a_list_whose_rest_is_gone_begins_again() {
    let mut rig = Rig::new(1);
    rig.check(page("7", &["a"], Some("t1")), None, Some(list(0, PAGE, Some("t1"))));
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
    rig.check(page("9", &["b"], Some("t2")), None, Some(list(0, PAGE, Some("t2"))));
    rig.fails(Failure::Expired, 250, list(0, PAGE, None));
    rig.check(page("11", &["b"], None), Some(Output::Replaced(vec!["b"])), Some(watch(0, "11")));
}

#[test]
fn pages_that_are_too_large_become_smaller() {
    let mut rig = Rig::new(1);
    for limit in [250, 125, 62, 31, 15, 7, 3, 1] {
        rig.check(Event::Failed(Failure::TooLarge), None, Some(list(0, limit, None)));
    }
    rig.fails(Failure::TooLarge, 250, list(0, 1, None));
    assert!(rig.machine.health().error.is_some());
}

#[test]
fn changes_move_the_version_on_and_repetitions_are_none() {
    let mut rig = Rig::watching();
    rig.check(Event::Opened, None, None);
    rig.check(put("12", "b"), Some(Output::Put("b")), None);
    rig.check(put("12", "b"), None, None);
    rig.check(put("9", "old"), None, None);
    rig.check(removed("13", "b"), Some(Output::Removed(name("b"))), None);
    rig.check(bookmark("20"), None, None);
    rig.check(bookmark("15"), None, None);
    rig.check(put("14", "late"), None, None);
    rig.after(5_000).check(Event::Ended, None, Some(watch(0, "20")));
    // versions without an order are taken as they come
    rig.check(put("x", "c"), Some(Output::Put("c")), None);
    rig.check(put("a", "d"), Some(Output::Put("d")), None);
    rig.after(5_000).check(Event::Ended, None, Some(watch(0, "a")));
}

#[test]
fn watches_that_end_soon_are_not_begun_at_once() {
    let mut rig = Rig::watching();
    rig.check(Event::Ended, None, Some(wait(250)));
    assert_eq!(rig.machine.health().error.map(|(cause, _)| cause), Some("the watch ended at once".into()));
    rig.check(Event::Waited, None, Some(watch(0, "10")));
    rig.check(Event::Ended, None, Some(wait(500)));
    rig.check(Event::Waited, None, Some(watch(0, "10")));
    rig.check(bookmark("11"), None, None);
    rig.check(Event::Ended, None, Some(wait(250)));
    assert_eq!(rig.machine.health().error, None);
    rig.check(Event::Waited, None, Some(watch(0, "11")));
    rig.after(4_999).check(Event::Ended, None, Some(wait(250)));
    rig.check(Event::Waited, None, Some(watch(0, "11")));
    rig.after(5_000).check(Event::Ended, None, Some(watch(0, "11")));
}

#[test]
fn a_watch_that_expired_lists_again() {
    let mut rig = Rig::watching();
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
    assert_eq!(rig.machine.health().error, None);
    rig.check(page("30", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "30")));
    // again, without a word in between: not at once
    rig.fails(Failure::Expired, 250, list(0, PAGE, None));
    rig.check(page("40", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "40")));
    rig.fails(Failure::Expired, 500, list(0, PAGE, None));
    rig.check(page("50", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "50")));
    rig.check(bookmark("51"), None, None);
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
}

#[test]
fn a_restored_server_counts_from_an_earlier_version() {
    let mut rig = Rig::watching();
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
    rig.check(page("3", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "3")));
    rig.check(put("4", "b"), Some(Output::Put("b")), None);
}

#[test]
fn failures_wait_ever_longer_and_keep_the_version() {
    let mut rig = Rig::watching();
    for ms in [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
        rig.fails(other(), ms, watch(0, "10"));
    }
    let failed = rig.now;
    rig.after(60_000);
    rig.fails(other(), 15_000, watch(0, "10"));
    let since = rig.machine.health().error.map(|(_, since)| since);
    assert_eq!(since, Some(failed), "since the first failure in a row");
    rig.check(Event::Opened, None, None);
    assert_eq!(rig.machine.health().error, None);
    // a watch that only opens has not shown that it works
    rig.fails(other(), 15_000, watch(0, "10"));
    rig.check(put("11", "b"), Some(Output::Put("b")), None);
    rig.fails(other(), 250, watch(0, "11"));
    let after = |seconds| Failure::Other {
        cause: "429".into(),
        is_refusal: false,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    rig.fails(after(7), 7_000, watch(0, "11"));
    rig.fails(after(3_600), 30_000, watch(0, "11"));
}

#[test]
fn a_version_that_is_refused_again_and_again_is_given_up() {
    let mut rig = Rig::watching();
    rig.fails(refusal(), 250, watch(0, "10"));
    rig.fails(refusal(), 500, watch(0, "10"));
    rig.fails(other(), 1_000, watch(0, "10"));
    rig.fails(refusal(), 2_000, watch(0, "10"));
    rig.fails(refusal(), 4_000, watch(0, "10"));
    rig.fails(refusal(), 8_000, list(0, PAGE, None));
}

#[test]
fn an_absent_kind_is_looked_for() {
    let mut rig = Rig::new(2);
    rig.check(Event::Failed(Failure::Absent), None, Some(list(1, PAGE, None)));
    rig.check(Event::Failed(Failure::Absent), Some(Output::Absent), Some(wait(250)));
    assert_eq!((rig.machine.health().phase, rig.machine.health().synced), (Phase::Absent, Some(rig.now)));
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    // said once
    rig.check(Event::Failed(Failure::Absent), None, Some(list(1, PAGE, None)));
    rig.check(Event::Failed(Failure::Absent), None, Some(wait(500)));
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    // the earlier version alone is served
    rig.check(Event::Failed(Failure::Absent), None, Some(list(1, PAGE, None)));
    rig.check(page("5", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(1, "5")));
    // and then the later one alone
    rig.check(Event::Failed(Failure::Absent), None, Some(list(0, PAGE, None)));
    rig.check(page("6", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "6")));
}

#[test]
fn objects_outlive_a_moment_without_their_kind() {
    let mut rig = Rig::watching();
    rig.check(Event::Failed(Failure::Absent), None, Some(list(0, PAGE, None)));
    rig.fails(Failure::Absent, 250, list(0, PAGE, None));
    rig.fails(Failure::Absent, 500, list(0, PAGE, None));
    rig.check(Event::Failed(Failure::Absent), Some(Output::Absent), Some(wait(1_000)));
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    rig.check(page("50", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "50")));
    // counted from there
    rig.fails(Failure::Absent, 250, list(0, PAGE, None));
    rig.fails(Failure::Absent, 250, list(0, PAGE, None));
}

impl Rig {
    /// Others have reached this version; the kind is listed anew after so many milliseconds, or never.
    #[track_caller]
    fn is_overtaken(&mut self, by: u64, ms: Option<u64>) -> &mut Self {
        self.check(Event::Overtaken { version: by }, None, None);
        assert_eq!(self.machine.overdue(), ms.map(|ms| self.now + Duration::from_millis(ms)));
        self
    }
}

#[test]
fn a_kind_that_stays_overtaken_is_listed_anew() {
    let mut rig = Rig::watching();
    rig.is_overtaken(10, None).is_overtaken(12, Some(2_000)).after(1_000).is_overtaken(13, Some(1_000));
    rig.check(Event::Overdue, None, None);
    rig.after(1_000).check(Event::Overdue, None, Some(list(0, PAGE, None)));
    rig.check(page("14", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "14")));
    // Not again before a while has passed, and not for what was reached.
    rig.after(1_000).is_overtaken(14, None).is_overtaken(20, Some(14_000));
    rig.check(bookmark("19"), None, None);
    assert!(rig.machine.overdue().is_some());
    rig.check(put("20", "b"), Some(Output::Put("b")), None);
    assert_eq!(rig.machine.overdue(), None);
    rig.after(60_000).check(Event::Overdue, None, None);
    rig.is_overtaken(21, Some(2_000));
    // A watch that failed begins again first.
    rig.check(Event::Failed(other()), None, Some(wait(250)));
    assert_eq!(rig.machine.overdue(), None);
    rig.after(2_000).check(Event::Overdue, None, None);
    rig.check(Event::Waited, None, Some(watch(0, "20")));
    rig.check(Event::Overdue, None, Some(list(0, PAGE, None)));
    // A list that is no newer, as of a store that was restored, is not asked for again until another says so.
    rig.check(page("15", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "15")));
    assert_eq!(rig.machine.overdue(), None);
}

#[test]
fn a_list_anew_that_fails_leaves_the_watch_as_it_was() {
    let mut rig = Rig::watching();
    rig.is_overtaken(12, Some(2_000)).after(2_000).check(Event::Overdue, None, Some(list(0, PAGE, None)));
    rig.check(page("14", &["a"], Some("t1")), None, Some(list(0, PAGE, Some("t1"))));
    rig.fails(other(), 250, watch(0, "10"));
    assert!(!rig.machine.has_listed_anew());
    rig.check(put("11", "b"), Some(Output::Put("b")), None);
    assert_eq!(rig.machine.overdue(), Some(rig.now + Duration::from_secs(15)));
    rig.after(15_000).check(Event::Overdue, None, Some(list(0, PAGE, None)));
    // What is gone between two pages is asked for once more.
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
    rig.check(page("15", &["b"], None), Some(Output::Replaced(vec!["b"])), Some(watch(0, "15")));
    assert!(rig.machine.has_listed_anew() && !rig.machine.has_listed_anew());
    assert_eq!(rig.machine.overdue(), None);
}

#[test]
fn a_list_anew_that_expires_and_fails_is_listed_on() {
    let mut rig = Rig::watching();
    rig.is_overtaken(12, Some(2_000)).after(2_000).check(Event::Overdue, None, Some(list(0, PAGE, None)));
    // The store was restored: a watch from the version before would not tell what has been there since an earlier one.
    rig.check(Event::Failed(Failure::Expired), None, Some(list(0, PAGE, None)));
    rig.check(Event::Failed(other()), None, Some(wait(500)));
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    rig.check(page("9", &["b"], None), Some(Output::Replaced(vec!["b"])), Some(watch(0, "9")));
    assert!(rig.machine.has_listed_anew());
    assert_eq!(rig.machine.overdue(), None);
}

#[test]
fn an_absent_kind_is_known_to_be_so_up_to_what_was_known_before_it_was_asked_for() {
    let mut rig = Rig::new(1);
    let version = |rig: &Rig| rig.machine.health().resource_version.to_string();
    rig.check(Event::Failed(Failure::Absent), Some(Output::Absent), Some(wait(250)));
    assert_eq!(version(&rig), "0");
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    rig.machine.asks(40);
    rig.check(Event::Failed(Failure::Absent), None, Some(wait(500)));
    assert_eq!(version(&rig), "40");
    // It is looked for sooner where others have reached more.
    rig.is_overtaken(40, None).is_overtaken(41, Some(2_000)).after(2_000);
    rig.check(Event::Overdue, None, Some(list(0, PAGE, None)));
    rig.check(Event::Waited, None, None);
    rig.machine.asks(50);
    rig.check(page("50", &["a"], None), Some(Output::Replaced(vec!["a"])), Some(watch(0, "50")));
}

#[test]
fn what_does_not_belong_to_the_action_is_ignored() {
    let mut rig = Rig::new(1);
    for event in
        [put("1", "x"), removed("1", "x"), bookmark("1"), Event::Ended, Event::Opened, Event::Waited, Event::Overdue]
    {
        rig.check(event, None, None);
    }
    rig.check(Event::Failed(other()), None, Some(wait(250)));
    for event in [put("1", "x"), page("1", &["x"], None), Event::Ended, Event::Failed(Failure::Expired)] {
        rig.check(event, None, None);
    }
    rig.check(Event::Waited, None, Some(list(0, PAGE, None)));
    let mut rig = Rig::watching();
    rig.check(page("90", &["x"], None), None, None);
    assert_eq!(&*rig.machine.health().resource_version, "10");
}
