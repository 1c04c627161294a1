//! The choice of one endpoint for a service's VIP and port.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Caller, Destination, balance,
    endpoint::{Candidate, candidates},
};
use crate::{
    Kind, ObjectKey, Reason, World,
    trace::{Stage, Trace},
    world::{Affinity, Service},
};

/// The most candidates that an explanation lists.
const MOST_LISTED: usize = 16;

/// Chooses an endpoint for a call of `to`, the service's VIP and a port.
pub(super) fn choose(
    world: &World,
    service: &Service,
    caller: &Caller<'_>,
    to: SocketAddr,
    roll: u64,
    trace: &mut impl Trace,
) -> Result<Destination, Reason> {
    let all = candidates(world, service, caller, to, trace)?;
    if all.len() > 1 {
        let key = ObjectKey::new(Kind::Service, service.name.clone());
        trace.say(Stage::Route, Some(&key), || list(service, caller, &all));
    }
    let chosen = match service.affinity {
        Affinity::None => balance::by_dice(&all, weight, roll),
        Affinity::ClientIp => of_client(&all, caller),
    };
    chosen.map(|c| destination(service, c)).ok_or(Reason::NoEndpoint)
}

/// Every endpoint that some random number chooses, in order.
pub(super) fn outcomes(
    world: &World,
    service: &Service,
    caller: &Caller<'_>,
    to: SocketAddr,
) -> Result<Vec<Destination>, Reason> {
    let all = candidates(world, service, caller, to, &mut ())?;
    Ok(match service.affinity {
        Affinity::None => all.iter().map(|c| destination(service, c)).collect(),
        Affinity::ClientIp => of_client(&all, caller).map(|c| destination(service, c)).into_iter().collect(),
    })
}

fn of_client<'c, 'a>(all: &'c [Candidate<'a>], caller: &Caller<'_>) -> Option<&'c Candidate<'a>> {
    balance::by_client(all, weight, |c| c.target.ip(), caller.address)
}

fn weight(candidate: &Candidate<'_>) -> u16 {
    candidate.weight()
}

fn destination(service: &Service, candidate: &Candidate<'_>) -> Destination {
    let workload = Some(candidate.workload).filter(|w| w.is_pod()).map(Arc::clone);
    Destination { target: candidate.target, workload, service: Some(service.name.clone()) }
}

fn list(service: &Service, caller: &Caller<'_>, all: &[Candidate<'_>]) -> String {
    let is_weighted = all.windows(2).any(|w| matches!(w, [a, b] if weight(a) != weight(b)));
    let how = match service.affinity {
        Affinity::ClientIp => format!("sessionAffinity ClientIP: {} always goes to the same of", caller.address),
        Affinity::None if is_weighted => "one by weight of".into(),
        Affinity::None => "one of".into(),
    };
    let one = |c: &Candidate<'_>| {
        let pod = c.workload.is_pod().then(|| c.workload.name.to_string());
        let weight = is_weighted.then(|| format!("weight {}", weight(c)));
        let more: Vec<_> = pod.into_iter().chain(weight).collect();
        if more.is_empty() { c.target.to_string() } else { format!("{} ({})", c.target, more.join(", ")) }
    };
    let listed: Vec<_> = all.iter().take(MOST_LISTED).map(one).collect();
    let more = match all.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{how} {} endpoints: {}{more}", all.len(), listed.join(", "))
}
