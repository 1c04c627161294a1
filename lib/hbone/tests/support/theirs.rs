//! Peers made with the h2 crate.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use tokio::io::DuplexStream;

/// The settings of a peer, and its behaviour on tunnels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    pub(crate) window: u32,
    pub(crate) connection_window: u32,
    pub(crate) frame: u32,
    pub(crate) streams: u32,
    pub(crate) table: Option<u32>,
    /// Lowers its initial window to this once the first stream is open.
    pub(crate) lowers_to: Option<u32>,
    /// Ends its half with trailers.
    pub(crate) trailers: bool,
    /// Says 103 before it answers.
    pub(crate) interim: bool,
}

/// As the field speaks it.
pub(crate) const FIELD: Manner = Manner {
    name: "field",
    window: 4 << 20,
    connection_window: 16 << 20,
    frame: 1 << 20,
    streams: 200,
    table: None,
    lowers_to: None,
    trailers: false,
    interim: false,
};

pub(crate) const MANNERS: [Manner; 9] = [
    FIELD,
    Manner { name: "the protocol's defaults", window: 65_535, connection_window: 65_535, frame: 16_384, ..FIELD },
    Manner { name: "one stream", streams: 1, window: 65_535, connection_window: 65_535, frame: 16_384, ..FIELD },
    Manner { name: "no table", table: Some(0), ..FIELD },
    Manner { name: "a larger table", table: Some(64 << 10), ..FIELD },
    Manner { name: "a tiny window", window: 100, ..FIELD },
    Manner { name: "lowers its window", window: 1 << 20, lowers_to: Some(1_000), ..FIELD },
    Manner { name: "trailers", trailers: true, ..FIELD },
    Manner { name: "interim answers", interim: true, trailers: true, ..FIELD },
];

/// Serves tunnels: sends back what comes, or does what the authority says.
pub(crate) async fn serve(io: DuplexStream, manner: Manner) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(manner.window)
        .initial_connection_window_size(manner.connection_window)
        .max_frame_size(manner.frame)
        .max_concurrent_streams(manner.streams);
    if let Some(table) = manner.table {
        builder.header_table_size(table);
    }
    let mut connection = builder.handshake::<_, Bytes>(io).await?;
    let mut lowers_to = manner.lowers_to;
    let mut accepted_any = false;
    while let Some(accepted) = poll_fn(|context| {
        // Possible once the first settings were acknowledged.
        if accepted_any && lowers_to.is_some_and(|size| connection.set_initial_window_size(size).is_ok()) {
            lowers_to = None;
        }
        connection.poll_accept(context)
    })
    .await
    {
        let (request, respond) = accepted?;
        accepted_any = true;
        match request.uri().authority().map_or("", |authority| authority.host()) {
            "drain" => connection.graceful_shutdown(),
            "abrupt" => connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            _ => {}
        }
        tokio::spawn(tunnel(request, respond, manner));
    }
    Ok(())
}

async fn tunnel(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>, manner: Manner) {
    assert_eq!(request.method(), Method::CONNECT);
    let authority = request.uri().authority().unwrap().clone();
    let refuse = |status| Response::builder().status(status).body(()).unwrap();
    match authority.host() {
        "refuse" => respond.send_reset(Reason::REFUSED_STREAM),
        "cancel" => respond.send_reset(Reason::CANCEL),
        "denied" => drop(respond.send_response(refuse(StatusCode::UNAUTHORIZED), true).unwrap()),
        "silent" => drop(poll_fn(|context| respond.poll_reset(context)).await),
        "broken" => {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            body.send_reset(Reason::CONNECT_ERROR);
        }
        _ => {
            if manner.interim {
                respond.send_informational(refuse(StatusCode::EARLY_HINTS)).unwrap();
            }
            let response = Response::builder().header("server", "theirs").body(()).unwrap();
            let body = respond.send_response(response, false).unwrap();
            // An error means that the tunnel was reset, which our side has done.
            let _ = echo(request.into_body(), body, manner.trailers).await;
        }
    }
}

async fn echo(mut from: RecvStream, mut to: SendStream<Bytes>, trailers: bool) -> Result<(), h2::Error> {
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        to.send_data(data, false)?;
    }
    from.trailers().await?;
    if trailers {
        let mut map = HeaderMap::new();
        map.insert("checksum", "0".parse().unwrap());
        return to.send_trailers(map);
    }
    to.send_data(Bytes::new(), true)
}

/// A client, whose connection is driven by a task of its own.
pub(crate) async fn client(io: DuplexStream, manner: Manner) -> (client::SendRequest<Bytes>, Driver) {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(manner.window)
        .initial_connection_window_size(manner.connection_window)
        .max_frame_size(manner.frame);
    if let Some(table) = manner.table {
        builder.header_table_size(table);
    }
    let (requests, mut connection) = builder.handshake(io).await.unwrap();
    let mut lowers_to = manner.lowers_to;
    let driver = tokio::spawn(poll_fn(move |context| {
        // Possible once the first settings were acknowledged.
        if lowers_to.is_some_and(|size| connection.set_initial_window_size(size).is_ok()) {
            lowers_to = None;
        }
        pin!(&mut connection).poll(context)
    }));
    (requests, driver)
}

pub(crate) type Driver = tokio::task::JoinHandle<Result<(), h2::Error>>;

/// Opens a tunnel, sends `payload` in pieces, ends its half; answers status and what came back.
pub(crate) async fn converse(
    requests: &client::SendRequest<Bytes>,
    authority: &str,
    payload: &[u8],
    trailers: bool,
) -> Result<(StatusCode, Vec<u8>), h2::Error> {
    let mut requests = requests.clone().ready().await?;
    let request = Request::builder().method(Method::CONNECT).uri(authority);
    let request = request.header("forwarded", "for=10.0.0.9").header("baggage", "a=b").body(()).unwrap();
    let (response, mut body) = requests.send_request(request, false)?;
    for piece in payload.chunks(50_000) {
        body.send_data(Bytes::copy_from_slice(piece), false)?;
    }
    if trailers {
        body.send_trailers(HeaderMap::new())?;
    } else {
        body.send_data(Bytes::new(), true)?;
    }
    let response = response.await?;
    let status = response.status();
    let (mut from, mut received) = (response.into_body(), vec![]);
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        received.extend_from_slice(&data);
    }
    Ok((status, received))
}

/// The reason a stream or connection ended with, if the peer named one.
pub(crate) fn reason(error: &h2::Error) -> Option<Reason> {
    error.reason()
}

/// Whether the error is of the transport: the peer closed it.
pub(crate) fn is_io(error: &h2::Error) -> Option<io::ErrorKind> {
    error.get_io().map(io::Error::kind)
}
