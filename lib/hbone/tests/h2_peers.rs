//! Our two ends against the h2 crate's, in memory: as the field speaks, and with settings that few use.

mod support;

use h2::Reason;
use http::StatusCode;
use support::ours::{DEADLINE, Ours};
use support::theirs::{self, FIELD, MANNERS, Manner};
use tokio::io::duplex;
use underpass_hbone::{Blocked, Config, ErrorCode, Event, OpenError, ResetCause};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("the test ends in time") });
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

fn ours_as_client(manner: Manner, read: usize) -> Ours {
    let (near, far) = duplex(64 << 10);
    tokio::spawn(theirs::serve(far, manner));
    Ours::client(Config::default(), near, read)
}

#[test]
fn our_client_through_their_server() {
    for manner in MANNERS {
        for read in [1, 10, 1_000, 64 << 10] {
            run(async {
                let mut ours = ours_as_client(manner, read);
                let sizes: &[usize] = if read < 1_000 { &[0, 1, 5_000] } else { &[0, 1, 255, 65_535, 65_536, 400_000] };
                for &size in sizes {
                    let stream = ours.open("10.0.0.1:9080");
                    let received = ours.converse(stream, &payload(size)).await;
                    assert!(received == payload(size), "{}: {size} bytes, reads of {read}", manner.name);
                }
                let responses =
                    ours.end.log.iter().filter(|event| matches!(event, Event::Response { status: 200, .. }));
                assert_eq!(responses.count(), sizes.len());
                let trailers = ours.end.log.iter().filter(|event| matches!(event, Event::Trailers { .. })).count();
                assert_eq!(trailers, if manner.trailers { sizes.len() } else { 0 });
                assert_eq!((ours.end.error, ours.end.connection.open_streams()), (None, 0));
            });
        }
    }
}

#[test]
fn many_streams_at_once_through_their_server() {
    for manner in MANNERS {
        run(async {
            let mut ours = ours_as_client(manner, 64 << 10);
            ours.until("their settings", |end| end.connection.stream_cap() == manner.streams.min(100) as usize).await;
            let streams: Vec<_> =
                (0..manner.streams.min(100)).map(|n| ours.open(&format!("10.0.0.1:{}", n + 1))).collect();
            assert!(!ours.end.connection.can_open());
            let payload = payload(30_000);
            let mut sent = vec![0; streams.len()];
            ours.until("all streams' ends", |end| {
                for (stream, sent) in streams.iter().zip(&mut sent) {
                    if *sent < payload.len() {
                        *sent += end.send(*stream, &payload[*sent..], true);
                    }
                }
                end.ended.len() == streams.len()
            })
            .await;
            assert!(ours.end.received.values().all(|received| *received == payload), "{}", manner.name);
            assert_eq!((ours.end.error, ours.end.connection.open_streams()), (None, 0));
        });
    }
}

#[test]
fn their_server_refuses_resets_and_breaks() {
    let reset = |code, cause| move |event: &Event<'_>| matches!(event, Event::Reset { code: c, cause: w, .. } if (*c, *w) == (code, cause));
    type Expected = Box<dyn Fn(&Event<'_>) -> bool>;
    let cases: [(&str, Expected); 4] = [
        ("refuse:1", Box::new(reset(ErrorCode::REFUSED_STREAM, ResetCause::Unprocessed))),
        ("cancel:1", Box::new(reset(ErrorCode::CANCEL, ResetCause::Peer))),
        ("broken:1", Box::new(reset(ErrorCode::CONNECT_ERROR, ResetCause::Peer))),
        ("denied:1", Box::new(|event| matches!(event, Event::Response { status: 401, end: true, .. }))),
    ];
    for (authority, expected) in cases {
        run(async {
            let mut ours = ours_as_client(FIELD, 1_000);
            let stream = ours.open(authority);
            ours.end.send(stream, b"early", false);
            ours.until(authority, |end| end.log.iter().any(&*expected)).await;
            ours.end.connection.reset(stream, ErrorCode::CANCEL);
            // The tunnel beside it is none the worse.
            let stream = ours.open("10.0.0.1:1");
            assert_eq!(ours.converse(stream, b"beside it").await, b"beside it");
            assert_eq!((ours.end.error, ours.end.connection.open_streams()), (None, 0));
        });
    }
}

#[test]
fn a_thousand_streams_given_up_before_their_answer_do_not_end_the_connection() {
    run(async {
        let mut ours = ours_as_client(FIELD, 64 << 10);
        ours.until("their settings", |end| end.connection.stream_cap() == 100).await;
        for round in 0..50 {
            let streams: Vec<_> = (0..20).map(|_| ours.open("silent:1")).collect();
            if round % 2 == 0 {
                ours.turn().await;
            }
            streams.iter().for_each(|stream| ours.end.connection.reset(*stream, ErrorCode::CANCEL));
            ours.until("their resets", |end| end.connection.open_streams() == 0).await;
        }
        let stream = ours.open("10.0.0.1:1");
        assert_eq!(ours.converse(stream, b"still there").await, b"still there");
        assert_eq!(ours.end.error, None);
    });
}

#[test]
fn their_server_drains() {
    run(async {
        let mut ours = ours_as_client(FIELD, 1_000);
        let first = ours.open("10.0.0.1:1");
        let drain = ours.open("drain:1");
        ours.until("GOAWAY", |end| {
            matches!(
                end.log.iter().rev().find(|e| matches!(e, Event::GoAway { .. })),
                Some(Event::GoAway { last: 3, .. })
            )
        })
        .await;
        assert_eq!(ours.end.connection.open(&support::pair::connect("a:1")), Err(OpenError::GoingAway));
        assert_eq!(ours.converse(first, b"first").await, b"first");
        assert_eq!(ours.converse(drain, b"second").await, b"second");
        assert!(ours.end.connection.is_drained());
    });
}

#[test]
fn their_server_goes_away_at_once() {
    run(async {
        let mut ours = ours_as_client(FIELD, 1_000);
        ours.open("abrupt:1");
        ours.until("GOAWAY", |end| {
            end.log.iter().any(|event| matches!(event, Event::GoAway { code: ErrorCode::ENHANCE_YOUR_CALM, .. }))
        })
        .await;
        assert!(!ours.end.connection.can_open());
    });
}

#[test]
fn their_client_through_our_server() {
    for manner in MANNERS {
        for read in [1, 1_000, 64 << 10] {
            run(async {
                let (near, far) = duplex(64 << 10);
                let ours = tokio::spawn(Ours::server(Config::default(), near, read).serve_echo());
                let (requests, driver) = theirs::client(far, manner).await;
                let sizes: &[usize] = if read == 1 { &[0, 1, 3_000] } else { &[0, 1, 255, 65_536, 300_000] };
                for &size in sizes {
                    let (status, received) =
                        theirs::converse(&requests, "10.0.0.1:9080", &payload(size), manner.trailers).await.unwrap();
                    assert_eq!(status, StatusCode::OK);
                    assert!(received == payload(size), "{}: {size} bytes, reads of {read}", manner.name);
                }
                drop(requests);
                driver.await.unwrap().unwrap();
                let end = ours.await.unwrap();
                assert_eq!((end.error, end.connection.open_streams()), (None, 0));
            });
        }
    }
}

#[test]
fn many_of_their_streams_at_once() {
    // Not the one that lowers its window while streams are open: what h2 has consumed without giving credit, because it was little
    // for the old window, it does not look at again, and a stream whose new window is used up by it waits for ever.
    let manners = MANNERS.iter().filter(|manner| manner.lowers_to.is_none());
    for (config, manner) in manners.flat_map(|manner| {
        let tight = Config {
            max_accepted_streams: 3,
            stream_window: 1_000,
            stream_window_max: 4_000,
            connection_window: 65_535,
            max_frame_size: 16_384,
            header_table_size: 0,
            ..Config::default()
        };
        [(Config::default(), *manner), (tight, *manner)]
    }) {
        run(async {
            let (near, far) = duplex(64 << 10);
            let ours = tokio::spawn(Ours::server(config, near, 64 << 10).serve_echo());
            let (requests, driver) = theirs::client(far, manner).await;
            let tunnels: Vec<_> = (0..60)
                .map(|n| {
                    let requests = requests.clone();
                    tokio::spawn(async move {
                        let payload = payload(n * 700);
                        let (_, received) =
                            theirs::converse(&requests, "10.0.0.1:1", &payload, n % 2 == 0).await.unwrap();
                        assert!(received == payload);
                    })
                })
                .collect();
            for tunnel in tunnels {
                tunnel.await.unwrap();
            }
            drop(requests);
            driver.await.unwrap().unwrap();
            let end = ours.await.unwrap();
            assert_eq!((end.error, end.connection.open_streams()), (None, 0), "{}", manner.name);
        });
    }
}

#[test]
fn our_resets_reach_their_client_with_their_code() {
    for code in [ErrorCode::CONNECT_ERROR, ErrorCode::CANCEL, ErrorCode::REFUSED_STREAM] {
        run(async {
            let (near, far) = duplex(64 << 10);
            let mut ours = Ours::server(Config::default(), near, 64 << 10);
            let theirs = tokio::spawn(async move {
                let (requests, _driver) = theirs::client(far, FIELD).await;
                theirs::converse(&requests, "10.0.0.1:1", b"payload", false).await.unwrap_err()
            });
            ours.until("a request", |end| !end.asked().is_empty()).await;
            let stream = ours.end.asked()[0];
            ours.end.connection.reset(stream, code);
            assert!(matches!(ours.end.connection.reserve(stream, 1), Err(Blocked::Ended)));
            ours.until("their end", |_| theirs.is_finished()).await;
            assert_eq!(theirs::reason(&theirs.await.unwrap()), Some(Reason::from(code.0)));
        });
    }
}

#[test]
fn our_server_drains_their_client() {
    run(async {
        let (near, far) = duplex(64 << 10);
        let mut ours = Ours::server(Config::default(), near, 64 << 10);
        let theirs = tokio::spawn(async move {
            let (requests, driver) = theirs::client(far, FIELD).await;
            let first = theirs::converse(&requests, "10.0.0.1:1", b"payload", false).await;
            // Their connection ends by itself once its streams have, because it was told to go.
            driver.await.unwrap().unwrap();
            let second = theirs::converse(&requests, "10.0.0.1:1", b"payload", false).await;
            (first, second.map_err(|error| error.to_string()))
        });
        ours.until("a request", |end| end.ended == [1]).await;
        ours.end.connection.drain();
        let stream = ours.end.asked()[0];
        ours.until("the answer to the PING", |end| end.connection.poll_transmit().iter().any(|_| true)).await;
        ours.end.connection.respond(stream, 200, &underpass_hbone::Headers::new(), false).unwrap();
        ours.end.send(stream, b"served", true);
        assert_eq!(ours.end.connection.open_streams(), 0);
        ours.until("their end", |end| end.connection.is_drained() && theirs.is_finished()).await;
        let (first, second) = theirs.await.unwrap();
        assert_eq!(first.unwrap(), (StatusCode::OK, b"served".to_vec()));
        assert!(second.is_err());
    });
}

#[test]
fn a_request_that_is_not_connect_is_answered() {
    run(async {
        let (near, far) = duplex(64 << 10);
        let ours = tokio::spawn(Ours::server(Config::default(), near, 64 << 10).serve_echo());
        let (requests, driver) = theirs::client(far, FIELD).await;
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::builder().uri("http://10.0.0.1/path").body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
        drop(requests);
        driver.await.unwrap().unwrap();
        let end = ours.await.unwrap();
        let [Event::Request { request, end: true, .. }, ..] = &end.log[..] else { panic!("{:?}", end.log) };
        assert_eq!((&request.method[..], &request.path[..]), (&b"GET"[..], &b"/path"[..]));
    });
}
