//! Names and addresses as users write them, resolved to addresses of the mesh; suggestions for those that are unknown.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use super::Known;
use crate::{
    Kind, ObjectKey, ObjectName, World,
    addr::is_loopback,
    objects::Pod,
    resolve::Sources,
    world::{Addressed, Service, Workload},
};

/// A source or destination that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The source is unknown.
    #[error(
        "source {text:?}: no pod of that name, and it is not an address; write namespace/pod or an IP address{near}"
    )]
    Source {
        /// The text, as given.
        text: String,
        /// Known names like it.
        near: Suggestions,
    },
    /// The destination is unknown.
    #[error(
        "destination {text:?}: no pod or service of that name, and it is not an address; write namespace/pod, a service's name or host, or an IP address{near}"
    )]
    Destination {
        /// The text, as given.
        text: String,
        /// Known names like it.
        near: Suggestions,
    },
    /// The destination has no port.
    #[error("destination {0:?}: write DESTINATION:PORT, with an IPv6 address in brackets")]
    Port(String),
    /// The service or pod has no address to connect to.
    #[error("{0} has no address to connect to")]
    NoAddress(ObjectKey),
    /// The service is an ExternalName.
    #[error("{service} is an ExternalName and has no address: its callers connect to {name}; ask for that")]
    ExternalName {
        /// The service.
        service: ObjectKey,
        /// The external name.
        name: Arc<str>,
    },
    /// A request is asked about, and no request is seen there.
    #[error(
        "port {port} of Service {service} carries {carries}, not HTTP: ask without --method, --path, --header and --authority"
    )]
    NotHttp {
        /// The Service.
        service: ObjectName,
        /// Its port.
        port: u16,
        /// What its name or `appProtocol` says.
        carries: &'static str,
    },
    /// A server name is given, and none is read there.
    #[error("port {port} of Service {service} carries {carries}: no server name is read there; ask without --sni")]
    NotTls {
        /// The Service.
        service: ObjectName,
        /// Its port.
        port: u16,
        /// What its name or `appProtocol` says.
        carries: &'static str,
    },
    /// The service has neither a VIP nor an endpoint.
    #[error("{0} is headless and has no endpoint to connect to")]
    Headless(ObjectKey),
}

/// Known names like one that is unknown: the first few, and the count of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suggestions {
    first: Vec<ObjectName>,
    all: usize,
}

impl Suggestions {
    /// The most that are shown.
    const SHOWN: usize = 4;

    fn of<'a>(names: impl Iterator<Item = &'a ObjectName>) -> Self {
        let names: BTreeSet<_> = names.collect();
        Self { all: names.len(), first: names.into_iter().take(Self::SHOWN).cloned().collect() }
    }
}

impl fmt::Display for Suggestions {
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

/// The source of the connection.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) address: IpAddr,
    pub(super) workload: Option<Arc<Workload>>,
}

impl Source {
    /// As it connects to `to`: from its own address of that family. None: a pod that has no such address.
    pub(super) fn toward(&self, to: IpAddr) -> Option<Self> {
        let same = |ip: &IpAddr| ip.is_ipv4() == to.is_ipv4();
        let address = match &self.workload {
            Some(w) if !same(&self.address) => {
                // Loopback is there in both families.
                w.addresses.iter().copied().find(same).or(is_loopback(to).then_some(self.address))?
            }
            _ => self.address,
        };
        Some(Self { address, workload: self.workload.clone() })
    }

    /// For people. A pod is shown by its name, also where another claims its address.
    pub(super) fn name(&self, world: &World) -> String {
        match &self.workload {
            Some(w) => format!("pod {} ({})", w.name, self.address),
            None => name_of(world, self.address),
        }
    }
}

/// The called address.
pub(super) struct CalledAddress {
    pub(super) address: IpAddr,
    /// The headless service whose endpoint that is, and its other endpoints, which may be called as well.
    pub(super) headless: Option<(Arc<Service>, Vec<IpAddr>)>,
}

impl From<IpAddr> for CalledAddress {
    fn from(address: IpAddr) -> Self {
        Self { address, headless: None }
    }
}

/// Who calls what, as a waypoint before it would see it.
pub(super) struct Call {
    pub(super) from: Source,
    /// The called address and port.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// The Service that is called; none: an address of a pod, or of nothing.
    pub(super) service: Option<Arc<Service>>,
}

impl Call {
    pub(super) fn find(world: &World, sources: &Sources, source: &str, destination: &str) -> Result<Self, Unknown> {
        let (host, port) = split_port(destination)?;
        let from = find_source(world, source)?;
        let namespace = from.workload.as_ref().map_or("default", |w| w.name.namespace());
        let called = find_called(Known { world, sources: Some(sources) }, host, namespace, from.address)?;
        let service = match (called.headless, world.addressed(called.address)) {
            (Some((service, _)), _) => Some(service),
            (None, Addressed::Service(service)) => Some(Arc::clone(service)),
            (None, _) => None,
        };
        Ok(Self { from, address: called.address, port, service })
    }
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
    let unknown = || Unknown::Source { text: text.to_owned(), near: Suggestions::of(pods_like(world, text)) };
    let workload = name.and_then(|n| world.pod(&n)).ok_or_else(unknown)?;
    let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, workload.name.clone()));
    let address = *workload.addresses.first().ok_or_else(no_address)?;
    Ok(Source { address, workload: Some(Arc::clone(workload)) })
}

/// The address to connect to, of the family that the source has where there is a choice.
pub(super) fn find_called(
    known: Known<'_>,
    text: &str,
    namespace: &str,
    from: IpAddr,
) -> Result<CalledAddress, Unknown> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let world = known.world;
    let of_pod = |w: &Workload| {
        let no_address = || Unknown::NoAddress(ObjectKey::new(Kind::Pod, w.name.clone()));
        like(&w.addresses, from).map(CalledAddress::from).ok_or_else(no_address)
    };
    let unknown = || {
        let services = world.services().map(|s| &s.name).filter(|s| is_like(s, text));
        Unknown::Destination { text: text.to_owned(), near: Suggestions::of(services.chain(pods_like(world, text))) }
    };
    let service = match text.split_once('/') {
        Some((ns, name)) => {
            let name = ObjectName::new(ns, name);
            if let Some(w) = world.pod(&name) {
                return of_pod(w);
            }
            world.service(&name)
        }
        None => {
            let service = service_name(world, text, namespace).and_then(|name| world.service(&name));
            if let Some(w) = pod_host(known, text, namespace).filter(|_| service.is_none()) {
                return of_pod(w);
            }
            service
        }
    };
    of_service(world, service.ok_or_else(unknown)?, from)
}

fn pods_like<'a>(world: &'a World, text: &'a str) -> impl Iterator<Item = &'a ObjectName> {
    world.workloads().filter(|w| w.is_pod()).map(|w| &w.name).filter(|name| is_like(name, text))
}

/// Has the given name, in any namespace; or starts with it, as the pods of a Deployment do.
fn is_like(name: &ObjectName, text: &str) -> bool {
    let asked = text.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
    let rest = name.name().strip_prefix(asked).filter(|_| !asked.is_empty());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// One of the addresses, of the same family where there is a choice.
fn like(all: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    all.iter().find(|a| a.is_ipv4() == other.is_ipv4()).or(all.first()).copied()
}

fn of_service(world: &World, service: &Arc<Service>, from: IpAddr) -> Result<CalledAddress, Unknown> {
    let key = || ObjectKey::new(Kind::Service, service.name.clone());
    if let Some(name) = &service.external_name {
        return Err(Unknown::ExternalName { service: key(), name: Arc::clone(name) });
    }
    if let Some(vip) = like(&service.vips, from) {
        return Ok(vip.into());
    }
    // DNS answers with what is ready; each of them is called once, by an address of this family where it has one.
    let ready: Vec<_> = world.endpoints(&service.name).filter(|(_, e)| e.ready).collect();
    let is_like = |address: IpAddr| address.is_ipv4() == from.is_ipv4();
    let (same, other): (Vec<_>, Vec<_>) = ready.into_iter().partition(|(_, e)| is_like(e.address));
    let mut called = BTreeSet::new();
    let mut all = same.into_iter().chain(other).filter(|(w, _)| called.insert(&w.uid)).map(|(_, e)| e.address);
    let address = all.next().ok_or_else(|| Unknown::Headless(key()))?;
    Ok(CalledAddress { address, headless: Some((Arc::clone(service), all.collect())) })
}

/// `db-0.db`, `db-0.db.default`, `db-0.db.default.svc`, `db-0.db.default.svc.cluster.local`: a pod of a StatefulSet, or
/// another that has a name below its Service.
fn pod_host<'w>(Known { world, sources }: Known<'w>, host: &str, namespace: &str) -> Option<&'w Arc<Workload>> {
    let short = without_domain(world, host);
    let parts: Vec<_> = short.split('.').collect();
    let (name, subdomain, namespace) = match parts[..] {
        [name, subdomain] if short == host => (name, subdomain, namespace),
        [name, subdomain, namespace] => (name, subdomain, namespace),
        _ => return None,
    };
    world.service(&ObjectName::new(namespace, subdomain))?;
    let has_name = |pod: &Pod| pod.hostname.as_deref().is_some_and(|(h, s)| (&**h, &**s) == (name, subdomain));
    let mut pods = sources?.pods().filter(|pod| pod.name.namespace() == namespace && has_name(pod));
    pods.find_map(|pod| world.pod(&pod.name))
}

/// Without the domain of the cluster, as far as that is written.
fn without_domain<'h>(world: &World, host: &'h str) -> &'h str {
    let host = host.strip_suffix('.').unwrap_or(host);
    let suffix = format!(".svc.{}", world.settings().cluster_domain);
    host.strip_suffix(&suffix).or_else(|| host.strip_suffix(".svc")).unwrap_or(host)
}

/// `reviews`, `reviews.default`, `reviews.default.svc`, `reviews.default.svc.cluster.local`.
fn service_name(world: &World, host: &str, namespace: &str) -> Option<ObjectName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let short = without_domain(world, host);
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
