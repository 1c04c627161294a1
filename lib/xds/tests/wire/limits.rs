//! Clients that are wrong, slow or silent, and what they cost others: nothing.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt as _;
use tonic::{
    Code,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use underpass_xds::{
    contract::envoy::service::discovery::v3::{
        DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    server::{Limits, Phase},
};

use crate::{
    pipe::Pipe,
    raw::{field, open},
    support::{Agent, Server, resource, resources, token, within},
    ztunnel::headers,
};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";

/// A channel without anything of ours.
pub(crate) fn channel(pipe: &Pipe) -> Channel {
    let pipe = Arc::new(pipe.clone());
    let connector = tower::service_fn(move |_| {
        let pipe = pipe.clone();
        async move { pipe.open().map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("https://istiod.istio-system.svc:15012").initial_stream_window_size(65_535);
    endpoint.connect_with_connector_lazy(connector)
}

#[tokio::test(start_paused = true)]
async fn a_malformed_message_closes_its_stream_alone() {
    let server = Server::new(resources("1", [resource("a", "1")], []));
    let channel = channel(&server.pipe);
    let (_requests, mut good) = open(&channel, headers(), vec![field(2, ADDRESS)]).await.expect("a stream");
    within("a response", good.message()).await.expect("a stream").expect("not its end");
    let check = async |request: Vec<u8>, message: &str| {
        let (_requests, mut bad) = open(&channel, headers(), vec![request]).await.expect("a stream");
        let status = within("the end", bad.message()).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(message), "{status:?}");
    };
    check(vec![0xff; 9], "invalid varint").await;
    check(field(2, [0xff, 0xfe]), "invalid string value").await;
    check(Vec::new(), "needs a type_url").await;
    check([field(2, ADDRESS), field(3, "x".repeat(2_000))].concat(), "a name of 2000 bytes").await;
    server.resources.send_replace(resources("2", [resource("a", "2")], []));
    // The first response has no answer yet, and the stream is open.
    assert_eq!(server.counters.streams(Phase::Behind), 1);
    _requests.send([field(2, ADDRESS), field(6, "1")].concat().into()).expect("the stream is open");
    within("a response", good.message()).await.expect("a stream").expect("not its end");
    assert_eq!(server.counters.opened(), 5);
    assert!(server.counters.malformed() >= 2, "{:?}", server.counters);
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_limit_closes_its_stream() {
    let server = Server::limited(resources("1", [], []), Limits { request_bytes: 1_000, ..Limits::default() });
    let large = [field(2, ADDRESS), field(3, "x".repeat(1_000))].concat();
    let (_requests, mut bad) = open(&channel(&server.pipe), headers(), vec![large]).await.expect("a stream");
    let status = within("the end", bad.message()).await.expect_err("it is refused");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn callers_without_a_known_token_and_streams_beyond_the_limit_are_refused() {
    let server = Server::limited(resources("1", [], []), Limits { streams: 1, ..Limits::default() });
    let channel = channel(&server.pipe);
    let refused =
        async |headers| open(&channel, headers, vec![field(2, ADDRESS)]).await.map(drop).expect_err("refused");
    assert_eq!(refused(MetadataMap::new()).await.code(), Code::Unauthenticated);
    let mut stranger = MetadataMap::new();
    stranger.insert("authorization", "Bearer stranger".parse().expect("a header"));
    assert_eq!(refused(stranger).await.message(), "unknown token");
    let (first, mut responses) = open(&channel, headers(), vec![field(2, ADDRESS)]).await.expect("a stream");
    assert_eq!(refused(headers()).await.code(), Code::ResourceExhausted);
    assert_eq!(server.counters.turned_away(), 3);
    // It ends, and there is room for another one.
    drop(first);
    while within("the end", responses.message()).await.expect("an end in order").is_some() {}
    within("room", async {
        while open(&channel, headers(), vec![field(2, ADDRESS)]).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_refused_by_name() {
    let server = Server::new(resources("1", [], []));
    let channel = channel(&server.pipe);
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let request = tokio_stream::iter([DiscoveryRequest { type_url: ADDRESS.into() }]);
    let status = client.stream_aggregated_resources(request).await.expect_err("it is not served");
    assert_eq!((status.code(), status.message().contains("DeltaAggregatedResources")), (Code::Unimplemented, true));
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let request = tonic::Request::new(bytes::Bytes::new());
    let path = "/grpc.health.v1.Health/Check".parse().expect("a path");
    let status = grpc.unary(request, path, crate::raw::Raw).await.expect_err("it is not served");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.message(), "/grpc.health.v1.Health/Check is not served");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_nothing_is_closed() {
    let server = Server::new(resources("1", [resource("a", "1")], []));
    let (_requests, mut silent) =
        open(&channel(&server.pipe), headers(), vec![field(2, ADDRESS)]).await.expect("a stream");
    within("a response", silent.message()).await.expect("a stream").expect("not its end");
    let status = within("the end", silent.message()).await.expect_err("it is closed");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.message(), format!("no answer to a response of {ADDRESS} in 60s"));
    assert_eq!(server.counters.unanswered(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_delays_none_and_is_cut() {
    let large = || (0..2_000).map(|n| resource(&format!("a{n}"), &"x".repeat(1_000)));
    let server = Server::new(resources("1", large(), []));
    // One stream takes more than its window and its pipe hold, and nothing of it is read.
    let (pipe, incoming) = Pipe::new();
    let mut far = server.pipe.open().expect("a connection");
    let relay = tokio::spawn(async move {
        let mut near = Box::pin(incoming).next().await.expect("a connection").expect("a pipe");
        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
    });
    let stuck = channel(&pipe);
    let (_requests, _unread) = open(&stuck, headers(), vec![field(2, ADDRESS)]).await.expect("a stream");
    let token = token("agent");
    let mut agent = Agent::new(&server.pipe, Some(token.path().into()));
    agent.has(&resources("1", large(), [])).await;
    let began = tokio::time::Instant::now();
    for version in 2..50 {
        let next = resources(&version.to_string(), large(), [resource("p", &version.to_string())]);
        server.resources.send_replace(next.clone());
        agent.has(&next).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(server.counters.unanswered(), 0, "the slow one is still open");
    // Neither its end nor anything else reaches it, so the connection is cut.
    within("the connection is cut", relay).await.expect("no panic");
    assert_eq!(server.counters.unanswered(), 1);
    assert!(began.elapsed() < Duration::from_secs(80), "{:?}", began.elapsed());
    agent.has(&resources("49", large(), [resource("p", "49")])).await;
    server.stop().await;
}
