//! The body of a request on its way to the endpoint: it streams, and what was sent of it is kept for another try while it is small.
//!
//! What must hold: of several tries one alone reads from the client, and a body that is not kept whole is never sent again.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use super::copy::{Copied, CopyBody};
use crate::metrics::Received;

/// The body of a client's request, shared by the tries of it.
pub(crate) struct Recorded {
    state: RefCell<State>,
    /// What of it was read; none: it has none.
    received: Option<Rc<Received>>,
    /// The number of the try that reads it.
    reader: Cell<u32>,
    /// A try reads it, or is about to.
    is_read: Cell<bool>,
    has_ended: Notify,
    /// Bytes that may be kept, or wait for a mirror.
    most_bytes: usize,
    copies: RefCell<Vec<Rc<Copied>>>,
}

struct State {
    source: Incoming,
    /// Read before a try asked for it, and more than is kept.
    ahead: Option<Frame<Bytes>>,
    /// What was read, while all of it is kept.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    most_bytes: usize,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// More was read than is kept, or reading failed.
    is_lost: bool,
    /// Of the try that reads.
    waker: Option<Waker>,
    /// Of what reads while no try does.
    waker_ahead: Option<Waker>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Recorded {
    /// The body of a request, of which at most `most_bytes` are kept.
    pub(crate) fn new(source: Incoming, most_bytes: usize) -> Rc<Self> {
        let has_ended = source.is_end_stream();
        let state = State {
            source,
            ahead: None,
            kept: Vec::new(),
            kept_bytes: 0,
            most_bytes,
            trailers: None,
            has_ended,
            is_lost: false,
            waker: None,
            waker_ahead: None,
        };
        let (received, state) = ((!has_ended).then(Rc::default), RefCell::new(state));
        let (reader, is_read) = (Cell::new(0), Cell::new(false));
        Rc::new(Self {
            state,
            received,
            reader,
            is_read,
            has_ended: Notify::new(),
            most_bytes,
            copies: RefCell::default(),
        })
    }

    /// A copy for a mirror, before a try has read anything: of what was read ahead, and of what comes.
    pub(super) fn copy(&self) -> Rc<Copied> {
        let state = self.state.borrow();
        let ahead = state.ahead.as_ref().and_then(Frame::data_ref);
        let copied = Copied::new(state.kept.iter().chain(ahead).cloned().collect(), self.most_bytes);
        match () {
            () if state.is_lost => copied.lose(),
            () if state.has_ended => copied.end(state.trailers.as_ref()),
            () => self.copies.borrow_mut().push(Rc::clone(&copied)),
        }
        copied
    }

    /// Where what the client sends is counted; none: it sends nothing.
    pub(crate) fn received(&self) -> Option<Rc<Received>> {
        self.received.clone()
    }

    /// The body for the next try; earlier ones end.
    pub(crate) fn next(self: &Rc<Self>) -> TryBody {
        self.give_up();
        self.is_read.set(true);
        self.state.borrow_mut().waker_ahead.take().into_iter().for_each(Waker::wake);
        TryBody { recorded: Rc::clone(self), number: self.reader.get(), at: 0, gave_trailers: false }
    }

    /// The try that reads it reads no more.
    pub(crate) fn give_up(&self) {
        self.reader.set(self.reader.get().wrapping_add(1));
        self.is_read.set(false);
        let state = &mut *self.state.borrow_mut();
        [&mut state.waker, &mut state.waker_ahead].into_iter().filter_map(Option::take).for_each(Waker::wake);
    }

    /// More of it comes, and nothing says how much.
    pub(crate) fn is_of_unknown_length(&self) -> bool {
        let state = self.state.borrow();
        !state.has_ended && state.source.size_hint().exact().is_none()
    }

    /// The client has sent all of it.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.borrow().has_ended
    }

    /// Another try can send all that was sent.
    pub(crate) fn can_replay(&self) -> bool {
        !self.state.borrow().is_lost
    }

    /// Reads while no try does, and as much as is kept, so that a request which waits for a connection hears of its client. Completes
    /// when the client has sent all of it, or is held up because no more is taken.
    ///
    /// # Errors
    /// Where it broke off.
    pub(crate) async fn read_ahead(&self) -> Result<Ahead, BodyError> {
        poll_fn(|cx| self.poll_ahead(cx)).await
    }

    fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<Result<Ahead, BodyError>> {
        let state = &mut *self.state.borrow_mut();
        loop {
            if state.has_ended {
                return Poll::Ready(Ok(Ahead::Ended));
            }
            if self.is_read.get() {
                state.waker_ahead = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if state.ahead.is_some() || state.is_lost {
                return Poll::Ready(Ok(Ahead::HeldUp));
            }
            let Some(frame) = std::task::ready!(self.poll_source(state, cx)).transpose()? else { continue };
            match frame.data_ref() {
                Some(data) if state.kept_bytes.saturating_add(data.len()) <= state.most_bytes => drop(state.keep(data)),
                Some(_) => state.ahead = Some(frame),
                None => {}
            }
        }
    }

    /// Completes when a try reads it.
    pub(crate) async fn is_read(&self) {
        let poll = |cx: &mut Context<'_>| {
            if self.is_read.get() {
                return Poll::Ready(());
            }
            self.state.borrow_mut().waker_ahead = Some(cx.waker().clone());
            Poll::Pending
        };
        poll_fn(poll).await;
    }

    /// The next frame of the client's.
    fn poll_source(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut state.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) => {
                    self.copies.borrow().iter().for_each(|copy| copy.push(data));
                    if let Some(received) = &self.received {
                        received.add(data.len());
                    }
                    state.has_ended = state.source.is_end_stream();
                }
                None => {
                    state.trailers = frame.trailers_ref().cloned();
                    state.has_ended = true;
                }
            },
            Some(Err(_)) => state.is_lost = true,
            None => state.has_ended = true,
        }
        if state.has_ended {
            if let Some(received) = &self.received {
                received.end();
            }
            self.copies.take().iter().for_each(|copy| copy.end(state.trailers.as_ref()));
            self.has_ended.notify_waiters();
            state.waker_ahead.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
    }

    /// Completes when the client has sent all of it.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.has_ended.notified();
            if self.state.borrow().has_ended {
                return;
            }
            ended.await;
        }
    }
}

/// How far a body was read before a try reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The client has sent all of it.
    Ended,
    /// As much is there as is kept.
    HeldUp,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.copies.take().iter().for_each(|copy| copy.lose()); // nothing reads the rest
    }
}

/// The body that one try sends.
pub(crate) struct TryBody {
    recorded: Rc<Recorded>,
    number: u32,
    at: usize,
    gave_trailers: bool,
}

/// The body of a request to an endpoint.
pub(crate) enum RequestBody {
    /// Of a try.
    Try(TryBody),
    /// Of a copy for a mirror.
    Copy(CopyBody),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Try(body) => Pin::new(body).poll_frame(cx),
            Self::Copy(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Try(body) => body.is_end_stream(),
            Self::Copy(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Try(body) => body.size_hint(),
            Self::Copy(body) => body.size_hint(),
        }
    }
}

/// The reason why a body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The client's request broke off.
    #[error("the client's request broke off")]
    Client(#[source] hyper::Error),
    /// Another try has begun.
    #[error("the try was given up")]
    GivenUp,
    /// A copy is not whole.
    #[error("the copy is not whole")]
    CopyLost,
    /// The response broke off.
    #[error("the endpoint's response broke off")]
    Endpoint(#[source] hyper::Error),
    /// A policy denies the request since a change.
    #[error("denied since a change")]
    Denied,
    /// The time of the route is over.
    #[error("the time of the route is over")]
    Timeout,
}

impl Body for TryBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.recorded.reader.get() != this.number {
            return Poll::Ready(Some(Err(BodyError::GivenUp)));
        }
        let state = &mut *this.recorded.state.borrow_mut();
        if let Some(kept) = state.kept.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        let frame = match state.ahead.take() {
            Some(frame) => frame,
            None if state.has_ended => {
                let trailers = state.trailers.clone().filter(|_| !std::mem::replace(&mut this.gave_trailers, true));
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            None => match this.recorded.poll_source(state, cx) {
                Poll::Pending => {
                    state.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => frame,
                ended => return ended,
            },
        };
        match frame.data_ref() {
            Some(data) => this.at += state.keep(data),
            None => this.gave_trailers = true,
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.recorded.state.borrow();
        state.has_ended
            && state.ahead.is_none()
            && self.at >= state.kept.len()
            && (self.gave_trailers || state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.recorded.state.borrow();
        let ahead = state.ahead.as_ref().and_then(Frame::data_ref);
        let kept: u64 = state.kept.iter().skip(self.at).chain(ahead).map(|bytes| bytes.len() as u64).sum();
        let rest = if state.has_ended { SizeHint::with_exact(0) } else { state.source.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl State {
    /// Keeps what was read, or gives up keeping. Answers by how much what is kept grew.
    fn keep(&mut self, data: &Bytes) -> usize {
        self.kept_bytes = self.kept_bytes.saturating_add(data.len());
        if self.is_lost || self.kept_bytes > self.most_bytes {
            self.is_lost = true;
            self.kept = Vec::new();
            return 0;
        }
        self.kept.push(data.clone());
        1
    }
}

#[cfg(test)]
mod tests;
