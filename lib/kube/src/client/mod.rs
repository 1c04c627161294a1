//! The API server: how it is found ([`Access`]), what is asked (`Call`) and what went wrong ([`Error`]).
//!
//! The crate `kube` brings the connection: TLS, the credentials of a kubeconfig, tokens that are read again every
//! minute, and here once more where one is refused. Requests and answers are ours, because what is asked for is
//! trimmed while it is read, and because nothing may be repeated behind the back of a caller who reports every failure.

mod access;
mod call;
mod connection;
mod error;
mod pages;
mod path;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::connection::Renewable;
pub use self::{
    access::{Access, ConnectError},
    error::{Error, Status, one_line},
};
pub(crate) use self::{
    call::Call,
    path::{Collection, is_name},
};

/// The time for an answer that is no watch, its body included.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is no list: etcd keeps no object of more than 1.5 MiB.
pub(crate) const MAX_BYTES: usize = 4 << 20;

/// A connection to an API server. Cheap to clone.
pub struct Client {
    config: Arc<kube::Config>,
    /// A clone has its own: a new one is a task of the runtime that it is made on, which may end before another's.
    connection: Mutex<Renewable<kube::Client>>,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self { config: Arc::clone(&self.config), connection: Mutex::new(self.connection()) }
    }
}

impl Client {
    /// A client of the API server that `access` finds, which says who it is: `underpass-<component>/<version>`. To be
    /// called on a runtime. Nothing is sent yet.
    ///
    /// # Errors
    /// Where its configuration cannot be read, or says what cannot be done.
    pub async fn connect(access: &Access, component: &str) -> Result<Self, ConnectError> {
        let (config, connection) = access::connect(access, component).await?;
        Ok(Self { config: Arc::new(config), connection: Mutex::new(Renewable::new(connection)) })
    }

    /// The namespace of its context, else `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// The client of the crate `kube`, for what it alone can do.
    pub(crate) fn inner(&self) -> kube::Client {
        self.connection().present
    }

    fn connection(&self) -> Renewable<kube::Client> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a refusal of this generation's token: another connection, whose token is what its file has by now. Without
    /// a readable file the present one goes on, and so it does with other credentials: no plugin runs here.
    fn renew(&self, refused: u64) {
        let by = &self.config.auth_info;
        let has_other = by.token.is_some() || by.auth_provider.is_some() || by.exec.is_some();
        let has_file = by.token_file.is_some() && !has_other;
        if has_file {
            let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.renew(refused, Instant::now(), || access::client(&self.config));
        }
    }

    /// Sends the request, and answers the body of a good answer.
    pub(crate) async fn open(&self, call: &Call) -> Result<Body, Error> {
        let request = call.request()?;
        let Renewable { present: client, generation, .. } = self.connection();
        let answer = client.send(request.map(Body::from)).await.map_err(|e| call.unreachable(&e))?;
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        if head.status == StatusCode::UNAUTHORIZED {
            self.renew(generation);
        }
        let text = collect(call, body, MAX_BYTES).await.unwrap_or_default();
        Err(call.answered(head.status, &head.headers, &text))
    }

    /// Sends the request, and answers the text of a good answer of at most `max` bytes.
    pub(crate) async fn text(&self, call: &Call, max: usize) -> Result<String, Error> {
        let answer = async { collect(call, self.open(call).await?, max).await };
        let text = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(text) => text?,
            Err(_) => return Err(call.late(PATIENCE)),
        };
        String::from_utf8(text).map_err(|e| call.unreadable(&e))
    }

    /// Sends the request, and answers what a good answer says.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let text = self.text(call, MAX_BYTES).await?;
        serde_json::from_str(&text).map_err(|e| call.unreadable(&e))
    }

    /// Begins to delete the object of a path, with what it owns; one that is gone is no failure.
    pub(crate) async fn delete(&self, path: String) -> Result<(), Error> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        match self.text(&Call::new(Method::DELETE, path).json(&options)?, MAX_BYTES).await {
            Ok(_) => Ok(()),
            Err(e) if e.status() == Some(404) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

async fn collect(call: &Call, mut body: Body, max: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| call.unreachable(&e))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len().saturating_add(data.len()) > max {
            return Err(call.too_large(max));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}
