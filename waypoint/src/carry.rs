//! Bytes both ways between a client and an endpoint, once nothing is read of them any more, and the ends that neither of them
//! decides: a policy, and the times of `connectionPool.tcp`.
//!
//! What must hold: such an end is a reset at both sides. An end in order would be taken for the whole of what was sent.

use std::{
    cell::{Cell, OnceCell},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional},
    time::{Instant, sleep_until},
};

use crate::{
    io::{ClientStream, EndpointStream},
    judging::Opened,
    metrics::ConnectionSeries,
};

/// The times of a connection; none: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Without a byte in either direction.
    pub(crate) idle: Option<Duration>,
    /// The end of its time in all.
    pub(crate) until: Option<Instant>,
}

/// The end of a connection.
#[derive(Debug)]
pub(crate) enum End {
    /// Of both directions, in order.
    InOrder,
    /// One side broke off.
    Broken(io::Error),
    /// A policy denies it since a change.
    Denied,
    /// It was idle, or open, for as long as it may be.
    OverTime,
}

/// What was carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    received: Cell<u64>,
    sent: Cell<u64>,
    endpoint_failed: Cell<bool>,
    /// Where it is counted as well.
    series: OnceCell<Arc<ConnectionSeries>>,
}

impl Carried {
    /// The series that it is counted in, which `open` finds once.
    pub(crate) fn series(&self, open: impl FnOnce() -> Arc<ConnectionSeries>) -> &ConnectionSeries {
        self.series.get_or_init(open)
    }

    /// Bytes from the client to the endpoint.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes from the endpoint to the client.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// So many more of these.
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get().saturating_add(bytes as u64));
        self.series.get().inspect(|series| series.add_sent(bytes));
    }

    fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get().saturating_add(bytes as u64));
        self.series.get().inspect(|series| series.add_received(bytes));
    }

    /// The endpoint's side broke off, and not the client's.
    pub(crate) fn has_endpoint_failed(&self) -> bool {
        self.endpoint_failed.get()
    }
}

/// Carries bytes until the end, and counts them. Both sides are closed then.
pub(crate) async fn carry(
    mut client: ClientStream,
    endpoint: EndpointStream,
    opened: &Opened,
    times: Times,
    carried: &Rc<Carried>,
) -> End {
    let last = Rc::new(Cell::new(Instant::now()));
    let mut endpoint = Watched { stream: endpoint, last: Rc::clone(&last), carried: Rc::clone(carried) };
    tokio::select! {
        biased; // once it is denied, no byte more is carried
        () = opened.denied() => End::Denied,
        ended = copy_bidirectional(&mut client, &mut endpoint) => match ended {
            Ok(_) => End::InOrder,
            Err(error) => End::Broken(error),
        },
        () = over_time(&last, times) => End::OverTime,
    }
}

/// Completes when a connection on which something passed at `last` has had its times.
pub(crate) async fn over_time(last: &Cell<Instant>, times: Times) {
    let idle = async {
        let Some(idle) = times.idle else { return std::future::pending().await };
        while last.get().elapsed() < idle {
            sleep_until(last.get() + idle).await;
        }
    };
    let whole = async {
        match times.until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = idle => {}
        () = whole => {}
    }
}

/// The stream of an endpoint, through which both directions pass: how much, and when something did last.
struct Watched {
    stream: EndpointStream,
    last: Rc<Cell<Instant>>,
    carried: Rc<Carried>,
}

impl Watched {
    fn passed<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &poll {
            Poll::Ready(Ok(_)) => self.last.set(Instant::now()),
            Poll::Ready(Err(_)) => self.carried.endpoint_failed.set(true),
            Poll::Pending => {}
        }
        poll
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.carried.add_sent(buffer.filled().len().saturating_sub(before));
        this.passed(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            this.carried.add_received(*written);
        }
        this.passed(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
