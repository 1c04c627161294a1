//! Our server against a client that says what Istio's ztunnel says: `src/xds/client.rs` and `proto/xds.proto` of
//! istio/ztunnel, its requests written here byte by byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use tonic::{Streaming, metadata::MetadataMap, transport::Channel};
use underpass_core::Few;
use underpass_xds::{
    contract::envoy::service::discovery::v3::DeltaDiscoveryResponse,
    resource::{ContentHash, ResourceKind},
    server::Limits,
};

use crate::{
    limits::channel,
    raw::{field, open},
    support::{Server, resource, resources, within},
};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// The headers of its calls: `src/identity/auth.rs`.
pub(crate) fn headers() -> MetadataMap {
    let mut headers = MetadataMap::new();
    headers.insert("authorization", "Bearer ztunnel".parse().expect("a header"));
    headers.insert("clusterid", "Kubernetes".parse().expect("a header"));
    headers
}

/// Its node: id and metadata, nothing else.
fn node() -> Vec<u8> {
    let text = |key: &str, value: &str| {
        // An entry of Struct.fields is a key and a Value, whose text is field 3.
        field(1, [field(1, key), field(2, field(3, value))].concat())
    };
    let metadata = [
        text("INSTANCE_IPS", "10.0.0.9"),
        text("NAME", "ztunnel-x7k2p"),
        text("NAMESPACE", "istio-system"),
        text("NODE_NAME", "node-1"),
    ];
    let id = "ztunnel~10.0.0.9~ztunnel-x7k2p.istio-system~istio-system.svc.cluster.local";
    [field(1, id), field(3, metadata.concat())].concat()
}

/// Its first request of a type; on demand it subscribes to `*` and unsubscribes at once.
fn first(type_url: &str, held: &[(&str, &str)], on_demand: bool) -> Vec<u8> {
    let mut request = [field(1, node()), field(2, type_url)].concat();
    if on_demand {
        request.extend([field(3, "*"), field(4, "*")].concat());
    }
    for (name, version) in held {
        let version = if version.is_empty() { Vec::new() } else { field(2, version) };
        request.extend(field(5, [field(1, name), version].concat()));
    }
    request
}

fn answer(type_url: &str, nonce: &str) -> Vec<u8> {
    [field(2, type_url), field(6, nonce)].concat()
}

/// A ztunnel with one stream.
struct Ztunnel {
    requests: tokio::sync::mpsc::UnboundedSender<Bytes>,
    responses: Streaming<Bytes>,
    held: BTreeMap<String, String>,
}

impl Ztunnel {
    async fn open(channel: &Channel, requests: Vec<Vec<u8>>) -> Self {
        let (requests, responses) = open(channel, headers(), requests).await.expect("a stream");
        Self { requests, responses, held: BTreeMap::new() }
    }

    /// Takes one response, as its handler does, and answers: updates first, then removals.
    async fn take(&mut self) -> String {
        let bytes = within("a response", self.responses.message()).await.expect("a stream").expect("not its end");
        let response = DeltaDiscoveryResponse::decode(bytes.clone()).expect("a response");
        assert_eq!(bytes, response.encode_to_vec(), "no field of ours");
        assert!(!response.underpass_partial);
        let kind = if response.type_url == ADDRESS { "addresses" } else { "policies" };
        let mut text = format!("{kind}:");
        for resource in &response.resources {
            self.held.insert(resource.name.clone(), resource.version.clone());
            let body = resource.resource.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
            text += &format!(" {}={}", resource.name, String::from_utf8_lossy(body));
        }
        for name in &response.removed_resources {
            self.held.remove(name);
            text += &format!(" -{name}");
        }
        self.send(answer(&response.type_url, &response.nonce));
        text
    }

    fn send(&self, request: Vec<u8>) {
        self.requests.send(request.into()).expect("the stream is open");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ztunnel_gets_all_and_then_the_differences() {
    let many = || (0..5).map(|n| resource(&format!("a{n}"), "1"));
    let limits = Limits { response_resources: 2, ..Limits::default() };
    let server = Server::limited(resources("1", many(), [resource("p", "1")]), limits);
    let channel = channel(&server.pipe);
    // It asks for addresses first, and is ready after the first response of each type.
    let mut ztunnel = Ztunnel::open(&channel, vec![first(ADDRESS, &[], false), first(AUTHORIZATION, &[], false)]).await;
    assert_eq!(ztunnel.take().await, "policies: p=1");
    assert_eq!(ztunnel.take().await, "addresses: a0=1 a1=1 a2=1 a3=1 a4=1");
    server.resources.send_replace(resources("2", many().take(4).chain([resource("b", "1")]), [resource("q", "1")]));
    assert_eq!(ztunnel.take().await, "policies: q=1");
    assert_eq!(ztunnel.take().await, "addresses: b=1 -a4");
    assert_eq!(ztunnel.take().await, "policies: -p");
    // It comes back with what it holds. istiod's policies have no version, and neither have what it keeps of them.
    server.resources.send_replace(resources("3", many().take(4), [resource("q", "1")]));
    let version = ContentHash::of(b"1").to_string();
    let held = [("a0", &*version), ("a1", "0"), ("a2", &version), ("a3", &version), ("b", &version)];
    let back = vec![first(ADDRESS, &held, false), first(AUTHORIZATION, &[("q", "")], false)];
    let mut ztunnel = Ztunnel::open(&channel, back).await;
    assert_eq!(ztunnel.take().await, "policies: q=1");
    assert_eq!(ztunnel.take().await, "addresses: a1=1 -b");
    assert_eq!(server.counters.sent(ResourceKind::Address).refused, 0);
}

#[tokio::test(start_paused = true)]
async fn a_ztunnel_on_demand_gets_what_it_asks_for() {
    let mut pod = resource("cluster//Pod/ns/pod", "1");
    pod.aliases = Few::one("network/10.0.0.1".into());
    let server = Server::new(resources("1", [pod, resource("ns/host.ns.svc", "1")], []));
    let channel = channel(&server.pipe);
    let mut ztunnel = Ztunnel::open(&channel, vec![first(ADDRESS, &[], true), first(AUTHORIZATION, &[], false)]).await;
    assert_eq!(ztunnel.take().await, "policies:");
    assert_eq!(ztunnel.take().await, "addresses:");
    let demand = |name: &str| [field(2, ADDRESS), field(3, name)].concat();
    ztunnel.send(demand("network/10.0.0.1"));
    assert_eq!(ztunnel.take().await, "addresses: cluster//Pod/ns/pod=1");
    ztunnel.send(demand("network/10.0.0.2"));
    assert_eq!(ztunnel.take().await, "addresses: -network/10.0.0.2");
    ztunnel.send(demand("ns/host.ns.svc"));
    assert_eq!(ztunnel.take().await, "addresses: ns/host.ns.svc=1");
}

#[tokio::test(start_paused = true)]
async fn a_type_of_a_newer_ztunnel_is_empty() {
    let server = Server::new(resources("1", [resource("a", "1")], []));
    let channel = channel(&server.pipe);
    let newer = "type.googleapis.com/istio.workload.Newer";
    let types = vec![first(newer, &[], false), first(AUTHORIZATION, &[], false), first(ADDRESS, &[], false)];
    let mut ztunnel = Ztunnel::open(&channel, types).await;
    let bytes = within("a response", ztunnel.responses.message()).await.expect("a stream").expect("not its end");
    let response = DeltaDiscoveryResponse::decode(bytes).expect("a response");
    assert_eq!((response.type_url.as_str(), response.resources.len()), (newer, 0));
    ztunnel.send(answer(newer, &response.nonce));
    assert_eq!(ztunnel.take().await, "policies:");
    assert_eq!(ztunnel.take().await, "addresses: a=1");
}
