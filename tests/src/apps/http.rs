//! Services that call each other over HTTP/1.1, shaped like the bookinfo sample: each answers with its name, its
//! version, who called it, and the answers of the services that it calls itself. Enough HTTP for that and for curl:
//! one request per connection.
//!
//! Some paths make trouble: of `/fails/2/...` the first two requests are answered with 500, `/fails/v2/...` always where v2 is
//! asked, and `/sleeps/1/...` lets the first request wait longer than any timeout of a test.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    servers::accept_all,
    socket::{PATIENCE, listener},
};
use crate::testbed::{Actor, Io, Site, wait};

/// A request's or answer's head is no longer than this.
const MAX_HEAD: u64 = 16 << 10;
/// Nor an answer's body.
const MAX_BODY: u64 = 1 << 20;

/// A service to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in answers.
    pub name: String,
    /// Its version in answers.
    pub version: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its calls for every request, in order: `http://host:port/path`.
    pub calls: Vec<String>,
}

/// Starts a service and waits until it listens.
pub fn start(site: &Site, service: Service) -> Result<Actor<()>> {
    let mut actor = site.spawn(run, service)?;
    actor.event::<()>()?;
    Ok(actor)
}

/// The service as an actor: never ends by itself.
pub fn run(service: Service, io: &mut Io) -> Result<()> {
    run_with(service, io, |_| {})
}

/// The same as a program, which prints the path of each request on a line.
pub fn run_aloud(service: Service, io: &mut Io) -> Result<()> {
    run_with(service, io, |path| println!("{path}"))
}

fn run_with(service: Service, io: &mut Io, hear: fn(&str)) -> Result<()> {
    let listener = listener(service.address, &[]).map_err(|e| anyhow!("listen on {}: {e}", service.address))?;
    io.send(&())?;
    let asked = Arc::<Asked>::default();
    accept_all(&listener, move |stream, peer| serve(&service, &asked, stream, peer, hear))
}

/// How often each path was asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<HashMap<String, u32>>);

impl Asked {
    /// One more; the number of those before.
    fn count(&self, path: &str) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = all.entry(path.to_owned()).or_default();
        *times += 1;
        *times - 1
    }
}

/// Longer than any timeout of a test's routes.
const LONG: Duration = Duration::from_secs(15);

fn serve(service: &Service, asked: &Asked, stream: TcpStream, peer: SocketAddr, hear: fn(&str)) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE * wait::slowness()))?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader)?;
    let (line, _) = head.split_once("\r\n").unwrap_or((head.as_str(), ""));
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    hear(path);
    if let Some(length) = header(&head, "content-length").and_then(|length| length.parse().ok()) {
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    }
    let before = asked.count(path);
    let of_first = |path: &str, trouble: &str| {
        let which = path.strip_prefix(trouble)?.split('/').next()?;
        Some(which == service.version || which.parse::<u32>().is_ok_and(|times| before < times))
    };
    if of_first(path, "/sleeps/") == Some(true) {
        std::thread::sleep(LONG);
    }
    let status = if of_first(path, "/fails/") == Some(true) { "500 Internal Server Error" } else { "200 OK" };
    let mut body = answer(service, path, peer);
    body["method"] = method.into();
    body["asked_before"] = before.into();
    let body = serde_json::to_string_pretty(&body)? + "\n";
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Ok(reader.get_mut().write_all((head + &body).as_bytes())?)
}

fn answer(service: &Service, path: &str, peer: SocketAddr) -> Value {
    let called = service.calls.iter().map(|url| {
        // One that does not answer takes nothing away from the others, as in the sample.
        let result = get(url).and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        let value = result.unwrap_or_else(|e| json!({ "error": format!("{e:#}") }));
        (url.clone(), value)
    });
    let called: serde_json::Map<_, _> = called.collect();
    let caller = peer.ip().to_canonical().to_string();
    json!({ "service": service.name, "version": service.version, "path": path, "caller": caller, "calls": called })
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// `http://host[:port][/path]`.
    pub url: String,
    /// Headers beside `host`, `connection` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Request {
    /// A GET.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self { method: "GET".into(), url: url.into(), ..Self::default() }
    }

    /// The same with another method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        Self { method: method.into(), ..self }
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The answer to a request, of any status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Response {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Its body, of a [`Service`]; null where it is no JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// GETs a URL (`http://host[:port][/path]`); the body of a 200. Names resolve as in the process that asks.
pub fn get(url: &str) -> Result<String> {
    body_of(Request::get(url))
}

/// POSTs a body to a URL; the body of a 200.
pub fn post(url: &str, body: &str) -> Result<String> {
    body_of(Request { body: body.into(), ..Request::get(url).method("POST") })
}

fn body_of(request: Request) -> Result<String> {
    let url = request.url.clone();
    let response = ask(request)?;
    match response.status {
        200 => Ok(response.body),
        status => bail!("{url}: status {status}: {}", response.body.trim()),
    }
}

/// Asks, one after another, each on a connection of its own; for [`Site::act`].
pub fn ask_all(requests: Vec<Request>) -> Result<Vec<Response>> {
    requests.into_iter().map(ask).collect()
}

/// Asks; for [`Site::act`].
pub fn ask(request: Request) -> Result<Response> {
    let Request { method, url, headers, body } = &request;
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is no http:// URL"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let patience = PATIENCE * wait::slowness();
    let mut stream = connect(&target, patience)?;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let asked =
        format!("{method} /{path} HTTP/1.1\r\nhost: {authority}\r\n{headers}{length}connection: close\r\n\r\n{body}");
    stream.write_all(asked.as_bytes()).with_context(|| format!("ask {url}"))?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).with_context(|| format!("answer of {url}"))?;
    let mut body = String::new();
    reader.take(MAX_BODY).read_to_string(&mut body).with_context(|| format!("answer of {url}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.with_context(|| format!("answer of {url}: {head}"))?, head, body })
}

/// [`get`] for [`Site::act`].
pub fn fetch(url: String) -> Result<String> {
    get(&url)
}

fn connect(target: &str, patience: Duration) -> Result<TcpStream> {
    let addresses: Vec<_> = target.to_socket_addrs().with_context(|| format!("resolve {target}"))?.collect();
    let mut last = anyhow!("{target} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience))?;
                return Ok(stream);
            }
            Err(e) => last = anyhow::Error::new(e).context(format!("connect to {target} ({address})")),
        }
    }
    Err(last)
}

/// Everything up to and with the empty line.
fn read_head(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut head = String::new();
    let mut limited = reader.take(MAX_HEAD);
    loop {
        let length = limited.read_line(&mut head)?;
        ensure!(length > 0, "the connection ended within the head");
        if head.ends_with("\r\n\r\n") {
            return Ok(head);
        }
    }
}
