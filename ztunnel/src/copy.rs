//! Bytes between two TCP connections, both ways: half-close and reset travel, an idle direction holds no buffer.

use std::io;

use tokio::net::TcpStream;
use underpass_core::Reason;
use underpass_net::{buffer::Buffers, socket::shutdown_write};

/// Which of the two connections broke.
enum Broken {
    From,
    To,
}

/// Copies until both directions ended or one of the connections broke; the caller resets the other. `to_server` and
/// `to_client` count bytes as they leave.
pub(crate) async fn both_ways(
    client: &TcpStream,
    server: &TcpStream,
    buffers: &Buffers,
    to_server: impl Fn(usize),
    to_client: impl Fn(usize),
) -> Reason {
    let there = async {
        one_way(client, server, buffers, to_server).await.map_err(|broken| match broken {
            Broken::From => Reason::ClientReset,
            Broken::To => Reason::ServerReset,
        })
    };
    let back = async {
        one_way(server, client, buffers, to_client).await.map_err(|broken| match broken {
            Broken::From => Reason::ServerReset,
            Broken::To => Reason::ClientReset,
        })
    };
    match tokio::try_join!(there, back) {
        Ok(_) => Reason::Finished,
        Err(reason) => reason,
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, buffers: &Buffers, count: impl Fn(usize)) -> Result<(), Broken> {
    loop {
        from.readable().await.map_err(|_| Broken::From)?;
        let mut buffer = buffers.lend();
        let n = match from.try_read(&mut buffer) {
            Ok(0) => {
                // Fails only where the connection is gone, which its other direction tells as well.
                let _ = shutdown_write(to);
                return Ok(());
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Broken::From),
        };
        let data = buffer.get(..n).unwrap_or_default();
        let taken = write(to, data, &count)?;
        let rest = data.get(taken..).unwrap_or_default().to_vec();
        drop(buffer);
        write_all(to, &rest, &count).await?;
    }
}

/// Writes what the connection takes now.
fn write(to: &TcpStream, data: &[u8], count: &impl Fn(usize)) -> Result<usize, Broken> {
    let mut taken = 0;
    while let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
        match to.try_write(rest) {
            Ok(n) => {
                count(n);
                taken += n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return Err(Broken::To),
        }
    }
    Ok(taken)
}

async fn write_all(to: &TcpStream, mut data: &[u8], count: &impl Fn(usize)) -> Result<(), Broken> {
    while !data.is_empty() {
        to.writable().await.map_err(|_| Broken::To)?;
        let taken = write(to, data, count)?;
        data = data.get(taken..).unwrap_or_default();
    }
    Ok(())
}
