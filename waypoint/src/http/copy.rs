//! The copy of a request's body for a mirror: what the request's own tries read is passed on to it, and no try waits for it.
//!
//! What must hold: a copy that is slower than the original by more than its limit is lost, and so is one whose original breaks
//! off; a lost one ends in an error, never in order.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::body::BodyError;

/// What has been read of the original and not yet been sent to the mirror.
#[derive(Debug)]
pub(crate) struct Copied {
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    most_bytes: usize,
    trailers: RefCell<Option<HeaderMap>>,
    /// The original has come to its end.
    has_ended: Cell<bool>,
    is_lost: Cell<bool>,
    /// Something of it was given to the mirror.
    is_begun: Cell<bool>,
    ended: Notify,
    waker: RefCell<Option<Waker>>,
}

impl Copied {
    /// Of an original of which this was read, and of which at most `most_bytes` may wait.
    pub(super) fn new(read: VecDeque<Bytes>, most_bytes: usize) -> Rc<Self> {
        Rc::new(Self {
            bytes: Cell::new(read.iter().map(Bytes::len).sum()),
            waiting: RefCell::new(read),
            most_bytes,
            trailers: RefCell::default(),
            has_ended: Cell::new(false),
            is_lost: Cell::new(false),
            is_begun: Cell::new(false),
            ended: Notify::new(),
            waker: RefCell::default(),
        })
    }

    /// So much more of the original was read.
    pub(super) fn push(&self, data: &Bytes) {
        let bytes = self.bytes.get().saturating_add(data.len());
        if bytes > self.most_bytes {
            return self.lose();
        }
        if !self.is_lost.get() {
            self.bytes.set(bytes);
            self.waiting.borrow_mut().push_back(data.clone());
            self.wake();
        }
    }

    /// The original has come to its end.
    pub(super) fn end(&self, trailers: Option<&HeaderMap>) {
        self.trailers.replace(trailers.cloned());
        self.has_ended.set(true);
        self.ended.notify_waiters();
        self.wake();
    }

    /// The copy ends without being whole.
    pub(super) fn lose(&self) {
        self.is_lost.set(true);
        self.waiting.borrow_mut().clear();
        self.ended.notify_waiters();
        self.wake();
    }

    /// It was too slow, or the original broke off.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    /// The mirror was given nothing of it: another body of it is as good as the first one.
    pub(super) fn is_unread(&self) -> bool {
        !self.is_begun.get()
    }

    /// Completes when nothing more of the original is to come: it has come to its end, or the copy is lost.
    pub(super) async fn ended(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.has_ended.get() && !self.is_lost.get() {
            ended.await;
        }
    }

    fn wake(&self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// The body that a mirror is sent.
#[derive(Debug)]
pub(crate) struct CopyBody(pub(super) Rc<Copied>);

impl Body for CopyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let copied = &self.0;
        if copied.is_lost.get() {
            return Poll::Ready(Some(Err(BodyError::CopyLost)));
        }
        if let Some(data) = copied.waiting.borrow_mut().pop_front() {
            copied.bytes.set(copied.bytes.get().saturating_sub(data.len()));
            copied.is_begun.set(true);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if copied.has_ended.get() {
            let trailers = copied.trailers.take().inspect(|_| copied.is_begun.set(true));
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        copied.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let Copied { waiting, trailers, has_ended, is_lost, .. } = &*self.0;
        has_ended.get() && !is_lost.get() && waiting.borrow().is_empty() && trailers.borrow().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.0.bytes.get() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(waiting);
        if self.0.has_ended.get() {
            hint.set_upper(waiting);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the body gives next: bytes, `trailers`, `lost`, `end`, or nothing yet.
    fn next(body: &mut CopyBody) -> String {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut context) {
            Poll::Pending => "-".into(),
            Poll::Ready(None) => "end".into(),
            Poll::Ready(Some(Err(_))) => "lost".into(),
            Poll::Ready(Some(Ok(frame))) => {
                frame.into_data().map_or("trailers".into(), |data| String::from_utf8(data.to_vec()).unwrap())
            }
        }
    }

    #[test]
    fn a_copy_is_whole_or_lost() {
        let copied = Copied::new(VecDeque::new(), 4);
        let mut body = CopyBody(Rc::clone(&copied));
        let push = |text: &'static str| copied.push(&Bytes::from_static(text.as_bytes()));
        assert_eq!((next(&mut body).as_str(), body.is_end_stream()), ("-", false));
        push("ab");
        push("cd");
        assert_eq!([next(&mut body), next(&mut body), next(&mut body)], ["ab", "cd", "-"]);
        push("efgh");
        copied.end(Some(&HeaderMap::new()));
        assert_eq!([next(&mut body), next(&mut body), next(&mut body)], ["efgh", "trailers", "end"]);
        assert!(body.is_end_stream() && !copied.is_lost());
    }

    #[test]
    fn a_copy_begins_with_what_was_read_before() {
        let copied = Copied::new([Bytes::from_static(b"abc"), Bytes::from_static(b"def")].into(), 4);
        let mut body = CopyBody(Rc::clone(&copied));
        assert_eq!([next(&mut body), next(&mut body), next(&mut body)], ["abc", "def", "-"]);
        copied.push(&Bytes::from_static(b"gh"));
        copied.end(None);
        assert_eq!([next(&mut body), next(&mut body)], ["gh", "end"]);
        let none = Copied::new(VecDeque::new(), 4);
        none.end(None);
        assert_eq!(next(&mut CopyBody(none)), "end", "none to copy");
    }

    #[test]
    fn nothing_more_comes_of_one_that_has_ended_or_is_lost() {
        let check = |end: fn(&Copied)| {
            let copied = Copied::new(VecDeque::new(), 4);
            let mut context = Context::from_waker(Waker::noop());
            let mut before = std::pin::pin!(copied.ended());
            assert!(before.as_mut().poll(&mut context).is_pending());
            end(&copied);
            let after = std::pin::pin!(copied.ended());
            assert!(before.poll(&mut context).is_ready() && after.poll(&mut context).is_ready());
        };
        check(|copied| copied.end(None));
        check(Copied::lose);
        check(|copied| copied.push(&Bytes::from_static(b"abcde")));
    }

    #[test]
    fn a_copy_that_is_slower_than_its_limit_is_lost() {
        let copied = Copied::new(VecDeque::new(), 4);
        let mut body = CopyBody(Rc::clone(&copied));
        copied.push(&Bytes::from_static(b"abc"));
        copied.push(&Bytes::from_static(b"de"));
        copied.end(None);
        assert_eq!((next(&mut body).as_str(), body.is_end_stream()), ("lost", false));
    }
}
