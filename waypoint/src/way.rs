//! The way to a server that the waypoint calls for itself: of keys, or an external authorizer. What the mesh knows by name or address
//! is called under the waypoint's own identity, what else by the network's names and in plaintext.
//!
//! What must hold: such a call reaches no pod that policy would deny to the waypoint as a client. So what turns out to be an address
//! of the mesh is never called past its tunnel, and is judged here ([`OwnCall`]).

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use underpass_core::{
    ObjectName, World,
    addr::canonical,
    authz::Verdict,
    http::{Ask, ClusterKey, ClusterPolicy, ConnectionRules, Throw},
    world::{Addressed, Service, Workload},
};

use crate::{
    called::Client,
    cluster::{At, Chosen, Endpoint},
    configuration::Configuration,
    io::EndpointStream,
    judging::Head,
    policy::OwnCall,
    upstream::{ConnectError, plain, reach},
    worker::Worker,
};

/// An open way, with what counts as busy until it is dropped.
type Way = (EndpointStream, Option<Chosen>);

/// The reason why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    #[error("the name cannot be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("the name has no address that can be called")]
    NoAddress,
    #[error("more than one object of the mesh has the address")]
    Ambiguous,
    #[error("it stands behind another waypoint, or its DestinationRule asks for TLS, a tunnel or a PROXY protocol")]
    Beyond,
    #[error("no endpoint of the Service is ready, or it has no such port")]
    NoEndpoint,
    #[error("denied by policy: {0} does not let this waypoint pass")]
    Denied(ObjectName),
    #[error("denied by policy at the endpoint's node")]
    DeniedThere,
    #[error("no connection: {0}")]
    Connect(#[source] ConnectError),
}

impl From<ConnectError> for WayError {
    fn from(error: ConnectError) -> Self {
        if error == ConnectError::Denied { Self::DeniedThere } else { Self::Connect(error) }
    }
}

/// Who calls, and by what it is judged: each time the newest configuration.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) newest: &'a dyn Fn() -> Arc<Configuration>,
}

/// What is asked for, and where.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// A name in lower case, or an address.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// None: it is in TLS.
    pub(crate) head: Option<&'a Head>,
}

/// The way to a host: of the mesh, or beyond it.
pub(crate) async fn open(caller: Caller<'_>, asked: &Asked<'_>) -> Result<Way, WayError> {
    if let Ok(ip) = asked.host.parse::<IpAddr>() {
        return to_address(caller, SocketAddr::new(ip, asked.port), asked).await;
    }
    if let Some(service) = named(&(caller.newest)().world, asked.host) {
        let called = service.vips.first().map(|vip| SocketAddr::new(*vip, asked.port));
        return to_service(caller, &service, called, asked).await;
    }
    let mut failed = WayError::NoAddress;
    for target in tokio::net::lookup_host((asked.host, asked.port)).await.map_err(WayError::Resolve)? {
        match to_address(caller, target, asked).await {
            Ok(way) => return Ok(way),
            Err(WayError::NoAddress) => {}
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The Service of a name, `name.namespace.svc` as well.
fn named(world: &World, host: &str) -> Option<Arc<Service>> {
    let service = match host.ends_with(".svc") {
        true => world.service_of_host(&format!("{host}.{}", world.settings().cluster_domain)),
        false => world.service_of_host(host),
    };
    service.cloned()
}

/// The way to an address, whose ever it is.
async fn to_address(caller: Caller<'_>, target: SocketAddr, asked: &Asked<'_>) -> Result<Way, WayError> {
    let (worker, target) = (caller.worker, canonical(target));
    let world = &(caller.newest)().world;
    match world.addressed(target.ip()) {
        Addressed::Service(service) => to_service(caller, service, Some(target), asked).await,
        _ if worker.own.address(target.is_ipv4()).is_none() => Err(WayError::NoAddress),
        Addressed::Workload(workload) => to_pod(caller, workload, target, asked).await,
        Addressed::Ambiguous(_) => Err(WayError::Ambiguous),
        Addressed::Unknown => {
            let rules = ConnectionRules::of(&ClusterPolicy::default());
            Ok((plain(worker, target, &rules).await?, None))
        }
    }
}

/// The way to an endpoint of a Service's own cluster.
async fn to_service(
    caller: Caller<'_>,
    service: &Service,
    called: Option<SocketAddr>,
    asked: &Asked<'_>,
) -> Result<Way, WayError> {
    let worker = caller.worker;
    if service.waypoint.as_ref().is_some_and(|waypoint| !worker.own.is(waypoint)) {
        return Err(WayError::Beyond);
    }
    if service.port(asked.port).is_none() {
        return Err(WayError::NoEndpoint);
    }
    let own = worker.own.addresses.first().ok_or(WayError::NoAddress)?;
    let configuration = (caller.newest)();
    let (now, dice) = (worker.now(), worker.dice());
    let at = At { configuration: &configuration, is_ipv4: own.is_ipv4(), now, dice };
    let key = ClusterKey::of(service, asked.port);
    let cluster = worker.clusters.get(&worker.own, &at, &key, Some(&configuration.cluster(service, &key)));
    let policy = cluster.policy();
    if policy.is_beyond_waypoints() || policy.origination().is_some() {
        return Err(WayError::Beyond);
    }
    let dice = dice.throw(Throw::Endpoint(0));
    let ask = Ask { key: None, called: None, tried: &[], avoids_tried: false, remote_localities: false, now, dice };
    let chosen = cluster.pick(&ask).map_err(|_| WayError::NoEndpoint)?;
    if policy.requires_tunnel() && chosen.endpoint.identity.is_none() {
        return Err(ConnectError::OutsideMesh.into());
    }
    let called = called.unwrap_or(chosen.endpoint.target);
    let passes = service.waypoint.is_some().then_some((called, Some(&service.name)));
    let stream = to_endpoint(caller, &chosen.endpoint, passes, asked, &cluster.connections.rules()).await?;
    Ok((stream, Some(chosen)))
}

/// The way to a pod by its own address.
async fn to_pod(
    caller: Caller<'_>,
    workload: &Workload,
    target: SocketAddr,
    asked: &Asked<'_>,
) -> Result<Way, WayError> {
    if workload.waypoint.as_ref().is_some_and(|waypoint| !caller.worker.own.is(waypoint)) {
        return Err(WayError::Beyond);
    }
    let endpoint = Endpoint::of(&(caller.newest)().world, workload, target);
    let passes = workload.waypoint.is_some().then_some((target, None));
    let rules = ConnectionRules::of(&ClusterPolicy::default());
    Ok((to_endpoint(caller, &endpoint, passes, asked, &rules).await?, None))
}

/// The connection to an endpoint, where policy lets it be. It is for one request, which ends with the time that its caller has: once it
/// has been sent, it is not judged again.
async fn to_endpoint(
    caller: Caller<'_>,
    endpoint: &Endpoint,
    passes: Option<(SocketAddr, Option<&ObjectName>)>,
    asked: &Asked<'_>,
    rules: &ConnectionRules,
) -> Result<EndpointStream, WayError> {
    let own = &caller.worker.own;
    let address = own.address(endpoint.target.is_ipv4()).ok_or(WayError::NoAddress)?;
    let client = Client { identity: own.identity.clone(), address: SocketAddr::new(address, 0) };
    let call = OwnCall { own, client: &client, passes, endpoint, head: asked.head };
    let judge = || match call.judge(&(caller.newest)().world) {
        Verdict::Allow { .. } => Ok(()),
        Verdict::Deny { policy: Some(policy), .. } => Err(WayError::Denied(policy)),
        Verdict::Deny { policy: None, .. } => Err(WayError::NoEndpoint),
    };
    judge()?;
    let stream = reach(caller.worker, endpoint, &client, rules).await?;
    judge()?; // policy may have changed meanwhile
    Ok(stream)
}
