//! A server of gRPC's health protocol (`grpc.health.v1.Health`), as a kubelet's probes ask it: every service that it is
//! asked for serves.
//!
//! What must hold: it speaks HTTP/2 without TLS, and nothing that is no HTTP/2 is answered.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::{SendResponse, handshake};
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::testbed::Io;

/// A message of gRPC, not compressed and two bytes long: a HealthCheckResponse whose `status`, field 1, is SERVING, 1.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

/// The server as an actor: never ends by itself.
pub fn run(address: SocketAddr, io: &mut Io) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        io.send(&())?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(async move {
                if let Err(error) = serve(stream).await {
                    eprintln!("a caller: {error:#}");
                }
            });
        }
    })
}

async fn serve(stream: TcpStream) -> Result<()> {
    let mut connection = handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (_, respond) = call?;
        answer(respond)?;
    }
    Ok(())
}

fn answer(mut respond: SendResponse<Bytes>) -> Result<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut body = respond.send_response(head, false)?;
    body.send_data(Bytes::from_static(&SERVING), false)?;
    body.send_trailers(HeaderMap::from_iter([("grpc-status".parse()?, HeaderValue::from_static("0"))]))?;
    Ok(())
}
