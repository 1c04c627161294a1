//! Tunnels with peers made of the h2 crate, in both roles: with common settings, and with unusual ones.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use underpass_hbone::ErrorCode;
use underpass_identity::testing::Leaf;
use underpass_net::tunnel::{Ended, Tally, TunnelEnd};

use crate::peer::Tls;
use underpass_net::testing::{
    ALICE, BOB, Mesh, call, carry_counted, converse, echo, last_word, pattern, raw, request, run, tcp_pair, until,
};

/// The HTTP/2 settings of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    pub(crate) window: u32,
    connection_window: u32,
    frame: u32,
    streams: u32,
    table: u32,
    trailers: bool,
}

pub(crate) const FIELD: Manner = Manner {
    name: "field",
    window: 4 << 20,
    connection_window: 16 << 20,
    frame: 1 << 20,
    streams: 200,
    table: 4096,
    trailers: false,
};

pub(crate) const MANNERS: [Manner; 5] = [
    FIELD,
    Manner { name: "the protocol's defaults", window: 65_535, connection_window: 65_535, frame: 16_384, ..FIELD },
    Manner { name: "one stream", streams: 1, window: 65_535, connection_window: 65_535, frame: 16_384, ..FIELD },
    Manner { name: "tiny windows", window: 100, table: 0, ..FIELD },
    Manner { name: "trailers", trailers: true, ..FIELD },
];

/// A server that sends back what comes, or does what the authority's port says.
pub(crate) async fn serve(mesh: &Mesh, manner: Manner) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("name");
    let tls = Tls::new(&mesh.ca, &Leaf::of(BOB));
    spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("accepted");
            let tls = tls.accept(socket).await;
            spawn_local(async move {
                let mut builder = server::Builder::new();
                builder
                    .initial_window_size(manner.window)
                    .initial_connection_window_size(manner.connection_window)
                    .max_frame_size(manner.frame)
                    .header_table_size(manner.table)
                    .max_concurrent_streams(manner.streams);
                let mut connection = builder.handshake::<_, Bytes>(tls).await.expect("preface");
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let port = request.uri().authority().and_then(|a| a.port_u16());
                    match port {
                        Some(7) => connection.graceful_shutdown(),
                        Some(8) => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
                        _ => {}
                    }
                    spawn_local(answer(port, request, respond, manner));
                }
            });
        }
    });
    address
}

async fn answer(
    port: Option<u16>,
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    manner: Manner,
) {
    assert_eq!(request.method(), Method::CONNECT);
    match port {
        Some(1) => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Some(2) => respond.send_reset(h2::Reason::CANCEL),
        Some(3) => {
            let denied = Response::builder().status(StatusCode::UNAUTHORIZED).body(()).expect("response");
            respond.send_response(denied, true).map(drop).expect("sent");
        }
        Some(4) => {
            let mut body = respond.send_response(Response::new(()), false).expect("sent");
            body.send_data(Bytes::from_static(b"half"), false).expect("sent");
            body.send_reset(h2::Reason::CONNECT_ERROR);
        }
        // The end without waiting for the other one: what the client still sends is not needed.
        Some(5) => {
            let mut body = respond.send_response(Response::new(()), false).expect("sent");
            body.send_data(Bytes::from_static(b"whole"), true).expect("sent");
        }
        // The application does not read.
        Some(9) => {
            let _body = respond.send_response(Response::new(()), false).expect("sent");
            std::future::pending().await
        }
        _ => {
            let body = respond.send_response(Response::new(()), false).expect("sent");
            // Fails where our side has reset it.
            let _ = send_back(request.into_body(), body, manner.trailers).await;
        }
    }
}

async fn send_back(mut from: RecvStream, mut to: SendStream<Bytes>, trailers: bool) -> Result<(), h2::Error> {
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        to.send_data(data, false)?;
    }
    from.trailers().await?;
    if trailers { to.send_trailers(HeaderMap::new()) } else { to.send_data(Bytes::new(), true) }
}

#[test]
fn our_client_with_their_server() {
    for manner in MANNERS {
        run(async {
            let mesh = Mesh::new();
            let tunnel = mesh.tunnel(serve(&mesh, manner).await);
            for size in [0, 1, 255, 16_384, 65_535, 65_536, 400_000] {
                let mut call = call(&tunnel, "10.0.0.1:9080").await;
                let payload = pattern(if manner.window < 1000 { size.min(5_000) } else { size });
                let answer = converse(&mut call.app, &payload).await.expect("answered");
                assert!(answer == payload, "{}: {size} bytes", manner.name);
                assert_eq!(call.ended().await, Ended::Finished, "{}: {size} bytes", manner.name);
                until("the stream is gone", || tunnel.open_streams() == 0).await;
            }
            assert_eq!(tunnel.stream_cap(), Some(manner.streams.min(100) as usize));
        });
    }
}

#[test]
fn their_server_ends_streams_and_connections() {
    for (port, expect) in [
        (1, Ended::Unprocessed),
        (2, Ended::PeerReset(ErrorCode::CANCEL)),
        (3, Ended::Refused(401)),
        (4, Ended::PeerReset(ErrorCode::CONNECT_ERROR)),
        (8, Ended::Tunnel(TunnelEnd::Closed)),
    ] {
        run(async {
            let mesh = Mesh::new();
            let tunnel = mesh.tunnel(serve(&mesh, FIELD).await);
            let mut call = call(&tunnel, format!("10.0.0.1:{port}")).await;
            assert!(last_word(&mut call.app).await.is_some(), "{expect:?}: reset, not ended");
            assert_eq!(call.ended().await, expect);
        });
    }
}

#[test]
fn their_server_needs_no_more() {
    run(async {
        let mesh = Mesh::new();
        let tunnel = mesh.tunnel(serve(&mesh, FIELD).await);
        let mut call = call(&tunnel, "10.0.0.1:5").await;
        let mut read = Vec::new();
        call.app.read_to_end(&mut read).await.expect("all of it, and the end");
        assert_eq!(read, b"whole");
        assert_eq!(call.ended().await, Ended::Finished);
    });
}

/// A peer counts unread small frames, and ends the whole tunnel where there are too many of them.
#[test]
fn unread_small_writes_are_gathered() {
    run(async {
        let mesh = Mesh::new();
        let tunnel = mesh.tunnel(serve(&mesh, FIELD).await);
        let open = async |port: u16| {
            let (app, socket) = tcp_pair().await;
            app.set_nodelay(true).expect("option");
            let (stream, tally) = (tunnel.open(&request(format!("10.0.0.1:{port}"))).expect("opened"), Arc::default());
            let counted = Arc::clone(&tally);
            spawn_local(async move { carry_counted(&stream, socket, &counted).await });
            (app, tally)
        };
        let (mut unread, mut answered) = (open(9).await, open(80).await);
        // How long it takes until what is written is taken.
        let taken = async |(app, tally): &mut (TcpStream, Arc<Tally>)| {
            let (begun, before) = (Instant::now(), tally.from_app());
            app.write_u8(7).await.expect("sent");
            until("it is taken", || tally.from_app() > before).await;
            begun.elapsed()
        };
        for _ in 0..64 {
            taken(&mut unread).await;
        }
        assert!(taken(&mut unread).await >= Duration::from_millis(10));
        // Where answers come, no write waits, however many there were.
        for _ in 0..200 {
            taken(&mut answered).await;
            assert_eq!(answered.0.read_u8().await.expect("answered"), 7);
        }
    });
}

#[test]
fn their_server_leaves() {
    run(async {
        let mesh = Mesh::new();
        let tunnel = mesh.tunnel(serve(&mesh, FIELD).await);
        let mut last = call(&tunnel, "10.0.0.1:7").await;
        until("we know", || !tunnel.can_open(underpass_net::testing::clock())).await;
        assert_eq!(converse(&mut last.app, b"still").await.expect("answered"), b"still");
        until("it is over", || tunnel.has_ended()).await;
    });
}

#[test]
fn their_client_with_our_server() {
    for manner in MANNERS {
        run(async {
            let mesh = Mesh::new();
            let server = mesh.serve_applications().await;
            let target = echo("127.0.0.1:0").await;
            let socket = Tls::new(&mesh.ca, &Leaf::of(ALICE)).connect(raw(server.address).await).await;
            let mut builder = client::Builder::new();
            builder
                .initial_window_size(manner.window)
                .initial_connection_window_size(manner.connection_window)
                .max_frame_size(manner.frame)
                .header_table_size(manner.table);
            let (requests, connection) = builder.handshake::<_, Bytes>(socket.expect("tls")).await.expect("preface");
            let driver = spawn_local(connection);
            for size in [0, 1, 255, 16_384, 65_536, 400_000] {
                let payload = pattern(if manner.window < 1000 { size.min(5_000) } else { size });
                let (status, answer) =
                    ask(&requests, &target.to_string(), &payload, manner.trailers).await.expect("asked");
                assert_eq!(status, StatusCode::OK);
                assert!(answer == payload, "{}: {size} bytes", manner.name);
            }
            drop(requests);
            driver.await.expect("no panic").expect("an orderly end");
            assert_eq!(server.ended().await, TunnelEnd::Closed);
        });
    }
}

/// Opens a tunnel, sends `payload`, ends its half; answers status and what came back.
async fn ask(
    requests: &client::SendRequest<Bytes>,
    authority: &str,
    payload: &[u8],
    trailers: bool,
) -> Result<(StatusCode, Vec<u8>), h2::Error> {
    let mut requests = requests.clone().ready().await?;
    let request = Request::builder().method(Method::CONNECT).uri(authority).body(()).expect("request");
    let (response, mut body) = requests.send_request(request, false)?;
    for piece in payload.chunks(50_000) {
        body.send_data(Bytes::copy_from_slice(piece), false)?;
    }
    if trailers {
        body.send_trailers(HeaderMap::new())?
    } else {
        body.send_data(Bytes::new(), true)?
    }
    let response = response.await?;
    let status = response.status();
    let (mut from, mut received) = (response.into_body(), Vec::new());
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
    }
    Ok((status, received))
}

#[test]
fn what_is_no_connect_is_answered_with_400() {
    run(async {
        let mesh = Mesh::new();
        let server = mesh.serve(|_| panic!("nothing is handed out")).await;
        let socket = Tls::new(&mesh.ca, &Leaf::of(ALICE)).connect(raw(server.address).await).await.expect("tls");
        let (mut requests, connection) = client::handshake(socket).await.expect("preface");
        spawn_local(connection);
        for (method, end) in [(Method::GET, true), (Method::POST, false)] {
            let request = Request::builder().method(method).uri("http://10.0.0.1:80/").body(()).expect("request");
            let (response, mut body) = requests.send_request(request, end).expect("sent");
            if !end {
                body.send_data(Bytes::from_static(b"question"), true).expect("sent");
            }
            assert_eq!(response.await.expect("answered").status(), StatusCode::BAD_REQUEST);
        }
    });
}

#[test]
fn their_client_resets() {
    run(async {
        let mesh = Mesh::new();
        let server = mesh.serve_applications().await;
        let application = underpass_net::testing::Application::new("127.0.0.1:0").await;
        let socket = Tls::new(&mesh.ca, &Leaf::of(ALICE)).connect(raw(server.address).await).await.expect("tls");
        let (mut requests, connection) = client::handshake(socket).await.expect("preface");
        spawn_local(connection);
        let request = Request::builder().method(Method::CONNECT).uri(application.address.to_string());
        let (response, mut body) = requests.send_request(request.body(()).expect("request"), false).expect("sent");
        let mut app = application.accept().await;
        assert_eq!(response.await.expect("answered").status(), StatusCode::OK);
        body.send_data(Bytes::from_static(b"half"), false).expect("sent");
        let mut half = [0; 4];
        app.read_exact(&mut half).await.expect("heard");
        body.send_reset(h2::Reason::CANCEL);
        assert_eq!(last_word(&mut app).await, Some(std::io::ErrorKind::ConnectionReset));
    });
}
