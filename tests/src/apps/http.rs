//! Services that call each other over HTTP/1.1, shaped like the bookinfo sample: each answers with its name, its
//! version, who called it, and the answers of the services that it calls itself. Enough HTTP for that and for curl:
//! one request per connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
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
    accept_all(&listener, move |stream, peer| serve(&service, stream, peer, hear))
}

fn serve(service: &Service, stream: TcpStream, peer: SocketAddr, hear: fn(&str)) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE * wait::slowness()))?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader)?;
    let (line, _) = head.split_once("\r\n").unwrap_or((head.as_str(), ""));
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    hear(path);
    let (status, body) = match method {
        "GET" => ("200 OK", answer(service, path, peer)),
        _ => ("405 Method Not Allowed", json!({ "error": format!("{method} is not GET") })),
    };
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

/// GETs a URL (`http://host[:port][/path]`); the body of a 200. Names resolve as in the process that asks.
pub fn get(url: &str) -> Result<String> {
    ask("GET", url, "")
}

/// POSTs a body to a URL; the body of a 200.
pub fn post(url: &str, body: &str) -> Result<String> {
    ask("POST", url, body)
}

fn ask(method: &str, url: &str, body: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is no http:// URL"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    let patience = PATIENCE * wait::slowness();
    let mut stream = connect(&target, patience)?;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let asked = format!("{method} /{path} HTTP/1.1\r\nhost: {authority}\r\n{length}connection: close\r\n\r\n{body}");
    stream.write_all(asked.as_bytes()).with_context(|| format!("ask {url}"))?;
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).with_context(|| format!("answer of {url}"))?;
    let mut body = String::new();
    reader.take(MAX_BODY).read_to_string(&mut body).with_context(|| format!("answer of {url}"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{url}: status {status}: {}", body.trim());
    }
    Ok(body)
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
