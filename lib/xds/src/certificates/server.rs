//! The server of `istio.v1.auth.IstioCertificateService`: reads requests, and leaves the decision to the issuer.

use std::{future::Future, sync::Arc, time::Duration};

use prost_types::{Struct, value::Kind};
use tonic::{Response, Status};
use tracing::{info, warn};

use super::IMPERSONATED;
use crate::{
    access::{Authenticator, Caller, Refusal, RefusalKind, bearer},
    contract::istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
    },
};

/// A request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// PKCS #10, PEM, as the caller sent it.
    pub csr_pem: String,
    /// The wanted lifetime; `None` leaves it to the CA.
    pub validity: Option<Duration>,
    /// The SPIFFE id on whose behalf the caller asks; `None`: its own.
    pub impersonated: Option<String>,
}

/// What issues certificates: the mesh's CA.
pub trait Issuer: Send + Sync + 'static {
    /// The chain of a new certificate, PEM, one an element, leaf first, and all roots as its last element.
    ///
    /// # Errors
    ///
    /// A refusal, which the caller is told.
    fn issue(&self, caller: Caller, request: Request) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;
}

/// The service.
pub(crate) struct Certificates<A, I> {
    pub(crate) authenticator: Arc<A>,
    pub(crate) issuer: Arc<I>,
}

#[tonic::async_trait]
impl<A: Authenticator, I: Issuer> IstioCertificateService for Certificates<A, I> {
    async fn create_certificate(
        &self,
        request: tonic::Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let refused = |caller: Option<&Caller>, refusal: Refusal| {
            let caller = caller.map(tracing::field::display);
            warn!(caller, kind = ?refusal.kind, message = ?refusal.message, "certificate refused");
            Status::from(refusal)
        };
        let caller = self.authenticator.authenticate(bearer(request.metadata())).await;
        let caller = caller.map_err(|refusal| refused(None, refusal))?;
        let request = read(request.into_inner()).map_err(|refusal| refused(Some(&caller), refusal))?;
        let impersonated = request.impersonated.clone();
        let chain = self.issuer.issue(caller.clone(), request).await;
        let cert_chain = chain.map_err(|refusal| refused(Some(&caller), refusal))?;
        info!(%caller, impersonated = ?impersonated, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn read(request: IstioCertificateRequest) -> Result<Request, Refusal> {
    let malformed = |message: &str| Refusal::new(RefusalKind::InvalidArgument, message);
    let seconds = u64::try_from(request.validity_duration);
    let seconds = seconds.map_err(|_| malformed("validity_duration: negative"))?;
    Ok(Request {
        csr_pem: request.csr,
        validity: (seconds > 0).then(|| Duration::from_secs(seconds)),
        impersonated: impersonated(request.metadata)?,
    })
}

/// The identity of the metadata. One that is there and no text is no request for the caller's own.
fn impersonated(metadata: Option<Struct>) -> Result<Option<String>, Refusal> {
    let Some(value) = metadata.and_then(|mut metadata| metadata.fields.remove(IMPERSONATED)) else { return Ok(None) };
    match value.kind {
        Some(Kind::StringValue(identity)) => Ok((!identity.is_empty()).then_some(identity)),
        _ => Err(Refusal::new(RefusalKind::InvalidArgument, format!("metadata.{IMPERSONATED}: not a string"))),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Value;

    use super::*;

    fn check(seconds: i64, identity: Option<Kind>, expected: Result<(Option<u64>, Option<&str>), &str>) {
        let field = |kind| Struct { fields: [(IMPERSONATED.to_owned(), Value { kind: Some(kind) })].into() };
        let metadata = identity.map(field);
        let request = read(IstioCertificateRequest { csr: "csr".into(), validity_duration: seconds, metadata });
        let expected = expected.map(|(seconds, impersonated)| Request {
            csr_pem: "csr".into(),
            validity: seconds.map(Duration::from_secs),
            impersonated: impersonated.map(Into::into),
        });
        assert_eq!(request.map_err(|refusal| refusal.message), expected.map_err(Into::into));
    }

    #[test]
    fn requests_are_read() {
        check(0, None, Ok((None, None)));
        let id = "spiffe://cluster.local/ns/a/sa/b";
        check(86_400, Some(Kind::StringValue(id.into())), Ok((Some(86_400), Some(id))));
        check(0, Some(Kind::StringValue(String::new())), Ok((None, None)));
        check(-1, None, Err("validity_duration: negative"));
        check(0, Some(Kind::BoolValue(true)), Err("metadata.ImpersonatedIdentity: not a string"));
    }
}
