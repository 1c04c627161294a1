//! Bytes between two TCP connections, both ways: half-close and reset travel, an idle direction holds no buffer.

use std::io;

use tokio::{io::Interest, net::TcpStream};
use underpass_core::Reason;
use underpass_net::{
    budget::Level,
    buffer::{Buffers, READ_BYTES},
    socket::shutdown_write,
    tunnel::Memory,
};

/// What is read at once where the pod's memory is short: the other end may not take it.
const SHORT_BYTES: usize = 16 << 10;

/// How one direction ended.
enum Half {
    /// The sender ended it, and the receiver knows.
    Ended,
    /// The sender's connection broke.
    Broken,
    /// The receiver takes no more. What it has said before is still to be read: that direction tells its reset.
    Untaken,
}

/// Copies until both directions ended or one of the connections broke; the caller resets both. `to_server` and
/// `to_client` count bytes as they leave; what waits is charged to the memory.
pub(crate) async fn both_ways(
    client: &TcpStream,
    server: &TcpStream,
    with: (&Buffers, &Memory),
    to_server: impl Fn(usize),
    to_client: impl Fn(usize),
) -> Reason {
    let there = one_way(client, server, with, to_server);
    let back = one_way(server, client, with, to_client);
    tokio::pin!(there, back);
    tokio::select! {
        half = &mut there => match half {
            Half::Broken => Reason::ClientReset,
            Half::Ended => after(back, client, Reason::ServerReset, Reason::ClientReset).await,
            Half::Untaken => until_broken(back, Reason::ServerReset, Reason::ClientReset).await,
        },
        half = &mut back => match half {
            Half::Broken => Reason::ServerReset,
            Half::Ended => after(there, server, Reason::ClientReset, Reason::ServerReset).await,
            Half::Untaken => until_broken(there, Reason::ClientReset, Reason::ServerReset).await,
        },
    }
}

/// The other half, after `ended` has ended its own: nothing is read of it any more, so its reset is looked for.
async fn after(half: impl Future<Output = Half>, ended: &TcpStream, sender: Reason, receiver: Reason) -> Reason {
    tokio::select! {
        biased;
        half = half => match half {
            Half::Ended => Reason::Finished,
            Half::Broken => sender,
            Half::Untaken => receiver,
        },
        _ = ended.ready(Interest::ERROR) => receiver,
    }
}

/// The other half, after its sender took no more: however it ends, that was a reset.
async fn until_broken(half: impl Future<Output = Half>, sender: Reason, receiver: Reason) -> Reason {
    match half.await {
        Half::Ended | Half::Broken => sender,
        Half::Untaken => receiver,
    }
}

async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    (buffers, memory): (&Buffers, &Memory),
    count: impl Fn(usize),
) -> Half {
    let mut held = memory.held();
    loop {
        if from.readable().await.is_err() {
            return Half::Broken;
        }
        let mut buffer = buffers.lend();
        let most = if memory.level() == Level::Plenty { READ_BYTES } else { SHORT_BYTES };
        let n = match from.try_read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => {
                // Fails only where the connection is gone, which its other direction tells as well.
                let _ = shutdown_write(to);
                return Half::Ended;
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Half::Broken,
        };
        let data = buffer.get(..n).unwrap_or_default();
        let Ok(taken) = write(to, data, &count) else { return Half::Untaken };
        let rest = data.get(taken..).unwrap_or_default().to_vec();
        drop(buffer);
        held.set(rest.capacity());
        if let Err(half) = write_all(from, to, &rest, &count).await {
            return half;
        }
        drop(rest);
        held.set(0);
    }
}

/// Writes what the connection takes now.
fn write(to: &TcpStream, data: &[u8], count: &impl Fn(usize)) -> io::Result<usize> {
    let mut taken = 0;
    while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
        match to.try_write(rest) {
            Ok(n) => {
                count(n);
                taken += n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(taken)
}

/// Writes all of it, unless the connection that it came from is reset meanwhile, which nobody reads.
async fn write_all(from: &TcpStream, to: &TcpStream, mut data: &[u8], count: &impl Fn(usize)) -> Result<(), Half> {
    while !data.is_empty() {
        tokio::select! {
            ready = to.writable() => ready.map_err(|_| Half::Untaken)?,
            _ = from.ready(Interest::ERROR) => return Err(Half::Broken),
        }
        let taken = write(to, data, count).map_err(|_| Half::Untaken)?;
        data = data.get(taken..).unwrap_or_default();
    }
    Ok(())
}
