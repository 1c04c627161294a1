//! Opening the way to an endpoint. In the mesh it is a stream of a tunnel to the endpoint's node, under the waypoint's own
//! certificate, whose CONNECT names the source; tunnels are shared by all sources, streams by none. TLS of a DestinationRule is
//! begun inside of it, as outside the mesh on the connection itself.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::net::TcpStream;
use underpass_core::{
    Identities, NamedSource, Reason,
    addr::HBONE_PORT,
    http::{ConnectionRules, HttpVersion},
    named_source::NAMED_SOURCE_HEADER,
};
use underpass_hbone::{Connect, Headers};
use underpass_net::{
    socket::{
        established,
        options::{Keepalive, Role},
    },
    tunnel::{ByteStream, Ended, Stream, Tunnel},
};
use underpass_proxy::pool::Key;

use crate::{
    called::Client,
    cluster::{Endpoint, WorkerCluster},
    io::EndpointStream,
    worker::Worker,
};

/// The reason why there is no way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The endpoint's node does not let the source pass.
    #[error("denied by the endpoint's node")]
    Denied,
    /// It could not be opened.
    #[error("{0}")]
    Failed(Reason),
    /// `ISTIO_MUTUAL`, and nothing answers by it.
    #[error("the DestinationRule asks for mutual TLS of the mesh, and the endpoint is outside the mesh")]
    OutsideMesh,
    /// TLS of a DestinationRule could not be begun.
    #[error("TLS of the DestinationRule: {0}")]
    Tls(Arc<str>),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
    /// It was closed at once.
    #[error("closed before it was used")]
    Closed,
}

/// Opens the way to `endpoint` of `cluster` for this client. `speaks`: the HTTP that follows; none: it is no HTTP.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    endpoint: &Endpoint,
    client: &Client,
    speaks: Option<HttpVersion>,
) -> Result<EndpointStream, ConnectError> {
    let (policy, rules) = (cluster.policy(), cluster.connections.rules());
    if policy.requires_tunnel() && endpoint.identity.is_none() {
        return Err(ConnectError::OutsideMesh);
    }
    let opening = async {
        let stream = reach(worker, endpoint, client, &rules).await?;
        match policy.origination() {
            Some(tls) => cluster.origination.begin(worker, &cluster.key, tls, stream, speaks).await,
            None => Ok(stream),
        }
    };
    tokio::time::timeout(rules.connect_timeout, opening).await.unwrap_or(Err(ConnectError::Timeout))
}

/// The same before TLS: a stream of a tunnel, or outside the mesh a connection in plaintext.
pub(crate) async fn reach(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    client: &Client,
    rules: &ConnectionRules,
) -> Result<EndpointStream, ConnectError> {
    let opening = async {
        match &endpoint.identity {
            Some(identity) => {
                let identities = Identities::from(identity.clone());
                let stream = through_tunnel(worker, endpoint.target, identities, client).await?;
                Ok(EndpointStream::Hbone(stream))
            }
            None => plain(worker, endpoint.target, rules).await,
        }
    };
    tokio::time::timeout(rules.connect_timeout, opening).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Opens a connection of its own, in plaintext.
pub(crate) async fn plain(
    worker: &Worker,
    target: SocketAddr,
    rules: &ConnectionRules,
) -> Result<EndpointStream, ConnectError> {
    let failed = |_| ConnectError::Failed(Reason::ConnectFailed);
    let permit = worker.charge().ok_or(ConnectError::Failed(Reason::Limit))?.permit;
    let from = worker.own.address(target.is_ipv4()).ok_or(ConnectError::Failed(Reason::NoEndpoint))?;
    let mut options = worker.options(Role::ToOutside);
    options.keepalive = options.keepalive.map(|own| keepalive(own, rules));
    let opening = worker.settings.sockets.open(from, target, &options).map_err(failed)?;
    let stream = established(opening).await.map_err(failed)?;
    Ok(EndpointStream::Plain(stream, permit))
}

/// `tcpKeepalive`, as far as the kernel takes it; what it does not say is the waypoint's own. Tunnels are shared by clusters, and
/// have the waypoint's.
fn keepalive(own: Keepalive, rules: &ConnectionRules) -> Keepalive {
    let said = rules.keepalive.unwrap_or_default();
    let [least, most] = Keepalive::SECONDS.map(Duration::from_secs);
    let [fewest, highest] = Keepalive::PROBES;
    let probes = said.probes.map(|probes| u8::try_from(probes).unwrap_or(highest));
    Keepalive {
        idle: said.time.map_or(own.idle, |time| time.clamp(least, most)),
        interval: said.interval.map_or(own.interval, |time| time.clamp(least, most)),
        probes: probes.map_or(own.probes, |probes| probes.clamp(fewest, highest)),
    }
}

async fn through_tunnel(
    worker: &Rc<Worker>,
    target: SocketAddr,
    identities: Identities,
    client: &Client,
) -> Result<ByteStream, ConnectError> {
    let from = worker.own.address(target.is_ipv4()).ok_or(ConnectError::Failed(Reason::NoEndpoint))?;
    let next = SocketAddr::new(target.ip(), HBONE_PORT);
    let key = Key { source: worker.own.identity.clone(), identities, next, from, netns: 0 };
    let request = Connect { authority: target.to_string().into_bytes(), headers: headers(client) };
    let mut before: Option<Stream> = None;
    loop {
        let stream = open(worker, &key, &request, before.as_ref()).map_err(ConnectError::Failed)?;
        match stream.response().await {
            Ok(response) if response.status == 200 => return Ok(stream.into()),
            Ok(response) => return Err(refused(response.status)),
            Err(Ended::Unprocessed) if before.is_none() => before = Some(stream),
            Err(Ended::Refused(status)) => return Err(refused(status)),
            Err(Ended::Tunnel(end)) => return Err(ConnectError::Failed(end.reason())),
            Err(_) => return Err(ConnectError::Failed(Reason::ConnectFailed)),
        }
    }
}

const fn refused(status: u16) -> ConnectError {
    match status {
        401 | 403 => ConnectError::Denied,
        status => ConnectError::Failed(Reason::Refused(status)),
    }
}

fn headers(client: &Client) -> Headers {
    let Client { identity, address } = client.clone();
    let mut headers = Headers::new();
    headers.push("forwarded", format!("for=\"{address}\""));
    headers.push(NAMED_SOURCE_HEADER, NamedSource { identity, address }.to_string());
    headers
}

/// A stream on a tunnel that has room, or on a new one.
fn open(worker: &Rc<Worker>, key: &Key, request: &Connect, not: Option<&Stream>) -> Result<Stream, Reason> {
    let credential = worker.credential()?;
    let connect = || {
        let config = worker.credentials.client(&credential, &key.identities)?;
        let charge = worker.charge().ok_or(Reason::Limit)?;
        let options = worker.options(Role::ToNextHop);
        let socket = worker.settings.sockets.open(key.from, key.next, &options).map_err(|error| {
            tracing::debug!(next = %key.next, %error, "connect to an endpoint's node failed");
            Reason::Unreachable
        })?;
        let socket = TcpStream::from_std(socket).map_err(|_| Reason::Limit)?;
        let begun = Tunnel::client(socket.into(), &config, &worker.settings.tunnel, &worker.buffers, charge);
        begun.map_err(|error| Reason::Tls(error.failure(None)))
    };
    let opened = worker.pool.open(key, request, SystemTime::now(), not, connect)?;
    opened.map_err(|_| Reason::TunnelClosed)
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        http::ClusterPolicy,
        objects::{ConnectionPool, Keepalive as Said, PortPolicy, TcpPool},
    };

    use super::*;

    #[test]
    fn the_keepalive_of_a_cluster() {
        let seconds = Duration::from_secs;
        let check = |said: Option<Said>, expect: (u64, u64, u8)| {
            let tcp = TcpPool { keepalive: said, ..TcpPool::default() };
            let pool = Some(ConnectionPool { tcp, ..ConnectionPool::default() });
            let port = PortPolicy { connection_pool: pool, ..PortPolicy::default() };
            let rules = ConnectionRules::of(&ClusterPolicy { port, ..ClusterPolicy::default() });
            let own = Keepalive { idle: seconds(90), interval: seconds(15), probes: 5 };
            let Keepalive { idle, interval, probes } = keepalive(own, &rules);
            assert_eq!((idle.as_secs(), interval.as_secs(), probes), expect, "{said:?}");
        };
        let all = |probes, time, interval| Some(Said { probes, time, interval });
        check(None, (90, 15, 5));
        check(all(Some(3), None, None), (90, 15, 3));
        check(all(None, Some(seconds(7200)), Some(seconds(75))), (7200, 75, 5));
        check(all(Some(1000), Some(Duration::ZERO), Some(seconds(100_000))), (1, 32_767, 127));
    }
}
