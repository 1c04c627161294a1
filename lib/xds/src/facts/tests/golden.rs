//! One message of each kind, byte by byte: a field of another number would be noticed here before a data plane
//! misread it.

use bytes::BufMut as _;
use underpass_core::testing::{ambient, any_of, model, peer_authentication, policy, service};
use underpass_core::{
    authz::{Operation, PrincipalMatch, Rule, Source},
    world::Action,
};

use super::encode;

/// Writes fields by hand: what protobuf's documents say, and nothing of the library that wrote the messages.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn varint(mut self, mut n: u64) -> Self {
        while n >= 0x80 {
            self.0.put_u8(n.to_le_bytes()[0] | 0x80);
            n >>= 7;
        }
        self.0.put_u8(n.to_le_bytes()[0]);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, value: &[u8]) -> Self {
        let mut all = self.varint(field << 3 | 2).varint(value.len().try_into().unwrap());
        all.0.extend_from_slice(value);
        all
    }

    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: Self) -> Self {
        self.bytes(field, &value.0)
    }

    fn extension(self, field: u64, kind: &str, content: Self) -> Self {
        let any = Self::default().text(1, &format!("type.googleapis.com/underpass.v1.{kind}")).message(2, content);
        self.message(field, Self::default().text(1, "underpass.dev").message(2, any))
    }
}

fn new() -> Bytes {
    Bytes::default()
}

#[test]
fn messages_byte_by_byte() {
    let mut pod = ambient("default/a", "10.0.0.1", "version=v1 istio.io/use-waypoint=w");
    pod.service_account = "acc".into();
    let rule = Rule {
        from: vec![Source {
            principals: any_of([PrincipalMatch::parse("cluster.local/ns/default/sa/x")]),
            ..Source::default()
        }],
        to: vec![Operation { ports: any_of([8080]), l7: None }],
        when: Vec::new(),
    };
    let model = model([
        pod.into(),
        service("default/s app=a 10.96.0.1 80=8080").into(),
        policy("default/p", Action::Deny, vec![rule]).into(),
        peer_authentication("default/n - STRICT").into(),
    ]);
    let resources = encode(model.world());

    let port = || new().number(1, 80).number(2, 8080);
    let waypoint = new().text(1, "default").text(2, "w.default.waypoint-missing.invalid");
    let services = new().text(1, "default/s.default.svc.cluster.local").message(2, new().message(1, port()));
    let mtls = new().text(1, "default/n");
    let extension = new().number(1, 1).message(7, mtls);
    let workload = new()
        .text(1, "a")
        .text(2, "default")
        .bytes(3, &[10, 0, 0, 1])
        .number(5, 1)
        .text(7, "acc")
        .message(8, new().message(1, waypoint).number(3, 15008))
        .text(9, "node-1")
        .text(10, "a")
        .text(11, "v1")
        .number(12, 2)
        .text(13, "a")
        .text(16, "istio-system/istio_converted_static_strict")
        .text(18, "Kubernetes")
        .text(20, "Kubernetes//Pod/default/a")
        .message(22, services)
        .extension(26, "WorkloadExtension", extension);
    let name = "Kubernetes//Pod/default/a";
    assert_eq!(*resources.addresses[name].body, *new().message(1, workload).0);
    assert_eq!(*resources.addresses[name].aliases, ["/10.0.0.1".into()]);

    let detail = new().text(1, "p80");
    let service = new()
        .text(1, "s")
        .text(2, "default")
        .text(3, "s.default.svc.cluster.local")
        .message(4, new().bytes(2, &[10, 96, 0, 1]))
        .message(5, port())
        .extension(10, "ServiceExtension", new().message(2, detail))
        .number(11, 1);
    let name = "default/s.default.svc.cluster.local";
    assert_eq!(*resources.addresses[name].body, *new().message(2, service).0);
    assert_eq!(*resources.addresses[name].aliases, ["/10.96.0.1".into()]);

    let clause = |m: Bytes| new().message(2, m);
    let ports = clause(new().bytes(9, &[0x90, 0x3f])); // 8080, packed
    let principals = clause(new().message(3, new().text(1, "cluster.local/ns/default/sa/x")));
    let group = new().message(1, ports).message(1, principals);
    let policy = new().text(1, "p").text(2, "default").number(3, 1).number(4, 1).message(5, group);
    assert_eq!(*resources.authorizations["default/p"].body, *policy.0);

    let plaintext = new().message(4, new().message(4, new()));
    let group = new().message(1, clause(plaintext));
    let strict = new().text(1, "istio_converted_static_strict").text(2, "istio-system");
    let strict = strict.number(3, 2).number(4, 1).message(5, group);
    assert_eq!(*resources.authorizations["istio-system/istio_converted_static_strict"].body, *strict.0);
    // SHA-256 of these bytes, by another implementation, cut to 64 bits.
    assert_eq!(
        resources.authorizations["istio-system/istio_converted_static_strict"].version.to_string(),
        "2b01419708f54cd7"
    );
}
