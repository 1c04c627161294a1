//! Admission: what an API server asks before it takes a policy. A policy that cannot be understood is refused where its author
//! sees it, with field and reason, and one with a surprise in it comes with a warning.
//!
//! ```text
//! API server --HTTPS--> /validate --> review (the converter of every door, the findings of every World) --> answer
//!     ^                                                                                                     |
//!     '-- webhook: the roots by which it knows this server --                                               '--> counted
//! ```
//! What must hold: no write depends on it. An API server goes on without an answer, and a policy that went in so is judged by the
//! door as ever. A question that cannot be read is an error of the asking, never a refusal of an object.

mod review;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, mpsc},
};
use underpass_core::world::MeshSettings;
use underpass_telemetry::{
    admin::{Limits, Method, Peer, Request, Response, Router, StatusCode, serve_accepted},
    metrics::{Family, IntCounterVec, Registry},
};

static REVIEWS: Family = Family::counter(
    "underpass_admission_reviews_total",
    "Reviews of policies that an API server asked for, by result: accepted, warned (accepted with warnings), refused, or unreadable \
     (no review of a policy).",
    &["result"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&REVIEWS];

/// The path of reviews.
const PATH: &str = "/validate";
/// The limits of all connections together: the port takes every caller, in the process that is also the CA. A review has the object and
/// the one before, of at most 1.5 MiB each as etcd keeps them. An API server keeps a connection for the reviews to come.
const LIMITS: Limits = Limits {
    connections: 256,
    header_bytes: 16 << 10,
    headers: 64,
    body_bytes: 4 << 20,
    large_bodies: 8,
    first_time: Duration::from_secs(5),
    header_time: Duration::from_secs(30),
    request_time: Duration::from_secs(10),
    connection_time: Duration::from_secs(600),
};

/// Reviews at once; others wait for their turn. One whose caller is gone counts until it is done.
const REVIEWS_AT_ONCE: usize = 2;

/// Answers reviews on these connections, whose peers `peer` tells, for a mesh of these settings, for as long as it is polled.
pub fn serve<S>(
    mut connections: mpsc::Receiver<io::Result<S>>,
    peer: fn(&S) -> Peer,
    settings: MeshSettings,
    registry: &Registry,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let reviewer = Arc::new(Reviewer { settings, reviews: registry.counter(&REVIEWS) });
    let turns = Arc::new(Semaphore::new(REVIEWS_AT_ONCE));
    let router = Router::new().route(Method::POST, PATH, move |request| {
        let (reviewer, turns) = (Arc::clone(&reviewer), Arc::clone(&turns));
        async move {
            let turn = turns.acquire_owned().await;
            // Others are answered while a large object is looked at.
            let answered = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                reviewer.answer(&request)
            })
            .await;
            answered
                .unwrap_or_else(|e| Response::error(StatusCode::INTERNAL_SERVER_ERROR, format_args!("no review: {e}")))
        }
    });
    async move {
        let (sender, accepted) = mpsc::channel(1);
        let with_peer = |stream| {
            let peer = peer(&stream);
            (stream, peer)
        };
        let hand_on = async {
            while let Some(connection) = connections.recv().await {
                if let Ok(stream) = connection
                    && sender.send(with_peer(stream)).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = hand_on => {}
            () = serve_accepted(accepted, router, LIMITS) => {}
        }
    }
}

#[derive(Debug)]
struct Reviewer {
    settings: MeshSettings,
    reviews: IntCounterVec,
}

impl Reviewer {
    fn answer(&self, request: &Request) -> Response {
        let reviewed = review::answer(request.body(), &self.settings);
        let result = match &reviewed {
            Ok(answer) if !answer.is_allowed() => "refused",
            Ok(answer) if !answer.warnings().is_empty() => "warned",
            Ok(_) => "accepted",
            Err(_) => "unreadable",
        };
        self.reviews.with_label_values(&[result]).inc();
        match reviewed {
            Ok(answer) => Response::json(&answer),
            Err(error) => {
                tracing::debug!(%error, "admission review not answered");
                Response::error(StatusCode::BAD_REQUEST, error)
            }
        }
    }
}
