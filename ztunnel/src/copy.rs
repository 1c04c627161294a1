//! Copying between two TCP connections, both ways: half-close and reset are passed on, an idle direction has no buffer. Where the
//! pod's memory is short nothing is read from a sender that the receiver does not take at once.

use std::io;

use tokio::{io::Interest, net::TcpStream};
use underpass_core::Reason;
use underpass_net::{
    budget::Level,
    buffer::Buffers,
    socket::{peek, shutdown_write},
    tunnel::Memory,
};

/// The bytes that are peeked at once where the pod's memory is short: the receiver may not take them.
const SHORT_BYTES: usize = 16 << 10;

/// The end of one direction.
enum Half {
    /// The sender ended it, and the receiver knows.
    Ended,
    /// The sender's connection broke.
    Broken,
    /// The receiver takes no more. What it has sent before is still to be read: that direction tells its reset.
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
    let mut held = memory.reservation();
    loop {
        if from.readable().await.is_err() {
            return Half::Broken;
        }
        let moved = match memory.level() {
            Level::Plenty => take(from, to, buffers, &count),
            Level::Short | Level::Over => hand_on(from, to, buffers, &count),
        };
        let left = match moved {
            Ok(Moved::All) => continue,
            Ok(Moved::Left(left)) => left,
            Err(half) => return half,
        };
        held.set(left.capacity());
        if let Err(half) = write_all(from, to, &left, &count).await {
            return half;
        }
        drop(left);
        held.set(0);
    }
}

/// The result of one read and write.
enum Moved {
    /// The receiver has it, or there was nothing.
    All,
    /// The receiver does not take more now. These bytes, if any, have been taken from the sender.
    Left(Vec<u8>),
}

/// Reads what there is, and writes what the receiver takes now.
fn take(from: &TcpStream, to: &TcpStream, buffers: &Buffers, count: &impl Fn(usize)) -> Result<Moved, Half> {
    let mut buffer = buffers.lend();
    let Some(n) = read(to, from.try_read(&mut buffer))? else { return Ok(Moved::All) };
    let data = buffer.get(..n).unwrap_or_default();
    match data.get(write(to, data, count)?..).unwrap_or_default() {
        [] => Ok(Moved::All),
        left => Ok(Moved::Left(left.to_vec())),
    }
}

/// Reads no more than the receiver takes now: where memory is short, bytes wait in the kernel, and the sender with them.
fn hand_on(from: &TcpStream, to: &TcpStream, buffers: &Buffers, count: &impl Fn(usize)) -> Result<Moved, Half> {
    let mut buffer = buffers.lend();
    let shown = buffer.get_mut(..SHORT_BYTES).unwrap_or_default();
    let Some(n) = read(to, from.try_io(Interest::READABLE, || peek(from, shown)))? else { return Ok(Moved::All) };
    let taken = write(to, shown.get(..n).unwrap_or_default(), count)?;
    let mut done = 0;
    while let Some(rest) = shown.get_mut(done..taken).filter(|rest| !rest.is_empty()) {
        match from.try_read(rest) {
            Ok(m @ 1..) => done += m,
            Ok(0) | Err(_) => return Err(Half::Broken),
        }
    }
    Ok(if taken == n { Moved::All } else { Moved::Left(Vec::new()) })
}

/// The number of bytes that were read; none where there was nothing. The sender's end is passed on.
fn read(to: &TcpStream, read: io::Result<usize>) -> Result<Option<usize>, Half> {
    match read {
        Ok(0) => {
            // Fails only where the connection is gone, which its other direction tells as well.
            let _ = shutdown_write(to);
            Err(Half::Ended)
        }
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(Half::Broken),
    }
}

/// Writes what the connection takes now.
fn write(to: &TcpStream, data: &[u8], count: &impl Fn(usize)) -> Result<usize, Half> {
    let mut taken = 0;
    while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
        match to.try_write(rest) {
            Ok(n) => {
                count(n);
                taken += n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return Err(Half::Untaken),
        }
    }
    Ok(taken)
}

/// Writes all of it, and waits until the receiver takes more, unless the connection that it came from, which is not read
/// meanwhile, is reset.
async fn write_all(from: &TcpStream, to: &TcpStream, mut data: &[u8], count: &impl Fn(usize)) -> Result<(), Half> {
    loop {
        tokio::select! {
            ready = to.writable() => ready.map_err(|_| Half::Untaken)?,
            _ = from.ready(Interest::ERROR) => return Err(Half::Broken),
        }
        let taken = write(to, data, count)?;
        data = data.get(taken..).unwrap_or_default();
        if data.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::fd::AsFd as _, sync::Arc, time::Duration};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use underpass_net::budget::{Budget, Share};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A connection: the peer's end, and ours.
    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.expect("bound");
        let far = TcpStream::connect(listener.local_addr().expect("name")).await.expect("connected");
        (far, listener.accept().await.expect("accepted").0)
    }

    /// There is something to read, and nowhere to write it to.
    fn is_stalled(from: &TcpStream, to: &TcpStream) -> bool {
        let mut writable = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        poll(&mut writable, PollTimeout::ZERO).expect("polled") == 0 && peek(from, &mut [0]).is_ok()
    }

    /// A sender whose receiver reads nothing, in a pod of 1 MiB in which `others` hold so much already.
    async fn check(address: &str, others: usize, waits: bool) {
        let share = Share::new(&Budget::new(1 << 30), 1 << 20);
        let (memory, buffers, others) = (Memory::new(Arc::clone(&share)), Buffers::default(), share.reserve(others));
        let ((mut sender, client), (server, mut receiver)) = (pair(address).await, pair(address).await);
        let passed = Cell::new(0);
        let copying = async {
            let count = |n| passed.set(passed.get() + n);
            both_ways(&client, &server, (&buffers, &memory), count, |_| {}).await
        };
        let before = share.used();
        let talking = async {
            let (block, mut sent) = (vec![7; 64 << 10], 0);
            // The copy, which is first in turn, has always done what it could.
            while !(is_stalled(&client, &server) && waits == (share.used() > before)) {
                sent += sender.try_write(&block).unwrap_or(0);
                assert!(waits || share.used() == before, "{} bytes of {address} wait", share.used() - before);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The others are gone, the receiver reads: nothing is missing, and nothing came twice.
            drop(others);
            let sending = async {
                sender.write_all(&[8; 300_000]).await.expect("taken");
                sender.shutdown().await.expect("ended");
            };
            let mut heard = Vec::new();
            let ((), read) = tokio::join!(sending, receiver.read_to_end(&mut heard));
            assert_eq!((read.expect("to the end"), passed.get()), (sent + 300_000, sent + 300_000));
            assert!(heard[..sent].iter().all(|b| *b == 7) && heard[sent..].iter().all(|b| *b == 8));
            receiver.shutdown().await.expect("ended");
        };
        let both = tokio::time::timeout(DEADLINE, async { tokio::join!(biased; copying, talking) });
        assert_eq!(both.await.expect("in time").0, Reason::Finished);
        assert_eq!(share.used(), 0);
    }

    #[tokio::test]
    async fn a_sender_waits_with_its_receiver_where_memory_is_short() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for (others, waits) in [(0, true), (513 << 10, false), (2 << 20, false)] {
                check(address, others, waits).await;
            }
        }
    }
}
