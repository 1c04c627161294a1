//! The body of a response on its way to the client: it streams, and its end is the end of the request.
//!
//! What must hold: a response that is denied holds its endpoint no longer, whether or not its client takes what was read of it.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use underpass_core::http::RequestEnd;

use super::{
    body::{BodyError, Recorded},
    exchange::Exchange,
};
use crate::{
    cluster::{Chosen, CountGuard},
    judging::Opened,
    upstream::Lease,
};

/// The body of a response to a client.
pub(crate) enum ResponseBody {
    /// Of an answer that was made here.
    Own(Option<Bytes>),
    /// Of an endpoint.
    Endpoint(Box<EndpointBody>),
}

/// The body of an endpoint's response.
pub(crate) struct EndpointBody {
    streamed: Rc<RefCell<Streamed>>,
    /// Completes when the time of the route is over.
    deadline: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// It is judged again until its end.
    opened: Option<Rc<Opened>>,
}

/// What of a response on its way holds the endpoint. Apart from the body, which is asked for more only where its client takes more:
/// a denial ends this at once.
pub(crate) struct Streamed {
    /// None: it is denied.
    pub(super) incoming: Option<Incoming>,
    /// Given back when the response has come to its end.
    pub(super) lease: Option<Lease>,
    /// The request, which ends with its response.
    pub(super) exchange: Exchange,
    /// It counts as one of its cluster's until then.
    pub(super) counted: Option<CountGuard>,
    /// The endpoint is busy with it until then.
    pub(super) chosen: Option<Chosen>,
    /// The request's body, which may still be on its way.
    pub(super) recorded: Rc<Recorded>,
}

impl Streamed {
    /// A policy denies it by now.
    pub(crate) fn deny(&mut self) {
        self.incoming = None;
        self.end(RequestEnd::DeniedLater);
    }

    const fn has_ended(&self) -> bool {
        self.counted.is_none()
    }

    fn end(&mut self, end: RequestEnd) {
        // An endpoint that has answered needs no more of it, and its connection takes no other request.
        if !self.recorded.has_ended() {
            self.recorded.give_up();
        }
        self.lease = None;
        self.counted = None;
        self.chosen = None;
        self.exchange.end(end);
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(Some(Err(BodyError::Denied))) };
        let polled = std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &polled {
            None => self.end(RequestEnd::Finished),
            Some(Err(_)) => self.end(RequestEnd::EndpointReset),
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    Some(data) => self.exchange.record.sent(data.len() as u64),
                    None => frame.trailers_ref().into_iter().for_each(|all| self.exchange.record.trailers(all)),
                }
                // Nothing asks for the end of a body that says so.
                if incoming.is_end_stream() {
                    self.end(RequestEnd::Finished);
                }
            }
        }
        Poll::Ready(polled.map(|polled| polled.map_err(BodyError::Endpoint)))
    }
}

impl EndpointBody {
    pub(super) fn new(
        streamed: Streamed,
        deadline: Option<Pin<Box<dyn Future<Output = ()>>>>,
        opened: Rc<Opened>,
    ) -> Self {
        let streamed = Rc::new(RefCell::new(streamed));
        opened.answers(&streamed);
        Self { streamed, deadline, opened: Some(opened) }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut streamed = self.streamed.borrow_mut();
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            streamed.end(RequestEnd::Timeout);
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        if self.opened.as_ref().is_some_and(|opened| opened.poll_denied(cx).is_ready()) {
            streamed.deny();
        }
        streamed.poll_frame(cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = match self.get_mut() {
            Self::Own(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Endpoint(body) => body,
        };
        let polled = this.poll_frame(cx);
        if this.streamed.borrow().has_ended() {
            this.opened = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Endpoint(body) => body.streamed.borrow().incoming.as_ref().is_some_and(Incoming::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Endpoint(body) => {
                body.streamed.borrow().incoming.as_ref().map_or_else(SizeHint::new, Incoming::size_hint)
            }
        }
    }
}
