//! A server on plain TCP for h2spec: every request, CONNECT or not, is answered with a few bytes once it has ended.
//!
//! `cargo run -p underpass-hbone --example h2spec_server -- 127.0.0.1:8080 16384`, then `h2spec -h 127.0.0.1 -p 8080`. The second
//! argument is the largest frame accepted. With the field's 1 MiB, which is the default, two cases fail by their own
//! assumptions: `http2/4.2/1` sends a frame of that size into a window of 256 KiB, and `http2/4.2/3` takes 20 KB for too large.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use underpass_hbone::{Config, Connection, Event, Headers, StreamId};

const BODY: &[u8] = b"underpass";

#[allow(clippy::disallowed_methods, reason = "a program may have threads")]
fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address)?;
    let max_frame_size = std::env::args().nth(2).and_then(|size| size.parse().ok());
    let config = Config { max_frame_size: max_frame_size.unwrap_or(1 << 20), ..Config::default() };
    println!("listening on {address}");
    for socket in listener.incoming() {
        let (socket, config) = (socket?, config.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(socket, config) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a program has to get the time somewhere")]
fn serve(mut socket: TcpStream, config: Config) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut connection = Connection::server(config, Instant::now());
    // How much of the body each answered stream still gets.
    let mut answers = BTreeMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        socket.write_all(connection.poll_transmit())?;
        connection.transmitted(usize::MAX);
        if connection.is_closed() {
            return socket.shutdown(std::net::Shutdown::Write);
        }
        let n = socket.read(&mut buffer)?;
        let Some(mut input) = buffer.get(..n).filter(|input| !input.is_empty()) else { return Ok(()) };
        loop {
            match connection.receive(&mut input) {
                Ok(Some(event)) => handle(&mut connection, &mut answers, &event),
                Ok(None) => break,
                Err(error) => {
                    println!("{error}");
                    break;
                }
            }
        }
        answers.retain(|stream, rest| !send(&mut connection, *stream, rest));
    }
}

fn handle(connection: &mut Connection, answers: &mut BTreeMap<StreamId, &[u8]>, event: &Event<'_>) {
    let ended = match *event {
        Event::Connect { stream, end, .. } | Event::Request { stream, end, .. } => end.then_some(stream),
        Event::Data { stream, data, end } => {
            connection.consumed(stream, data.len());
            end.then_some(stream)
        }
        Event::Trailers { stream, .. } => Some(stream),
        _ => None,
    };
    if let Some(stream) = ended
        && connection.respond(stream, 200, &Headers::new(), false).is_ok()
    {
        answers.insert(stream, BODY);
    }
}

/// Sends what there is room for; answers whether nothing is left to do.
fn send(connection: &mut Connection, stream: StreamId, rest: &mut &[u8]) -> bool {
    while let Ok(mut room) = connection.reserve(stream, rest.len()) {
        let (now, later) = rest.split_at(room.len());
        room.bytes().copy_from_slice(now);
        *rest = later;
        room.commit(now.len(), later.is_empty());
        if later.is_empty() {
            return true;
        }
    }
    false
}
