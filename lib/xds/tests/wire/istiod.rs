//! Our client against a server that behaves as istiod may: it ends every stream after one response, its versions are
//! no numbers, its policies have none, and its messages have fields that we do not know.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use prost::Message;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, body::Body, server::StreamingService};
use underpass_xds::contract::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::{
    pipe::Pipe,
    raw::{DELTA, Raw, field},
    support::{Agent, resource, resources, within},
};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

/// A response of istiod: fields of `control_plane` (7), and one that no API has.
fn response(type_url: &str, resources: &[(&str, &str)], removed: &[&str]) -> Vec<u8> {
    let mut response = [field(1, "2026-08-22T15:00:18Z/7"), field(4, type_url), field(5, "nonce-7")].concat();
    for (name, body) in resources {
        let any = [field(1, type_url), field(2, body)].concat();
        let version = if type_url == ADDRESS { field(1, body) } else { Vec::new() };
        // 9 is `metadata`, which is left out here.
        let unknown = field(9, field(1, "anything"));
        response.extend(field(2, [version, field(2, any), field(3, name), unknown].concat()));
    }
    removed.iter().for_each(|name| response.extend(field(6, name)));
    response.extend(field(7, field(1, "istiod-1")));
    // Field 15, a number.
    response.extend([15 << 3, 42]);
    response
}

type Answer = fn(&DeltaDiscoveryRequest) -> Vec<u8>;

/// Answers the first request of each stream for which there is a turn left, and ends the stream.
#[derive(Clone)]
struct Istiod {
    turns: Arc<Mutex<Vec<(&'static str, Answer)>>>,
    seen: Arc<Mutex<Vec<DeltaDiscoveryRequest>>>,
}

impl StreamingService<Bytes> for Istiod {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut requests = request.into_inner();
            while let Some(request) = requests.message().await? {
                let request = DeltaDiscoveryRequest::decode(request).expect("a request");
                this.seen.lock().expect("no panic").push(request.clone());
                let mut turns = this.turns.lock().expect("no panic");
                if turns.first().is_some_and(|(type_url, _)| *type_url == request.type_url) {
                    let (_, answer) = turns.remove(0);
                    let responses: Self::ResponseStream = Box::pin(tokio_stream::once(Ok(answer(&request).into())));
                    return Ok(Response::new(responses));
                }
            }
            Err(Status::unavailable("no turn"))
        })
    }
}

impl tower::Service<http::Request<Body>> for Istiod {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), DELTA);
        let this = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(this, request).await) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_istiod_gets_on_stream_by_stream() {
    let turns: Vec<(&'static str, Answer)> = vec![
        (AUTHORIZATION, |_| response(AUTHORIZATION, &[("ns/p", "1")], &[])),
        (ADDRESS, |_| response(ADDRESS, &[("a", "1"), ("b", "1")], &[])),
        (ADDRESS, |request| {
            let mut held: Vec<_> = request.initial_resource_versions.clone().into_iter().collect();
            held.sort();
            assert_eq!(held, [("a".into(), "1".into()), ("b".into(), "1".into())]);
            response(ADDRESS, &[("b", "2")], &["a"])
        }),
        (AUTHORIZATION, |_| response(AUTHORIZATION, &[("ns/p", "2")], &[])),
    ];
    let istiod = Istiod { turns: Arc::new(Mutex::new(turns)), seen: Arc::default() };
    let (pipe, incoming) = Pipe::new();
    let server = tonic::transport::Server::builder().serve_with_incoming(istiod.clone(), incoming.map(|io| io));
    let task = tokio::spawn(server);
    let mut agent = Agent::new(&pipe, None);
    agent.has(&resources("", [resource("b", "2")], [resource("ns/p", "2")])).await;
    within("more streams are opened", async {
        while istiod.seen.lock().expect("no panic").len() < 8 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(agent.progress.borrow().behind.is_none());
    let seen = istiod.seen.lock().expect("no panic").clone();
    assert!(seen.iter().all(|request| request.node.as_ref().is_some_and(|node| node.id.starts_with("ztunnel~"))));
    task.abort();
}
