//! Requests for another protocol on the same connection, WebSocket above all: a connection of their own to the endpoint, and after
//! its 101 bytes in both directions. Such a request is tried once.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;
use underpass_core::http::{HttpVersion, RequestEnd};

use super::{form, forward::Forwarding, head, outcome::not_connected_end};
use crate::{
    carry::{End, Times, carry},
    cluster::{Chosen, CountGuard},
    io::{ClientStream, EndpointStream},
    judging::Opened,
    upstream::{connect, upgradable},
    worker::Worker,
};

/// The protocol that a request asks for: WebSocket (RFC 6455, 4.1), and no other. An endpoint that went over to HTTP/2 in the
/// clear would take requests past all routes and policies.
pub(super) fn asked(request: &Request<Incoming>) -> Option<HeaderValue> {
    let mut protocols = request.headers().get_all(header::UPGRADE).iter();
    let only = protocols.next().filter(|_| protocols.next().is_none())?;
    (head::is_upgrade(request) && only.as_bytes().eq_ignore_ascii_case(b"websocket")).then(|| only.clone())
}

/// Where the bytes of a client go after a response of 101: to the endpoint, which counts as busy until they end.
#[derive(Debug)]
pub(crate) struct Upgraded {
    endpoint: EndpointStream,
    /// What was read of it already.
    read: Bytes,
    _slot: CountGuard,
    _chosen: Chosen,
    opened: Rc<Opened>,
}

/// Sends the request; where the endpoint answers 101, its stream is where the client's bytes go next.
pub(super) async fn forward(
    forwarding: &Forwarding<'_>,
    protocol: &HeaderValue,
) -> Result<Response<Incoming>, RequestEnd> {
    let (connection, cluster) = (forwarding.asked.connection, &forwarding.cluster);
    let worker = &connection.worker;
    let chosen = forwarding.choose(&[], 0).map_err(|_| RequestEnd::NoEndpoint)?;
    forwarding.admitted(&chosen.endpoint).await?;
    let slot = cluster.connections.slot(chosen.endpoint.target).await?;
    let not_connected = |error| {
        forwarding.exchange.record.note(|notes| notes.failed(&error));
        not_connected_end(&error)
    };
    let speaks = Some(HttpVersion::Http1);
    let stream = connect(worker, cluster, &chosen.endpoint, &connection.client, speaks).await.map_err(not_connected)?;
    let (mut sender, upgraded) = upgradable(worker, stream, slot).await.map_err(not_connected)?;
    if !forwarding.opened.goes_on() {
        return Err(RequestEnd::Denied);
    }
    let mut request = forwarding.numbered();
    request.headers_mut().insert(header::UPGRADE, protocol.clone());
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let response = sender.send_request(request).await.map_err(|_| RequestEnd::EndpointReset)?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        if response.headers().get(header::UPGRADE).is_none_or(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Err(RequestEnd::Protocol);
        }
        let (endpoint, read, slot) = upgraded.await.map_err(|_| RequestEnd::EndpointReset)?;
        let opened = Rc::clone(&forwarding.opened);
        connection.upgraded.replace(Some(Upgraded { endpoint, read, _slot: slot, _chosen: chosen, opened }));
    } else if !form::is_plain_response(&response) {
        return Err(RequestEnd::Protocol);
    }
    Ok(response)
}

/// Carries bytes both ways, beginning with what was read already.
pub(super) async fn relay(worker: &Worker, client: ClientStream, from_client: Bytes, upgraded: Upgraded) {
    let mut client = client.unlimited();
    let Upgraded { mut endpoint, read, opened, _slot, _chosen } = upgraded;
    let first = async {
        endpoint.write_all(&from_client).await?;
        client.write_all(&read).await
    };
    let first = tokio::select! {
        biased;
        () = opened.denied() => return worker.recorder.denied(),
        first = first => first,
    };
    let end = match first {
        Ok(()) => carry(client, endpoint, &opened, Times::default(), &Rc::default()).await,
        Err(error) => End::Broken(error),
    };
    match end {
        End::InOrder | End::OverTime => {}
        End::Broken(error) => tracing::debug!(%error, "an upgraded connection broke off"),
        End::Denied => worker.recorder.denied(),
    }
}
