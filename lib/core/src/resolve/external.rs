//! External addresses of Services: `externalIPs`, and those of load balancers. No API server assigns them, so that a
//! Service may name any address, a pod's or a node's among them, and several Services may share
//! one.
//!
//! What must hold: by naming an address a Service takes away nothing that is another's. Such an address is the
//! Service's while nothing else has it; else everything stays as without the mesh.

use std::net::IpAddr;

use super::Resolver;
use crate::{Kind, ObjectKey, ObjectName, objects::Service};

impl Resolver {
    /// An address that a service names, and that is none of its VIPs, is the service's.
    pub(super) fn is_external(&self, service: &Service, ip: IpAddr) -> bool {
        self.others(service, ip).next().is_none() && self.index.hosts.get(&ip).is_empty()
    }

    /// The other owners of an address that a service names: pods, Services by their VIPs, Services that name it as
    /// well. Nodes are not among them.
    pub(super) fn others<'a>(&'a self, service: &'a Service, ip: IpAddr) -> impl Iterator<Item = ObjectKey> + 'a {
        let key = |kind| move |name: &ObjectName| ObjectKey::new(kind, name.clone());
        let pods = self.holders(ip).into_owned().into_iter().map(|name| ObjectKey::new(Kind::Pod, name));
        let vips = self.index.vips.get(&ip).iter().map(key(Kind::Service));
        let shared = self.index.external.get(&ip).iter().filter(|name| **name != service.name).map(key(Kind::Service));
        pods.chain(vips).chain(shared)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        objects::{Node, Object, Pod, Service},
        testing::{ambient, model, node, pod, service},
        world::Addressed,
    };

    /// Checks the owner of 198.51.100.7, which default/a names, beside these objects.
    fn check(others: Vec<Object>, expect: &str, told: &str) {
        let external = |text: &str| Service { external: vec!["198.51.100.7".parse().unwrap()], ..service(text) };
        let all = others.into_iter().map(|o| match o {
            Object::Service(s) if s.vips.is_empty() => external(&format!("{} - 10.96.0.2 80", s.name)).into(),
            o => o,
        });
        let model = model(all.chain([external("default/a - 10.96.0.1 80").into()]));
        let got = match model.world().addressed("198.51.100.7".parse().unwrap()) {
            Addressed::Workload(w) => w.name.to_string(),
            Addressed::Service(s) => s.name.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(got, expect);
        let of_a = model.sources().findings().filter(|f| f.object.name.name() == "a");
        let says: Vec<_> = of_a.map(|f| f.says.split(':').next().unwrap_or_default()).collect();
        assert_eq!(says.join("; "), told);
    }

    #[test]
    fn an_address_with_another_owner_is_not_external() {
        check(vec![], "default/a", "");
        let pod_there = ambient("default/p", "198.51.100.7", "");
        check(vec![pod_there.into()], "default/p", "198.51.100.7 belongs to Pod default/p");
        check(
            vec![service("default/b - 198.51.100.7 80").into()],
            "default/b",
            "198.51.100.7 belongs to Service default/b",
        );
        check(vec![service("default/b - - 80").into()], "Unknown", "198.51.100.7 belongs to Service default/b");
        let of_node = Node { addresses: vec!["198.51.100.7".parse().unwrap()], ..node("node-1", "") };
        check(vec![of_node.into()], "Unknown", "198.51.100.7 belongs to a node");
        let on_host = Pod { host_network: true, ..pod("default/h", "198.51.100.7") };
        check(vec![on_host.into()], "Unknown", "198.51.100.7 belongs to a node");
    }
}
