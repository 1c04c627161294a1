//! The way to a server of keys, for the waypoint itself. What the mesh knows by name or address is called under the waypoint's
//! own identity, what else a URI names by the network's names and in plaintext.
//!
//! What must hold: a fetch reaches no pod that policy would deny to the waypoint as a client. So what turns out to be an address
//! of the mesh is never called past its tunnel, and is judged here ([`OwnCall`]).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use underpass_core::{
    ObjectName, World,
    addr::canonical,
    authz::Verdict,
    http::{Ask, ClusterKey, ClusterPolicy, ConnectionRules, Throw},
    world::{Addressed, Service, Workload},
};

use super::fetch::{FetchError, Fetcher};
use crate::{
    called::Client,
    cluster::{At, Chosen, Endpoint},
    io::EndpointStream,
    judging::Head,
    policy::OwnCall,
    upstream::{ConnectError, plain, reach},
};

/// An open way, with what counts as busy until it is dropped.
type Way = (EndpointStream, Option<Chosen>);

/// What is asked for, and where.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// A name in lower case, or an address.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// None: it is in TLS.
    pub(super) head: Option<&'a Head>,
}

/// The way to a host: of the mesh, or beyond it.
pub(super) async fn open(fetcher: &Fetcher, asked: &Asked<'_>) -> Result<Way, FetchError> {
    if let Ok(ip) = asked.host.parse::<IpAddr>() {
        return to_address(fetcher, SocketAddr::new(ip, asked.port), asked).await;
    }
    if let Some(service) = named(&fetcher.configuration().world, asked.host) {
        let called = service.vips.first().map(|vip| SocketAddr::new(*vip, asked.port));
        return to_service(fetcher, &service, called, asked).await;
    }
    let mut failed = FetchError::NoAddress;
    for target in tokio::net::lookup_host((asked.host, asked.port)).await.map_err(FetchError::Resolve)? {
        match to_address(fetcher, target, asked).await {
            Ok(way) => return Ok(way),
            Err(FetchError::NoAddress) => {}
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
async fn to_address(fetcher: &Fetcher, target: SocketAddr, asked: &Asked<'_>) -> Result<Way, FetchError> {
    let (worker, target) = (&fetcher.worker, canonical(target));
    let world = &fetcher.configuration().world;
    match world.addressed(target.ip()) {
        Addressed::Service(service) => to_service(fetcher, service, Some(target), asked).await,
        _ if worker.own.address(target.is_ipv4()).is_none() => Err(FetchError::NoAddress),
        Addressed::Workload(workload) => to_pod(fetcher, workload, target, asked).await,
        Addressed::Ambiguous(_) => Err(FetchError::Ambiguous),
        Addressed::Unknown => {
            let rules = ConnectionRules::of(&ClusterPolicy::default());
            Ok((plain(worker, target, &rules).await?, None))
        }
    }
}

/// The way to an endpoint of a Service's own cluster.
async fn to_service(
    fetcher: &Fetcher,
    service: &Service,
    called: Option<SocketAddr>,
    asked: &Asked<'_>,
) -> Result<Way, FetchError> {
    let worker = &fetcher.worker;
    if service.waypoint.as_ref().is_some_and(|waypoint| !worker.own.is(waypoint)) {
        return Err(FetchError::Beyond);
    }
    if service.port(asked.port).is_none() {
        return Err(FetchError::NoEndpoint);
    }
    let own = worker.own.addresses.first().ok_or(FetchError::NoAddress)?;
    let configuration = fetcher.configuration();
    let (now, dice) = (worker.now(), worker.dice());
    let at = At { configuration: &configuration, is_ipv4: own.is_ipv4(), now, dice };
    let key = ClusterKey::of(service, asked.port);
    let cluster = worker.clusters.get(&worker.own, &at, &key, Some(&configuration.cluster(service, &key)));
    let policy = cluster.policy();
    if policy.is_beyond_waypoints() || policy.origination().is_some() {
        return Err(FetchError::Beyond);
    }
    let dice = dice.throw(Throw::Endpoint(0));
    let ask = Ask { key: None, called: None, tried: &[], avoids_tried: false, remote_localities: false, now, dice };
    let chosen = cluster.pick(&ask).map_err(|_| FetchError::NoEndpoint)?;
    if policy.requires_tunnel() && chosen.endpoint.identity.is_none() {
        return Err(ConnectError::OutsideMesh.into());
    }
    let called = called.unwrap_or(chosen.endpoint.target);
    let passes = service.waypoint.is_some().then_some((called, Some(&service.name)));
    let stream = to_endpoint(fetcher, &chosen.endpoint, passes, asked, &cluster.connections.rules()).await?;
    Ok((stream, Some(chosen)))
}

/// The way to a pod by its own address.
async fn to_pod(
    fetcher: &Fetcher,
    workload: &Workload,
    target: SocketAddr,
    asked: &Asked<'_>,
) -> Result<Way, FetchError> {
    if workload.waypoint.as_ref().is_some_and(|waypoint| !fetcher.worker.own.is(waypoint)) {
        return Err(FetchError::Beyond);
    }
    let endpoint = Endpoint::of(&fetcher.configuration().world, workload, target);
    let passes = workload.waypoint.is_some().then_some((target, None));
    let rules = ConnectionRules::of(&ClusterPolicy::default());
    Ok((to_endpoint(fetcher, &endpoint, passes, asked, &rules).await?, None))
}

/// The connection to an endpoint, where policy lets it be. It is for one request, which ends with the time of its fetch: once it
/// has been sent, it is not judged again.
async fn to_endpoint(
    fetcher: &Fetcher,
    endpoint: &Endpoint,
    passes: Option<(SocketAddr, Option<&ObjectName>)>,
    asked: &Asked<'_>,
    rules: &ConnectionRules,
) -> Result<EndpointStream, FetchError> {
    let own = &fetcher.worker.own;
    let address = own.address(endpoint.target.is_ipv4()).ok_or(FetchError::NoAddress)?;
    let client = Client { identity: own.identity.clone(), address: SocketAddr::new(address, 0) };
    let call = OwnCall { own, client: &client, passes, endpoint, head: asked.head };
    let judge = || match call.judge(&fetcher.configuration().world) {
        Verdict::Allow { .. } => Ok(()),
        Verdict::Deny { policy: Some(policy), .. } => Err(FetchError::Denied(policy)),
        Verdict::Deny { policy: None, .. } => Err(FetchError::NoEndpoint),
    };
    judge()?;
    let stream = reach(&fetcher.worker, endpoint, &client, rules).await?;
    judge()?; // policy may have changed meanwhile
    Ok(stream)
}
