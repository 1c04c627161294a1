//! Connections to the port of xDS and certificates: accepted, and handed on once their handshake is done. One that is slow
//! holds up no other.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::sleep,
};
use underpass_net::tls::{Acceptor, Stream};

use crate::chain;

/// The limit of handshakes under way; beyond it connections wait in the listener's queue.
const MOST_HANDSHAKES: usize = 256;
/// Connections that wait to be served.
const WAITING: usize = 64;
/// The pause after a failure to accept: no descriptor is left.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection whose handshake is done.
pub type Connection = io::Result<Stream<TcpStream>>;

/// Accepts for as long as the answered task is polled.
pub fn accept(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
) -> (mpsc::Receiver<Connection>, impl Future<Output = ()> + Send) {
    let (sender, connections) = mpsc::channel(WAITING);
    let handshakes = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    let accepting = async move {
        loop {
            let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            let (acceptor, sender) = (Arc::clone(&acceptor), sender.clone());
            tokio::spawn(async move {
                let _place = place;
                // Small answers follow one another.
                let _ = tcp.set_nodelay(true);
                match acceptor.accept(tcp).await {
                    Ok(stream) => drop(sender.send(Ok(stream)).await),
                    Err(error) => tracing::debug!(%peer, error = %chain(&error), "handshake failed"),
                }
            });
        }
    };
    (connections, accepting)
}
