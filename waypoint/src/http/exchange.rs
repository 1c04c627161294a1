//! One request: what is decided about it, in the order of a waypoint's filters, and its record, which ends with it.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use tokio::time::sleep;
use underpass_core::{
    connection::Party,
    http::{
        Action, ClusterKey, Compiled, CorsHeaders, Dice, Hashed, RequestEnd, RequestHead, Respond, Source, Throw,
        hash_of, normalize, route,
    },
    jwt::Token,
    objects::{Balancing, HeaderOperations},
};

use super::{
    ClientConnection, Version, answer, authenticate, authorize::Said, form, forward::Outgoing, head,
    response::ResponseBody,
};
use crate::{
    configuration::Configuration,
    io::InFlight,
    judging::{Head, Opened},
    metrics::Record,
    policy::Vouched,
    worker::Worker,
};

/// The record of a request. Dropped before its end is known, its client went away.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    end: Option<RequestEnd>,
    /// What its series will say.
    pub(super) record: Record,
    /// What external authorizers say to its client.
    pub(super) said: Said,
    _in_flight: InFlight,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Exchange {
    fn begin<B>(connection: &ClientConnection, configuration: &Configuration, request: &Request<B>) -> Self {
        let ClientConnection { worker, called, client, .. } = connection;
        let workload = configuration.world.workload_at(client.address.ip()).cloned();
        let source = Party { address: client.address, workload, identity: Some(client.identity.clone()) };
        let notes = worker.log.as_ref().map(|log| {
            let rules = configuration.all_tokens(&called.service);
            log.begin(called, request, authenticate::withheld_of(&rules, request))
        });
        let record = Record::new(source, called.service.clone(), answer::is_grpc(request.headers()), notes);
        let said = Said::default();
        Self { worker: Rc::clone(worker), end: None, record, said, _in_flight: connection.head.came() }
    }

    /// This is its answer, which was made here.
    fn answered(&self, response: &Response<ResponseBody>) {
        self.record.answered_here(response.status(), response.headers());
        self.record.sent(response.body().size_hint().lower());
    }

    /// It ends so; what comes later counts no more.
    pub(super) fn end(&mut self, end: RequestEnd) {
        if self.end.is_none() {
            self.end = Some(end);
            self.worker.recorder.ended(&self.worker.world(), &self.record, end);
            if let (Some(log), Some(notes)) = (&self.worker.log, self.record.notes()) {
                log.ended(&self.worker.own, &self.record, &notes, end);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(RequestEnd::ClientReset);
    }
}

/// Answers a request.
pub(super) async fn answer(
    connection: &Rc<ClientConnection>,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let is_plain = form::is_plain(&request);
    // Before the log, policies and routes read any.
    form::remove_listed(request.headers_mut());
    head::remove_claims(request.headers_mut());
    let is_grpc = answer::is_grpc(request.headers());
    let configuration = connection.worker.configuration();
    let exchange = Exchange::begin(connection, &configuration, &request);
    if !is_plain {
        return malformed(connection, exchange, is_grpc);
    }
    let called = &connection.called;
    let Some(compiled) = configuration.routes(&called.service, called.port).cloned() else {
        // It stands before this Service no longer.
        return ended(RequestEnd::NoCluster, exchange, is_grpc);
    };
    let dice = connection.worker.dice();
    let (token, allowed_by, as_it_came) = (None, Vec::new(), None);
    let asked = Asked { connection, configuration, compiled, is_grpc, dice, token, allowed_by, as_it_came };
    match asked.answer(request, exchange).await {
        Ok(response) => response,
        Err((end, exchange)) => ended(end, exchange, is_grpc),
    }
}

/// The answer of a request that ends without a response.
fn ended(end: RequestEnd, mut exchange: Exchange, is_grpc: bool) -> Response<ResponseBody> {
    let response = exchange.said.refusal.take().unwrap_or_else(|| answer::of_end(end, is_grpc));
    exchange.answered(&response);
    exchange.end(end);
    response
}

/// The answer to a request whose form leaves a doubt: what follows it on a connection of HTTP/1 may be a part of it.
fn malformed(connection: &ClientConnection, exchange: Exchange, is_grpc: bool) -> Response<ResponseBody> {
    let mut response = ended(RequestEnd::BadRequest, exchange, is_grpc);
    if connection.version == Version::Http1 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A request, and what it is decided by.
pub(super) struct Asked<'c> {
    pub(super) connection: &'c Rc<ClientConnection>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) compiled: Arc<Compiled>,
    pub(super) is_grpc: bool,
    pub(super) dice: Dice,
    /// The token that was verified for it.
    pub(super) token: Option<Rc<Token>>,
    /// The external authorizers that have allowed it.
    pub(super) allowed_by: Vec<Arc<str>>,
    /// As it came, where its tokens have changed it and its endpoints may look for tokens too.
    pub(super) as_it_came: Option<Rc<Head>>,
}

/// What became of a request; an end without a response comes with the request's record.
pub(super) type Answered = Result<Response<ResponseBody>, (RequestEnd, Exchange)>;

impl Asked<'_> {
    async fn answer(mut self, mut request: Request<Incoming>, mut exchange: Exchange) -> Answered {
        if request.method() == Method::CONNECT {
            return Err((RequestEnd::BadRequest, exchange)); // it is no forward proxy
        }
        let Some(authority) = self.authority(&request) else { return Err((RequestEnd::BadRequest, exchange)) };
        let paths = self.configuration.world.settings().path_normalization;
        let Ok(mut path) = normalize(head::written(request.uri()), paths).map(Cow::into_owned) else {
            return Err((RequestEnd::BadRequest, exchange));
        };
        if let Err(fault) = self.authenticate(&mut request, &authority, &mut path, &exchange.record).await {
            let response = answer::unauthenticated(fault, &authority, &path, self.is_grpc);
            exchange.answered(&response);
            exchange.end(RequestEnd::Unauthenticated(fault));
            return Ok(response);
        }
        if let Err(end) = self.authorize(&mut request, &authority, &path, &exchange).await {
            return Err((end, exchange));
        }
        let headers = head::pairs(request.headers());
        let head = RequestHead {
            method: request.method().as_str(),
            scheme: request.uri().scheme_str().unwrap_or("http"),
            authority: &authority,
            path: &path,
            headers: &headers,
            port: self.connection.called.port,
            source: self.source(),
        };
        let gates = self.connection.gates(&self.configuration.world);
        exchange.record.judged_aside(gates.aside_at_waypoint(head, self.vouched()));
        if !gates.at_waypoint(head, self.vouched()).is_allow() {
            return Err((RequestEnd::Denied, exchange));
        }
        let decision = route(&self.compiled.routes, &head, self.dice, &mut ());
        exchange.record.note(|notes| notes.decided(&decision));
        if let Some(delay) = decision.delay {
            exchange.record.delayed();
            sleep(delay).await;
        }
        match decision.action {
            Action::Forward(forward) => {
                let hashed = self.hashed(forward.cluster, &head);
                drop(headers);
                // What a rewrite has made is read by the endpoint's policies and by the application alike.
                let rewritten = forward.path.as_deref().map(|path| normalize(path, paths)).transpose();
                let Ok(rewritten) = rewritten else { return Err((RequestEnd::BadRequest, exchange)) };
                let judged = Rc::new(self.head_of(&request, authority, &path));
                let ClientConnection { worker, called, client, .. } = &**self.connection;
                let open = (called.clone(), client.clone(), Some(Rc::clone(&judged)));
                let opened = Opened::begin(worker, open, &self.configuration);
                let outgoing = Outgoing { judged, rewritten: rewritten.map(Rc::from), hashed, opened };
                self.forward(forward, outgoing, request, exchange).await
            }
            Action::Redirect { status, location, headers } => {
                let mut response = answer::own(status, Bytes::new(), false);
                if let Ok(location) = location.parse() {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                change_response(response.headers_mut(), [headers], &Vec::new());
                exchange.said.add_to(response.headers_mut());
                exchange.answered(&response);
                exchange.end(RequestEnd::Finished);
                Ok(response)
            }
            Action::Respond(respond) => {
                let end = if respond.is_fault { RequestEnd::Fault } else { RequestEnd::Finished };
                let mut response = self.respond(respond);
                exchange.said.add_to(response.headers_mut());
                exchange.answered(&response);
                exchange.end(end);
                Ok(response)
            }
            Action::NotFound => Err((RequestEnd::NoRoute, exchange)),
        }
    }

    /// Its head, for those who read it later.
    pub(super) fn head_of<B>(&self, request: &Request<B>, authority: Rc<str>, path: &str) -> Head {
        Head {
            method: request.method().clone(),
            authority,
            path: path.into(),
            headers: request.headers().clone(),
            port: self.connection.called.port,
            token: self.token.clone(),
            allowed_by: self.allowed_by.clone(),
        }
    }

    /// What others say of the request.
    pub(super) fn vouched(&self) -> Vouched<'_> {
        Vouched { token: self.token.as_deref(), allowed_by: &self.allowed_by }
    }

    /// What of the request decides about its endpoint, where its cluster goes by a hash.
    pub(super) fn hashed(&self, key: &ClusterKey, head: &RequestHead<'_>) -> Hashed {
        let cluster = self.compiled.clusters.get(key);
        let balancing = cluster.and_then(|cluster| Some(&cluster.policy.port.load_balancer.as_ref()?.method));
        match balancing {
            Some(Balancing::Hash(hash)) => {
                let dice = self.dice.throw(Throw::Hash);
                hash_of(hash, head, self.connection.client.address.ip(), dice)
            }
            _ => Hashed::default(),
        }
    }

    /// HTTP/1.0 has none of its own: the Service's name.
    fn authority(&self, request: &Request<Incoming>) -> Option<Rc<str>> {
        if request.version() <= http::Version::HTTP_10 && !request.headers().contains_key(header::HOST) {
            return Some(format!("{}:{}", self.compiled.routes.host(), self.connection.called.port).into());
        }
        head::authority(request).map(Rc::from)
    }

    /// The sender.
    pub(super) fn source(&self) -> Source<'_> {
        self.configuration.source(&self.connection.client)
    }

    fn respond(&self, respond: Respond<'_>) -> Response<ResponseBody> {
        let mut response = match respond.grpc_status {
            Some(status) => answer::of_grpc_status(status),
            None => {
                let body = match respond.body {
                    Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
                    Cow::Owned(bytes) => bytes.into(),
                };
                answer::own(respond.status, body, self.is_grpc && respond.is_fault)
            }
        };
        change_response(response.headers_mut(), respond.headers, &respond.cors);
        response
    }
}

/// Changes the headers of a response as its route says.
pub(super) fn change_response<'o>(
    headers: &mut HeaderMap,
    operations: impl IntoIterator<Item = &'o HeaderOperations>,
    cors: &CorsHeaders,
) {
    for operations in operations {
        let _ = head::change(headers, &operations.response); // a response has no authority
    }
    for (name, value) in cors {
        if let Ok(value) = value.parse() {
            headers.insert(*name, value);
        }
    }
}
