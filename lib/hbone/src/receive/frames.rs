//! All frames but DATA and field blocks: RFC 9113 6.3 to 6.9.

use super::{Fault, GOAWAY_LEN};
use crate::connection::{Connection, Event, Going, ResetCause, StreamId, ping};
use crate::error::{ErrorCode, Violation};
use crate::frame::{Header, Kind, MAX_31_BITS, flag, take};
use crate::limits::Cost;
use crate::settings::{DEFAULT_WINDOW, Role};
use crate::stream::{Gone, Receiving, Sending};

impl Connection {
    /// A frame is there as a whole.
    pub(super) fn frame(&mut self, header: Header, payload: &[u8]) -> Result<Option<Event<'static>>, Fault> {
        let on_stream = matches!(header.kind, Kind::HEADERS | Kind::CONTINUATION | Kind::PRIORITY | Kind::RST_STREAM);
        if header.kind != Kind::WINDOW_UPDATE && on_stream != (header.stream != 0) {
            return Err(Violation::WrongStream.into());
        }
        let event = match header.kind {
            Kind::HEADERS => return self.headers(header, payload),
            Kind::CONTINUATION => return self.continuation(header, payload),
            Kind::PRIORITY => self.priority(header, payload).map(|()| None),
            Kind::RST_STREAM => self.reset_received(header.stream, payload),
            Kind::SETTINGS => self.settings(header, payload).map(|()| None),
            Kind::PING => self.ping(header, payload).map(|()| None),
            Kind::GOAWAY => self.goaway(payload).map(Some),
            _ => self.window_update(header.stream, payload).map(|()| None),
        }?;
        self.check_unread()?;
        Ok(event)
    }

    /// Whether the stream was never used (RFC 9113 5.1).
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Client => id.is_multiple_of(2) || id >= self.next_stream,
            Role::Server => id.is_multiple_of(2) || id > self.highest_accepted,
        }
    }

    /// Whether the stream lies beyond our final GOAWAY.
    pub(super) fn is_ignored(&self, id: u32) -> bool {
        self.role == Role::Server && matches!(self.going, Going::Last(last) if id > last)
    }

    /// Deprecated (RFC 9113 5.3.2): checked and forgotten.
    fn priority(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        self.budgets.spend(Cost::Nothing)?;
        let violation = match take::<4>(payload) {
            Some(bytes) if header.length == 5 => {
                if u32::from_be_bytes(bytes) & MAX_31_BITS != header.stream {
                    return Ok(());
                }
                Violation::SelfDependency
            }
            _ => Violation::FrameSize,
        };
        // RST_STREAM may not be sent on an idle stream (RFC 9113 6.4), and means nothing on one that is gone.
        if self.streams.get(header.stream).is_some() {
            Err(Fault::Stream(header.stream, violation))
        } else {
            Err(violation.into())
        }
    }

    fn reset_received(&mut self, id: u32, payload: &[u8]) -> Result<Option<Event<'static>>, Fault> {
        let code = ErrorCode(u32::from_be_bytes(take(payload).ok_or(Violation::FrameSize)?));
        if self.is_idle(id) {
            return Err(Violation::IdleStream.into());
        }
        let Some(stream) = self.streams.remove(id, Some(Gone::Ended)) else {
            self.budgets.spend(Cost::Nothing)?;
            return Ok(None);
        };
        if stream.send == Sending::Unanswered {
            self.budgets.spend(Cost::Reset)?;
        }
        // An answered stream was processed, with any code.
        let unprocessed = code == ErrorCode::REFUSED_STREAM && stream.recv == Receiving::Unanswered;
        let cause = if unprocessed { ResetCause::Unprocessed } else { ResetCause::Peer };
        Ok(stream.reset_due.is_none().then_some(Event::Reset { stream: StreamId(id), code, cause }))
    }

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Violation::FrameSize.into());
            }
            return self.settings_acknowledged();
        }
        self.budgets.spend(Cost::Settings)?;
        let window_before = self.peer.initial_window;
        self.peer.apply(payload, self.role)?;
        if std::mem::take(&mut self.peer.table_reduced) {
            self.encoder.table_reduced();
        }
        let by = i64::from(self.peer.initial_window).saturating_sub(i64::from(window_before));
        if by != 0 {
            for stream in self.streams.iter_mut() {
                stream.send_window.shift(by).map_err(|_| Violation::InitialWindow)?;
            }
            self.wake_all();
        }
        self.acknowledge(Kind::SETTINGS, &[]);
        Ok(())
    }

    /// The peer knows our settings: those that are tighter than the protocol's hold from here on.
    fn settings_acknowledged(&mut self) -> Result<(), Fault> {
        if self.settings_acknowledged {
            return self.budgets.spend(Cost::Nothing).map_err(Fault::from);
        }
        self.settings_acknowledged = true;
        self.decoder.set_limit(self.config.header_table_size);
        let less = DEFAULT_WINDOW.saturating_sub(self.config.stream_window);
        if less > 0 {
            self.streams.iter_mut().for_each(|stream| stream.recv_window.shrink(less));
        }
        Ok(())
    }

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let payload: [u8; 8] = take(payload).ok_or(Violation::FrameSize)?;
        if !header.has(flag::ACK) {
            self.budgets.spend(Cost::Ping)?;
            self.acknowledge(Kind::PING, &payload);
            return Ok(());
        }
        match payload {
            // It is enough that something arrived.
            ping::ALIVE => {}
            ping::DRAIN => self.drain_answered(),
            ping::RESETS => self.resets_arrived(),
            _ => self.budgets.spend(Cost::Nothing)?,
        }
        Ok(())
    }

    fn goaway(&mut self, payload: &[u8]) -> Result<Event<'static>, Fault> {
        let (Some([l0, l1, l2, l3, c0, c1, c2, c3]), Some(debug)) = (take(payload), payload.get(GOAWAY_LEN..)) else {
            return Err(Violation::FrameSize.into());
        };
        self.budgets.spend(Cost::Nothing)?;
        // The number may not grow, since what lies above may be on its way elsewhere already (RFC 9113 6.8).
        let named = u32::from_be_bytes([l0, l1, l2, l3]) & MAX_31_BITS;
        let last = self.peer_going.map_or(named, |before| before.min(named));
        let code = ErrorCode(u32::from_be_bytes([c0, c1, c2, c3]));
        self.peer_going = Some(last);
        if self.role == Role::Client {
            let mut above: Vec<_> = self.streams.iter_mut().map(|stream| stream.id).filter(|&id| id > last).collect();
            above.sort_unstable();
            above.into_iter().for_each(|id| self.not_processed(id));
        }
        Ok(Event::GoAway { last, code, debug: debug.to_vec() })
    }

    /// A stream of ours that the peer's GOAWAY leaves out is over, and what of it has not left yet stays here.
    fn not_processed(&mut self, id: u32) {
        self.take_back(id);
        let Some(state) = self.streams.remove(id, Some(Gone::Reset)) else { return };
        if state.reset_due.is_none() {
            let answered = state.recv != Receiving::Unanswered;
            let cause = if answered { ResetCause::Peer } else { ResetCause::Unprocessed };
            let (stream, code) = (StreamId(id), ErrorCode::REFUSED_STREAM);
            self.events.push_back(Event::Reset { stream, code, cause });
        }
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        let increment = u32::from_be_bytes(take(payload).ok_or(Violation::FrameSize)?) & MAX_31_BITS;
        if id == 0 {
            if increment == 0 {
                return Err(Violation::ZeroIncrement.into());
            }
            self.send_window.shift(i64::from(increment))?;
            self.wake_all();
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Violation::IdleStream.into());
        }
        let Some(stream) = self.streams.get(id) else {
            self.budgets.spend(Cost::Nothing)?;
            return Ok(());
        };
        if increment == 0 {
            return Err(Fault::Stream(id, Violation::ZeroIncrement));
        }
        stream.small_frames = 0;
        stream.send_window.shift(i64::from(increment)).map_err(|violation| Fault::Stream(id, violation))?;
        self.wake(id);
        Ok(())
    }
}
