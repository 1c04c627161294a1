//! The task of one delta stream: carries requests and catalogs into its session, and responses out.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use super::{Catalog, Malformed, Notice, Session, connection::Scissors, counters::Counted, serve::Heard};
use crate::{
    access::Caller,
    contract::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceKind,
    server::Limits,
};

/// The responses of one stream, as gRPC takes them.
pub(super) type Responses = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

/// What a stream is made of.
pub(super) struct Parts {
    pub(super) requests: Streaming<DeltaDiscoveryRequest>,
    pub(super) catalogs: watch::Receiver<Catalog>,
    pub(super) stopping: Scissors,
    pub(super) connection: Option<Scissors>,
    pub(super) caller: Caller,
    pub(super) counted: Counted,
    pub(super) heard: Arc<dyn Heard>,
    pub(super) limits: Limits,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The client went.
    Client,
    /// The server stops.
    Stopping,
    /// The client's part of the stream broke.
    Broken(Status),
    Malformed(Malformed),
    /// The client did not answer.
    Unanswered(ResourceKind),
    /// The client did not read.
    Unread,
    /// The client asked for nothing.
    Unasked,
}

impl End {
    /// The status with which the stream ends; `None`: in order, or with no client left to read it.
    fn status(&self, limits: &Limits) -> Option<Status> {
        match self {
            Self::Client | Self::Stopping => None,
            // What gRPC's own framing or protobuf cannot decode is said as an internal error without a cause.
            Self::Broken(status) if status.code() == Code::Internal && std::error::Error::source(status).is_none() => {
                Some(Status::invalid_argument(status.message()))
            }
            Self::Broken(status) => Some(status.clone()),
            Self::Malformed(malformed) => Some(Status::invalid_argument(malformed.to_string())),
            Self::Unanswered(kind) => {
                let text = format!("no answer to a response of {} in {:?}", kind.type_url(), limits.answer);
                Some(Status::deadline_exceeded(text))
            }
            Self::Unasked => Some(Status::deadline_exceeded(format!("no request in {:?}", limits.answer))),
            Self::Unread => Some(Status::deadline_exceeded(format!("nothing was read in {:?}", limits.answer))),
        }
    }
}

/// Starts the task of a stream.
pub(super) fn spawn(parts: Parts) -> Responses {
    // One response waits here while the one before is on its way: the session makes no more of a kind than one.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(run(parts, sender));
    Responses::new(receiver)
}

async fn run(mut parts: Parts, sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>) {
    let newest = parts.catalogs.borrow_and_update().clone();
    let mut session = Session::new(newest, parts.limits.clone());
    let end = serve(&mut parts, &mut session, &sender).await;
    let (caller, node) = (&parts.caller, session.node());
    match &end {
        End::Client | End::Stopping => info!(%caller, node = ?node, end = ?end, "delta stream closed"),
        _ => warn!(%caller, node = ?node, end = ?end, "delta stream closed"),
    }
    match &end {
        End::Malformed(_) => parts.counted.counters().count_malformed(),
        End::Unanswered(_) | End::Unread | End::Unasked => parts.counted.counters().count_unanswered(),
        End::Client | End::Stopping | End::Broken(_) => (),
    }
    let last = async {
        if let Some(status) = end.status(&parts.limits) {
            let _ = sender.send(Err(status)).await;
        }
        drop(sender);
        // A client that has read the end of the responses ends its requests. HTTP/2 says nothing earlier: responses
        // that are not read wait in the connection, together with their end.
        if matches!(end, End::Unanswered(_) | End::Unread | End::Unasked) {
            while let Ok(Some(_)) = parts.requests.message().await {}
        }
    };
    if timeout(parts.limits.end, last).await.is_err()
        && let Some(connection) = &parts.connection
    {
        connection.cut();
    }
    drop(parts.permit);
}

async fn serve(
    parts: &mut Parts,
    session: &mut Session,
    sender: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> End {
    // None: it has asked.
    let mut first_until = Instant::now().checked_add(parts.limits.answer);
    loop {
        while let Some(response) = session.poll(Instant::now().into_std()) {
            parts.counted.counters().count_response(&response);
            parts.counted.is_in(session.phase());
            tokio::select! {
                sent = sender.send(Ok(response)) => if sent.is_err() { return End::Client },
                () = sleep(parts.limits.answer) => return End::Unread,
                () = parts.stopping.wait() => return End::Stopping,
            }
        }
        parts.counted.is_in(session.phase());
        let deadline = session.deadline().map(Instant::from_std);
        tokio::select! {
            request = parts.requests.message() => {
                let request = match request {
                    Ok(Some(request)) => request,
                    Ok(None) => return End::Client,
                    Err(status) => return End::Broken(status),
                };
                first_until = None;
                let is_new = session.applied().is_none();
                match session.receive(request, Instant::now().into_std()) {
                    Ok(None) => (),
                    Ok(Some(notice)) => say(parts, session, &notice),
                    Err(malformed) => return End::Malformed(malformed),
                }
                if let Some(applied) = session.applied().filter(|applied| is_new && !applied.is_empty()) {
                    parts.heard.heard(&parts.caller, applied);
                }
            }
            Ok(()) = parts.catalogs.changed() => session.publish(parts.catalogs.borrow_and_update().clone()),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                if let Some(kind) = session.overdue(Instant::now().into_std()) {
                    return End::Unanswered(kind);
                }
            }
            () = sleep_until(first_until.unwrap_or_else(Instant::now)), if first_until.is_some() => return End::Unasked,
            () = sender.closed() => return End::Client,
            () = parts.stopping.wait() => return End::Stopping,
        }
    }
}

fn say(parts: &Parts, session: &Session, notice: &Notice) {
    parts.counted.counters().count_notice(notice);
    let (caller, node) = (&parts.caller, session.node());
    match notice {
        Notice::Refused { kind, nonce, message } => {
            let message: String = message.chars().take(4_096).collect();
            warn!(%caller, node = ?node, ?kind, nonce, message = ?message, "client refused resources");
        }
        Notice::NotServed { type_url } => warn!(%caller, node = ?node, type_url = ?type_url, "type not served"),
    }
}
