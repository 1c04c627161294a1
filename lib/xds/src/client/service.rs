//! Keeps a stream to the control plane open, and hands on what arrives. All it decides is when to try again.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::SystemTime};

use futures_util::FutureExt;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};
use tracing::{error, info, warn};

use super::{Batch, Behind, Next, Rejected, Session, backoff::Backoff};
use crate::{
    connect::{Connect, ConnectError, ControlPlane},
    contract::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};

/// The largest response: a whole state from istiod, and as much as a ztunnel takes.
const RESPONSE_BYTES: usize = 200 << 20;
/// Responses that are applied together where they arrived together.
const TOGETHER: usize = 16;

/// What applies what arrives.
pub trait Apply: Send {
    /// Applies a batch, in its order. What cannot be applied is returned, and the last good version of it stays.
    fn apply(&mut self, batch: Batch) -> impl Future<Output = Vec<Rejected>> + Send;
}

/// The state of the client, for readiness and for people.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The stream.
    pub link: Link,
    /// The state of every kind was received to its end and applied at least once.
    pub complete: bool,
    /// The control plane is older than what was applied.
    pub behind: Option<Behind>,
    /// The newest change of the control plane's source that was applied; none: nothing was, or it names none.
    pub version: Option<u64>,
    /// When something was applied last.
    pub applied: Option<SystemTime>,
    /// What is served was applied by an earlier process, which changed it last at this time; none: a control plane has said
    /// since what is. Set by the program that serves it.
    pub cached: Option<SystemTime>,
}

/// The stream.
#[derive(Clone, Debug, Default)]
pub enum Link {
    /// It is being opened, or has not answered yet.
    #[default]
    Opening,
    /// It has answered.
    Open {
        /// When it did first.
        since: SystemTime,
    },
    /// It ended, and the next one is opened after a pause.
    Ended {
        /// When it ended.
        at: SystemTime,
        /// Why.
        reason: String,
    },
}

impl Progress {
    /// The stream has answered. Whether that is new.
    fn open(&mut self) -> bool {
        let is_new = !matches!(self.link, Link::Open { .. });
        if is_new {
            self.link = Link::Open { since: SystemTime::now() };
        }
        is_new
    }
}

/// Why a stream ended.
#[derive(Debug, Error)]
enum End {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", describe(.0))]
    Status(#[from] Status),
    #[error("the control plane ended the stream")]
    Closed,
}

/// Takes resources from the control plane for as long as it is polled. `random` is uniform: the jitter of pauses.
///
/// # Errors
///
/// The authority is none. All else is tried again.
pub async fn run<C: Connect, A: Apply>(
    control_plane: ControlPlane,
    connect: Arc<C>,
    mut session: Session,
    mut apply: A,
    progress: watch::Sender<Progress>,
    mut random: impl FnMut() -> u64 + Send,
) -> Result<Infallible, ConnectError> {
    let mut backoff = Backoff::default();
    loop {
        // A channel of its own, so that the stream after a failure begins with a new connection.
        let channel = control_plane.channel(connect.clone())?;
        let mut client =
            Client { control_plane: &control_plane, session: &mut session, progress: &progress, backoff: &mut backoff };
        let end = client.connection(&channel, &mut apply).await;
        let pause = backoff.ended(random());
        warn!(reason = %end, retry_in = ?pause, "control plane lost");
        let link = Link::Ended { at: SystemTime::now(), reason: end.to_string() };
        progress.send_modify(|progress| progress.link = link);
        // A control plane that was behind is no nearer while there is none.
        let mut pause = pin!(sleep(pause));
        loop {
            let deadline = session.deadline().map(Instant::from_std);
            tokio::select! {
                () = &mut pause => break,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => report(&mut session),
            }
        }
    }
}

struct Client<'a> {
    control_plane: &'a ControlPlane,
    session: &'a mut Session,
    progress: &'a watch::Sender<Progress>,
    backoff: &'a mut Backoff,
}

impl Client<'_> {
    /// One stream after the other on one connection, until it ends.
    async fn connection(&mut self, channel: &Channel, apply: &mut impl Apply) -> End {
        loop {
            self.progress.send_modify(|progress| progress.link = Link::Opening);
            match self.stream(channel.clone(), apply).await {
                Ok(()) => info!("control plane has caught up: the stream is opened anew"),
                Err(end) => return end,
            }
        }
    }

    /// One stream, until it is to be opened anew.
    async fn stream(&mut self, channel: Channel, apply: &mut impl Apply) -> Result<(), End> {
        // As many answers as there are responses, so it needs no bound. With one, each end might wait for the other
        // to read.
        let (answers, requests) = mpsc::unbounded_channel();
        for request in self.session.open() {
            let _ = answers.send(request);
        }
        let mut request = Request::new(UnboundedReceiverStream::new(requests));
        self.control_plane.authorize(request.metadata_mut())?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES);
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        loop {
            let response = self.response(&mut responses).await?;
            self.backoff.answered();
            if self.progress.send_if_modified(Progress::open) {
                info!("control plane answers");
            }
            if self.receive(response, &mut responses)? == Next::Reopen {
                return Ok(());
            }
            self.apply(apply, &answers).await;
        }
    }

    async fn response(
        &mut self,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
    ) -> Result<DeltaDiscoveryResponse, End> {
        loop {
            let deadline = self.session.deadline().map(Instant::from_std);
            tokio::select! {
                response = responses.message() => return response?.ok_or(End::Closed),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => report(self.session),
            }
        }
    }

    /// Takes a response and those that arrived with it.
    fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
    ) -> Result<Next, End> {
        let now = Instant::now().into_std();
        let mut next = self.session.receive(response, now);
        for _ in 1..TOGETHER {
            if next == Next::Reopen {
                break;
            }
            // The end of the stream shows again when the next response is waited for.
            let Some(Ok(Some(response))) = responses.message().now_or_never() else { break };
            next = self.session.receive(response, now);
        }
        Ok(next)
    }

    async fn apply(&mut self, apply: &mut impl Apply, answers: &mpsc::UnboundedSender<DeltaDiscoveryRequest>) {
        let batch = self.session.take();
        let has_news = !batch.changes.is_empty() || (batch.complete && !self.session.is_complete());
        let rejected = if has_news { apply.apply(batch).await } else { Vec::new() };
        for one in &rejected {
            warn!(kind = ?one.kind, name = ?one.name, reason = ?one.reason, "resource rejected");
        }
        for answer in self.session.applied(&rejected) {
            let _ = answers.send(answer);
        }
        let session = &*self.session;
        self.progress.send_modify(|progress| {
            (progress.complete, progress.behind) = (session.is_complete(), session.behind().cloned());
            progress.version = session.applied_changes().newest();
            progress.cached = progress.cached.filter(|_| !session.is_complete());
            if has_news {
                progress.applied = Some(SystemTime::now());
            }
        });
    }
}

fn report(session: &mut Session) {
    if let Some(Behind { kind, applied, offered, .. }) = session.report(Instant::now().into_std()) {
        error!(
            %kind,
            applied,
            offered,
            "control plane is behind: nothing is taken away or changed until it has caught up; where the cluster's \
             store was restored from a backup, start the agents once with --facts-cache=false (docs/control.md)"
        );
    }
}

/// A status with its causes, where it is the transport's and says little itself.
fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
