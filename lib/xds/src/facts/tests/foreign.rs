//! Resources of a control plane of Istio's.

use std::sync::Arc;

use bytes::Bytes;
use expect_test::{Expect, expect};
use prost::Message as _;
use underpass_core::{
    World,
    testing::name,
    world::{MeshSettings, Uid, Workload},
};

use crate::{
    contract::istio::{
        security::{self, Authorization, Group, Match, Rules, StringMatch, string_match::MatchType},
        workload::{
            self, Address, ApplicationTunnel, GatewayAddress, NetworkAddress, Port, PortList, TunnelProtocol,
            address::Type, gateway_address::Destination,
        },
    },
    facts::Decoder,
    resource::{Change, ResourceKind},
};

mod refused;
mod strict;

/// A decoder and the World of what it has handed on.
struct Agent {
    decoder: Decoder,
    world: World,
}

impl Agent {
    fn new() -> Self {
        let settings = MeshSettings::default();
        Self { decoder: Decoder::new(Arc::new(settings.clone())), world: World::empty(settings) }
    }

    /// The problems, one a line.
    fn take(&mut self, kind: ResourceKind, name: &str, body: Option<Vec<u8>>) -> String {
        let change = Change { kind, name: name.into(), version: Arc::default(), body: body.map(Bytes::from) };
        let decoded = self.decoder.apply([change]);
        self.world = self.world.apply(decoded.facts);
        decoded.problems.iter().map(|(_, p)| format!("{p}\n")).collect()
    }

    fn workload(&mut self, message: &workload::Workload) -> String {
        let body = Address { r#type: Some(Type::Workload(message.clone())) }.encode_to_vec();
        self.take(ResourceKind::Address, &message.uid, Some(body))
    }

    fn service(&mut self, message: &workload::Service) -> String {
        let body = Address { r#type: Some(Type::Service(message.clone())) }.encode_to_vec();
        self.take(ResourceKind::Address, &format!("{}/{}", message.namespace, message.hostname), Some(body))
    }

    fn policy(&mut self, message: &Authorization) -> String {
        let name = format!("{}/{}", message.namespace, message.name);
        self.take(ResourceKind::Authorization, &name, Some(message.encode_to_vec()))
    }

    fn pod(&self, of: &str) -> &Workload {
        self.world.pod(&name(of)).unwrap()
    }
}

fn pod() -> workload::Workload {
    workload::Workload {
        uid: "Kubernetes//Pod/default/a".into(),
        name: "a".into(),
        namespace: "default".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        canonical_name: "a".into(),
        canonical_revision: "latest".into(),
        workload_type: workload::WorkloadType::Deployment.into(),
        workload_name: "a-deploy".into(),
        ..workload::Workload::default()
    }
}

fn presence() -> StringMatch {
    StringMatch { match_type: Some(MatchType::Presence(())) }
}

fn exact(text: &str) -> StringMatch {
    StringMatch { match_type: Some(MatchType::Exact(text.into())) }
}

fn rules(matches: Vec<Match>) -> Rules {
    Rules { matches }
}

fn policy(action: security::Action, groups: Vec<Group>) -> Authorization {
    Authorization {
        name: "p".into(),
        namespace: "default".into(),
        scope: security::Scope::Namespace.into(),
        action: action.into(),
        groups,
        ..Authorization::default()
    }
}

fn one(m: Match) -> Vec<Group> {
    vec![Group { rules: vec![rules(vec![m])] }]
}

#[test]
fn what_is_not_said_has_defaults() {
    let mut agent = Agent::new();
    let ports = PortList { ports: vec![Port { service_port: 80, target_port: 8080, app_protocol: 1 }] };
    let mut message = pod();
    message.addresses.push(vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    message.services.insert("default/s.default.svc.cluster.local".into(), ports.clone());
    message.services.insert("default/api.example.com".into(), ports);
    message.application_tunnel = Some(ApplicationTunnel { protocol: 7, port: 0 });
    assert_eq!(agent.workload(&message), "");
    expect![[r#"
        Workload {
            uid: Kubernetes//Pod/default/a,
            name: default/a,
            addresses: [
                10.0.0.1,
                fd00::1,
            ],
            account: Some(
                Account {
                    namespace: "default",
                    name: "default",
                },
            ),
            enrolment: Enrolment {
                enrolled: true,
                because: ControlPlane,
            },
    "#]]
    .assert_eq(&first_lines(agent.pod("default/a"), 17));
    let endpoints: Vec<_> = agent.pod("default/a").endpoints.iter().map(|e| format!("{e:?}")).collect();
    expect![[r#"
        Endpoint { service: default/api.example.com, address: 10.0.0.1, ports: [(80, 8080)], ready: true, draining: false, weight: 1, hints: None, outdated: false }
        Endpoint { service: default/api.example.com, address: fd00::1, ports: [(80, 8080)], ready: true, draining: false, weight: 1, hints: None, outdated: false }
        Endpoint { service: default/s, address: 10.0.0.1, ports: [(80, 8080)], ready: true, draining: false, weight: 1, hints: None, outdated: false }
        Endpoint { service: default/s, address: fd00::1, ports: [(80, 8080)], ready: true, draining: false, weight: 1, hints: None, outdated: false }"#]]
    .assert_eq(&endpoints.join("\n"));
    // An address of a slice proves nothing.
    let uid = "Kubernetes/discovery.k8s.io/EndpointSlice/default/s-1/192.0.2.1";
    let slice = workload::Workload { uid: uid.into(), tunnel_protocol: 0, ..pod() };
    assert_eq!(agent.workload(&slice), "");
    assert_eq!(agent.world.workload(&Uid::new(uid)).unwrap().account, None);
}

fn first_lines(workload: &Workload, count: usize) -> String {
    format!("{workload:#?}").lines().take(count).map(|line| format!("{line}\n")).collect()
}

#[test]
fn services_of_any_hostname() {
    let mut agent = Agent::new();
    let address = |bytes: &[u8], length| NetworkAddress { network: "n".into(), address: bytes.to_vec(), length };
    let mut check = |hostname: &str, expect: &str| {
        let message = workload::Service {
            name: "entry".into(),
            namespace: "default".into(),
            hostname: hostname.into(),
            addresses: vec![address(&[10, 96, 0, 1], None), address(&[10, 97, 0, 0], Some(16))],
            ports: vec![Port { service_port: 80, target_port: 0, app_protocol: 0 }],
            waypoint: Some(GatewayAddress {
                destination: Some(Destination::Address(address(&[10, 96, 0, 9], None))),
                hbone_mtls_port: 15008,
            }),
            ..workload::Service::default()
        };
        assert_eq!(agent.service(&message), "");
        let service = agent.world.service(&name(expect)).unwrap();
        assert_eq!((&*service.hostname, service.vips.len()), (hostname, 1), "ranges are passed over");
        assert_eq!(service.waypoint.as_ref().map(ToString::to_string).as_deref(), Some("10.96.0.9"));
    };
    check("s.default.svc.cluster.local", "default/s");
    check("api.example.com", "default/api.example.com");
    check("s.other.svc.cluster.local", "default/s.other.svc.cluster.local");
    check("s", "default/s.");
}

#[test]
fn addresses_that_are_not_understood() {
    let check = |change: &dyn Fn(&mut workload::Workload), expect: Expect| {
        let mut agent = Agent::new();
        let mut message = pod();
        change(&mut message);
        expect.assert_eq(&agent.workload(&message));
        agent.world.workload(&Uid::new("Kubernetes//Pod/default/a")).is_some()
    };
    assert!(!check(
        &|w| w.namespace.clear(),
        expect![[r#"
        error: control plane: Kubernetes//Pod/default/a: namespace: is missing (not served)
    "#]]
    ));
    assert!(!check(
        &|w| w.addresses = vec![vec![1, 2, 3]],
        expect![[r#"
        error: control plane: Kubernetes//Pod/default/a: addresses[0]: has 3 bytes: an address has 4 or 16 (not served)
    "#]]
    ));
    assert!(!check(
        &|w| w.authorization_policies = vec!["p".into()],
        expect![[r#"
        error: control plane: Kubernetes//Pod/default/a: authorization_policies[0]: `p` is not a valid name: namespace/name (not served)
    "#]]
    ));
    // Served, and told.
    assert!(check(
        &|w| w.addresses.push(vec![127, 0, 0, 1]),
        expect![[r#"
        error: control plane: Kubernetes//Pod/default/a: addresses[1]: 127.0.0.1 cannot be the address of a pod, a node or a service
    "#]]
    ));
    assert!(check(
        &|w| w.trust_domain = "other.org".into(),
        expect![[r#"
        warning: control plane: Kubernetes//Pod/default/a: trust_domain: `other.org` is no trust domain of this mesh: its certificate proves another identity, and calls of it are refused
    "#]]
    ));
    let mut agent = Agent::new();
    expect![[r#"
        error: control plane: x: is neither a workload nor a service (not served)
    "#]]
    .assert_eq(&agent.take(ResourceKind::Address, "x", Some(Vec::new())));
    expect![[r#"
        error: control plane: x: cannot be read: failed to decode Protobuf message: invalid varint (not served)
    "#]]
    .assert_eq(&agent.take(ResourceKind::Address, "x", Some(vec![0xff])));
    let body = Address { r#type: Some(Type::Workload(pod())) }.encode_to_vec();
    expect![[r#"
        error: control plane: x: its content is that of `Kubernetes//Pod/default/a` (not served)
    "#]]
    .assert_eq(&agent.take(ResourceKind::Address, "x", Some(body)));
}
