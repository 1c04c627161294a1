//! The task that drives one tunnel. A turn: whatever the socket, the clock or the streams have, once more what became
//! ready meanwhile, then everything that is queued is encrypted at once and written at once.

use std::{collections::HashMap, io, rc::Rc};

use tokio::time::{Instant, sleep_until};
use underpass_hbone::{Connect, Connection, Error, ErrorCode, Event, Headers, ResetCause, StreamId};

use super::{
    Accepted, Inner, MOST_QUEUED_BYTES, State, Tunnel, TunnelEnd,
    lane::{Lane, StreamEnd},
    stream::Stream,
};
use crate::tls;

/// Reads of one turn, so that one tunnel does not starve the others of its worker.
const READS_PER_TURN: usize = 4;
/// Less than this is worth one more look for ready streams before it is encrypted.
const WORTH_WAITING_BYTES: usize = 64 << 10;

/// Drives the tunnel until it ends, then tells every stream why.
pub(super) async fn drive(inner: Rc<Inner>) -> TunnelEnd {
    let end = run(&inner).await;
    tracing::debug!(peer = ?inner.socket.peer_addr().ok(), end = %end, "tunnel ended");
    let lanes: Vec<Rc<Lane>> = {
        let mut state = inner.state.borrow_mut();
        state.ending.get_or_insert_with(|| end.clone());
        state.hbone.close(ErrorCode::NO_ERROR);
        state.waiting.clear();
        state.lanes.drain().map(|(_, lane)| lane).collect()
    };
    inner.admission.borrow_mut().take();
    for lane in lanes {
        lane.end_with(StreamEnd::Tunnel(end.clone()));
    }
    end
}

async fn run(inner: &Rc<Inner>) -> TunnelEnd {
    let begun_by = Instant::now() + inner.settings.handshake;
    match tokio::time::timeout_at(begun_by, connected(inner)).await {
        Err(_) => return TunnelEnd::Timeout,
        Ok(Err(e)) => return TunnelEnd::Unreachable(e.kind()),
        Ok(Ok(())) => {}
    }
    let mut idle_since = Instant::now();
    let timer = sleep_until(begun_by);
    tokio::pin!(timer);
    loop {
        inner.flush();
        if let Some(end) = inner.is_ended() {
            return end;
        }
        let (until, wants_write) = inner.waits(begun_by, &mut idle_since);
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        let looked = tokio::select! {
            r = inner.socket.readable() => r.and_then(|()| inner.read()),
            r = inner.socket.writable(), if wants_write => r,
            () = inner.wake.notified() => Ok(()),
            () = &mut timer => { inner.timeout(begun_by, idle_since); Ok(()) }
        };
        if let Err(e) = looked {
            return inner.broken(&e);
        }
        // One more look: what streams answer in this turn leaves in the same write.
        if inner.queued() < WORTH_WAITING_BYTES {
            tokio::task::yield_now().await;
            if let Err(e) = inner.read() {
                return inner.broken(&e);
            }
        }
    }
}

async fn connected(inner: &Inner) -> io::Result<()> {
    inner.socket.writable().await?;
    inner.socket.take_error()?.map_or(Ok(()), Err)
}

impl Inner {
    fn queued(&self) -> usize {
        self.state.borrow().hbone.queued()
    }

    fn broken(&self, error: &io::Error) -> TunnelEnd {
        self.state.borrow_mut().ending.take().unwrap_or(TunnelEnd::Broken(error.kind()))
    }

    /// Encrypts what is queued and writes it; then there is room for the streams that wait.
    fn flush(&self) {
        let mut state = self.state.borrow_mut();
        let State { tls, out, hbone, ending, lanes, .. } = &mut *state;
        // What calls of the streams have set free; there is no input, so nothing is accepted here.
        while let Ok(Some(event)) = hbone.receive(&mut &[][..]) {
            dispatch(hbone, event, lanes, &mut Vec::new());
        }
        loop {
            while !out.is_empty() {
                match self.socket.try_write(out.pending()) {
                    Ok(n) => out.advance(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => {
                        ending.get_or_insert(TunnelEnd::Broken(e.kind()));
                        return;
                    }
                }
            }
            if !out.is_empty() || tls.is_handshaking() || hbone.poll_transmit().is_empty() {
                break;
            }
            let plain = hbone.poll_transmit();
            let n = plain.len();
            if let Err(e) = tls.encrypt(plain, out) {
                ending.get_or_insert(TunnelEnd::Tls(e.reason()));
                return;
            }
            hbone.transmitted(n);
        }
        if hbone.queued() < MOST_QUEUED_BYTES {
            for lane in state.waiting.drain(..) {
                lane.wake.notify_one();
            }
        }
    }

    /// The tunnel's end, once nothing is left to be written or nobody takes it.
    fn is_ended(&self) -> Option<TunnelEnd> {
        let mut state = self.state.borrow_mut();
        if state.ending.is_none() && state.hbone.is_drained() && state.out.is_empty() {
            state.ending = Some(TunnelEnd::Closed);
        }
        if state.ending.is_some() {
            // Best effort: GOAWAY and close_notify, as far as the socket takes them now.
            let State { tls, out, hbone, .. } = &mut *state;
            if !tls.is_handshaking() && tls.encrypt(hbone.poll_transmit(), out).is_ok() {
                let _ = tls.close(out);
            }
            let _ = self.socket.try_write(out.pending());
        }
        state.ending.clone()
    }

    /// When the clock has something to say, and whether ciphertext waits for the socket.
    fn waits(&self, begun_by: Instant, idle_since: &mut Instant) -> (Instant, bool) {
        let state = self.state.borrow();
        if !state.lanes.is_empty() {
            *idle_since = Instant::now();
        }
        let mut until = *idle_since + self.settings.idle;
        if self.is_beginning(&state) {
            until = until.min(begun_by);
        }
        if let Some(ping) = state.hbone.poll_timeout() {
            until = until.min(Instant::from_std(ping));
        }
        (until, !state.out.is_empty())
    }

    /// The handshake, or a server's first CONNECT, is still to come.
    fn is_beginning(&self, state: &State) -> bool {
        state.tls.is_handshaking() || (self.acceptor.is_some() && self.served.get() == 0)
    }

    fn timeout(&self, begun_by: Instant, idle_since: Instant) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let late = self.is_beginning(&state) && now >= begun_by;
        let idle = state.lanes.is_empty() && now >= idle_since + self.settings.idle;
        let dead = state.hbone.handle_timeout(now.into_std()).is_err();
        if late || dead {
            state.ending.get_or_insert(TunnelEnd::Timeout);
        } else if idle {
            state.hbone.close(ErrorCode::NO_ERROR);
            state.ending.get_or_insert(TunnelEnd::Closed);
        }
    }

    /// Reads, decrypts, and hands out what arrived, at most [`READS_PER_TURN`] times.
    fn read(self: &Rc<Self>) -> io::Result<()> {
        let mut accepted = Vec::new();
        let result = self.read_some(&mut accepted);
        for (lane, request) in accepted {
            self.served.set(self.served.get().wrapping_add(1));
            self.admission.borrow_mut().take();
            let stream = Stream::new(Rc::clone(self), lane);
            if let (Some(acceptor), Some(peer)) = (&self.acceptor, Tunnel(Rc::clone(self)).peer()) {
                acceptor(Accepted { stream, request, peer });
            }
        }
        result
    }

    fn read_some(&self, accepted: &mut Vec<(Rc<Lane>, Connect)>) -> io::Result<()> {
        let mut buffer = self.buffers.lend();
        for _ in 0..READS_PER_TURN {
            let n = match self.socket.try_read(&mut buffer) {
                Ok(0) => {
                    self.end_of_input();
                    return Ok(());
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let full = n == buffer.len();
            let mut state = self.state.borrow_mut();
            let received = buffer.get_mut(..n).map_or(Ok(()), |bytes| receive(&mut state, bytes, accepted));
            if let Err(end) = received {
                state.ending.get_or_insert(end);
                return Ok(());
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    fn end_of_input(&self) {
        let mut state = self.state.borrow_mut();
        let end = match state.tls.end_of_input() {
            Ok(()) => TunnelEnd::Closed,
            Err(_) if state.tls.is_handshaking() => TunnelEnd::Broken(io::ErrorKind::UnexpectedEof),
            Err(e) => TunnelEnd::Tls(e.reason()),
        };
        state.ending.get_or_insert(end);
    }
}

fn receive(
    state: &mut State,
    bytes: &mut [u8],
    accepted: &mut Vec<(Rc<Lane>, Connect)>,
) -> Result<(), TunnelEnd> {
    let State { tls, out, hbone, lanes, .. } = state;
    let mut failed: Result<(), Error> = Ok(());
    let mut closed = false;
    let decrypted = tls.receive(bytes, out, |event| match event {
        tls::Event::Data(mut plain) => {
            while failed.is_ok() {
                match hbone.receive(&mut plain) {
                    Ok(Some(event)) => dispatch(hbone, event, lanes, accepted),
                    Ok(None) => break,
                    Err(e) => failed = Err(e),
                }
            }
        }
        tls::Event::Connected(_) => {}
        tls::Event::PeerClosed => closed = true,
    });
    decrypted.map_err(|e| TunnelEnd::Tls(e.reason()))?;
    failed.map_err(|e| TunnelEnd::Protocol(e.code()))?;
    if closed { Err(TunnelEnd::Closed) } else { Ok(()) }
}

/// One event to the stream it is about.
fn dispatch(
    hbone: &mut Connection,
    event: Event<'_>,
    lanes: &mut HashMap<StreamId, Rc<Lane>>,
    accepted: &mut Vec<(Rc<Lane>, Connect)>,
) {
    match event {
        Event::Data { stream, data, end } => {
            let Some(lane) = lanes.get(&stream) else { return hbone.consumed(stream, data.len()) };
            let done = lane.deliver(data);
            hbone.consumed(stream, done);
            if end {
                finish(lane);
            }
        }
        Event::Writable { stream } => wake(lanes, stream),
        Event::Response { stream, status, end, .. } => {
            let Some(lane) = lanes.get(&stream) else { return };
            lane.status.set(Some(status));
            if end { finish(lane) } else { lane.wake.notify_one() }
        }
        Event::Trailers { stream, .. } => {
            if let Some(lane) = lanes.get(&stream) {
                finish(lane);
            }
        }
        Event::Reset { stream, code, cause } => {
            if let Some(lane) = lanes.remove(&stream) {
                let unprocessed = cause == ResetCause::Unprocessed;
                lane.end_with(if unprocessed { StreamEnd::Unprocessed } else { StreamEnd::Reset(code) });
            }
        }
        Event::Connect { stream, request, end } => {
            let lane = Rc::new(Lane::new(stream));
            lane.finished.set(end);
            lanes.insert(stream, Rc::clone(&lane));
            accepted.push((lane, request));
        }
        // HBONE knows CONNECT only.
        Event::Request { stream, end, .. } => {
            let _ = hbone.respond(stream, 400, &Headers::new(), true);
            if !end {
                hbone.reset(stream, ErrorCode::NO_ERROR);
            }
        }
        // Streams that the peer has not looked at follow as resets; the others go on.
        Event::GoAway { code, .. } => tracing::debug!(code = code.name(), "peer goes away"),
    }
}

fn finish(lane: &Lane) {
    lane.finished.set(true);
    lane.wake.notify_one();
}

fn wake(lanes: &HashMap<StreamId, Rc<Lane>>, stream: StreamId) {
    if let Some(lane) = lanes.get(&stream) {
        lane.wake.notify_one();
    }
}
