//! Retries: the policy of a route, and the mesh's default where a route has none.

use std::time::Duration;

use serde::Serialize;

use crate::objects::{HttpRetry, RetryCondition, RetryOn};

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Beside the first one; at least 1.
    pub attempts: u32,
    /// The limit of each try; none: the request's alone.
    pub per_try_timeout: Option<Duration>,
    /// The outcomes after which it is tried again.
    pub on: RetryOn,
    /// The first pause; it grows with each.
    pub backoff: Duration,
    /// Endpoints that were tried are avoided.
    pub avoids_previous: bool,
    /// Endpoints farther away are tried as well.
    pub remote_localities: bool,
    /// A route says so; else it is the mesh's default.
    pub is_own: bool,
}

/// Tries beside the first one, by default.
const DEFAULT_ATTEMPTS: u32 = 2;
/// Envoy's `retry_back_off.base_interval`.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);
/// Outcomes of which the application has seen nothing, or says that it has done nothing.
const DEFAULT_ON: [RetryCondition; 5] = [
    RetryCondition::ConnectFailure,
    RetryCondition::RefusedStream,
    RetryCondition::RetriableStatusCodes,
    RetryCondition::Cancelled,
    RetryCondition::Unavailable,
];

impl RetryPolicy {
    /// Where nothing is said. No status is retried: none says that the application has done nothing.
    #[must_use]
    pub fn mesh_default() -> Self {
        Self {
            attempts: DEFAULT_ATTEMPTS,
            per_try_timeout: None,
            on: RetryOn { conditions: DEFAULT_ON.to_vec(), statuses: Vec::new() },
            backoff: DEFAULT_BACKOFF,
            avoids_previous: true,
            remote_localities: false,
            is_own: false,
        }
    }

    /// Of a route; none: nothing is tried again.
    #[must_use]
    pub fn of(retry: Option<&HttpRetry>) -> Option<Self> {
        let Some(retry) = retry else { return Some(Self::mesh_default()) };
        (retry.attempts > 0).then(|| Self {
            attempts: retry.attempts,
            per_try_timeout: retry.per_try_timeout,
            on: retry.on.clone().unwrap_or_else(|| Self::mesh_default().on),
            backoff: retry.backoff.unwrap_or(DEFAULT_BACKOFF),
            avoids_previous: retry.avoids_previous,
            remote_localities: retry.remote_localities,
            is_own: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_routes() {
        let retry = |attempts| HttpRetry {
            attempts,
            per_try_timeout: Some(Duration::from_secs(2)),
            on: None,
            backoff: None,
            avoids_previous: false,
            remote_localities: true,
        };
        let default = RetryPolicy::of(None).unwrap();
        assert_eq!((default.attempts, default.per_try_timeout, default.is_own), (2, None, false));
        let names: Vec<_> = default.on.conditions.iter().map(|c| c.as_str()).collect();
        let want = ["connect-failure", "refused-stream", "retriable-status-codes", "cancelled", "unavailable"];
        assert_eq!((names, default.on.statuses), (want.to_vec(), vec![]));
        assert_eq!(RetryPolicy::of(Some(&retry(0))), None);
        let own = RetryPolicy::of(Some(&retry(3))).unwrap();
        assert_eq!((own.attempts, own.per_try_timeout), (3, Some(Duration::from_secs(2))));
        assert_eq!((own.on.conditions.len(), own.avoids_previous, own.is_own), (5, false, true));
    }
}
