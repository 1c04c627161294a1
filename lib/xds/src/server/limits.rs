//! The limits of a server, all in one place.

use std::time::Duration;

/// Limits on what clients ask for and on what is sent to them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open delta streams. One more is refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// The largest request, in bytes. A node that comes back names all that it holds, about 120 bytes each.
    pub request_bytes: usize,
    /// Names in one request: subscribed, unsubscribed and held.
    pub names_per_request: usize,
    /// Names that one stream is subscribed to.
    pub names_per_stream: usize,
    /// The longest name, in bytes. Kubernetes' longest are a namespace and two names of at most 253.
    pub name_bytes: usize,
    /// Types that are not served and one stream may ask for.
    pub foreign_types: usize,
    /// Resources and removals in one response.
    pub response_resources: usize,
    /// The bytes of a response, beyond which it takes no further resource.
    pub response_bytes: usize,
    /// How long a response may wait for its answer, and a stream for its first request. A stream without one is closed.
    pub answer: Duration,
    /// How long the kind that is subscribed to first waits for the other: addresses for policies, which go first, and
    /// removals of policies for addresses.
    pub other_kind: Duration,
    /// How long a client may take to end a stream that was closed for want of an answer, and connections to drain: what
    /// is left is cut.
    pub end: Duration,
    /// The pause between two pings of a connection.
    pub ping: Duration,
    /// How long a ping may wait for its answer. A connection without one is closed.
    pub pong: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 10_000,
            request_bytes: 64 << 20,
            names_per_request: 500_000,
            names_per_stream: 100_000,
            name_bytes: 1_024,
            foreign_types: 16,
            response_resources: 1_000,
            response_bytes: 1 << 20,
            answer: Duration::from_secs(60),
            other_kind: Duration::from_secs(1),
            end: Duration::from_secs(10),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(20),
        }
    }
}
