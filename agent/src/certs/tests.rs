//! The book, with the time as an argument, and the CA's thread on a real directory.

mod inherited;
mod remote;

use std::{fs, path::Path};

use underpass_core::TrustDomain;
use underpass_identity::{Certificate, rotation::directory as rotation};
use underpass_telemetry::admin::Readiness;

use super::{
    ca::{Answer, Embedded},
    *,
};

const LIFETIME: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn identity(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap()
}

fn location(folder: &tempfile::TempDir) -> CaLocation {
    CaLocation { directory: folder.path().join("ca"), trust_domain: TrustDomain::default() }
}

fn authority(directory: &Path) -> Authority {
    Authority::open(directory, &TrustDomain::default(), SystemTime::now()).unwrap()
}

/// A book, a CA that answers or does not, and a time.
struct Desk {
    book: Book,
    authority: Authority,
    now: SystemTime,
    _folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, now) = (authority(&folder.path().join("ca")), SystemTime::now());
        Self { book: Book::new(Trust::from(&authority), now).unwrap(), authority, now, _folder: folder }
    }

    /// Sends the requests that are due; the dice show the middle.
    fn answer(&mut self, reachable: bool) -> bool {
        let requested = self.book.request(self.now);
        let issue = |identity: &Identity| {
            let issued = self.authority.credential(identity, LIFETIME, self.now);
            (identity.clone(), if reachable { Ok(issued.unwrap()) } else { Err("gone".to_owned()) })
        };
        let issued = requested.iter().map(issue).collect();
        let trust = if reachable { Ok(Trust::from(&self.authority)) } else { Err("gone".to_owned()) };
        self.book.take(Answer { trust, requested, issued }, self.now, |_| u64::MAX / 2)
    }

    /// Goes to when something is to be done, and says how long that took.
    fn wait(&mut self) -> Duration {
        let next = self.book.next(self.now).unwrap();
        let waited = next.duration_since(self.now).unwrap();
        self.now = next;
        waited
    }

    fn state(&self, name: &str) -> State {
        self.state_at(name, self.now)
    }

    fn state_at(&self, name: &str, now: SystemTime) -> State {
        self.book.entries[&identity(name)].state(now)
    }

    fn serial(&self, name: &str) -> String {
        self.book.entries[&identity(name)].credential.as_ref().unwrap().serial().to_string()
    }
}

#[test]
fn an_unanswered_request_is_repeated_after_a_pause() {
    let mut desk = Desk::new();
    desk.book.want(&BTreeSet::from([identity("a")]), desk.now);
    for _ in 0..3 {
        let requested = desk.book.request(desk.now);
        assert_eq!(requested.len(), 1);
        let answer = Answer { trust: Ok(Trust::from(&desk.authority)), requested, issued: Vec::new() };
        assert!(!desk.book.take(answer, desk.now, |_| 0));
        assert!(desk.book.request(desk.now).is_empty(), "at once");
        assert_eq!(desk.wait(), Duration::from_millis(200));
    }
    assert!(desk.answer(true));
    assert_eq!(desk.state("a"), State::Valid);
}

#[test]
fn certificates_come_renew_and_go() {
    let mut desk = Desk::new();
    assert_eq!(desk.book.next(desk.now), None);
    let (a, b) = (identity("a"), identity("b"));
    assert!(!desk.book.want(&[a.clone(), b.clone()].into(), desk.now));
    assert!(desk.book.is_pending(desk.now));
    assert_eq!(desk.state("a"), State::Pending);
    assert_eq!(desk.book.request(desk.now), [a.clone(), b.clone()].into());
    assert_eq!(desk.book.request(desk.now), [].into(), "not twice");
    desk.book.entries.values_mut().for_each(|entry| entry.renewal = entry.renewal.at_once(desk.now));
    // An answer with nothing in it: it is requested again, after a pause.
    let trust = Ok(Trust::from(&desk.authority));
    let empty = Answer { trust, requested: [a.clone(), b.clone()].into(), issued: Vec::new() };
    assert!(!desk.book.take(empty, desk.now, |_| 0));
    assert_eq!(desk.wait(), Duration::from_millis(200));
    assert!(desk.answer(true));
    assert!(!desk.book.is_pending(desk.now));
    assert_eq!((desk.state("a"), desk.state("b")), (State::Valid, State::Valid));

    let first = desk.serial("a");
    let waited = desk.wait();
    assert!(waited > Duration::from_secs(29) && waited < Duration::from_secs(31), "half-life: {waited:?}");
    assert!(desk.answer(true));
    assert_ne!(desk.serial("a"), first, "renewed");
    assert_eq!(desk.book.issued, 4);

    assert!(desk.book.want(&[b.clone()].into(), desk.now));
    assert_eq!(desk.book.entries.keys().cloned().collect::<Vec<_>>(), [b], "dropped with its last pod");
    // An answer that comes too late brings nothing back.
    let late = vec![(a.clone(), Ok(desk.authority.credential(&a, LIFETIME, desk.now).unwrap()))];
    let trust = Ok(Trust::from(&desk.authority));
    assert!(!desk.book.take(Answer { trust, requested: [a].into(), issued: late }, desk.now, |_| 0));
    assert_eq!(desk.book.entries.len(), 1);
}

#[test]
fn a_certificate_serves_until_it_expires_and_no_longer() {
    let mut desk = Desk::new();
    desk.book.want(&[identity("a")].into(), desk.now);
    desk.answer(true);
    let expires = desk.book.entries[&identity("a")].credential.as_ref().unwrap().not_after();
    let mut attempts = 0;
    desk.wait();
    let since = desk.now;
    while desk.now <= expires {
        assert!(!desk.answer(false), "what serves goes on serving");
        assert_eq!(desk.state("a"), State::Failing);
        attempts += 1;
        let waited = desk.wait();
        assert!(waited <= Duration::from_secs(8), "more often as the end comes near: {waited:?}");
    }
    assert!(attempts > 5 && attempts < 200, "{attempts}");
    assert_eq!(desk.state("a"), State::Expired);
    let status = Status::of(&desk.book, desk.now);
    let [own] = &status.certificates[..] else { panic!("{status:#?}") };
    assert_eq!((own.state, own.failures), ("expired", attempts));
    assert!(own.failing_since_unix_s.unwrap() <= own.not_after_unix_s.unwrap());
    assert_eq!(own.error.as_deref(), Some("gone"));
    assert!(!status.authority.reachable);
    assert_eq!(desk.book.ca.since, since, "when it was missed first");

    // It may answer again: the pause is cut short, and nothing else is said of it.
    desk.answer(false);
    assert!(desk.book.next(desk.now).unwrap() > desk.now);
    desk.book.failing_at_once(desk.now);
    assert_eq!(desk.book.next(desk.now), Some(desk.now));
    assert!(!Status::of(&desk.book, desk.now).authority.reachable);
    // It answers again: the pause is cut short as well.
    desk.answer(false);
    let reachable = Answer { trust: Ok(Trust::from(&desk.authority)), requested: [].into(), issued: Vec::new() };
    desk.book.take(reachable, desk.now, |_| 0);
    assert!(desk.answer(true));
    assert_eq!(desk.state("a"), State::Valid);
    let status = Status::of(&desk.book, desk.now);
    assert_eq!((status.authority.issued, status.authority.failed), (2, u64::from(attempts) + 2));
    assert!(status.authority.reachable && status.authority.error.is_none());
}

#[test]
fn a_first_certificate_is_waited_for_but_not_for_ever() {
    let mut desk = Desk::new();
    desk.book.want(&[identity("a")].into(), desk.now);
    desk.book.request(desk.now); // without an answer
    assert!(desk.book.is_pending(desk.now));
    let waited = desk.wait();
    assert_eq!(waited, Duration::from_secs(3));
    assert!(!desk.book.is_pending(desk.now));
    // One that was refused is not waited for at all.
    let mut desk = Desk::new();
    desk.book.want(&[identity("a")].into(), desk.now);
    desk.answer(false);
    assert_eq!(desk.state("a"), State::Missing);
    assert!(!desk.book.is_pending(desk.now));
}

#[test]
fn roots_are_trusted_before_they_sign_and_another_signer_renews_everything() {
    let folder = tempfile::tempdir().unwrap();
    let location = location(&folder);
    let (directory, domain) = (location.directory.clone(), location.trust_domain.clone());
    let now = SystemTime::now();
    let mut book = Book::new(Trust::from(&authority(&directory)), now).unwrap();
    let mut ca = Embedded::new(location);
    let a = identity("a");
    book.want(&[a.clone()].into(), now);
    let old_roots = Arc::clone(&book.roots);
    let request = |book: &mut Book, ca: &mut Embedded, trusted: &Arc<Roots>, now| {
        let request = Request { identities: book.request(now), lifetime: LIFETIME, trusted: Arc::clone(trusted) };
        let answer = ca.fulfil(request);
        let issued = answer.issued.len();
        (book.take(answer, now, |_| 0), issued)
    };
    assert_eq!(request(&mut book, &mut ca, &old_roots, now), (true, 1));
    let issuer = |book: &Book| book.entries[&a].issuer.clone().unwrap();
    let old = issuer(&book);
    assert!(ca.look().is_none(), "nothing has changed");

    rotation::prepare(&directory, &domain, now).unwrap();
    let noticed = ca.look().expect("it has changed");
    assert!(book.take(noticed, now, |_| 0), "both roots are published at once");
    assert_eq!((book.roots.certificates().len(), book.roots.generation()), (2, 1));
    assert!(book.request(now).is_empty(), "the old one signs: nothing is renewed");
    assert!(ca.look().is_none());

    rotation::activate(&directory, &domain, now, Duration::ZERO).unwrap();
    let noticed = ca.look().expect("it has changed");
    assert!(!book.take(noticed, now, |_| 0), "the same roots");
    // A worker that does not know the new root yet must not meet a certificate of it.
    assert_eq!(request(&mut book, &mut ca, &old_roots, now), (false, 0));
    assert_eq!(issuer(&book), old);
    let both = Arc::clone(&book.roots);
    assert_eq!(request(&mut book, &mut ca, &both, now), (false, 0), "not again and again");
    let later = now + Duration::from_secs(1);
    assert_eq!(request(&mut book, &mut ca, &both, later), (true, 1), "renewed although it is young");
    assert_ne!(issuer(&book), old);

    rotation::retire(&directory, &domain, now, Duration::ZERO).unwrap();
    let noticed = ca.look().expect("it has changed");
    assert!(book.take(noticed, now, |_| 0));
    let [root] = book.roots.certificates() else { panic!("one root") };
    assert_eq!(*Certificate::parse(root).unwrap().serial(), issuer(&book));
}

#[test]
fn what_is_wrong_with_the_directory_changes_nothing_but_the_report() {
    for (what, spoil, mend) in [
        (
            "gone",
            (|ca| fs::rename(ca, ca.with_extension("away"))) as fn(&Path) -> _,
            (|ca| fs::rename(ca.with_extension("away"), ca)) as fn(&Path) -> _,
        ),
        (
            "key missing",
            |ca| fs::rename(ca.join("ca.pem"), ca.join("x")),
            |ca| fs::rename(ca.join("x"), ca.join("ca.pem")),
        ),
        ("next is garbage", |ca| write(&ca.join("next.pem"), "no"), |ca| fs::remove_file(ca.join("next.pem"))),
        (
            "old is garbage",
            |ca| write(&ca.join("old.pem"), "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"),
            |ca| fs::remove_file(ca.join("old.pem")),
        ),
        ("for all to read", |ca| mode(&ca.join("ca.pem"), 0o644), |ca| mode(&ca.join("ca.pem"), 0o600)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let location = location(&folder);
        let directory = location.directory.clone();
        let now = SystemTime::now();
        let mut book = Book::new(Trust::from(&authority(&directory)), now).unwrap();
        let mut ca = Embedded::new(location);
        let before = (Arc::clone(&book.roots), book.signer.clone());
        spoil(&directory).unwrap();
        for _ in 0..2 {
            let noticed = ca.look().unwrap_or_else(|| panic!("{what}: not noticed"));
            assert!(!book.take(noticed, now, |_| 0), "{what}");
        }
        assert!(book.ca.error.as_ref().is_some_and(|error| error.contains("ca")), "{what}: {:?}", book.ca);
        // It signs nothing now, after any earlier read.
        book.want(&[identity("a")].into(), now);
        let answer =
            ca.fulfil(Request { identities: book.request(now), lifetime: LIFETIME, trusted: Arc::clone(&book.roots) });
        assert!(!book.take(answer, now, |_| 0), "{what}");
        assert_eq!(book.entries[&identity("a")].state(now), State::Missing, "{what}");
        assert!(Arc::ptr_eq(&book.roots, &before.0) && book.signer == before.1, "{what}: the last good stays");
        mend(&directory).unwrap();
        let noticed = ca.look().unwrap_or_else(|| panic!("{what}: not tried again"));
        book.take(noticed, now, |_| 0);
        assert_eq!(book.ca.error, None, "{what}");
        assert_eq!(book.request(now), [identity("a")].into(), "{what}: requested at once");
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    mode(path, 0o600)
}

fn mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[test]
fn a_clock_that_is_set_forward_finds_what_is_due() {
    for (ahead_s, state, renewed) in [(20, State::Valid, false), (40, State::Valid, true), (90, State::Expired, true)] {
        let mut desk = Desk::new();
        desk.book.want(&[identity("a")].into(), desk.now);
        assert!(desk.answer(true));
        let first = desk.serial("a");
        desk.now += Duration::from_secs(ahead_s);
        assert_eq!(desk.state("a"), state, "{ahead_s}");
        assert_eq!((desk.answer(true), desk.serial("a") != first), (renewed, renewed), "{ahead_s}");
        assert_eq!(desk.state("a"), State::Valid, "{ahead_s}");
    }
}

#[test]
fn a_clock_that_is_set_back_renews_what_begins_later() {
    // A minute back leaves it valid: certificates begin two minutes before they are made.
    for (back, state, renewed) in [(Duration::from_secs(60), State::Valid, false), (DAY, State::NotYetValid, true)] {
        let mut desk = Desk::new();
        desk.now += 2 * DAY;
        desk.book.want(&[identity("a")].into(), desk.now);
        assert!(desk.answer(true));
        let first = desk.serial("a");
        desk.now -= back;
        assert_eq!(desk.state("a"), state, "{back:?}");
        assert!(!state.is_out(), "it serves while there is no other");
        assert_eq!((desk.answer(true), desk.serial("a") != first), (renewed, renewed), "{back:?}");
        assert_eq!(desk.state("a"), State::Valid, "{back:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_wait_longer() {
    let mut desk = Desk::new();
    // One that never was answered, one that was refused.
    desk.book.want(&[identity("a"), identity("b")].into(), desk.now);
    let requested = desk.book.request(desk.now);
    let trust = Ok(Trust::from(&desk.authority));
    let issued = vec![(identity("b"), Err("no".to_owned()))];
    desk.book.take(Answer { trust, requested: [identity("b")].into(), issued }, desk.now, |_| u64::MAX);
    assert_eq!((requested.len(), desk.state("a"), desk.state("b")), (2, State::Pending, State::Missing));
    desk.now -= DAY;
    assert_eq!(desk.book.request(desk.now), [identity("b")].into(), "its pause is over");
    assert!(desk.book.is_pending(desk.now));
    assert_eq!(desk.wait(), Duration::from_secs(3), "from now, not in a day");
    assert!(!desk.book.is_pending(desk.now));
    let status = Status::of(&desk.book, desk.now);
    let since = status.certificates[1].failing_since_unix_s.unwrap();
    let now_s = desk.now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(since <= now_s && status.authority.since_unix_s <= now_s, "nothing is said to have been in the future");
}

#[test]
fn a_certificate_that_begins_later_replaces_none_that_is_valid() {
    let hour = Duration::from_secs(3600);
    let mut desk = Desk::new();
    desk.book.want(&[identity("a")].into(), desk.now);
    // The CA's clock is an hour ahead. With nothing else there, what it signs serves, and is reported.
    let early = |desk: &mut Desk| {
        let requested = desk.book.request(desk.now);
        let issue =
            |own: &Identity| (own.clone(), Ok(desk.authority.credential(own, 2 * hour, desk.now + hour).unwrap()));
        let issued = requested.iter().map(issue).collect();
        let answer = Answer { trust: Ok(Trust::from(&desk.authority)), requested, issued };
        desk.book.take(answer, desk.now, |_| u64::MAX)
    };
    assert!(early(&mut desk));
    assert_eq!(desk.state("a"), State::NotYetValid);
    let status = Status::of(&desk.book, desk.now);
    assert_eq!((status.certificates[0].state, status.certificates[0].failures), ("not_yet_valid", 1));
    let error = status.certificates[0].error.clone().unwrap();
    assert!(error.starts_with("its certificate begins in 34"), "two minutes are in hand: {error}");
    // Asked for again after a pause that grows, not at once and not in half a life.
    assert!(desk.book.request(desk.now).is_empty());
    assert_eq!(desk.wait(), Duration::from_secs(1));
    assert!(early(&mut desk), "the newer one is as good");
    assert_eq!(desk.wait(), Duration::from_secs(2));
    // The CA's clock is right again.
    assert!(desk.answer(true));
    assert_eq!(desk.state("a"), State::Valid);
    let valid = desk.serial("a");
    // And ahead once more: the one that is valid stays.
    desk.wait();
    assert!(!early(&mut desk));
    assert_eq!((desk.state("a"), desk.serial("a")), (State::Failing, valid));
}

#[test]
fn one_that_begins_later_begins_without_a_request() {
    let mut desk = Desk::new();
    desk.book.want(&[identity("a")].into(), desk.now);
    let requested = desk.book.request(desk.now);
    let ahead = desk.now + Duration::from_secs(130);
    let issued = vec![(identity("a"), Ok(desk.authority.credential(&identity("a"), LIFETIME, ahead).unwrap()))];
    desk.book.take(Answer { trust: Ok(Trust::from(&desk.authority)), requested, issued }, desk.now, |_| u64::MAX);
    desk.book.request(desk.now + Duration::from_secs(1)); // without an answer
    let begins = desk.book.entries[&identity("a")].credential.as_ref().unwrap().not_before();
    assert_eq!(desk.book.next(desk.now), Some(begins));
    assert_eq!(desk.state_at("a", begins), State::Failing, "it serves");
}

/// The follower with a clock of its own. The CA's is the machine's.
#[test]
fn a_step_of_the_clock_is_noticed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let location = location(&folder);
    let authority = authority(&location.directory);
    let ready = Readiness::new();
    let gate = ready.gate("certificates", "not open yet");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (hour, start) = (Duration::from_secs(3600), SystemTime::now());
        let (time, clock) = watch::channel(start);
        let mut certs =
            Certs::by(Clock::manual(clock), Ca::Embedded(location, Box::new(authority)), Vec::new(), 24 * hour, gate)
                .unwrap();
        let (published, status) = (certs.subscribe(), certs.status());
        let a = identity("a");
        let serial = || published.borrow().own.get(&a).map(|own| own.serial().clone());
        let state = || status.borrow().certificates[0].state;
        certs.want(&[a.clone()].into());
        until(&mut certs, "issued", || serial().is_some()).await;
        let first = serial();
        // While it waits: without the step it would wait for half a day.
        let step = |to: SystemTime| {
            let time = time.clone();
            tokio::spawn(async move { time.send_replace(to) })
        };
        let stepped = step(start + 14 * hour);
        until(&mut certs, "renewed", || serial() != first).await;
        stepped.await.unwrap();
        assert_eq!((state(), ready.waiting()), ("valid", vec![]));
        // Back: what the CA signs by its own clock begins later by this one, and is reported; it serves all the same.
        let stepped = step(start - 14 * hour);
        until(&mut certs, "reported", || state() == "not_yet_valid").await;
        stepped.await.unwrap();
        until(&mut certs, "requested again", || status.borrow().certificates[0].failures > 0).await;
        assert!(serial().is_some() && ready.waiting().is_empty());
        // And where it belongs.
        time.send_replace(start + hour);
        until(&mut certs, "valid", || state() == "valid").await;
    });
}

/// The whole of it with its thread, in real time: certificates of two seconds.
#[test]
fn a_ca_that_goes_and_comes_back_is_told_by_readiness_and_status() {
    let folder = tempfile::tempdir().unwrap();
    let location = location(&folder);
    let directory = location.directory.clone();
    let authority = authority(&directory);
    let ready = Readiness::new();
    let gate = ready.gate("certificates", "not open yet");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut certs =
            Certs::start(Ca::Embedded(location, Box::new(authority)), Vec::new(), Duration::from_secs(2), gate)
                .unwrap();
        let (published, status) = (certs.subscribe(), certs.status());
        let a = identity("a");
        certs.want(&[a.clone()].into());
        let own = |name: &Identity| published.borrow().own.get(name).cloned();
        until(&mut certs, "issued", || own(&a).is_some()).await;
        let first = own(&a).unwrap();
        until(&mut certs, "renewed", || own(&a).unwrap().serial() != first.serial()).await;
        assert_eq!(ready.waiting(), []);

        let away = directory.with_extension("away");
        fs::rename(&directory, &away).unwrap();
        until(&mut certs, "missed", || !status.borrow().authority.reachable).await;
        assert_eq!(ready.waiting(), [], "what serves is ready");
        let last = own(&a).unwrap();
        until(&mut certs, "expired", || !ready.waiting().is_empty()).await;
        assert!(SystemTime::now() > last.not_after(), "not before");
        let [(part, reason)] = &ready.waiting()[..] else { panic!() };
        assert!(*part == "certificates" && reason.contains(&a.to_string()), "{part}: {reason}");
        assert_eq!(status.borrow().certificates[0].state, "expired");
        assert!(own(&a).is_some(), "connections that were opened under it go on");

        fs::rename(&away, &directory).unwrap();
        until(&mut certs, "valid again", || own(&a).unwrap().serial() != last.serial()).await;
        assert_eq!(ready.waiting(), []);
        certs.want(&[].into());
        assert!(own(&a).is_none());
        assert!(status.borrow().certificates.is_empty());
    });
}

async fn until(certs: &mut Certs, what: &str, holds: impl Fn() -> bool) {
    let turns = async {
        while !holds() {
            if certs.turn().await {
                certs.applied();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), turns).await.unwrap_or_else(|_| panic!("never: {what}"));
}
