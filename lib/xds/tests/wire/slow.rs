//! Many clients of which some are slow, stuck or silent: the others hear of each change, the slow ones of the newest
//! state, and those that say nothing are ended by name.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, copy, split},
    task::{JoinHandle, yield_now},
    time::{Instant, sleep},
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, metadata::MetadataMap};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use underpass_xds::{
    contract::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource},
    resource::{ResourceKind, Resources},
    server::Phase,
};

use crate::{
    limits::channel,
    pipe::Pipe,
    raw::{field, open},
    support::{Agent, Server, resource, resources, token, within},
};

const ADDRESS: &str = ResourceKind::Address.type_url();
const POLICY: &str = ResourceKind::Authorization.type_url();
const HEALTHY: usize = 180;
/// Of each kind of stuck clients.
const STUCK: usize = 4;
/// Of each kind of others.
const OTHERS: usize = 2;
const VERSIONS: u64 = 10;

/// The headers of a client of this name.
fn headers(name: &str) -> MetadataMap {
    let mut headers = MetadataMap::new();
    headers.insert("authorization", format!("Bearer ztunnel-{name}").parse().expect("a header"));
    headers
}

fn subscribe() -> Vec<Vec<u8>> {
    vec![field(2, POLICY), field(2, ADDRESS)]
}

/// More than the window of a stream, and a pod that changes.
fn state(version: u64) -> Resources {
    let large = (0..20).map(|n| resource(&format!("a{n}"), &"x".repeat(4_000)));
    resources(&version.to_string(), large.chain([resource("pod", &version.to_string())]), [])
}

fn answer(type_url: &str, nonce: &str) -> Vec<u8> {
    [field(2, type_url), field(6, nonce)].concat()
}

/// Names and bodies.
fn contents(response: &[u8]) -> Vec<(String, String)> {
    let response = DeltaDiscoveryResponse::decode(response).expect("a response");
    let body = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let of = |one: Resource| (one.name, body(&one.resource.unwrap_or_default().value));
    response.resources.into_iter().map(of).collect()
}

/// Connections to the server that carry one byte at a time to the client, or nothing at all.
fn relayed(server: &Server, carries: bool) -> (Pipe, JoinHandle<()>) {
    let (pipe, incoming) = Pipe::new();
    let far = server.pipe.open().expect("a connection");
    let relay = tokio::spawn(async move {
        let near: DuplexStream = Box::pin(incoming).next().await.expect("a connection").expect("a pipe");
        let ((mut near_out, mut near_in), (mut far_out, mut far_in)) = (split(near), split(far));
        let there = async { drop(copy(&mut near_out, &mut far_in).await) };
        let back = async {
            if !carries {
                std::future::pending::<()>().await;
            }
            while let Ok(byte) = far_out.read_u8().await {
                if near_in.write_u8(byte).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = there => (),
            () = back => (),
        }
    });
    (pipe, relay)
}

/// A client that answers each response, with an error or without.
fn answering(pipe: &Pipe, name: &str, refuses: bool) -> JoinHandle<Status> {
    let (channel, headers) = (channel(pipe), headers(name));
    tokio::spawn(async move {
        let (requests, mut responses) = open(&channel, headers, subscribe()).await.expect("a stream");
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => DeltaDiscoveryResponse::decode(response).expect("a response"),
                Ok(None) => return Status::ok("an end in order"),
                Err(status) => return status,
            };
            let mut answer = answer(&response.type_url, &response.nonce);
            if refuses {
                answer.extend(field(7, field(2, "no room")));
            }
            if requests.send(answer.into()).is_err() {
                return Status::ok("the stream has ended");
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn slow_and_silent_clients_hold_up_no_other() {
    let lines = Lines::record();
    let server = Server::new(state(1));
    let token = token("agent");
    let mut healthy: Vec<_> = (0..HEALTHY).map(|_| Agent::new(&server.pipe, Some(token.path().into()))).collect();
    let began = Instant::now();
    let (mut unread, mut mute, mut silent, mut frozen, mut apart) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..STUCK {
        unread.push(open(&channel(&server.pipe), headers("unread"), subscribe()).await.expect("a stream"));
        mute.push(open(&channel(&server.pipe), headers("mute"), subscribe()).await.expect("a stream"));
        let (pipe, relay) = relayed(&server, true);
        apart.push((answering(&pipe, "bytewise", false), Some(relay)));
        let (pipe, relay) = relayed(&server, false);
        frozen.push((relay, tokio::spawn(async move { open(&channel(&pipe), headers("frozen"), subscribe()).await })));
    }
    for _ in 0..OTHERS {
        silent.push(open(&channel(&server.pipe), headers("silent"), vec![]).await.expect("a stream"));
        apart.push((answering(&server.pipe, "refusing", true), None));
    }
    let first = (HEALTHY + 4 * STUCK + OTHERS) as u64;
    within("each has its first response under way", async {
        while server.counters.sent(ResourceKind::Address).responses < first {
            yield_now().await;
        }
    })
    .await;
    for version in 2..=VERSIONS {
        server.resources.send_replace(state(version));
        for agent in &mut healthy {
            agent.has(&state(version)).await;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(server.counters.unanswered(), 0, "the slow ones are still open");
    // Of one that is stuck a response is under way, and nothing waits behind it.
    let following = (HEALTHY + STUCK + OTHERS) as u64 * VERSIONS;
    let sent = server.counters.sent(ResourceKind::Address);
    assert!(sent.responses <= following + 3 * STUCK as u64, "{sent:?}");
    // One that reads again gets what was under way, the state after it, then the newest.
    let (requests, mut responses) = unread.pop().expect("a client");
    let mut next = async || within("a response", responses.message()).await.expect("a stream").expect("not its end");
    let say = |request: Vec<u8>| requests.send(request.into()).expect("the stream is open");
    assert_eq!(contents(&next().await).len(), 0, "policies");
    say(answer(POLICY, "1"));
    assert_eq!(contents(&next().await).len(), 21);
    say(answer(ADDRESS, "2"));
    for (nonce, version) in [("3", 2), ("4", VERSIONS)] {
        assert_eq!(contents(&next().await), [("pod".to_owned(), version.to_string())]);
        say(answer(ADDRESS, nonce));
    }

    // Those that say nothing are ended.
    for (_requests, mut responses) in mute {
        for _ in ResourceKind::ALL {
            within("a response", responses.message()).await.expect("a stream").expect("not its end");
        }
        let status = within("the end", responses.message()).await.expect_err("it is ended");
        assert_eq!((status.code(), status.message().starts_with("no answer")), (Code::DeadlineExceeded, true));
    }
    for (_requests, mut responses) in silent {
        let status = within("the end", responses.message()).await.expect_err("it is ended");
        assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no request in 60s"));
    }
    let left = (HEALTHY + STUCK + OTHERS + 1) as u64;
    within("the streams of those that are stuck are gone", async {
        let streams = || [Phase::Opening, Phase::Behind, Phase::Current].map(|phase| server.counters.streams(phase));
        while streams() != [0, 0, left] {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
    for name in ["unread", "mute", "silent", "frozen"] {
        let line = lines.find(&["delta stream closed", name]);
        assert!(line.is_some(), "no line about the end of {name}");
    }
    assert!(server.counters.sent(ResourceKind::Address).refused >= 2 * OTHERS as u64, "{:?}", server.counters);
    assert!(apart.iter().all(|(client, _)| !client.is_finished()), "those that answer stay");
    server.resources.send_replace(state(VERSIONS + 1));
    for agent in &mut healthy {
        agent.has(&state(VERSIONS + 1)).await;
    }
    drop(frozen);
}

/// The lines that were logged.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Those of all tests of this process: whether a line is of interest is asked once for all threads.
    fn record() -> Self {
        let lines = Self::default();
        tracing::subscriber::set_global_default(lines.clone()).expect("no other test records lines");
        lines
    }

    fn find(&self, parts: &[&str]) -> Option<String> {
        let lines = self.0.lock().expect("no test panics with the lock");
        lines.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("underpass_xds")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                let _ = write!(self.0, "{field}={value:?} "); // a String takes all
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no test panics with the lock").push(text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
