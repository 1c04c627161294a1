//! The client of `istio.v1.auth.IstioCertificateService`.

use std::{sync::Arc, time::Duration};

use prost_types::{Struct, Value, value::Kind};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::IMPERSONATED;
use crate::{
    connect::{Connect, ConnectError, ControlPlane},
    contract::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};

/// A wanted certificate.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// PKCS #10, PEM.
    pub csr_pem: String,
    /// The lifetime, in whole seconds; `None` leaves it to the CA.
    pub validity: Option<Duration>,
    /// The SPIFFE id on whose behalf it is asked for; `None`: the caller's own.
    pub impersonated: Option<String>,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum Error {
    /// The CA was not asked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The CA refused, or its answer did not come.
    #[error("{code:?}: {message}")]
    Status {
        /// The code of gRPC.
        code: Code,
        /// The CA's reason.
        message: String,
    },
    /// No answer in time.
    #[error("no answer in {after:?}")]
    Timeout {
        /// The time.
        after: Duration,
    },
    /// An answer without a certificate and a root.
    #[error("a chain of {elements} elements; a certificate and a root are needed")]
    Chain {
        /// Its length.
        elements: usize,
    },
}

impl Error {
    /// The same request may succeed later. `UNAUTHENTICATED` may: the token is read anew, and istiod says so of a pod
    /// that it does not know yet.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Authority { .. }) => false,
            Self::Connect(ConnectError::Token { .. }) | Self::Timeout { .. } | Self::Chain { .. } => true,
            Self::Status { code, .. } => !matches!(
                code,
                Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition
            ),
        }
    }
}

/// Asks a CA for certificates.
#[derive(Clone, Debug)]
pub struct Client {
    control_plane: ControlPlane,
    channel: Channel,
    limit: Duration,
}

impl Client {
    /// A client of this control plane. A call without an answer is given up after `limit`.
    ///
    /// # Errors
    ///
    /// The authority is none.
    pub fn new<C: Connect>(control_plane: ControlPlane, connect: Arc<C>, limit: Duration) -> Result<Self, Error> {
        let channel = control_plane.channel(connect)?;
        Ok(Self { control_plane, channel, limit })
    }

    /// The chain of a new certificate: PEM, leaf first, and all roots in the last element.
    ///
    /// # Errors
    ///
    /// The CA refused, did not answer in time, or could not be asked; [`Error::is_retryable`].
    pub async fn certify(&self, wanted: Wanted) -> Result<Vec<String>, Error> {
        let Ok(answer) = timeout(self.limit, self.ask(wanted)).await else {
            return Err(Error::Timeout { after: self.limit });
        };
        let chain = answer?;
        if chain.len() < 2 {
            return Err(Error::Chain { elements: chain.len() });
        }
        Ok(chain)
    }

    async fn ask(&self, wanted: Wanted) -> Result<Vec<String>, Error> {
        let identity = |identity| Value { kind: Some(Kind::StringValue(identity)) };
        let metadata = |id| Struct { fields: [(IMPERSONATED.to_owned(), identity(id))].into() };
        let seconds = wanted.validity.unwrap_or_default().as_secs();
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: wanted.csr_pem,
            validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
            metadata: wanted.impersonated.map(metadata),
        });
        self.control_plane.authorize(request.metadata_mut())?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(request).await;
        Ok(answer.map_err(status)?.into_inner().cert_chain)
    }
}

/// The error of a status, with the cause where the status is the transport's and has none of its own.
fn status(status: Status) -> Error {
    let mut message = status.message().to_owned();
    let mut cause = std::error::Error::source(&status);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    Error::Status { code: status.code(), message }
}
