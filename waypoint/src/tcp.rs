//! Connections that are no HTTP: bytes both ways, to an endpoint of the cluster that a route of `tls` or `tcp` leads to, else of the
//! Service's own.

use std::{cell::Cell, rc::Rc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, timeout},
};
use underpass_core::{
    http::{Ask, ConnectionHead, RequestEnd, TcpWay, Throw, hash_of_ip},
    objects::{Balancing, ConsistentHash, HashKey},
};
use underpass_hbone::Headers;
use underpass_net::tunnel::ByteStream;

use crate::{
    called::{Called, Client},
    carry::{self, End, Times},
    cluster::{At, Chosen, CountGuard, WorkerCluster},
    connection_record::ConnectionRecord,
    detect::{detect, server_name},
    inbound::spoken_by,
    io::{ClientStream, EndpointStream},
    judging::Opened,
    policy::Gates,
    upstream::{ConnectError, connect},
    worker::Worker,
};

/// An open way to an endpoint.
struct Open {
    endpoint: EndpointStream,
    _counted: CountGuard,
    _chosen: Chosen,
    /// It is judged again.
    opened: Opened,
    times: Times,
}

/// Opens the way to an endpoint; why it is refused.
async fn open(
    worker: &Rc<Worker>,
    (called, client): (&Called, &Client),
    server_name: Option<&str>,
    record: &ConnectionRecord,
) -> Result<Open, RequestEnd> {
    let configuration = worker.configuration();
    let gates = Gates { own: &worker.own, world: &configuration.world, called, client };
    if !gates.connection_at_waypoint() {
        return Err(RequestEnd::Denied);
    }
    let opened = Opened::begin(worker, (called.clone(), client.clone(), None), &configuration);
    let compiled = configuration.routes(&called.service, called.port).cloned().ok_or(RequestEnd::NoCluster)?;
    let (now, dice) = (worker.now(), worker.dice());
    let at = At { configuration: &configuration, is_ipv4: called.is_ipv4(), now, dice };
    let source = configuration.source(client);
    let head = ConnectionHead { called: called.address, client: client.address.ip(), server_name, source };
    let key = match compiled.tcp.find(&head, dice) {
        TcpWay::Own => compiled.routes.own_cluster(),
        TcpWay::To(_, key) => key,
        TcpWay::NoRule(_) => return Err(RequestEnd::NoRoute),
        TcpWay::NoBackend(..) => return Err(RequestEnd::NoCluster),
    };
    let service = compiled.clusters.get(key).and_then(|cluster| cluster.service.as_ref().ok());
    record.goes_to(service.ok_or(RequestEnd::NoCluster)?);
    let cluster = worker.clusters.get(&worker.own, &at, key, compiled.clusters.get(key));
    if cluster.policy().is_beyond_waypoints() {
        return Err(RequestEnd::NotServed);
    }
    let key = source_key(&cluster, client);
    let dice = dice.throw(Throw::Endpoint(0));
    let ask = Ask { key, called: None, tried: &[], avoids_tried: false, remote_localities: false, now, dice };
    let chosen = cluster.pick(&ask).map_err(|_| RequestEnd::NoEndpoint)?;
    record.tries(&cluster.key, &chosen.endpoint);
    if !gates.connection_at_endpoint(&chosen.endpoint) {
        return Err(RequestEnd::Denied);
    }
    opened.reaches(&chosen.endpoint, None);
    let rules = cluster.connections.rules();
    let counted = cluster.connections.slot(chosen.endpoint.target).await?;
    match connect(worker, &cluster, &chosen.endpoint, client, None).await {
        Ok(_) if !opened.goes_on() => Err(RequestEnd::Denied),
        Ok(endpoint) => {
            let until = rules.max_duration.and_then(|most| Instant::now().checked_add(most));
            let times = Times { idle: rules.tcp_idle_timeout, until };
            Ok(Open { endpoint, _counted: counted, _chosen: chosen, opened, times })
        }
        Err(error) => {
            let endpoint = chosen.endpoint.target;
            tracing::debug!(from = %client.address, %endpoint, %error, "no connection to an endpoint");
            record.failed(&error);
            Err(if error == ConnectError::Denied { RequestEnd::Denied } else { RequestEnd::ConnectFailed })
        }
    }
}

/// The status of a CONNECT that is refused.
const fn status(end: RequestEnd) -> u16 {
    match end {
        RequestEnd::Denied => 401,
        _ => 503,
    }
}

/// Of a connection the source's address alone can be the key of a consistent hash.
fn source_key(cluster: &WorkerCluster, client: &Client) -> Option<u64> {
    let policy = cluster.policy();
    let balancing = policy.port.load_balancer.as_ref().map(|balancer| &balancer.method);
    match balancing {
        Some(Balancing::Hash(ConsistentHash { key: HashKey::SourceIp, .. })) => Some(hash_of_ip(client.address.ip())),
        _ => None,
    }
}

/// Serves a connection of a port that is said to be no HTTP: the client's CONNECT is answered when the endpoint is connected.
pub(crate) async fn serve(worker: &Rc<Worker>, called: Called, client: Client, stream: ByteStream) {
    let record = ConnectionRecord::begin(worker, &called, &client);
    match open(worker, (&called, &client), None, &record).await {
        Ok(open) => {
            stream.respond(200, &Headers::new());
            carry(worker, ClientStream::new(Bytes::new(), stream), open, &record).await;
        }
        Err(end) => {
            record.ends(end);
            stream.respond(status(end), &Headers::new());
        }
    }
}

/// Carries a connection whose first bytes are no HTTP.
pub(crate) async fn relay(worker: &Rc<Worker>, called: &Called, client: &Client, stream: ClientStream) {
    if reads_server_names(worker, called) {
        return by_name(worker, called, client, stream).await;
    }
    let record = ConnectionRecord::begin(worker, called, client);
    go(worker, (called, client), None, stream, &record).await;
}

/// Refused, the stream is reset: its CONNECT is answered already.
async fn go(
    worker: &Rc<Worker>,
    ends: (&Called, &Client),
    server_name: Option<&str>,
    stream: ClientStream,
    record: &ConnectionRecord,
) {
    match open(worker, ends, server_name, record).await {
        Ok(open) => carry(worker, stream, open, record).await,
        Err(end) => record.ends(end),
    }
}

/// Some route asks for the server name of what is called.
pub(crate) fn reads_server_names(worker: &Worker, called: &Called) -> bool {
    let configuration = worker.configuration();
    configuration.routes(&called.service, called.port).is_some_and(|compiled| compiled.tcp.read_server_names())
}

/// Serves a connection of TLS that ends elsewhere, by the server name that its client asks for.
pub(crate) async fn named(worker: &Rc<Worker>, called: Called, client: Client, stream: ByteStream) {
    stream.respond(200, &Headers::new());
    by_name(worker, &called, &client, ClientStream::new(Bytes::new(), stream)).await;
}

async fn by_name(worker: &Rc<Worker>, called: &Called, client: &Client, mut stream: ClientStream) {
    let mut read = BytesMut::new();
    let reading = timeout(worker.settings.limits.head_time, server_name(&mut stream, &mut read));
    let named = tokio::select! {
        named = reading => named,
        () = worker.leaves_silent() => return,
    };
    let Ok(Ok(name)) = named else { return }; // it says nothing, or broke off
    let record = ConnectionRecord::begin(worker, called, client);
    go(worker, (called, client), name.as_deref(), stream.again(read), &record).await;
}

/// Serves a client that has said nothing yet: who speaks first, it or the server, decides what is spoken. Where neither does, it ends
/// with the times of any connection, or with a drain.
pub(crate) async fn silent(worker: &Rc<Worker>, called: Called, client: Client, mut stream: ByteStream) {
    let record = ConnectionRecord::begin(worker, &called, &client);
    let mut open = match open(worker, (&called, &client), None, &record).await {
        Ok(open) => open,
        Err(_) => return waits(worker, called, client, stream).await,
    };
    let (mut of_client, mut of_server) = (BytesMut::new(), BytesMut::new());
    let opened_at = Cell::new(Instant::now());
    tokio::select! {
        biased;
        () = open.opened.denied() => {
            record.ends(RequestEnd::DeniedLater);
            worker.recorder.denied();
        }
        spoken = detect(&mut stream, &mut of_client) => {
            let Ok(spoken) = spoken else { return record.ends(RequestEnd::ClientReset) };
            let stream = ClientStream::new(of_client.freeze(), stream);
            // A server name may lead elsewhere than the server that was asked.
            if spoken == crate::detect::Spoken::Other && !reads_server_names(worker, &called) {
                return carry(worker, stream, open, &record).await;
            }
            drop((open, record)); // what it speaks is recorded
            Box::pin(spoken_by(worker, called, client, stream, spoken)).await;
        }
        read = open.endpoint.read_buf(&mut of_server) => {
            if read.is_err() {
                return record.ends(RequestEnd::EndpointReset);
            }
            let mut stream = ClientStream::new(of_client.freeze(), stream);
            record.ends(RequestEnd::ClientReset); // unless it takes what the server has said
            let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, &of_server).await;
            if sent.is_ok() {
                record.carries().add_sent(of_server.len());
                carry(worker, stream, open, &record).await;
            }
        }
        () = carry::over_time(&opened_at, open.times) => record.is_over_time(),
        () = worker.leaves_silent() => record.ends(RequestEnd::Drain),
    }
}

/// There is no server to ask, or none that it may reach without HTTP: the client has to speak, and it may speak HTTP.
async fn waits(worker: &Rc<Worker>, called: Called, client: Client, mut stream: ByteStream) {
    let mut read = BytesMut::new();
    let spoken = tokio::select! {
        spoken = detect(&mut stream, &mut read) => spoken,
        () = worker.leaves_silent() => return,
    };
    if let Ok(spoken) = spoken {
        Box::pin(spoken_by(worker, called, client, ClientStream::new(read.freeze(), stream), spoken)).await;
    }
}

async fn carry(worker: &Worker, client: ClientStream, open: Open, record: &ConnectionRecord) {
    let Open { endpoint, opened, times, _counted, _chosen } = open;
    let carried = record.carries();
    match carry::carry(client, endpoint, &opened, times, carried).await {
        End::InOrder => record.ends(RequestEnd::Finished),
        End::Broken(error) => {
            tracing::debug!(%error, "a connection broke off");
            let is_of_endpoint = carried.has_endpoint_failed();
            record.ends(if is_of_endpoint { RequestEnd::EndpointReset } else { RequestEnd::ClientReset });
        }
        End::Denied => {
            worker.recorder.denied();
            record.ends(RequestEnd::DeniedLater);
        }
        End::OverTime => {
            tracing::debug!("a connection was idle or open for as long as it may be");
            record.is_over_time();
        }
    }
}
