//! From what people write, a name or an address, to an address of the mesh; where it is none, what else may be meant.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use crate::{
    Kind, ObjectKey, ObjectName, World,
    world::{Addressed, Service, Workload},
};

/// Why there is nothing to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The source names nothing.
    #[error(
        "source {text:?}: no pod of that name, and it is not an address; write namespace/pod or an IP address{near}"
    )]
    Source {
        /// As asked.
        text: String,
        /// What may be meant.
        near: Near,
    },
    /// The destination names nothing.
    #[error(
        "destination {text:?}: no pod or service of that name, and it is not an address; write namespace/pod, a service's name or host, or an IP address{near}"
    )]
    Destination {
        /// As asked.
        text: String,
        /// What may be meant.
        near: Near,
    },
    /// The destination has no port.
    #[error("destination {0:?}: write DESTINATION:PORT, with an IPv6 address in brackets")]
    Port(String),
    /// The service or pod has no address to connect to.
    #[error("{0} has no address to connect to")]
    NoAddress(ObjectKey),
    /// The service is another name for something.
    #[error("{service} is an ExternalName and has no address: its callers connect to {name}; ask for that")]
    ExternalName {
        /// The service.
        service: ObjectKey,
        /// What it is another name for.
        name: Arc<str>,
    },
    /// The service has no VIP.
    #[error("{service} is headless: its callers connect to its pods; ask for one of them{pods}")]
    Headless {
        /// The service.
        service: ObjectKey,
        /// Its pods.
        pods: Near,
    },
}

/// What may be meant instead: a few names, of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Near {
    first: Vec<ObjectName>,
    all: usize,
}

impl Near {
    /// The most that are told.
    const SHOWN: usize = 4;

    fn of<'a>(names: impl Iterator<Item = &'a ObjectName>) -> Self {
        let names: BTreeSet<_> = names.collect();
        Self { all: names.len(), first: names.into_iter().take(Self::SHOWN).cloned().collect() }
    }
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.first.iter().enumerate() {
            write!(f, "{}{name}", if at == 0 { ", such as " } else { ", " })?;
        }
        match self.all.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Who connects.
pub(super) struct Source {
    pub(super) address: IpAddr,
    pub(super) workload: Option<Arc<Workload>>,
}

pub(super) fn split_port(text: &str) -> Result<(&str, u16), Unknown> {
    let bad = || Unknown::Port(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(bad)?,
        None if host.contains(':') => return Err(bad()),
        None => host,
    };
    Ok((host, port))
}

pub(super) fn find_source(world: &World, text: &str) -> Result<Source, Unknown> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(Source { address, workload: world.workload_at(address).cloned() });
    }
    let name = text.split_once('/').map(|(ns, name)| ObjectName::new(ns, name));
    let unknown = || Unknown::Source { text: text.to_owned(), near: Near::of(pods_like(world, text)) };
    let workload = name.and_then(|n| world.pod(&n)).ok_or_else(unknown)?;
    let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, workload.name.clone()));
    let address = *workload.addresses.first().ok_or_else(no_address)?;
    Ok(Source { address, workload: Some(Arc::clone(workload)) })
}

/// The address to connect to, of the family that the source has where there is a choice.
pub(super) fn find_destination(world: &World, text: &str, namespace: &str, from: IpAddr) -> Result<IpAddr, Unknown> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    let unknown = || {
        let services = world.services().map(|s| &s.name).filter(|s| is_like(s, text));
        Unknown::Destination { text: text.to_owned(), near: Near::of(services.chain(pods_like(world, text))) }
    };
    let service = match text.split_once('/') {
        Some((ns, name)) => {
            let name = ObjectName::new(ns, name);
            if let Some(w) = world.pod(&name) {
                let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, name.clone()));
                return like(&w.addresses, from).ok_or_else(no_address);
            }
            world.service(&name)
        }
        None => service_name(world, text, namespace).and_then(|name| world.service(&name)),
    };
    vip(world, service.ok_or_else(unknown)?, from)
}

fn pods_like<'a>(world: &'a World, text: &'a str) -> impl Iterator<Item = &'a ObjectName> {
    world.workloads().filter(|w| w.is_pod()).map(|w| &w.name).filter(|name| is_like(name, text))
}

/// Has the name that was asked for, in whatever namespace; or is one of many that were made by what has it.
fn is_like(name: &ObjectName, text: &str) -> bool {
    let asked = text.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
    let rest = name.name().strip_prefix(asked).filter(|_| !asked.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// One of the addresses, of the same family where there is a choice.
fn like(all: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    all.iter().find(|a| a.is_ipv4() == other.is_ipv4()).or(all.first()).copied()
}

fn vip(world: &World, service: &Service, from: IpAddr) -> Result<IpAddr, Unknown> {
    let pods = || Near::of(world.endpoints(&service.name).map(|(w, _)| w).filter(|w| w.is_pod()).map(|w| &w.name));
    let key = || ObjectKey::new(Kind::Service, service.name.clone());
    match &service.external_name {
        Some(name) => Err(Unknown::ExternalName { service: key(), name: Arc::clone(name) }),
        None => like(&service.vips, from).ok_or_else(|| Unknown::Headless { service: key(), pods: pods() }),
    }
}

/// `reviews`, `reviews.default`, `reviews.default.svc`, `reviews.default.svc.cluster.local`.
fn service_name(world: &World, host: &str, namespace: &str) -> Option<ObjectName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let suffix = format!(".svc.{}", world.settings().cluster_domain);
    let short = host.strip_suffix(&suffix).or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
    match short.split_once('.') {
        None if short == host => Some(ObjectName::new(namespace, short)),
        None => None,
        Some((_, ns)) if ns.contains('.') => None,
        Some((name, ns)) => Some(ObjectName::new(ns, name)),
    }
}

pub(super) fn name_of(world: &World, ip: IpAddr) -> String {
    match world.addressed(ip) {
        Addressed::Workload(w) => format!("pod {} ({ip})", w.name),
        Addressed::Service(s) => format!("service {} ({ip})", s.hostname),
        Addressed::Ambiguous(_) => format!("{ip} (claimed more than once)"),
        Addressed::Unknown => format!("{ip}"),
    }
}
