//! Two candidates and a record, step by step.

use super::*;

/// A clock of one candidate, and the record as an API server keeps it.
struct Scene {
    start: Instant,
    record: Option<Record>,
    version: u32,
}

impl Scene {
    fn new() -> Self {
        Self { start: Instant::now(), record: None, version: 0 }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// What the API server makes of a request.
    fn serve(&mut self, request: Request) -> Answer {
        let spec = match (request, &self.record) {
            (Request::Read, record) => return Answer::Is(record.clone()),
            (Request::Create(spec), None) => spec,
            (Request::Write { version, spec }, Some(record)) if version == record.version => spec,
            _ => return Answer::Refused,
        };
        self.version += 1;
        let record = Record { version: self.version.to_string().into(), spec };
        Answer::Written(self.record.insert(record).clone())
    }

    /// Asks and takes the answer, both at this time, `clock` being that of the candidate's machine. The pause.
    fn turn(&mut self, candidate: &mut Candidate, ms: u64, clock: SystemTime) -> u64 {
        let request = candidate.next(self.at(ms), clock);
        let answer = self.serve(request);
        candidate.take(answer, self.at(ms), self.at(ms)).as_millis() as u64
    }

    /// Turns without a pause in between.
    fn go(&mut self, candidate: &mut Candidate, ms: u64) -> u64 {
        loop {
            let pause = self.turn(candidate, ms, SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
            if pause > 0 {
                return pause;
            }
        }
    }

    fn leads(&self, candidate: &Candidate, ms: u64) -> bool {
        candidate.until().is_some_and(|until| self.at(ms) < until)
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate::new(name.into())
}

#[test]
fn the_first_leads_and_the_others_wait() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    assert_eq!(scene.go(&mut a, 0), 4_000);
    assert!(scene.leads(&a, 9_999) && !scene.leads(&a, 10_000));
    assert_eq!(scene.go(&mut b, 0), 2_000);
    for ms in (4_000..60_000).step_by(4_000) {
        assert_eq!(scene.go(&mut a, ms), 4_000);
        assert_eq!(scene.go(&mut b, ms + 1_000), 2_000);
        assert!(scene.leads(&a, ms + 9_999) && b.until().is_none(), "{ms}");
    }
    let spec = scene.record.unwrap().spec;
    assert_eq!(spec.lease_transitions, Some(0));
    assert_ne!(spec.acquire_time, spec.renew_time);
    assert_eq!(b.other(), Some("a"));
}

#[test]
fn a_record_that_does_not_change_is_taken_after_its_time() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    scene.go(&mut a, 0);
    // The follower's own time counts, from when it first heard of it.
    assert_eq!(scene.go(&mut b, 3_000), 2_000);
    assert_eq!(scene.go(&mut b, 17_000), 1_000, "no longer than needed");
    assert!(b.until().is_none());
    assert_eq!(scene.go(&mut b, 18_000), 4_000);
    assert!(scene.leads(&b, 27_999));
    assert_eq!(scene.record.as_ref().unwrap().spec.lease_transitions, Some(1));
    // The one that slept does not lead when it wakes, is refused, and waits.
    assert_eq!(scene.go(&mut a, 18_500), 2_000);
    assert!(a.until().is_none());
    assert_eq!(a.other(), Some("b"));
    assert!(!scene.leads(&a, 18_500));
}

#[test]
fn clocks_of_machines_do_not_matter() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    let year = Duration::from_secs(365 * 86_400);
    for ms in [0, 4_000, 8_000] {
        // A leader of last year, and one of next year.
        let clock = SystemTime::UNIX_EPOCH + year * 50 + Duration::from_millis(ms) - year * u32::from(ms == 4_000);
        while scene.turn(&mut a, ms, clock) == 0 {}
        assert_eq!(scene.go(&mut b, ms + 100), 2_000);
        assert!(b.until().is_none());
    }
}

#[test]
fn who_is_not_heard_gives_way_in_time() {
    let (mut scene, mut a) = (Scene::new(), candidate("a"));
    scene.go(&mut a, 0);
    for ms in [4_000, 6_000, 8_000] {
        let (asked, heard) = (scene.at(ms), scene.at(ms + 1_900));
        let request = a.next(asked, SystemTime::UNIX_EPOCH);
        assert!(matches!(request, Request::Write { .. }), "{request:?}");
        assert_eq!(a.take(Answer::Failed, asked, heard), RETRY);
        assert!(scene.leads(&a, 9_999) && !scene.leads(&a, 10_000));
    }
    let request = a.next(scene.at(10_000), SystemTime::UNIX_EPOCH);
    assert!(a.until().is_none() && matches!(request, Request::Write { .. }), "{request:?}");
    assert_eq!(a.take(Answer::Failed, scene.at(10_000), scene.at(10_100)), RETRY);
    assert_eq!(a.next(scene.at(12_000), SystemTime::UNIX_EPOCH), Request::Read);
    // A slow answer counts from the question on.
    let (asked, heard) = (scene.at(12_000), scene.at(20_000));
    let answer = scene.serve(Request::Read);
    a.take(answer, asked, asked);
    let request = a.next(asked, SystemTime::UNIX_EPOCH);
    let answer = scene.serve(request);
    a.take(answer, asked, heard);
    assert_eq!(a.until(), Some(asked + HOLD));
}

/// As `Election::run` does: the question, an answer within [`PATIENCE`] or none, the pause.
#[test]
fn a_renewal_that_hangs_is_tried_once_more_in_full_before_giving_way() {
    for slow in [Duration::ZERO, Duration::from_millis(700), PATIENCE] {
        let (mut scene, mut a) = (Scene::new(), candidate("a"));
        let asked = scene.at(0);
        a.take(Answer::Is(None), asked, asked);
        let request = a.next(asked, SystemTime::UNIX_EPOCH);
        let granted = scene.serve(request);
        let mut now = asked + slow;
        now += a.take(granted, asked, now);
        for _ in 0..2 {
            let request = a.next(now, SystemTime::UNIX_EPOCH);
            assert!(matches!(request, Request::Write { .. }), "{request:?}");
            assert!(a.until().is_some_and(|until| now + PATIENCE <= until), "{slow:?}: too late {:?} on", now - asked);
            let hung = now;
            now += PATIENCE;
            now += a.take(Answer::Failed, hung, now);
        }
        a.next(now, SystemTime::UNIX_EPOCH);
        assert!(a.until().is_none(), "{slow:?}: it gives way {:?} on", now - asked);
    }
}

#[test]
fn a_renewal_whose_answer_was_lost_is_its_own() {
    let (mut scene, mut a) = (Scene::new(), candidate("a"));
    scene.go(&mut a, 0);
    let request = a.next(scene.at(4_000), SystemTime::UNIX_EPOCH);
    let _ = scene.serve(request);
    assert_eq!(a.take(Answer::Failed, scene.at(4_000), scene.at(9_000)), RETRY);
    assert_eq!(scene.go(&mut a, 9_500), 4_000);
    assert!(scene.leads(&a, 19_499));
}

#[test]
fn a_released_lease_is_free() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    scene.go(&mut a, 0);
    scene.go(&mut b, 100);
    let record = scene.record.clone().unwrap();
    assert_eq!(b.release(&record, SystemTime::UNIX_EPOCH), None, "it is another one's");
    let release = a.release(&record, SystemTime::UNIX_EPOCH).unwrap();
    assert!(a.until().is_none());
    assert!(matches!(scene.serve(release), Answer::Written(_)));
    assert_eq!(scene.go(&mut b, 200), 4_000);
    assert!(scene.leads(&b, 10_199));
    assert_eq!(scene.record.unwrap().spec.lease_transitions, Some(1));
}

#[test]
fn of_two_at_once_one_leads() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    let at = scene.at(0);
    for one in [&mut a, &mut b] {
        assert_eq!(one.take(Answer::Is(None), at, at), Duration::ZERO);
    }
    let requests = [&mut a, &mut b].map(|one| one.next(at, SystemTime::UNIX_EPOCH));
    let [first, second] = requests.map(|request| scene.serve(request));
    a.take(first, at, at);
    assert_eq!(b.take(second, at, at), Duration::ZERO);
    assert_eq!(scene.go(&mut b, 0), 2_000);
    assert!(scene.leads(&a, 0) && b.until().is_none());
}

#[test]
fn a_deleted_record_is_its_holder_s_while_it_counts() {
    let (mut scene, mut a, mut b) = (Scene::new(), candidate("a"), candidate("b"));
    scene.go(&mut a, 0);
    scene.go(&mut b, 0);
    scene.record = None;
    assert_eq!(scene.go(&mut b, 2_000), 2_000);
    assert!(scene.record.is_none() && b.until().is_none());
    scene.go(&mut a, 4_000);
    assert!(scene.leads(&a, 4_000), "made again");
    scene.record = None;
    scene.go(&mut b, 15_000);
    assert!(scene.leads(&b, 15_000), "its holder is gone as well");
}

#[test]
fn a_record_of_another_build_counts_for_its_own_time_within_reason() {
    let check = |seconds: Option<i32>, expect: u64| {
        let b = candidate("b");
        let spec =
            LeaseSpec { holder_identity: Some("a".into()), lease_duration_seconds: seconds, ..LeaseSpec::default() };
        assert_eq!(b.wait(&spec, Instant::now()).as_secs(), expect, "{seconds:?}");
    };
    check(Some(15), 15);
    check(Some(40), 40);
    check(None, 15);
    check(Some(0), 1);
    check(Some(-5), 15);
    check(Some(i32::MAX), 60);
}
