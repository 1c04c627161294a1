//! Routes of connections that are no HTTP: `tls` and `tcp` of VirtualServices. Beside [`super`], whose rules read requests.
//!
//! What must hold, as in Istio: a rule of `tls` is for TLS alone, and comes before those of `tcp`; a connection that no rule
//! matches goes to the Service itself.

use std::net::IpAddr;

use super::Compiler;
use crate::{
    Kind, ObjectKey,
    http::{ClusterKey, Dice, Host, Source, action::by_weight, rules_of_host::virtual_services_with},
    objects::{ConnectionMatch, ExportTo, VirtualService, WeightedTarget},
};

/// A connection as far as its route needs it. Lent.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionHead<'c> {
    /// The called address.
    pub called: IpAddr,
    /// The client's.
    pub client: IpAddr,
    /// The server name of TLS, in lower case; none: it names none, or is no TLS.
    pub server_name: Option<&'c str>,
    /// The client.
    pub source: Source<'c>,
}

/// The rules of one Service's port for what is no HTTP, in order.
#[derive(Clone, Debug, Default)]
pub struct TcpRoutes {
    tls: Vec<TcpRule>,
    tcp: Vec<TcpRule>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct TcpRule {
    /// The object.
    pub object: ObjectKey,
    /// The position in its `spec.tls` or `spec.tcp`.
    pub position: usize,
    export_to: ExportTo,
    /// One of these holds; none are there: any connection matches. Ports and gateways are dealt with.
    matches: Vec<ConnectionMatch>,
    targets: Vec<(ClusterKey, u32)>,
}

impl TcpRoutes {
    /// Some rule asks for the server name of TLS.
    #[must_use]
    pub fn read_server_names(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Where a connection goes; none: to the Service itself.
    #[must_use]
    pub fn find(&self, head: &ConnectionHead<'_>, dice: Dice) -> Option<(&TcpRule, &ClusterKey)> {
        let rule = self.tls.iter().chain(&self.tcp).find(|rule| rule.holds(head))?;
        Some((rule, rule.target(dice)?))
    }

    /// Every cluster that one of them names.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterKey> {
        self.tls.iter().chain(&self.tcp).flat_map(|rule| &rule.targets).map(|(cluster, _)| cluster)
    }
}

impl TcpRule {
    fn holds(&self, head: &ConnectionHead<'_>) -> bool {
        let is_visible = self.export_to.includes(self.object.name.namespace(), head.source.namespace);
        is_visible && (self.matches.is_empty() || self.matches.iter().any(|m| holds(m, head)))
    }

    /// One of its targets, as likely as its weight.
    fn target(&self, dice: Dice) -> Option<&ClusterKey> {
        by_weight(&self.targets, |(_, weight)| *weight, dice).map(|(cluster, _)| cluster)
    }
}

fn holds(m: &ConnectionMatch, head: &ConnectionHead<'_>) -> bool {
    let is_named = |host: &Host| head.server_name.is_some_and(|name| host.matches(name));
    (m.server_names.is_empty() || m.server_names.iter().any(is_named))
        && (m.destinations.is_empty() || m.destinations.iter().any(|net| net.contains(&head.called)))
        && m.source.is_none_or(|net| net.contains(&head.client))
        && m.source_namespace.as_deref().is_none_or(|namespace| head.source.namespace == Some(namespace))
        && head.source.has(&m.source_labels)
}

impl Compiler<'_> {
    /// The rules of all VirtualServices of a host.
    pub(super) fn tcp(&self, host: &str) -> TcpRoutes {
        let mut all = TcpRoutes::default();
        for v in virtual_services_with(self.world, self.sources, host, |v| !v.tls.is_empty()) {
            let routes = v.tls.iter().map(|route| (&route.matches, &route.targets));
            all.tls.extend(self.tcp_rules(v, routes));
        }
        for v in virtual_services_with(self.world, self.sources, host, |v| !v.tcp.is_empty()) {
            let routes = v.tcp.iter().map(|route| (&route.matches, &route.targets));
            all.tcp.extend(self.tcp_rules(v, routes));
        }
        all
    }

    fn tcp_rules<'r>(
        &self,
        v: &VirtualService,
        routes: impl Iterator<Item = (&'r Vec<ConnectionMatch>, &'r Vec<WeightedTarget>)>,
    ) -> Vec<TcpRule> {
        let rule = |(position, (matches, targets)): (usize, (&Vec<ConnectionMatch>, &Vec<WeightedTarget>))| {
            let here: Vec<_> = matches.iter().filter(|m| self.is_here(&m.gateways, m.port)).cloned().collect();
            // Its conditions are all for other ports, or for gateways.
            if here.is_empty() && !matches.is_empty() {
                return None;
            }
            let targets = targets.iter().map(|one| (self.cluster(v, &one.target), one.weight));
            Some(TcpRule {
                object: ObjectKey::new(Kind::VirtualService, v.name.clone()),
                position,
                export_to: v.export_to.clone(),
                matches: here,
                targets: targets.collect(),
            })
        };
        routes.enumerate().filter_map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::objects::{target, virtual_service},
        *,
    };
    use crate::{
        http::{Compiled, compile},
        objects::{HeaderOperations, Object, TcpRoute, TlsRoute},
        testing::{labels, model, name, service},
    };

    /// The routes of `shop/cart` port 70.
    fn compiled(all: impl IntoIterator<Item = VirtualService>) -> Compiled {
        let services: [Object; 2] = [
            service("shop/cart app=cart 10.96.0.1 70=7070").into(),
            service("shop/stock app=stock 10.96.0.2 9000=9000").into(),
        ];
        let model = model(services.into_iter().chain(all.into_iter().map(Into::into)));
        let service = model.world().service(&name("shop/cart")).unwrap();
        compile(model.world(), model.sources(), service, 70)
    }

    /// `host=weight,...`
    fn targets(text: &str) -> Vec<WeightedTarget> {
        let one = |text: &str| {
            let (of, weight) = text.split_once('=').unwrap_or((text, "1"));
            WeightedTarget { target: target(of), weight: weight.parse().unwrap(), headers: HeaderOperations::default() }
        };
        text.split(',').map(one).collect()
    }

    fn tcp(matches: Vec<ConnectionMatch>, to: &str) -> TcpRoute {
        TcpRoute { matches, targets: targets(to) }
    }

    fn tls(hosts: &[&str], to: &str) -> TlsRoute {
        let server_names = hosts.iter().map(|host| Host::parse(host)).collect();
        TlsRoute { matches: vec![ConnectionMatch { server_names, ..ConnectionMatch::default() }], targets: targets(to) }
    }

    fn with(name: &str, tls: Vec<TlsRoute>, tcp: Vec<TcpRoute>) -> VirtualService {
        VirtualService { tls, tcp, ..virtual_service(name, Vec::new()) }
    }

    /// From a pod of namespace `front` with the label `app=web` at 10.0.0.7.
    fn ask(compiled: &Compiled, server_name: Option<&str>, dice: u64) -> String {
        let of_web = labels("app=web");
        let head = ConnectionHead {
            called: "10.96.0.1".parse().unwrap(),
            client: "10.0.0.7".parse().unwrap(),
            server_name,
            source: Source { namespace: Some("front"), labels: Some(&of_web) },
        };
        let found = compiled.tcp.find(&head, Dice(dice));
        found.map_or("own".into(), |(rule, key)| {
            let host = key.host.trim_end_matches(".svc.cluster.local");
            let subset = key.subset.as_ref().map_or(String::new(), |subset| format!("/{subset}"));
            format!("{}[{}] {host}{subset}:{}", rule.object.name, rule.position, key.port)
        })
    }

    #[test]
    fn the_first_rule_that_matches() {
        let check = |m: ConnectionMatch, holds: bool| {
            let v = with("shop/v cart", Vec::new(), vec![tcp(vec![m.clone()], "stock"), tcp(Vec::new(), "cart/v2")]);
            let expect = if holds { "shop/v[0] stock.shop:9000" } else { "shop/v[1] cart.shop/v2:70" };
            assert_eq!(ask(&compiled([v]), None, 0), expect, "{m:?}");
        };
        let any = ConnectionMatch::default;
        check(any(), true);
        check(ConnectionMatch { port: Some(70), ..any() }, true);
        check(ConnectionMatch { port: Some(71), ..any() }, false);
        check(ConnectionMatch { destinations: vec!["10.96.0.0/16".parse().unwrap()], ..any() }, true);
        check(ConnectionMatch { destinations: vec!["10.97.0.0/16".parse().unwrap()], ..any() }, false);
        check(ConnectionMatch { source: Some("10.0.0.0/24".parse().unwrap()), ..any() }, true);
        check(ConnectionMatch { source: Some("10.0.1.0/24".parse().unwrap()), ..any() }, false);
        check(ConnectionMatch { source_labels: labels("app=web"), ..any() }, true);
        check(ConnectionMatch { source_labels: labels("app=other"), ..any() }, false);
        check(ConnectionMatch { source_namespace: Some("front".into()), ..any() }, true);
        check(ConnectionMatch { source_namespace: Some("back".into()), ..any() }, false);
        check(ConnectionMatch { gateways: vec!["mesh".into()], ..any() }, true);
        check(ConnectionMatch { gateways: vec!["shop/in".into()], ..any() }, false);
        // All conditions of one, and one of several.
        let [port, other] = [70, 71].map(Some);
        check(ConnectionMatch { port, source_namespace: Some("back".into()), ..any() }, false);
        let several = vec![ConnectionMatch { port: other, ..any() }, ConnectionMatch { port, ..any() }];
        assert_eq!(
            ask(&compiled([with("shop/v cart", Vec::new(), vec![tcp(several, "stock")])]), None, 0),
            "shop/v[0] stock.shop:9000"
        );
    }

    #[test]
    fn what_no_rule_is_for_goes_to_the_service_itself() {
        assert_eq!(ask(&compiled([]), None, 0), "own");
        let elsewhere = tcp(vec![ConnectionMatch { port: Some(71), ..ConnectionMatch::default() }], "stock");
        assert_eq!(ask(&compiled([with("shop/v cart", Vec::new(), vec![elsewhere])]), None, 0), "own");
        let mut hidden = with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "stock")]);
        hidden.export_to = ExportTo::Namespaces { own: true, others: Vec::new() };
        assert_eq!(ask(&compiled([hidden]), None, 0), "own", "the client's namespace does not see it");
        let requests = virtual_service(
            "shop/v cart",
            vec![super::super::tests::objects::rule(Vec::new(), super::super::tests::objects::to("stock"))],
        );
        assert_eq!(ask(&compiled([requests]), None, 0), "own", "a route of requests is none of connections");
    }

    #[test]
    fn server_names_come_first() {
        let names = vec![tls(&["a.example", "b.example"], "stock"), tls(&["*.example"], "cart/v1")];
        let all = compiled([with("shop/v cart", names, vec![tcp(Vec::new(), "cart/v2")])]);
        assert!(all.tcp.read_server_names());
        for (server_name, expect) in [
            (Some("a.example"), "shop/v[0] stock.shop:9000"),
            (Some("b.example"), "shop/v[0] stock.shop:9000"),
            (Some("c.example"), "shop/v[1] cart.shop/v1:70"),
            (Some("example"), "shop/v[0] cart.shop/v2:70"),
            (None, "shop/v[0] cart.shop/v2:70"),
        ] {
            assert_eq!(ask(&all, server_name, 0), expect, "{server_name:?}");
        }
        let without = compiled([with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "stock")])]);
        assert!(!without.tcp.read_server_names());
    }

    #[test]
    fn targets_by_weight() {
        let all = compiled([with("shop/v cart", Vec::new(), vec![tcp(Vec::new(), "cart/v1=3,cart/v2=1,stock=0")])]);
        let mut counts = std::collections::BTreeMap::<String, u32>::new();
        for dice in 0..4000 {
            *counts.entry(ask(&all, None, dice)).or_default() += 1;
        }
        let [v1, v2] = ["cart.shop/v1:70", "cart.shop/v2:70"].map(|to| counts[&format!("shop/v[0] {to}")]);
        // Six deviations of a binomial distribution.
        assert!(v1 + v2 == 4000 && v1.abs_diff(3000) < 165, "{counts:?}");
        let keys: Vec<_> = all.clusters.iter().map(|(key, _)| key.to_string()).collect();
        assert_eq!(keys.len(), 4, "each that is named, and the Service's own: {keys:?}");
    }

    #[test]
    fn of_several_objects_the_older_ones_rules_come_first() {
        let new = with("shop/a cart @2", Vec::new(), vec![tcp(Vec::new(), "stock")]);
        let old = with("shop/b cart @1", Vec::new(), vec![tcp(Vec::new(), "cart/v1")]);
        assert_eq!(ask(&compiled([new, old]), None, 0), "shop/b[0] cart.shop/v1:70");
    }
}
