//! Ports of Services that say no protocol, and Services that say two things about one pod. Where Istio's analyzer has a
//! message about it, its code stands behind the words.

use crate::{
    dangling::{Known, Level, Say},
    http::virtual_services,
    labels::selects,
    objects::{Pod, Service},
    world::{AppProtocol, ServicePort, TargetPort},
};

impl Known<'_> {
    /// Routes are of requests: whether there are any on a port, its name or appProtocol says.
    pub(super) fn port_names(&self, s: &Service, say: Say<'_>) {
        let world = self.model.world();
        let Some(fact) = world.service(&s.name) else { return };
        let routes = virtual_services(world, self.model.sources(), &fact.hostname);
        let Some(by) = routes.iter().find(|v| !v.http.is_empty()) else { return };
        for port in s.ports.iter().filter(|port| port.protocol == AppProtocol::Unknown) {
            let (number, name) = (port.port, by.name.to_string());
            let says = format!(
                "nothing says what port {number} carries, and VirtualService {name} routes its requests: name the port http-..., \
                 or set appProtocol (IST0118)"
            );
            say(Level::Notice, "spec.ports", says);
        }
    }

    /// Another Service of the same pods that contradicts this one, said once: of the later by name.
    pub(super) fn contradictions(&self, s: &Service, say: Say<'_>) {
        let namespace = s.name.namespace();
        let of = |s: &Service, pod: &Pod| {
            s.selector.as_ref().is_some_and(|selector| !selector.is_empty() && selects(selector, &pod.labels))
        };
        let own: Vec<_> = self.pods.iter().filter(|pod| pod.name.namespace() == namespace && of(s, pod)).collect();
        let others = self.model.sources().services().take_while(|other| other.name < s.name);
        for other in others.filter(|other| other.name.namespace() == namespace) {
            let Some(pod) = own.iter().find(|pod| of(other, pod)) else { continue };
            for (port, theirs) in s.ports.iter().flat_map(|a| other.ports.iter().map(move |b| (a, b))) {
                let (number, name) = (port.port, &other.name);
                let says = match (port.protocol.as_str(), theirs.protocol.as_str()) {
                    (Some(one), Some(two)) if number == theirs.port && one != two => Some((
                        Level::Warning,
                        format!(
                            "port {number} is {one}, and of Service {name}, which selects {} too, {two} (IST0116)",
                            pod.name
                        ),
                    )),
                    _ if number != theirs.port
                        && target(port, pod).is_some_and(|at| target(theirs, pod) == Some(at)) =>
                    {
                        let at = target(port, pod).unwrap_or_default();
                        Some((
                            Level::Notice,
                            format!(
                                "port {number} leads to {at} of {}, and so does port {} of Service {name} (IST0137)",
                                pod.name, theirs.port
                            ),
                        ))
                    }
                    _ => None,
                };
                says.into_iter().for_each(|(level, says)| say(level, "spec.ports", says));
            }
        }
    }
}

fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod.port_named(name),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        dangling::{Level, dangling},
        http::{Host, TextMatch},
        labels::Labels,
        objects::{Created, ExportTo, HttpAction, HttpMatch, HttpPolicy, HttpRoute, Object, Service, VirtualService},
        testing::{gateway, labels, model, name, pod, service},
        world::AppProtocol,
    };

    /// `port:name[:target]` of a Service of app=cart.
    fn of(full_name: &str, ports: &str) -> Service {
        let numbers = ports.split_whitespace().map(|port| {
            let mut parts = port.split(':');
            let (number, target) = (parts.next().unwrap(), parts.nth(1).unwrap_or("8080"));
            format!("{number}={target}")
        });
        let mut s = service(&format!("{full_name} app=cart - {}", numbers.collect::<Vec<_>>().join(" ")));
        for (port, text) in s.ports.iter_mut().zip(ports.split_whitespace()) {
            port.name = text.split(':').nth(1).unwrap().into();
            port.protocol = AppProtocol::of_port(None, &port.name, port.port);
        }
        s
    }

    fn said(objects: Vec<Object>) -> Vec<String> {
        let objects = objects.into_iter().chain([pod("shop/cart", "").into()]);
        let remarks = dangling(&model(objects), Vec::new(), Vec::new());
        let line = |r: crate::dangling::Remark| {
            let mark = if r.level == Level::Notice { "~ " } else { "" };
            format!("{mark}{} {}: {}", r.finding.object.name.name(), r.finding.field, r.finding.says)
        };
        remarks.into_iter().map(line).collect()
    }

    #[test]
    fn ports_without_a_protocol() {
        let routes = || {
            let matches = HttpMatch { uri: Some(TextMatch::Exact("/".into())), ..HttpMatch::default() };
            let route = HttpRoute {
                name: None,
                matches: vec![matches],
                action: HttpAction::Forward(Vec::new()),
                policy: HttpPolicy::default(),
            };
            Object::from(VirtualService {
                name: name("shop/v"),
                created: Created::UNKNOWN,
                hosts: vec![Host::parse("cart")],
                gateways: Vec::new(),
                export_to: ExportTo::All,
                http: vec![route],
                tls: Vec::new(),
                tcp: Vec::new(),
            })
        };
        let check = |port: &str, app_protocol: Option<&str>, is_said: bool| {
            let waypoint = || gateway("shop/w").into();
            let mut cart = Service { labels: labels("istio.io/use-waypoint=w"), ..of("shop/cart", port) };
            cart.ports[0].protocol = AppProtocol::of_port(app_protocol, &cart.ports[0].name, 80);
            let says = "~ cart spec.ports: nothing says what port 80 carries, and VirtualService shop/v routes its \
                        requests: name the port http-..., or set appProtocol (IST0118)";
            let want: &[&str] = if is_said { &[says] } else { &[] };
            assert_eq!(said(vec![cart.clone().into(), waypoint(), routes()]), want, "{port} {app_protocol:?}");
            assert_eq!(said(vec![cart.into(), waypoint()]), [""; 0], "no VirtualService routes its requests");
        };
        check("80:web", None, true);
        check("80:", None, true);
        check("80:httpx", None, true);
        check("80:web", Some("kubernetes.io/h2c"), false);
        for good in ["http", "HTTP-web", "grpc-web", "http2-x", "tcp"] {
            check(&format!("80:{good}"), None, false);
        }
    }

    #[test]
    fn services_that_contradict_each_other() {
        let check = |a: &str, b: &str, expect: &[&str]| {
            let both = || [of("shop/a", a), of("shop/b", b)];
            assert_eq!(said(both().map(Object::from).into()), expect, "{a} {b}");
            // Of other pods they are their own.
            let [a, b] = both();
            let other = Service { selector: Some(Labels::new()), ..b };
            assert_eq!(said(vec![a.into(), other.into()]), [""; 0]);
        };
        check("80:http", "80:http-web", &[]);
        check(
            "80:http",
            "80:tcp",
            &["b spec.ports: port 80 is tcp, and of Service shop/a, which selects shop/cart too, http (IST0116)"],
        );
        check("80:http", "80:web", &[]);
        check(
            "80:http",
            "81:http",
            &["~ b spec.ports: port 81 leads to 8080 of shop/cart, and so does port 80 of Service shop/a (IST0137)"],
        );
        check("80:http", "81:http:9090", &[]);
    }
}
