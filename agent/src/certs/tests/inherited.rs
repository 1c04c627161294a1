//! The certificates of a predecessor, in the book of its successor.

use super::*;

/// The CA is not asked: it may be away while one agent follows another.
#[test]
fn the_certificates_of_a_predecessor_serve_at_once() {
    let mut before = Desk::new();
    let (a, b, c) = (identity("a"), identity("b"), identity("c"));
    before.book.want(&[a.clone(), b.clone()].into(), before.now);
    assert!(before.answer(true));
    let trust = Trust::from(&before.authority);
    let begin = |now: SystemTime| {
        let mut book = Book::new(trust.clone(), now).unwrap();
        book.inherit(before.book.issued(before.now), now, |_| 0);
        book
    };
    let now = before.now;
    let states = |book: &Book| book.entries.values().map(|entry| entry.state(now)).collect::<Vec<_>>();
    let serials = |book: &Book| {
        let own = book.entries.values().filter_map(|entry| entry.credential.as_ref());
        own.map(|own| own.serial().clone()).collect::<Vec<_>>()
    };

    let mut book = begin(now);
    assert!(!book.want(&[].into(), now), "nothing is wanted yet");
    assert!(book.want(&[a.clone(), c.clone()].into(), now), "the tunnel has another certificate");
    assert_eq!(states(&book), [State::Valid, State::Pending]);
    assert_eq!(book.entries[&a].issuer.as_ref(), Some(&trust.signer));
    // A pod that is known a moment later; and one that comes when the others are dropped.
    assert!(book.want(&[a.clone(), b.clone()].into(), now));
    assert_eq!(serials(&book), serials(&before.book));
    let mut book = begin(now);
    book.want(&[a.clone()].into(), now);
    book.forget_inherited();
    book.want(&[a.clone(), b.clone()].into(), now);
    assert_eq!(states(&book), [State::Valid, State::Pending]);
    // One that has expired is none.
    let mut book = begin(now + LIFETIME + Duration::from_secs(1));
    assert!(!book.want(&[a].into(), now));
    assert_eq!(states(&book), [State::Pending]);
}

/// A root that is being replaced: what it has certified is not kept for longer by a take-over.
#[test]
fn they_are_renewed_when_the_predecessor_would_have_done_so() {
    let mut before = Desk::new();
    let a = identity("a");
    before.book.want(&[a.clone()].into(), before.now);
    assert!(before.answer(true));
    let trust = Trust::from(&before.authority);
    let due = |trust: &Trust, issued: Vec<Issued>, now: SystemTime| {
        let mut book = Book::new(trust.clone(), now).unwrap();
        book.inherit(issued, now, |_| 0);
        book.want(&[a.clone()].into(), now);
        book.request(now) == [a.clone()].into()
    };
    let issued = before.book.issued(before.now);
    let own = Arc::clone(&issued[0].credential);
    let half = own.not_before() + own.not_after().duration_since(own.not_before()).unwrap() / 2;
    assert!(!due(&trust, issued.clone(), own.not_before()), "at its beginning");
    assert!(due(&trust, issued.clone(), half), "at half its life, however late the successor comes");
    let another = Trust { signer: own.serial().clone(), ..trust.clone() };
    assert!(due(&another, issued.clone(), own.not_before()), "another root signs");
    let unknown = issued.iter().map(|of| Issued { issuer: None, ..of.clone() }).collect();
    assert!(due(&trust, unknown, own.not_before()), "its root is not known");
    assert!(due(&trust, issued, own.not_before() - Duration::from_secs(1)), "it begins later");
}
