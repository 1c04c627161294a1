//! The circuit breaker of a cluster: how many connections, requests and retries there may be at once. Counts and limits
//! alone; what is full is said, and nothing waits here.
//!
//! What must hold: every count that [`Breaker::begin`] took comes back by one [`Breaker::end`], and none is above its limit;
//! but an endpoint may always have one connection.

use super::ClusterPolicy;
use crate::objects::RetryBudget;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A connection to an endpoint.
    Connection,
    /// A request that waits for a connection.
    Pending,
    /// A request on a connection.
    Request,
    /// A try beside a request's first one.
    Retry,
}

/// A limit is reached: the request is answered 503, response flag UO. Of connections: none is opened, and the request waits
/// for one that is, as one of the pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} limit of {limit} is reached", .of.field())]
pub struct Overflow {
    /// Of what.
    pub of: Counted,
    /// The limit.
    pub limit: u32,
}

/// The limits of a cluster; none: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `tcp.maxConnections`.
    pub connections: Option<u32>,
    /// `http.http1MaxPendingRequests`.
    pub pending: Option<u32>,
    /// `http.http2MaxRequests`.
    pub requests: Option<u32>,
    /// `http.maxRetries`.
    pub retries: Option<u32>,
    /// `retryBudget`, in the place of `retries`.
    pub budget: Option<RetryBudget>,
}

/// The counts of one cluster under its limits.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    limits: Limits,
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
}

impl Counted {
    /// The field with its limit.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Connection => "maxConnections",
            Self::Pending => "http1MaxPendingRequests",
            Self::Request => "http2MaxRequests",
            Self::Retry => "maxRetries",
        }
    }
}

impl Limits {
    /// Those of a cluster.
    #[must_use]
    pub fn of(policy: &ClusterPolicy) -> Self {
        let pool = policy.port.connection_pool.as_ref();
        Self {
            connections: pool.and_then(|pool| pool.tcp.max_connections),
            pending: pool.and_then(|pool| pool.http.max_pending_requests),
            requests: pool.and_then(|pool| pool.http.max_requests),
            retries: pool.and_then(|pool| pool.http.max_retries),
            budget: policy.retry_budget,
        }
    }
}

impl Breaker {
    /// With nothing open.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Other limits. What is open stays open; what is above a limit only ends.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// One more.
    ///
    /// # Errors
    /// Where its limit is reached; nothing is counted then.
    pub fn begin(&mut self, what: Counted) -> Result<(), Overflow> {
        let limit = self.limit(what);
        let count = self.count_mut(what);
        match limit {
            Some(limit) if *count >= limit => Err(Overflow { of: what, limit }),
            _ => {
                *count = count.saturating_add(1);
                Ok(())
            }
        }
    }

    /// One more connection, to an endpoint that has so many. Its first one is never refused: where all others lead to other
    /// endpoints, what waits for this one would wait for ever.
    ///
    /// # Errors
    /// Where the limit is reached; nothing is counted then.
    pub fn begin_connection(&mut self, of_endpoint: u32) -> Result<(), Overflow> {
        if of_endpoint > 0 {
            return self.begin(Counted::Connection);
        }
        self.connections = self.connections.saturating_add(1);
        Ok(())
    }

    /// One less. Without one that began it is none.
    pub fn end(&mut self, what: Counted) {
        let count = self.count_mut(what);
        *count = count.saturating_sub(1);
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self, what: Counted) -> u32 {
        match what {
            Counted::Connection => self.connections,
            Counted::Pending => self.pending,
            Counted::Request => self.requests,
            Counted::Retry => self.retries,
        }
    }

    fn count_mut(&mut self, what: Counted) -> &mut u32 {
        match what {
            Counted::Connection => &mut self.connections,
            Counted::Pending => &mut self.pending,
            Counted::Request => &mut self.requests,
            Counted::Retry => &mut self.retries,
        }
    }

    fn limit(&self, what: Counted) -> Option<u32> {
        match what {
            Counted::Connection => self.limits.connections,
            Counted::Pending => self.limits.pending,
            Counted::Request => self.limits.requests,
            Counted::Retry => self.limits.budget.map(|budget| self.budget(budget)).or(self.limits.retries),
        }
    }

    /// A share of the requests that there are, waiting ones included, and some in any case.
    fn budget(&self, budget: RetryBudget) -> u32 {
        const WHOLE: u64 = 10_000;
        let active = u64::from(self.requests).saturating_add(u64::from(self.pending));
        let share = active.saturating_mul(u64::from(budget.basis_points)) / WHOLE;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_concurrency)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const ALL: [Counted; 4] = [Counted::Connection, Counted::Pending, Counted::Request, Counted::Retry];

    #[test]
    fn a_limit_of_each() {
        let limits =
            Limits { connections: Some(1), pending: Some(2), requests: Some(3), retries: Some(0), budget: None };
        let mut breaker = Breaker::new(limits);
        for (what, limit) in ALL.into_iter().zip([1, 2, 3, 0]) {
            for _ in 0..limit {
                assert_eq!(breaker.begin(what), Ok(()));
            }
            assert_eq!(breaker.begin(what), Err(Overflow { of: what, limit }));
            assert_eq!(breaker.count(what), limit);
            breaker.end(what);
            assert_eq!(breaker.begin(what).is_ok(), limit > 0, "{what:?}");
        }
        assert_eq!(
            breaker.begin(Counted::Pending).unwrap_err().to_string(),
            "http1MaxPendingRequests limit of 2 is reached"
        );
        let mut free = Breaker::default();
        assert!((0..10_000).all(|_| ALL.into_iter().all(|what| free.begin(what).is_ok())));
    }

    #[test]
    fn each_endpoint_may_have_a_connection() {
        let mut breaker = Breaker::new(Limits { connections: Some(2), ..Limits::default() });
        assert_eq!([0, 1, 2].map(|open| breaker.begin_connection(open).is_ok()), [true, true, false]);
        assert_eq!(breaker.begin_connection(0), Ok(()), "of another one");
        assert!(breaker.begin_connection(1).is_err() && breaker.count(Counted::Connection) == 3);
        (0..2).for_each(|_| breaker.end(Counted::Connection));
        assert_eq!(breaker.begin_connection(1), Ok(()));
    }

    #[test]
    fn a_smaller_limit_ends_nothing() {
        let of = |n| Limits { connections: Some(n), ..Limits::default() };
        let mut breaker = Breaker::new(of(3));
        (0..3).for_each(|_| breaker.begin(Counted::Connection).unwrap());
        breaker.set_limits(of(1));
        breaker.end(Counted::Connection);
        assert!(breaker.count(Counted::Connection) == 2 && breaker.begin(Counted::Connection).is_err());
        (0..2).for_each(|_| breaker.end(Counted::Connection));
        assert_eq!(breaker.begin(Counted::Connection), Ok(()));
    }

    #[test]
    fn a_budget_grows_with_the_requests() {
        let budget = RetryBudget { basis_points: 2_000, min_concurrency: 3 };
        let mut breaker = Breaker::new(Limits { retries: Some(1), budget: Some(budget), ..Limits::default() });
        let most = |breaker: &Breaker| {
            let mut breaker = breaker.clone();
            (0..1000).take_while(|_| breaker.begin(Counted::Retry).is_ok()).count()
        };
        assert_eq!(most(&breaker), 3);
        (0..20).for_each(|_| breaker.begin(Counted::Request).unwrap());
        assert_eq!(most(&breaker), 4);
        (0..80).for_each(|_| breaker.begin(Counted::Pending).unwrap());
        assert_eq!(most(&breaker), 20);
    }

    proptest! {
        #[test]
        fn no_count_is_above_its_limit_and_all_come_back(steps in vec((select(&ALL[..]), any::<bool>()), 0..64), limit in 0u32..4) {
            let some = Some(limit);
            let mut breaker = Breaker::new(Limits { connections: some, pending: some, requests: some, retries: some, budget: None });
            let mut open = Vec::new();
            for (what, begins) in steps {
                if begins {
                    open.extend(breaker.begin(what).is_ok().then_some(what));
                } else if let Some(at) = open.iter().position(|one| *one == what) {
                    breaker.end(open.remove(at));
                }
                for what in ALL {
                    let count = u32::try_from(open.iter().filter(|one| **one == what).count()).unwrap();
                    prop_assert!(breaker.count(what) == count && count <= limit);
                }
            }
        }
    }
}
