//! A stream to a port of a pod, through the API server and the pod's kubelet: what listens on loopback there, of a pod of the host's
//! network on its node, is reached by every user who may `create` the pod's `portforward`.
//!
//! What must hold: what the kubelet says of a port that it cannot reach is the error of the stream, and not its silent end.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use underpass_core::ObjectName;

use crate::client::{Client, Error, Status, is_name, one_line};

/// A stream to a port of a pod. Dropped, it is closed.
pub struct Forwarded {
    stream: DuplexStream,
    /// Resolves with what the kubelet says against the port; none: it was asked, and says nothing more.
    refusal: Option<Refusal>,
    forwarder: Portforwarder,
}

type Refusal = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

impl Client {
    /// Opens a stream to a port of a pod. A port that does not answer shows when the stream is read.
    ///
    /// # Errors
    /// Where the API server refuses, or gives no good answer.
    pub async fn port_forward(&self, pod: &ObjectName, port: u16) -> Result<Forwarded, Error> {
        for part in [pod.namespace(), pod.name()] {
            if !is_name(part) {
                return Err(Error::Name { name: part.into() });
            }
        }
        let pods: Api<Pod> = Api::namespaced(self.inner(), pod.namespace());
        let mut forwarder = pods.portforward(pod.name(), &[port]).await.map_err(|e| failed(pod, e))?;
        let refusal = forwarder.take_error(port).map(|refusal| Box::pin(refusal) as Refusal);
        let stream = forwarder.take_stream(port).ok_or_else(|| unreachable(pod, "the port has no stream".into()))?;
        Ok(Forwarded { stream, refusal, forwarder })
    }
}

fn request(pod: &ObjectName) -> std::sync::Arc<str> {
    format!("GET /api/v1/namespaces/{}/pods/{}/portforward", pod.namespace(), pod.name()).into()
}

fn unreachable(pod: &ObjectName, cause: std::sync::Arc<str>) -> Error {
    Error::Unreachable { request: request(pod), cause }
}

fn failed(pod: &ObjectName, error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => {
            let status = Status::new(status.code, status.reason, status.message);
            Error::Answered { request: request(pod), status }
        }
        other => unreachable(pod, one_line(&other).into()),
    }
}

impl AsyncRead for Forwarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refusal) = &mut this.refusal
            && let Poll::Ready(said) = refusal.as_mut().poll(cx)
        {
            this.refusal = None;
            if let Some(said) = said {
                return Poll::Ready(Err(io::Error::other(said.trim().replace(char::is_control, " "))));
            }
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarded").finish_non_exhaustive()
    }
}
