//! The tries of one request: whether the outcome of one is a reason for another, and how long that waits. A state machine
//! of the request; dice are an argument, and nothing here waits.
//!
//! ```text
//! try 1 --outcome, retried--> pause --> try 2 --> ... --> the last one's outcome is the request's
//! ```

use std::time::Duration;

use super::RetryPolicy;
use crate::objects::RetryCondition;

/// How a try ended, before a part of its response went to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a response.
    Response {
        /// Its status.
        status: u16,
        /// `grpc-status`, where the head has it.
        grpc_status: Option<u8>,
        /// It has `x-envoy-ratelimited`.
        is_ratelimited: bool,
    },
    /// No connection to the endpoint.
    ConnectFailure,
    /// HTTP/2 REFUSED_STREAM: the endpoint has not looked at the request.
    RefusedStream,
    /// The connection or the stream ended without a response.
    Reset {
        /// The head of the request was sent.
        is_sent: bool,
    },
    /// `perTryTimeout` is over.
    TryTimeout,
    /// A limit of the connection pool is reached here: no endpoint was asked.
    Overflow,
}

/// The tries of one request.
#[derive(Clone, Debug)]
pub struct Tries<'p> {
    policy: Option<&'p RetryPolicy>,
    /// Beside the first one.
    retries: u32,
}

/// The longest pause, in first pauses, as Envoy has it (`retry_back_off.max_interval`).
const MAX_PAUSES: u32 = 10;

impl<'p> Tries<'p> {
    /// Before the first one. Without a policy there is one.
    #[must_use]
    pub const fn new(policy: Option<&'p RetryPolicy>) -> Self {
        Self { policy, retries: 0 }
    }

    /// The pause before another try; none: the outcome is the request's. `can_replay`: all of the request's body that was
    /// read is kept. `dice` is a random number.
    pub fn another(&mut self, outcome: Outcome, can_replay: bool, dice: u64) -> Option<Duration> {
        let policy = self.policy.filter(|policy| can_replay && self.retries < policy.attempts)?;
        if !policy.retries(outcome) {
            return None;
        }
        self.retries = self.retries.saturating_add(1);
        Some(pause(policy.backoff, self.retries, dice))
    }

    /// This outcome is a reason for another try, and there is none left.
    #[must_use]
    pub fn are_used_up(&self, outcome: Outcome) -> bool {
        let policy = self.policy.filter(|policy| policy.attempts > 0 && self.retries >= policy.attempts);
        policy.is_some_and(|policy| policy.retries(outcome))
    }

    /// The count of tries beside the first one.
    #[must_use]
    pub const fn retries(&self) -> u32 {
        self.retries
    }
}

impl RetryPolicy {
    /// This outcome is a reason for another try.
    #[must_use]
    pub fn retries(&self, outcome: Outcome) -> bool {
        use RetryCondition as On;
        let has = |condition: On| self.on.conditions.contains(&condition);
        let no_answer = || has(On::ServerError) || has(On::GatewayError) || has(On::Reset);
        match outcome {
            // What was not asked for is not asked for again: the load would only grow.
            Outcome::Overflow => false,
            Outcome::Response { is_ratelimited: true, .. } => has(On::RateLimited),
            Outcome::Response { status, grpc_status, is_ratelimited: false } => {
                (has(On::ServerError) && (500..600).contains(&status))
                    || (has(On::GatewayError) && matches!(status, 502..=504))
                    || (has(On::Retriable4xx) && status == 409)
                    || (has(On::RetriableStatusCodes) && self.on.statuses.contains(&status))
                    || grpc_status.and_then(grpc_condition).is_some_and(has)
            }
            Outcome::ConnectFailure => no_answer() || has(On::ConnectFailure) || has(On::ResetBeforeRequest),
            Outcome::RefusedStream => no_answer() || has(On::RefusedStream),
            Outcome::Reset { is_sent } => no_answer() || (has(On::ResetBeforeRequest) && !is_sent),
            Outcome::TryTimeout => no_answer(),
        }
    }
}

/// The statuses of gRPC that a condition is about (grpc/doc/statuscodes.md).
const fn grpc_condition(status: u8) -> Option<RetryCondition> {
    match status {
        1 => Some(RetryCondition::Cancelled),
        4 => Some(RetryCondition::DeadlineExceeded),
        8 => Some(RetryCondition::ResourceExhausted),
        13 => Some(RetryCondition::Internal),
        14 => Some(RetryCondition::Unavailable),
        _ => None,
    }
}

/// At random up to a bound that doubles with each retry: all who retry at once do not come back at once.
fn pause(first: Duration, retry: u32, dice: u64) -> Duration {
    let times = 1_u32.checked_shl(retry).map_or(MAX_PAUSES, |doubled| doubled.saturating_sub(1).min(MAX_PAUSES));
    let most = first.saturating_mul(times).as_nanos();
    let nanos = most.saturating_mul(u128::from(dice)) >> u64::BITS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::RetryOn;

    fn policy(on: &str) -> RetryPolicy {
        let mut parsed = RetryOn::default();
        for word in on.split(',').filter(|word| !word.is_empty()) {
            match word.parse() {
                Ok(condition) => parsed.conditions.push(condition),
                Err(_) => parsed.statuses.push(word.parse().unwrap()),
            }
        }
        RetryPolicy { on: parsed, ..RetryPolicy::mesh_default() }
    }

    const fn response(status: u16, grpc_status: Option<u8>) -> Outcome {
        Outcome::Response { status, grpc_status, is_ratelimited: false }
    }

    #[test]
    fn reasons_for_another_try() {
        let limited = Outcome::Response { status: 503, grpc_status: None, is_ratelimited: true };
        let (sent, unsent) = (Outcome::Reset { is_sent: true }, Outcome::Reset { is_sent: false });
        let outcomes = [
            ("500", response(500, None)),
            ("503", response(503, None)),
            ("409", response(409, None)),
            ("200", response(200, None)),
            ("cancelled", response(200, Some(1))),
            ("deadline", response(200, Some(4))),
            ("exhausted", response(200, Some(8))),
            ("internal", response(200, Some(13))),
            ("unavailable", response(200, Some(14))),
            ("limited", limited),
            ("connect", Outcome::ConnectFailure),
            ("refused", Outcome::RefusedStream),
            ("reset", sent),
            ("unsent", unsent),
            ("timeout", Outcome::TryTimeout),
            ("overflow", Outcome::Overflow),
        ];
        for (on, expect) in [
            ("", ""),
            ("5xx", "500 503 connect refused reset unsent timeout"),
            ("gateway-error", "503 connect refused reset unsent timeout"),
            ("reset", "connect refused reset unsent timeout"),
            ("reset-before-request", "connect unsent"),
            ("connect-failure", "connect"),
            ("refused-stream", "refused"),
            ("retriable-4xx", "409"),
            ("retriable-status-codes", ""),
            ("retriable-status-codes,200,409", "409 200 cancelled deadline exhausted internal unavailable"),
            ("retriable-headers", ""),
            ("envoy-ratelimited", "limited"),
            ("cancelled", "cancelled"),
            ("deadline-exceeded", "deadline"),
            ("resource-exhausted", "exhausted"),
            ("internal", "internal"),
            ("unavailable", "unavailable"),
            ("connect-failure,refused-stream,unavailable", "unavailable connect refused"),
        ] {
            let policy = policy(on);
            let got: Vec<_> = outcomes.iter().filter(|(_, o)| policy.retries(*o)).map(|(name, _)| *name).collect();
            assert_eq!(got.join(" "), expect, "{on}");
        }
    }

    #[test]
    fn tries_come_to_an_end() {
        let policy = RetryPolicy { attempts: 2, ..policy("5xx") };
        let bad = response(500, None);
        let mut tries = Tries::new(Some(&policy));
        assert!(!tries.are_used_up(bad));
        assert!(tries.another(bad, true, 0).is_some() && tries.another(bad, true, 0).is_some());
        assert_eq!((tries.another(bad, true, 0), tries.retries()), (None, 2));
        assert_eq!([tries.are_used_up(bad), tries.are_used_up(response(200, None))], [true, false]);
        // a good answer, a body that is gone, no policy
        let mut tries = Tries::new(Some(&policy));
        assert_eq!([tries.another(response(200, None), true, 0), tries.another(bad, false, 0)], [None, None]);
        assert_eq!(tries.retries(), 0);
        assert_eq!(Tries::new(None).another(bad, true, 0), None);
        let none = RetryPolicy { attempts: 0, ..policy.clone() };
        assert!(!Tries::new(None).are_used_up(bad) && !Tries::new(Some(&none)).are_used_up(bad), "there was none");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let first = Duration::from_millis(25);
        let longest: Vec<_> = [1, 2, 3, 4, 5, 40].map(|n| pause(first, n, u64::MAX).as_millis()).into();
        assert_eq!(longest, [24, 74, 174, 249, 249, 249]);
        assert_eq!([pause(first, 3, 0), pause(Duration::ZERO, 3, u64::MAX)], [Duration::ZERO; 2]);
        assert_eq!(pause(first, 2, u64::MAX / 2).as_millis(), 37);
        assert!(pause(Duration::MAX, 40, u64::MAX) > Duration::from_secs(1));
    }
}
