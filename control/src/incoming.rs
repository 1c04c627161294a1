//! Connections to the port of xDS and certificates: accepted, and handed on once their handshake is done. One that is slow
//! holds up no other.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};
use underpass_net::tls::{Acceptor, Stream};
use underpass_telemetry::admin::{Peer, Places};

use crate::chain;

/// The limit of handshakes under way. Beyond it the oldest of the address with the most gives way, and where none has more than one,
/// connections wait in the listener's queue.
const MOST_HANDSHAKES: usize = 256;
/// Connections that wait to be served.
const WAITING: usize = 64;
/// The pause after a failure to accept: no descriptor is left.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection whose handshake is done.
pub type Connection = io::Result<Stream<TcpStream>>;

/// The address of the peer; none: it is gone.
#[must_use]
pub fn peer(stream: &Stream<TcpStream>) -> Peer {
    stream.io().peer_addr().ok().map(|peer| peer.ip().to_canonical())
}

/// Accepts for as long as the answered task is polled.
pub fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
) -> (mpsc::Receiver<Connection>, impl Future<Output = ()> + Send) {
    let (sender, connections) = mpsc::channel(WAITING);
    let handshakes = Places::new(MOST_HANDSHAKES);
    let accepting = async move {
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            let mut place = handshakes.wait(Some(peer.ip().to_canonical())).await;
            let (acceptor, sender) = (Arc::clone(&acceptor), sender.clone());
            tokio::spawn(async move {
                // Small answers follow one another.
                let _ = tcp.set_nodelay(true);
                tokio::select! {
                    accepted = acceptor.accept(tcp) => match accepted {
                        Ok(stream) => drop(sender.send(Ok(stream)).await),
                        Err(error) => tracing::debug!(%peer, error = %chain(&error), "handshake failed"),
                    },
                    () = place.given_away() => tracing::debug!(%peer, "handshake given up for that of another peer"),
                }
            });
        }
    };
    (connections, accepting)
}
