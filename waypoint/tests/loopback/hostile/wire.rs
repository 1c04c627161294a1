//! HTTP/1 as bytes: an endpoint that writes down what it reads and answers with what it is told to, and a client that sends a text
//! and reads what comes. Neither uses a library: their framing is the plainest there is, and no tolerance of it hides anything.

use std::cell::{Cell, RefCell};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use underpass_net::tunnel::ByteStream;

use crate::{
    CART,
    mesh::{DEADLINE, Mesh},
};

/// What a request is answered with where a test says nothing else.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Headers that a waypoint makes.
const MADE: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "x-envoy-attempt-count"];

/// When an endpoint answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Before it is asked.
    Before,
    /// A head is there, and none of its body is waited for.
    Head,
    /// The whole request is there.
    #[default]
    Whole,
}

/// An endpoint of bytes.
#[derive(Debug)]
pub(crate) struct Raw {
    /// The answer to each request.
    pub(crate) answer: RefCell<Vec<u8>>,
    /// The connection ends behind an answer.
    pub(crate) closes: Cell<bool>,
    pub(crate) when: Cell<When>,
    /// What came: each request as [`told`] has it; what is none, as it is.
    pub(crate) came: RefCell<Vec<String>>,
    /// Connections that were taken.
    pub(crate) connections: Cell<u32>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            answer: RefCell::new(OK.to_vec()),
            closes: Cell::default(),
            when: Cell::default(),
            came: RefCell::default(),
            connections: Cell::default(),
        }
    }
}

impl Raw {
    pub(crate) async fn serve(&self, mut stream: ByteStream) {
        self.connections.set(self.connections.get() + 1);
        if self.when.get() == When::Before {
            let _ = self.answer(&mut stream).await; // where the connection is not given up before
        }
        let mut read = Vec::new();
        loop {
            let is_head = self.when.get() == When::Head && read.windows(4).any(|w| w == b"\r\n\r\n");
            if is_head {
                let _ = self.answer(&mut stream).await;
                return drop(stream.read_to_end(&mut read).await);
            }
            let Some((told, length)) = told(&read) else {
                match stream.read_buf(&mut read).await {
                    Ok(n) if n > 0 => continue,
                    _ if read.is_empty() => return,
                    _ => return self.came.borrow_mut().push(format!("broke off: {}", String::from_utf8_lossy(&read))),
                }
            };
            read.drain(..length);
            self.came.borrow_mut().push(told);
            if self.when.get() == When::Whole && self.answer(&mut stream).await.is_err() {
                return;
            }
            if self.closes.get() {
                return drop(stream.shutdown().await);
            }
        }
    }

    async fn answer(&self, stream: &mut ByteStream) -> std::io::Result<()> {
        let answer = self.answer.borrow().clone();
        stream.write_all(&answer).await
    }
}

/// `METHOD target; name: value = body`, without what a waypoint makes, and the length of it; none: it is not whole. A body has a
/// length or is chunked: what has both, or a line that ends otherwise than it should, is told as it is.
fn told(read: &[u8]) -> Option<(String, usize)> {
    let end = read.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&read[..end - 4]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().expect("a line").strip_suffix(" HTTP/1.1").map_or("no HTTP/1.1", |line| line).to_owned();
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, "no header"));
        headers.push((name.to_owned(), value.trim_matches(' ').to_owned()));
    }
    let all = |name: &str| headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect();
    let (lengths, codings): (Vec<String>, Vec<String>) = (all("content-length"), all("transfer-encoding"));
    let (body, length) = match (&lengths[..], &codings[..]) {
        ([], []) => (String::new(), end),
        ([length], []) => {
            let length: usize = length.parse().expect("a length");
            (String::from_utf8_lossy(read.get(end..end + length)?).into_owned(), end + length)
        }
        ([], [chunked]) if chunked == "chunked" => chunks(read, end)?,
        _ => ("two lengths".into(), read.len()),
    };
    let mut told = line;
    for (name, value) in &headers {
        if !MADE.contains(&name.as_str()) && (name, value.as_str()) != (&"host".to_owned(), "cart") {
            told = format!("{told}; {name}: {value}");
        }
    }
    Some((if body.is_empty() { told } else { format!("{told} = {body}") }, length))
}

/// The bytes of chunks, the trailers behind them in brackets, and where they end.
fn chunks(read: &[u8], mut at: usize) -> Option<(String, usize)> {
    let line_at = |at: usize| {
        let rest = read.get(at..)?;
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        Some((String::from_utf8_lossy(&rest[..end]).into_owned(), at + end + 2))
    };
    let mut body = String::new();
    loop {
        let (size, begin) = line_at(at)?;
        let size = usize::from_str_radix(&size, 16).expect("a size");
        at = begin;
        if size == 0 {
            break;
        }
        body += &String::from_utf8_lossy(read.get(at..at + size)?);
        at += size + 2;
    }
    loop {
        let (line, next) = line_at(at)?;
        at = next;
        if line.is_empty() {
            return Some((body, at));
        }
        body = format!("{body}[{line}]");
    }
}

/// What a client of port 80 gets for these bytes, until its connection ends: the statuses of responses, and `broken` where the last
/// one is not whole or the connection was reset.
pub(crate) async fn answers(mesh: &Mesh, pod: &str, text: &[u8]) -> String {
    let all = responses(mesh, pod, text).await;
    all.iter().map(|(status, _)| status.as_str()).collect::<Vec<_>>().join(" ")
}

/// The same with bodies. HEAD asks for one in `text` alone.
pub(crate) async fn responses(mesh: &Mesh, pod: &str, text: &[u8]) -> Vec<(String, String)> {
    let mut stream = mesh.connect(pod, CART).await.expect("accepted");
    let _ = stream.write_all(text).await; // a refusal may come before all of it is sent
    let mut read = Vec::new();
    let ended = tokio::time::timeout(DEADLINE / 4, stream.read_to_end(&mut read)).await;
    let Ok(ended) = ended else { panic!("waits behind {:?}", String::from_utf8_lossy(&read)) };
    parsed(&read, ended.is_err(), text.starts_with(b"HEAD "))
}

fn parsed(mut read: &[u8], is_reset: bool, is_head: bool) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    while let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or("no status").to_owned();
        read = &read[end + 4..];
        let values = |name: &str| {
            let lines = head.split("\r\n").filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        let body = match (&lengths[..], &codings[..]) {
            ([] | [_], [] | [_]) if status == "304" || (is_head && all.is_empty()) => Some((String::new(), 0)),
            ([], []) if status == "204" => Some((String::new(), 0)),
            ([length], []) => length
                .parse()
                .ok()
                .and_then(|length| Some((String::from_utf8_lossy(read.get(..length)?).into_owned(), length))),
            ([], [chunked]) if chunked == "chunked" => chunks(read, 0),
            ([], []) if !is_reset => Some((String::from_utf8_lossy(read).into_owned(), read.len())),
            _ => None,
        };
        let is_whole = body.is_some();
        let (body, length) = body.unwrap_or_default();
        all.push((status, body));
        if !is_whole {
            all.push(("broken".into(), String::new()));
            return all;
        }
        read = &read[length..];
    }
    if is_reset || !read.is_empty() {
        all.push(("broken".into(), String::new()));
    }
    all
}
