//! The task that drives one tunnel. A turn: one event of the socket, the clock or the streams, once more what became ready
//! meanwhile, then all queued output is encrypted at once and written at once.
//!
//! What must hold: however the task ends, by a panic as well, every stream is told why; and nothing that a peer does makes it
//! hold more than its limits allow: a peer that does not read our answers is not read either.

use std::{any::Any, collections::HashMap, io, mem, rc::Rc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use underpass_hbone::{Connect, Connection, Error, ErrorCode, Event, Headers, ResetCause, StreamId};

use super::{
    Accepted, Acceptor, Inner, MOST_QUEUED_BYTES, Memory, State, TunnelEnd,
    shared::{SharedStream, StreamEnd},
    stream::Stream,
    transport::{self, Transport},
};
use crate::{
    budget::{Level, Permit},
    tls,
};

/// Reads in one turn, so that one tunnel does not starve the others of its worker.
const READS_PER_TURN: usize = 4;
/// Less than this is worth one more look for ready streams before it is encrypted.
const WORTH_WAITING_BYTES: usize = 64 << 10;
/// Output that a peer has left unread from which on the peer is not read either: payload alone never comes to this.
const MOST_UNREAD_BYTES: usize = 4 * MOST_QUEUED_BYTES;

/// The time that a peer has to close its end after GOAWAY and close_notify.
const LINGER: Duration = Duration::from_secs(1);

/// What a server's end has in addition to a client's.
pub(super) struct ServerEnd {
    pub(super) acceptor: Acceptor,
    /// The slot of an unauthenticated socket, kept until the peer is authenticated.
    pub(super) admission: Option<Box<dyn Any>>,
}

/// The driver of one tunnel. Dropped, it tells every stream that the tunnel ended.
pub(super) struct Driver {
    transport: Transport,
    inner: Rc<Inner>,
    /// The socket's.
    _permit: Permit,
    server: Option<ServerEnd>,
    /// The deadline of connecting and the handshake. From then on a tunnel without streams is idle, also one that its client
    /// has opened before it is needed.
    begun_by: Instant,
    /// When the last stream ended.
    idle_since: Option<Instant>,
}

/// A stream that the peer opened in this turn.
type Opened = (Rc<SharedStream>, Connect);

impl Driver {
    pub(super) fn new(transport: Transport, permit: Permit, inner: Rc<Inner>, server: Option<ServerEnd>) -> Self {
        let begun_by = Instant::now() + inner.settings.handshake;
        Self { transport, _permit: permit, inner, server, begun_by, idle_since: None }
    }

    /// Drives the tunnel until it ends, then tells every stream why.
    pub(super) async fn drive(mut self) -> TunnelEnd {
        let end = self.run().await;
        self.inner.meter.ended(&end);
        tracing::debug!(to = ?self.inner.to, %end, "tunnel ended");
        let is_sent = self.send_goaway();
        self.end_streams(&end);
        self.server = None;
        if is_sent && end != TunnelEnd::Crowded {
            self.linger().await;
        }
        end
    }

    async fn run(&mut self) -> TunnelEnd {
        if let Err(end) = self.connected().await {
            return end;
        }
        let timer = sleep_until(self.begun_by);
        tokio::pin!(timer);
        loop {
            if let Err(error) = self.flush() {
                return self.broken(&error);
            }
            if let Some(end) = self.end() {
                return end;
            }
            let due = self.due();
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            let event = tokio::select! {
                ready = self.transport.readable(), if self.reads() => ready.and_then(|()| self.read()),
                ready = self.transport.writable(), if self.writes() => ready,
                () = self.inner.wake.notified() => Ok(()),
                () = &mut timer => { self.timeout(); Ok(()) }
            };
            if let Err(error) = event {
                return self.broken(&error);
            }
            // Once more: what streams answer in this turn leaves in the same write.
            if self.queued() < WORTH_WAITING_BYTES {
                tokio::task::yield_now().await;
                if let Err(error) = self.read() {
                    return self.broken(&error);
                }
            }
        }
    }

    /// Waits until connect() is done, or the tunnel is ended before.
    async fn connected(&self) -> Result<(), TunnelEnd> {
        let ended = async {
            loop {
                if let Some(end) = self.inner.state.borrow().ending.clone() {
                    return end;
                }
                self.inner.wake.notified().await;
            }
        };
        tokio::select! {
            connected = timeout_at(self.begun_by, self.transport.connected()) => match connected {
                Ok(Err(TunnelEnd::Unreachable(kind))) if self.server.is_some() => Err(TunnelEnd::Broken(kind)),
                Ok(connected) => connected,
                Err(_) => Err(TunnelEnd::Timeout),
            },
            end = ended => Err(end),
        }
    }

    fn queued(&self) -> usize {
        self.inner.state.borrow().hbone.queued()
    }

    fn reads(&self) -> bool {
        self.queued() < MOST_UNREAD_BYTES
    }

    fn writes(&self) -> bool {
        !self.inner.state.borrow().out.is_empty()
    }

    /// Encrypts what is queued and writes it; then there is room for the streams that wait.
    fn flush(&self) -> io::Result<()> {
        let mut state = self.inner.state.borrow_mut();
        state.hbone.allow_growth(self.inner.memory.level() == Level::Plenty);
        let written = self.write(&mut state);
        let left = state.hbone.queued() + state.out.len();
        state.output_reservation.set(left);
        written
    }

    fn write(&self, state: &mut State) -> io::Result<()> {
        let State { tls, out, hbone, ending, streams, waiting, starved_since, .. } = &mut *state;
        // Events that calls of the streams have caused; there is no input, so no stream is accepted here.
        while let Ok(Some(event)) = hbone.receive(&mut &[][..]) {
            dispatch(hbone, event, streams, &self.inner.memory, &mut Vec::new());
        }
        loop {
            while !out.is_empty() {
                match self.transport.try_write(out.pending()) {
                    Ok(n) => out.advance(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(e),
                }
                if out.is_empty() {
                    self.inner.buffers.put_back_outgoing(mem::take(out));
                }
            }
            if tls.is_handshaking() || hbone.queued() == 0 {
                break;
            }
            *out = self.inner.buffers.take_outgoing();
            if let Err(e) = tls.encrypt(hbone.poll_transmit(), out) {
                ending.get_or_insert(TunnelEnd::Tls(tls.failure(&e)));
                break;
            }
            hbone.transmitted(hbone.queued());
        }
        if hbone.is_starved() {
            starved_since.get_or_insert_with(Instant::now);
        } else {
            *starved_since = None;
        }
        if hbone.queued() < MOST_QUEUED_BYTES {
            for shared in waiting.drain(..) {
                shared.waits.set(false);
                shared.notify();
            }
        }
        self.inner.reclaim_output(state);
        Ok(())
    }

    /// The end of a tunnel whose transport failed. What the peer sent before may tell why, and which streams it did not process.
    fn broken(&mut self, error: &io::Error) -> TunnelEnd {
        let _ = self.read();
        let ending = self.inner.state.borrow_mut().ending.take();
        ending.unwrap_or_else(|| transport::broken(error))
    }

    /// The tunnel's end, where one was decided, or both sides are done.
    fn end(&self) -> Option<TunnelEnd> {
        let state = self.inner.state.borrow();
        let drained = state.hbone.is_drained() && state.out.is_empty();
        state.ending.clone().or(drained.then_some(TunnelEnd::Closed))
    }

    /// Sends what is queued, GOAWAY, close_notify (or the alert that is queued) and FIN, as far as the socket takes it now. True
    /// if it took all of it.
    fn send_goaway(&self) -> bool {
        let mut state = self.inner.state.borrow_mut();
        let State { tls, out, hbone, .. } = &mut *state;
        hbone.close(ErrorCode::NO_ERROR);
        if !tls.is_handshaking() && tls.encrypt(hbone.poll_transmit(), out).is_ok() {
            let _ = tls.close(out);
        }
        self.transport.send_at_once();
        while !out.is_empty() {
            let Ok(n) = self.transport.try_write(out.pending()) else { return false };
            out.advance(n);
        }
        self.transport.shut_down_write().is_ok() && self.transport.shut_down_write().is_ok()
    }

    /// Reads on for a moment. A socket that is closed before everything was read sends RST, and a peer that is still
    /// writing would get that before it has read our GOAWAY or alert.
    async fn linger(&self) {
        let closed = async {
            loop {
                self.transport.readable().await?;
                match self.transport.try_read(&mut self.inner.buffers.lend()) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
        };
        let _: Result<io::Result<()>, _> = timeout(LINGER, closed).await;
    }

    fn end_streams(&self, end: &TunnelEnd) {
        let mut state = self.inner.state.borrow_mut();
        state.ending.get_or_insert_with(|| end.clone());
        state.waiting.clear();
        state.out = tls::Outgoing::new();
        state.output_reservation.set(0);
        let streams = mem::take(&mut state.streams);
        drop(state);
        streams.into_values().for_each(|shared| shared.end_with(StreamEnd::Tunnel(end.clone())));
    }

    /// The time of the next timer.
    fn due(&mut self) -> Instant {
        let state = self.inner.state.borrow();
        let idle_since = state.streams.is_empty().then(|| self.idle_since.unwrap_or_else(Instant::now));
        self.idle_since = idle_since;
        let idle = idle_since.map(|since| since + self.inner.settings.idle);
        let begun = state.tls.is_handshaking().then_some(self.begun_by);
        let ping = state.hbone.poll_timeout().map(Instant::from_std);
        let expiry = state.expires.filter(|_| !state.takes_no_more());
        // Without any of them another event comes first; the timer then runs for nothing, once.
        [idle, begun, ping, expiry]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.inner.settings.idle)
    }

    fn timeout(&self) {
        let now = Instant::now();
        let mut state = self.inner.state.borrow_mut();
        let late = now >= self.begun_by && state.tls.is_handshaking();
        let idle = self.idle_since.is_some_and(|since| now >= since + self.inner.settings.idle);
        let dead = state.hbone.handle_timeout(now.into_std()).is_err();
        if state.expires.is_some_and(|at| now >= at) {
            state.check_expiry();
        }
        if late || dead {
            state.ending.get_or_insert(TunnelEnd::Timeout);
        } else if idle && state.streams.is_empty() {
            state.ending.get_or_insert(TunnelEnd::Closed);
        }
    }

    /// Reads, decrypts, and hands out what arrived. An error is the socket's; what else ends the tunnel is in its state.
    fn read(&mut self) -> io::Result<()> {
        let mut opened = Vec::new();
        let result = self.read_some(&mut opened);
        if let Some(server) = &mut self.server
            && self.inner.state.borrow().tls.peer().is_some()
        {
            server.admission = None;
        }
        for (shared, request) in opened {
            let stream = Stream::new(Rc::clone(&self.inner), shared);
            if self.is_too_late(&stream) {
                continue;
            }
            let peer = self.inner.state.borrow().tls.peer().cloned();
            // Only a server gets CONNECTs, and only of an authenticated peer.
            if let (Some(server), Some(peer)) = (&self.server, peer) {
                (server.acceptor)(Accepted { stream, request, peer });
            }
        }
        result
    }

    /// Refuses a stream that comes after the tunnel has expired, unprocessed: the peer may open it elsewhere, and nothing is
    /// lost.
    fn is_too_late(&self, stream: &Stream) -> bool {
        let mut state = self.inner.state.borrow_mut();
        let expired = state.has_expired();
        if expired {
            state.hbone.drain();
            drop(state);
            stream.reset(ErrorCode::REFUSED_STREAM);
        }
        expired
    }

    fn read_some(&self, opened: &mut Vec<Opened>) -> io::Result<()> {
        let mut buffer = self.inner.buffers.lend();
        for _ in 0..READS_PER_TURN {
            if !self.reads() {
                break;
            }
            let n = match self.transport.try_read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            let state = &mut *self.inner.state.borrow_mut();
            let received = match buffer.get_mut(..n) {
                Some(bytes) if n > 0 => receive(state, bytes, &self.inner.memory, opened),
                // Without close_notify, which would have ended it already.
                _ => Err(TunnelEnd::Broken(io::ErrorKind::UnexpectedEof)),
            };
            if matches!(received, Ok(()) | Err(TunnelEnd::Closed)) && state.tls.peer().is_some() {
                self.inner.meter.authenticated();
            }
            if let Err(end) = received {
                state.ending.get_or_insert(end);
                break;
            }
            if n < buffer.len() {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.inner.closed.set(true);
        self.inner.closing.notify_waiters();
        // After drive() no stream is left.
        let end = if std::thread::panicking() { TunnelEnd::Defect } else { TunnelEnd::Closed };
        self.inner.meter.ended(&end);
        self.end_streams(&end);
    }
}

fn receive(state: &mut State, bytes: &mut [u8], memory: &Memory, opened: &mut Vec<Opened>) -> Result<(), TunnelEnd> {
    let State { tls, out, hbone, streams, is_known, .. } = state;
    let mut failed: Result<(), Error> = Ok(());
    let (mut connected, mut closed) = (false, false);
    let decrypted = tls.receive(bytes, out, |event| match event {
        tls::Event::Data(mut plain) => {
            while failed.is_ok() {
                match hbone.receive(&mut plain) {
                    Ok(Some(event)) => dispatch(hbone, event, streams, memory, opened),
                    Ok(None) => break,
                    Err(e) => failed = Err(e),
                }
            }
            *is_known = true;
        }
        tls::Event::Connected(_) => connected = true,
        tls::Event::PeerClosed => closed = true,
    });
    decrypted.map_err(|e| TunnelEnd::Tls(tls.failure(&e)))?;
    if connected && let Err(end) = state.peer_is_known() {
        opened.clear();
        return Err(end);
    }
    failed.map_err(|e| TunnelEnd::Protocol(e.code()))?;
    if closed { Err(TunnelEnd::Closed) } else { Ok(()) }
}

/// Hands one event to its stream.
fn dispatch(
    hbone: &mut Connection,
    event: Event<'_>,
    streams: &mut HashMap<StreamId, Rc<SharedStream>>,
    memory: &Memory,
    opened: &mut Vec<Opened>,
) {
    match event {
        Event::Data { stream, data, end } => {
            let Some(shared) = streams.get(&stream) else {
                hbone.consumed(stream, data.len());
                if end {
                    refuse(hbone, stream);
                }
                return;
            };
            let done = shared.deliver(data);
            hbone.consumed(stream, done);
            if end {
                shared.finish();
            }
        }
        Event::Writable { stream } => {
            if let Some(shared) = streams.get(&stream) {
                shared.notify();
            }
        }
        Event::Response { stream, status, headers, end } => {
            if let Some(shared) = streams.get(&stream) {
                shared.answered(status, headers);
                if end { shared.finish() } else { shared.notify() }
            }
        }
        Event::Trailers { stream, .. } => match streams.get(&stream) {
            Some(shared) => shared.finish(),
            None => refuse(hbone, stream),
        },
        Event::Reset { stream, code, cause } => {
            if let Some(shared) = streams.remove(&stream) {
                let unprocessed = cause == ResetCause::Unprocessed;
                shared.end_with(if unprocessed { StreamEnd::Unprocessed } else { StreamEnd::Reset(code) });
            }
        }
        Event::Connect { stream, request, end } => {
            let shared = Rc::new(SharedStream::accepted(stream, end, memory));
            streams.insert(stream, Rc::clone(&shared));
            opened.push((shared, request));
        }
        // Answered at its end: until then its frames are checked like any others.
        Event::Request { end: false, .. } => {}
        Event::Request { stream, .. } => refuse(hbone, stream),
        // Streams that the peer has not processed follow as resets; the others go on.
        Event::GoAway { code, .. } => tracing::debug!(code = code.name(), "GOAWAY received"),
    }
}

/// Refuses a request that is no CONNECT: HBONE has no other. Does nothing to streams that are no requests, or gone.
fn refuse(hbone: &mut Connection, stream: StreamId) {
    let _ = hbone.respond(stream, 400, &Headers::new(), true);
}
