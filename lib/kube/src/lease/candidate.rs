//! The decision of one candidate for a lease: the record, its own name and the time in, the next request out. Pure: the
//! times are arguments.
//!
//! ```text
//!            +---------------- refused: another was first -----------------+
//!            v                                                             |
//!   begin -> Read --absent--> Create --written--> leads --after RENEW--> Write (renewed)
//!            ^ |                                   |
//!            | +--free, or unchanged for as long as it counts--> Write (taken) --written--> leads
//!            |  held by another one
//!            +--after RETRY                        leads --not renewed within HOLD--> Read
//! ```
//!
//! What must hold: a candidate leads only until [`HOLD`] after it *asked* for what was granted last, and takes over only
//! when the record has not changed for as long as it counts, since it *heard* of it. Both times are its own; the times in the
//! record are for people, because clocks of two machines say nothing about each other. Since a record counts for longer than
//! its holder goes by it, no two lead at once, as far as their clocks run equally fast.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};

/// A record that does not change counts for this long.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// Its holder goes by it for this long.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// The longest time for one call. A leader whose renewal hangs tries once more before it has to give way, and that one may take as
/// long.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// From one renewal to the next.
pub(super) const RENEW: Duration = Duration::from_secs(4);
/// The pause between two looks at another one's record, and after a failure.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// The longest time for which a record of another build counts.
const LONGEST: Duration = Duration::from_secs(60);

/// The lease as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// `metadata.resourceVersion`.
    pub(super) version: Arc<str>,
    /// Its content.
    pub(super) spec: LeaseSpec,
}

/// What to ask for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// The record.
    Read,
    /// To make the record.
    Create(LeaseSpec),
    /// To write the record, if it is still of this version.
    Write {
        /// The version.
        version: Arc<str>,
        /// The content.
        spec: LeaseSpec,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Read; none: there is no record.
    Is(Option<Record>),
    /// Created or written; this is the record now.
    Written(Record),
    /// Another candidate was first.
    Refused,
    /// It is not known what came of it.
    Failed,
}

#[derive(Clone, Debug, PartialEq)]
enum Known {
    Nothing,
    Absence,
    Record(Record),
}

/// One that would like to lead.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    name: Arc<str>,
    known: Known,
    /// The content that was heard last, and when it was first.
    heard: Option<(LeaseSpec, Instant)>,
    /// It leads until then.
    until: Option<Instant>,
}

impl Candidate {
    /// No other candidate has this name, not even an earlier process of the same pod.
    pub(super) fn new(name: Arc<str>) -> Self {
        Self { name, known: Known::Nothing, heard: None, until: None }
    }

    /// It leads until then; none: it does not.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The holder by the last record, where that is another one.
    pub(super) fn other(&self) -> Option<&str> {
        let (spec, _) = self.heard.as_ref()?;
        holder(spec).filter(|holder| **holder != *self.name)
    }

    /// The next request. `clock` is written into the record.
    pub(super) fn next(&mut self, now: Instant, clock: SystemTime) -> Request {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
        match &self.known {
            Known::Nothing => Request::Read,
            // One that was deleted counts on: its holder may not have noticed.
            Known::Absence if self.heard.as_ref().is_none_or(|(spec, _)| self.wait(spec, now).is_zero()) => {
                Request::Create(self.held(&LeaseSpec::default(), clock))
            }
            Known::Record(Record { version, spec }) if self.wait(spec, now).is_zero() => {
                Request::Write { version: Arc::clone(version), spec: self.held(spec, clock) }
            }
            Known::Absence | Known::Record(_) => Request::Read,
        }
    }

    /// Takes the answer to a request of the time `asked`. The pause before the next one.
    pub(super) fn take(&mut self, answer: Answer, asked: Instant, now: Instant) -> Duration {
        match answer {
            Answer::Is(None) => {
                (self.known, self.until) = (Known::Absence, None);
                self.heard.as_ref().map_or(Duration::ZERO, |(spec, _)| self.wait(spec, now)).min(RETRY)
            }
            Answer::Is(Some(record)) => {
                self.hear(&record.spec, now);
                if holder(&record.spec) != Some(&*self.name) {
                    self.until = None;
                }
                let wait = self.wait(&record.spec, now).min(RETRY);
                self.known = Known::Record(record);
                wait
            }
            Answer::Written(record) => {
                self.hear(&record.spec, now);
                self.until = asked.checked_add(HOLD);
                self.known = Known::Record(record);
                // An answer that was slow in coming puts nothing off: what it grants counts from the question on.
                RENEW.saturating_sub(now.saturating_duration_since(asked))
            }
            Answer::Refused => {
                self.known = Known::Nothing;
                Duration::ZERO
            }
            Answer::Failed => {
                if self.until.is_none() {
                    self.known = Known::Nothing;
                }
                RETRY
            }
        }
    }

    /// Leads no longer. The record with which another one need not wait, where the record is this candidate's.
    pub(super) fn release(&mut self, record: &Record, clock: SystemTime) -> Option<Request> {
        self.until = None;
        let is_ours = holder(&record.spec) == Some(&*self.name);
        is_ours.then(|| {
            let spec =
                LeaseSpec { holder_identity: Some(String::new()), renew_time: time(clock), ..record.spec.clone() };
            Request::Write { version: Arc::clone(&record.version), spec }
        })
    }

    fn hear(&mut self, spec: &LeaseSpec, now: Instant) {
        if self.heard.as_ref().is_none_or(|(last, _)| last != spec) {
            self.heard = Some((spec.clone(), now));
        }
    }

    /// The time until this record may be taken; none is left where it is this candidate's or free.
    fn wait(&self, spec: &LeaseSpec, now: Instant) -> Duration {
        if holder(spec).is_none_or(|holder| *holder == *self.name) {
            return Duration::ZERO;
        }
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let counts = seconds.map_or(LEASE, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST);
        let unchanged = match &self.heard {
            Some((heard, since)) if heard == spec => now.saturating_duration_since(*since),
            _ => Duration::ZERO,
        };
        counts.saturating_sub(unchanged)
    }

    /// The record with this candidate as its holder.
    fn held(&self, last: &LeaseSpec, clock: SystemTime) -> LeaseSpec {
        let is_renewed = holder(last) == Some(&*self.name);
        LeaseSpec {
            holder_identity: Some(self.name.to_string()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: if is_renewed { last.acquire_time.clone() } else { time(clock) },
            renew_time: time(clock),
            lease_transitions: match last.lease_transitions {
                Some(count) if !is_renewed => Some(count.saturating_add(1)),
                count => Some(count.unwrap_or_default()),
            },
            ..last.clone()
        }
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// In microseconds, which is all that a record keeps: what is read back is equal.
fn time(clock: SystemTime) -> Option<MicroTime> {
    let since = clock.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let microseconds = i64::try_from(since.as_micros()).ok()?;
    Timestamp::from_microsecond(microseconds).ok().map(MicroTime)
}

#[cfg(test)]
#[path = "candidate/tests.rs"]
mod tests;
