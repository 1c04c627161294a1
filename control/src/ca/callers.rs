//! Callers, by the API server's word about their tokens.

use tokio::sync::Semaphore;
use underpass_kube::{Client, review::ReviewError};
use underpass_telemetry::metrics::{Family, IntCounterVec, Registry};
use underpass_xds::access::{Authenticator, Caller, CallerPod, Refusal, RefusalKind};

static REFUSED: Family = Family::counter(
    "underpass_callers_refused_total",
    "Streams and requests for certificates of callers who proved nothing, by reason.",
    &["reason"],
);

/// The families of this room.
pub const FAMILIES: &[&Family] = &[&REFUSED];

/// The audience of tokens for the control plane, as of Istio's.
pub const AUDIENCE: &str = "istio-ca";
/// The limit of reviews under way.
const MOST_REVIEWS: usize = 64;

/// Asks the API server about every token.
#[derive(Debug)]
pub struct TokenReviews {
    client: Client,
    reviews: Semaphore,
    refused: IntCounterVec,
}

impl TokenReviews {
    /// Asks this one, and counts in this registry.
    #[must_use]
    pub fn new(client: Client, registry: &Registry) -> Self {
        Self { client, reviews: Semaphore::new(MOST_REVIEWS), refused: registry.counter(&REFUSED) }
    }
}

impl Authenticator for TokenReviews {
    async fn authenticate(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        let refused = |reason: &str, kind, message: String| {
            self.refused.with_label_values(&[reason]).inc();
            Refusal::new(kind, message)
        };
        let unauthenticated = RefusalKind::Unauthenticated;
        let token = token.ok_or_else(|| refused("no_token", unauthenticated, "no bearer token".to_owned()))?;
        let _place = self.reviews.acquire().await;
        let caller = self.client.review(token, AUDIENCE).await.map_err(|error| match &error {
            ReviewError::Refused(refusal) => refused(refusal.as_str(), unauthenticated, error.to_string()),
            ReviewError::Failed(_) => refused("unavailable", RefusalKind::Unavailable, error.to_string()),
        })?;
        let pod = caller.pod.map(|pod| CallerPod { name: pod.name, uid: pod.uid });
        let account = &caller.service_account;
        let (namespace, service_account) = (account.namespace().into(), account.name().into());
        Ok(Caller { namespace, service_account, pod, node: caller.node })
    }
}
