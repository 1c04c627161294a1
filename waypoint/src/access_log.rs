//! The access log: what is noted of one while it is under way, where the log is on, and its line at the end. What
//! the line says of the answer is what its series says.

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, Method, Request, Version, header};
use tokio::{sync::Notify, time::Instant};
use underpass_core::{
    http::{Action, ClusterKey, Decision, RequestEnd},
    jwt::TokenPlace,
};
use underpass_telemetry::access_log::{Entry, Kept, LineFormat, RequestLog, RequestParts, RequestWriter};

use crate::{
    Own,
    called::Called,
    http::{remove_tokens, written},
    metrics::Record,
};

/// The name of the route of a Service without rules, as Istio has it.
const DEFAULT_ROUTE: &str = "default";

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    format: Arc<LineFormat>,
    writer: RefCell<RequestWriter>,
    written: Notify,
}

impl Log {
    pub(crate) fn new(log: &RequestLog) -> Self {
        let writer = log.handle();
        Self { format: Arc::clone(writer.format()), writer: RefCell::new(writer), written: Notify::new() }
    }

    /// Notes the head of a request, as it came but for the tokens in these places.
    pub(crate) fn begin<B>(&self, called: &Called, request: &Request<B>, withheld: Vec<TokenPlace>) -> Notes {
        let (uri, headers) = (request.uri(), request.headers());
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let mut notes = Notes {
            began_unix_us: unix_us(SystemTime::now()),
            local: SocketAddr::new(called.address, called.port),
            method: request.method().clone(),
            scheme: uri.scheme_str().unwrap_or("http").to_owned(),
            authority: uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default().to_owned(),
            path: String::new(),
            protocol: protocol(request.version()),
            request: Kept::default(),
            response: Kept::default(),
            trailers: Kept::default(),
            route: None,
            cluster: None,
            failure: None,
            response_at: None,
            format: Arc::clone(&self.format),
            withheld,
        };
        notes.shows(written(uri), headers);
        notes
    }

    /// Writes the line of a request, which ends so.
    pub(crate) fn ended(&self, own: &Own, record: &Record, notes: &Notes, end: RequestEnd) {
        let (answer, measured, destination) = (record.answer(end), record.measured(), record.destination());
        let is_tried = record.attempts() > 0;
        let response_us = notes.response_at.map(|at| micros(record.began(), at));
        let entry = Entry {
            began_unix_us: notes.began_unix_us,
            duration_us: u64::try_from(measured.duration.as_micros()).unwrap_or(u64::MAX),
            request_us: record.request_ended().map(|at| micros(record.began(), at)),
            response_us,
            bytes_received: measured.request_bytes,
            bytes_sent: measured.response_bytes,
            request: Some(RequestParts {
                method: notes.method.as_str(),
                scheme: &notes.scheme,
                authority: &notes.authority,
                path: &notes.path,
                protocol: notes.protocol,
                grpc_status: answer.grpc_status.filter(|_| answer.is_grpc),
            }),
            code: answer.code,
            details: Some(end.details(response_us.is_some())),
            flags: &answer.flags.text(),
            termination: None,
            failure: notes.failure.as_deref(),
            upstream: is_tried.then_some(destination.address),
            upstream_local: upstream_local(own, is_tried.then_some(destination.address)),
            upstream_identity: destination.identity.as_ref(),
            cluster: notes.cluster.as_ref(),
            attempts: record.attempts(),
            local: notes.local,
            remote: record.source().address,
            peer: record.source().identity.as_ref(),
            own: Some(&own.identity),
            route: notes.route.as_deref(),
            request_headers: &notes.request,
            response_headers: &notes.response,
            trailers: &notes.trailers,
        };
        self.write(&entry);
    }

    /// Writes a line.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        self.writer.borrow_mut().record(entry);
        self.written.notify_one();
    }

    /// Completes when lines have been written since it completed before.
    pub(crate) async fn written(&self) {
        self.written.notified().await;
    }

    /// Hands the lines to the log's thread.
    pub(crate) fn flush(&self) {
        self.writer.borrow_mut().flush();
    }
}

/// What the line of a request says beside its series.
#[derive(Debug)]
pub(crate) struct Notes {
    format: Arc<LineFormat>,
    began_unix_us: u64,
    local: SocketAddr,
    method: Method,
    scheme: String,
    authority: String,
    path: String,
    protocol: &'static str,
    request: Kept,
    response: Kept,
    trailers: Kept,
    route: Option<Arc<str>>,
    cluster: Option<ClusterKey>,
    failure: Option<String>,
    /// When the endpoint's answer began.
    response_at: Option<Instant>,
    /// Where tokens stand that the line does not show, however the request ends.
    withheld: Vec<TokenPlace>,
}

impl Notes {
    /// What was decided about it.
    pub(crate) fn decided(&mut self, decision: &Decision<'_>) {
        self.route = match (decision.rule, &decision.action) {
            (Some(rule), _) => rule.name.clone(),
            (None, Action::Forward(_)) => Some(DEFAULT_ROUTE.into()),
            (None, _) => None,
        };
        if let Action::Forward(forward) = &decision.action {
            self.cluster = Some(forward.cluster.clone());
        }
    }

    /// The path and the headers by now, without its tokens.
    pub(crate) fn shows(&mut self, path: &str, headers: &HeaderMap) {
        if self.withheld.is_empty() {
            path.clone_into(&mut self.path);
            self.request = self.format.keep_request(headers);
            return;
        }
        let mut headers = headers.clone();
        self.path = path.to_owned();
        remove_tokens(&self.withheld, &mut headers, &mut self.path);
        self.request = self.format.keep_request(&headers);
    }

    /// The head that goes to the endpoint, which the line shows instead of the client's.
    pub(crate) fn sends(&mut self, head: &http::request::Parts) {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if let Some(authority) = head.uri.authority().map(http::uri::Authority::as_str).or(host) {
            authority.clone_into(&mut self.authority);
        }
        self.shows(head.uri.path_and_query().map_or("*", |path| path.as_str()), &head.headers);
    }

    /// It is about to be sent to an endpoint: what failed before counts no more.
    pub(crate) fn tries(&mut self) {
        self.failure = None;
    }

    /// There is no connection to the endpoint.
    pub(crate) fn failed(&mut self, error: &dyn std::error::Error) {
        self.failure = Some(error.to_string());
    }

    /// The head of an answer: an endpoint's, or one that was made here.
    pub(crate) fn answered(&mut self, headers: &HeaderMap, is_of_endpoint: bool) {
        self.response = self.format.keep_response(headers);
        self.response_at = is_of_endpoint.then(Instant::now);
    }

    /// Trailers of the answer.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        self.trailers = self.format.keep_trailers(trailers);
    }
}

/// The address from which an endpoint is called. Streams share sockets: no port is one request's own.
pub(crate) fn upstream_local(own: &Own, upstream: Option<SocketAddr>) -> Option<SocketAddr> {
    Some(SocketAddr::new(own.address(upstream?.is_ipv4())?, 0))
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

pub(crate) fn unix_us(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
