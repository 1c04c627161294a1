//! Callers, by the API server's word about their tokens.

use tokio::sync::Semaphore;
use underpass_kube::{Client, review::ReviewError};
use underpass_xds::access::{Authenticator, Caller, CallerPod, Refusal, RefusalKind};

/// The audience of tokens for the control plane, as of Istio's.
pub const AUDIENCE: &str = "istio-ca";
/// The limit of reviews under way.
const MOST_REVIEWS: usize = 64;

/// Asks the API server about every token.
#[derive(Debug)]
pub struct TokenReviews {
    client: Client,
    reviews: Semaphore,
}

impl TokenReviews {
    /// Asks this one.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, reviews: Semaphore::new(MOST_REVIEWS) }
    }
}

impl Authenticator for TokenReviews {
    async fn authenticate(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        let refused = |kind, message: String| Refusal::new(kind, message);
        let token = token.ok_or_else(|| refused(RefusalKind::Unauthenticated, "no bearer token".to_owned()))?;
        let _place = self.reviews.acquire().await;
        let caller = self.client.review(token, AUDIENCE).await.map_err(|error| match error {
            ReviewError::Refused(_) => refused(RefusalKind::Unauthenticated, error.to_string()),
            ReviewError::Failed(_) => refused(RefusalKind::Unavailable, error.to_string()),
        })?;
        let pod = caller.pod.map(|pod| CallerPod { name: pod.name, uid: pod.uid });
        let account = &caller.service_account;
        let (namespace, service_account) = (account.namespace().into(), account.name().into());
        Ok(Caller { namespace, service_account, pod, node: caller.node })
    }
}
