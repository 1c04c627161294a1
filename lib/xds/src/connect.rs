//! Connections of clients: where to, over what, and by what token.

use std::{future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint, Uri},
};

/// What makes connections: TLS to the control plane in a node, a pipe in tests.
pub trait Connect: Send + Sync + 'static {
    /// The connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// A new connection.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The control plane, as a client knows it.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Its host and port, which calls name as their authority.
    pub authority: String,
    /// The file of the bearer token, read anew for each stream and call, because it is replaced while it is in use.
    pub token: Option<PathBuf>,
    /// The cluster's id, by which Istio tells whose tokens these are.
    pub cluster: String,
    /// How long a connection may take.
    pub connect: Duration,
    /// The pause between two pings. istiod accepts one in 15 s.
    pub ping: Duration,
    /// How long a ping may wait for its answer.
    pub pong: Duration,
}

impl ControlPlane {
    /// A control plane with the usual times.
    #[must_use]
    pub fn new(authority: impl Into<String>) -> Self {
        Self {
            authority: authority.into(),
            token: None,
            cluster: "Kubernetes".into(),
            connect: Duration::from_secs(10),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(20),
        }
    }

    /// A channel whose connection is made when it is needed, and again when it broke.
    pub(crate) fn channel<C: Connect>(&self, connect: Arc<C>) -> Result<Channel, ConnectError> {
        // The scheme says what a TLS connection carries; TLS itself is the connector's business.
        let uri = format!("https://{}", self.authority);
        let invalid = |_| ConnectError::Authority { authority: self.authority.clone() };
        let endpoint = Endpoint::from_shared(uri).map_err(invalid)?;
        let connector = tower::service_fn(move |_: Uri| {
            let connect = connect.clone();
            async move { connect.connect().await.map(TokioIo::new) }
        });
        let endpoint = endpoint
            .connect_timeout(self.connect)
            .http2_keep_alive_interval(self.ping)
            .keep_alive_timeout(self.pong)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// Puts token and cluster into the metadata of a call.
    pub(crate) fn authorize(&self, metadata: &mut MetadataMap) -> Result<(), ConnectError> {
        if let Ok(cluster) = AsciiMetadataValue::try_from(&self.cluster) {
            metadata.insert("clusterid", cluster);
        }
        let Some(path) = &self.token else { return Ok(()) };
        let unreadable = |error| ConnectError::Token { path: path.clone(), error };
        // A kibibyte that the kubelet keeps in memory.
        let token = std::fs::read_to_string(path).map_err(unreadable)?;
        let value = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| unreadable(io::Error::new(io::ErrorKind::InvalidData, "not a token")))?;
        value.set_sensitive(true);
        metadata.insert("authorization", value);
        Ok(())
    }
}

/// Why no call could be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The authority is none.
    #[error("{authority:?} is not a host and a port")]
    Authority {
        /// What was given.
        authority: String,
    },
    /// The token cannot be read.
    #[error("token {path}: {error}", path = path.display())]
    Token {
        /// Its file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}
