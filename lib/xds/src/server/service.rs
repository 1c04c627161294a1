//! The gRPC service of delta streams: who may open one, and how many there are.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    Catalog, Counters, Limits,
    connection::Scissors,
    counters::Counted,
    serve::Heard,
    stream::{self, Parts, Responses},
};
use crate::{
    access::{Authenticator, bearer},
    contract::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
};

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`.
pub(crate) struct Discovery<A> {
    pub(crate) catalogs: watch::Receiver<Catalog>,
    pub(crate) authenticator: Arc<A>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    pub(crate) heard: Arc<dyn Heard>,
    pub(crate) stopping: Scissors,
    pub(crate) streams: Arc<Semaphore>,
}

#[tonic::async_trait]
impl<A: Authenticator> AggregatedDiscoveryService for Discovery<A> {
    type StreamAggregatedResourcesStream = tokio_stream::Empty<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = Responses;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state-of-the-world xDS is not served; use DeltaAggregatedResources"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = self.authenticator.authenticate(bearer(request.metadata())).await.inspect_err(|refusal| {
            warn!(kind = ?refusal.kind, message = ?refusal.message, "delta stream refused");
            self.counters.count_turned_away();
        })?;
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            warn!(%caller, limit = self.limits.streams, "delta stream refused: too many");
            self.counters.count_turned_away();
            return Err(Status::resource_exhausted(format!("{} streams are open", self.limits.streams)));
        };
        info!(%caller, "delta stream opened");
        let connection = request.extensions().get::<Scissors>().cloned();
        Ok(Response::new(stream::spawn(Parts {
            requests: request.into_inner(),
            catalogs: self.catalogs.clone(),
            stopping: self.stopping.clone(),
            connection,
            caller,
            counted: Counted::new(self.counters.clone()),
            heard: self.heard.clone(),
            limits: self.limits.clone(),
            permit,
        })))
    }
}
