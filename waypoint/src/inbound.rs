//! Tunnels of clients, and the connections in them: mutual TLS, CONNECT, what is called, what is spoken.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::net::TcpStream;
use underpass_core::world::AppProtocol;
use underpass_hbone::Headers;
use underpass_net::{
    socket::options::Role,
    tunnel::{Accepted, ByteStream, Tunnel, TunnelEnd},
};

use crate::{
    called::{Called, Client, called},
    detect::{Spoken, detect},
    http::{self, Version},
    io::ClientStream,
    sockets::Ends,
    tcp,
    worker::Worker,
};

/// A connection on which nothing is asked is closed after so long.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves one accepted socket until its tunnel has ended.
pub(crate) async fn serve(worker: Rc<Worker>, socket: TcpStream) {
    let Ok(Ends { from, to }) = worker.settings.sockets.ends(&socket) else { return };
    let Some(charge) = worker.charge() else { return };
    let config = worker.credential().and_then(|credential| worker.credentials.server(&credential));
    let config = match config {
        Ok(config) => config,
        Err(reason) => {
            tracing::debug!(%from, %reason, "tunnel refused");
            return;
        }
    };
    // Fails only where the connection is gone, and that is found by its first use.
    let _ = worker.options(Role::FromTunnel).set(&socket);
    let slot = worker.unauthenticated.slot(from.ip());
    let number = slot.number();
    let acceptor = {
        let worker = Rc::clone(&worker);
        Box::new(move |accepted| {
            let (worker, serving) = (Rc::clone(&worker), worker.serves());
            tokio::task::spawn_local(async move {
                connection(worker, accepted, from).await;
                drop(serving);
            });
        })
    };
    let settings = &worker.settings.tunnel;
    let begun = Tunnel::server(socket.into(), &config, settings, &worker.buffers, charge, Box::new(slot), acceptor);
    let (tunnel, driving) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(%from, %error, "tunnel refused");
            return;
        }
    };
    worker.unauthenticated.set_tunnel(number, &tunnel);
    let listed = worker.tunnels.enter(tunnel.clone());
    if worker.draining.get() {
        tunnel.drain(); // streams that its peer opens before it reads GOAWAY are served
    }
    let end = driving.await;
    drop(listed);
    if end != TunnelEnd::Closed {
        tracing::debug!(%from, %to, %end, "tunnel ended");
    }
}

/// Serves one stream of a tunnel.
async fn connection(worker: Rc<Worker>, accepted: Accepted, from: SocketAddr) {
    let Accepted { stream, request, peer } = accepted;
    let found = called(&worker.own, &worker.world(), &request.authority);
    let called = match found {
        Ok(called) => called,
        Err((status, reason)) => {
            let authority = String::from_utf8_lossy(&request.authority);
            tracing::debug!(%from, %authority, %reason, "connection refused");
            return stream.respond(status, &Headers::new());
        }
    };
    let client = Client { identity: peer.identity.clone(), address: from };
    let stream = ByteStream::from(stream);
    match called.protocol {
        AppProtocol::Tls if tcp::reads_server_names(&worker, &called) => {
            tcp::named(&worker, called, client, stream).await
        }
        AppProtocol::Tcp | AppProtocol::Tls => tcp::serve(&worker, called, client, stream).await,
        AppProtocol::Unknown => {
            stream.respond(200, &Headers::new());
            unknown(&worker, called, client, stream).await;
        }
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => {
            stream.respond(200, &Headers::new());
            // A client may speak another version than its Service's port names.
            known(&worker, called, client, stream).await;
        }
    }
}

/// A port that is HTTP: only the version is looked for, and anything else is answered as HTTP/1 is.
async fn known(worker: &Rc<Worker>, called: Called, client: Client, mut stream: ByteStream) {
    let mut read = BytesMut::new();
    let spoken = tokio::select! {
        spoken = detect(&mut stream, &mut read) => spoken,
        () = worker.leaves_silent() => return,
        // Of an idle connection nothing is asked; a first line that has begun has to come.
        () = tokio::time::sleep(IDLE) => return,
    };
    let Ok(spoken) = spoken else { return };
    if read.is_empty() {
        return;
    }
    let version = if spoken == Spoken::Http2 { Version::Http2 } else { Version::Http1 };
    http::serve(worker, called, client, ClientStream::new(read.freeze(), stream), version).await;
}

/// A port that may be anything. A client that is silent may be waiting for its server: that is asked then, and who
/// speaks first decides.
async fn unknown(worker: &Rc<Worker>, called: Called, client: Client, mut stream: ByteStream) {
    let mut read = BytesMut::new();
    let in_time = tokio::time::timeout(worker.settings.first_bytes, detect(&mut stream, &mut read)).await;
    let spoken = match in_time {
        Ok(Ok(spoken)) => spoken,
        Ok(Err(_)) => return,
        Err(_) if read.is_empty() => return tcp::silent(worker, called, client, stream).await,
        // It has begun with what may be a request: the rest is waited for, or it would go around its routes.
        Err(_) => match tokio::time::timeout(worker.settings.limits.head_time, detect(&mut stream, &mut read)).await {
            Ok(Ok(spoken)) => spoken,
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let stream = ClientStream::new(read.freeze(), stream);
    spoken_by(worker, called, client, stream, spoken).await;
}

/// Serves a connection of which it is known what it speaks.
pub(crate) async fn spoken_by(
    worker: &Rc<Worker>,
    called: Called,
    client: Client,
    stream: ClientStream,
    spoken: Spoken,
) {
    match spoken {
        Spoken::Http1 => http::serve(worker, called, client, stream, Version::Http1).await,
        Spoken::Http2 => http::serve(worker, called, client, stream, Version::Http2).await,
        Spoken::Other => tcp::relay(worker, &called, &client, stream).await,
    }
}
