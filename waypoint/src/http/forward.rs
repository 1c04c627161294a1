//! A request on its way to an endpoint: limits, choice of the endpoint, tries, and the response that comes of them.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, uri::Scheme};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, sleep, sleep_until};
use underpass_core::{
    connection::Party,
    http::{
        Ask, ClusterKey, Counted, EndpointId, Forward, Hashed, Health, HttpVersion, NoEndpoint, Outcome, RequestEnd,
        Throw, Tries,
    },
    world::AppProtocol,
};

use super::{
    RequestBody, Version,
    authenticate::at_endpoint,
    authorize::Allowed,
    body::{Ahead, Recorded},
    exchange::{Answered, Asked, Exchange, change_response},
    form, head,
    outcome::{MOST_STALE, One, failed, health, is_stale, not_connected, of_body, outcome, unless_denied},
    response::{EndpointBody, ResponseBody, Streamed},
    upgrade,
};
use crate::{
    cluster::{At, Chosen, CountGuard, Endpoint, WorkerCluster},
    judging::{Head, Opened},
    upstream::{Lease, LeaseError, lease},
};

const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Where a request is to go, beside its cluster.
pub(super) struct Outgoing {
    /// As gate 1 has read it.
    pub(super) judged: Rc<Head>,
    /// Its path, where it is another one then.
    pub(super) rewritten: Option<Rc<str>>,
    pub(super) hashed: Hashed,
    pub(super) opened: Opened,
}

/// The end of all tries.
type Tried = Result<(Response<Incoming>, Lease, Chosen), RequestEnd>;

/// What the endpoint of a try gets.
struct Sent {
    head: Rc<Head>,
    target: Uri,
}

/// The tries of one request to one cluster.
pub(super) struct Forwarding<'f> {
    pub(super) asked: &'f Asked<'f>,
    pub(super) cluster: Rc<WorkerCluster>,
    pub(super) forward: &'f Forward<'f>,
    version: HttpVersion,
    /// What every try sends, but for what tokens of its endpoint change.
    pub(super) head: Rc<Head>,
    target: Uri,
    /// As it came, for the rules about tokens of its endpoints.
    pub(super) came: Rc<Head>,
    http: http::Version,
    pub(super) opened: Rc<Opened>,
    hashed: Hashed,
    pub(super) recorded: Rc<Recorded>,
    pub(super) exchange: Exchange,
    /// The endpoint of the try under way.
    current: Cell<Option<SocketAddr>>,
    sent: RefCell<Sent>,
    /// What the external authorizers of endpoints have said so far.
    pub(super) allowed: RefCell<Allowed>,
}

impl Asked<'_> {
    /// Carries a request to its cluster.
    pub(super) async fn forward(
        &self,
        forward: Forward<'_>,
        outgoing: Outgoing,
        request: Request<Incoming>,
        exchange: Exchange,
    ) -> Answered {
        let (connection, worker) = (self.connection, &self.connection.worker);
        let key = forward.cluster;
        let service = self.compiled.clusters.get(key).and_then(|cluster| cluster.service.as_ref().ok());
        let Some(service) = service else { return Err((RequestEnd::NoCluster, exchange)) };
        exchange.record.goes_to(service);
        let (is_ipv4, now) = (connection.called.is_ipv4(), worker.now());
        let at = At { configuration: &self.configuration, is_ipv4, now, dice: self.dice };
        let cluster = worker.clusters.get(&worker.own, &at, key, self.compiled.clusters.get(key));
        if cluster.policy().is_beyond_waypoints() {
            return Err((RequestEnd::NotServed, exchange));
        }
        let protocol = upgrade::asked(&request);
        let version = match protocol {
            Some(_) => HttpVersion::Http1,
            None => self.version(key, &cluster),
        };
        let counted = match cluster.shared.begin(Counted::Request) {
            Ok(counted) => counted,
            Err(overflow) => return Err((overflow.into(), exchange)),
        };
        let (parts, body) = request.into_parts();
        let scheme = cluster.scheme();
        let Ok((mut parts, authority)) = self.outgoing_head(parts, &outgoing, &forward, (version, scheme)) else {
            return Err((RequestEnd::BadRequest, exchange));
        };
        let Outgoing { judged, rewritten, hashed, opened } = outgoing;
        let recorded = Recorded::new(body, worker.settings.limits.replay_bytes);
        if head::fit(&mut parts.headers, version, &authority, recorded.is_of_unknown_length()).is_err() {
            return Err((RequestEnd::BadRequest, exchange));
        }
        exchange.record.note(|notes| notes.sends(&parts));
        exchange.record.receives(recorded.received());
        opened.sends(&recorded);
        let (asked, forward) = (self, &forward);
        let came = self.as_it_came.as_ref().unwrap_or(&judged);
        let sent = Rc::new(Head {
            method: parts.method,
            authority,
            path: rewritten.unwrap_or_else(|| Rc::clone(&judged.path)),
            headers: parts.headers,
            port: key.port,
            token: self.token.clone(),
            allowed_by: self.allowed_by.clone(),
        });
        let forwarding = Forwarding {
            asked,
            cluster,
            forward,
            version,
            http: parts.version,
            sent: RefCell::new(Sent { head: Rc::clone(&sent), target: parts.uri.clone() }),
            head: sent,
            target: parts.uri,
            came: Rc::clone(came),
            opened: Rc::new(opened),
            hashed,
            recorded,
            exchange,
            current: Cell::new(None),
            allowed: RefCell::default(),
        };
        forwarding.run(protocol, counted).await
    }

    /// The version that is spoken to the endpoints of a cluster.
    pub(super) fn version(&self, key: &ClusterKey, cluster: &WorkerCluster) -> HttpVersion {
        let service = self.compiled.clusters.get(key).and_then(|cluster| cluster.service.as_ref().ok());
        let service = service.and_then(|service| self.configuration.world.service(service));
        let said = service.and_then(|service| service.port(key.port)).map(|port| port.protocol);
        version(said.unwrap_or(AppProtocol::Unknown), self.connection.version, cluster)
    }

    /// The head of the request to the endpoint, and its authority.
    fn outgoing_head(
        &self,
        mut parts: http::request::Parts,
        outgoing: &Outgoing,
        forward: &Forward<'_>,
        (version, scheme): (HttpVersion, Scheme),
    ) -> Result<(http::request::Parts, Rc<str>), http::Error> {
        head::remove_hop_by_hop(&mut parts.headers);
        parts.headers.remove(header::EXPECT); // the client's is answered here, when its body is read
        head::add_origin(&mut parts.headers, self.connection.client.address.ip(), self.dice);
        let (worker, client) = (&self.connection.worker, &self.connection.client.identity);
        worker.settings.client_cert.change(&mut parts.headers, &worker.own.identity, client);
        let Outgoing { judged, rewritten, .. } = outgoing;
        if rewritten.is_some() {
            head::add_original_path(&mut parts.headers, &judged.path);
        }
        let mut authority = forward.authority;
        for operations in &forward.headers {
            authority = head::change(&mut parts.headers, &operations.request).or(authority);
        }
        let authority = authority.map_or_else(|| Rc::clone(&judged.authority), Rc::from);
        let path = rewritten.as_ref().unwrap_or(&judged.path);
        parts.uri = head::target(version, scheme, &authority, path, &parts.method)?;
        parts.version = match version {
            HttpVersion::Http1 => http::Version::HTTP_11,
            HttpVersion::Http2 => http::Version::HTTP_2,
        };
        Ok((parts, authority))
    }
}

/// Completes then; none: never.
async fn over(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The version that is spoken to the endpoints of a port.
fn version(said: AppProtocol, client: Version, cluster: &WorkerCluster) -> HttpVersion {
    let of_client = match client {
        Version::Http1 => HttpVersion::Http1,
        Version::Http2 => HttpVersion::Http2,
    };
    let policy = cluster.policy();
    let as_client = policy.port.connection_pool.as_ref().is_some_and(|pool| pool.http.use_client_protocol);
    match said {
        _ if as_client => of_client,
        AppProtocol::Http2 | AppProtocol::Grpc => HttpVersion::Http2,
        AppProtocol::Http11 | AppProtocol::Tcp | AppProtocol::Tls => HttpVersion::Http1,
        AppProtocol::Unknown => of_client,
    }
}

impl Forwarding<'_> {
    /// Carries it, once all of it is known.
    async fn run(self, protocol: Option<HeaderValue>, counted: CountGuard) -> Answered {
        let deadline = Cell::new(None);
        if let Some(protocol) = protocol {
            let asked = upgrade::forward(&self, &protocol);
            return match unless_denied(self.opened.denied(), asked, self.late(&deadline)).await {
                Ok(response) => Ok(self.respond(response, None, None, counted)),
                Err(end) => Err((end, self.exchange)),
            };
        }
        let tried = unless_denied(self.opened.denied(), self.tries(), self.late(&deadline)).await;
        if let (Err(RequestEnd::Timeout), Some(target)) = (&tried, self.current.get()) {
            self.cluster.ended(target, Health::NoAnswer, self.asked.connection.worker.now());
        }
        match tried {
            Ok((response, lease, chosen)) => Ok(self.respond(response, Some((lease, chosen)), deadline.get(), counted)),
            Err(end) => {
                if matches!(end, RequestEnd::Denied | RequestEnd::Unauthenticated(_)) {
                    self.opened.refuse();
                }
                Err((end, self.exchange))
            }
        }
    }

    /// Tries until an outcome is the request's.
    async fn tries(&self) -> Tried {
        let worker = &self.asked.connection.worker;
        let mut tries = Tries::new(self.forward.retry);
        let mut tried: Vec<EndpointId> = Vec::new();
        // A retry is counted for as long as its response has not begun.
        let mut retry = None;
        loop {
            let number = tries.retries();
            let Ok(chosen) = self.choose(&tried, number) else { return Err(RequestEnd::NoEndpoint) };
            self.admitted(&chosen.endpoint).await?;
            if number == 0 {
                self.mirror();
            }
            self.current.set(None);
            let per_try = self.forward.retry.and_then(|retry| retry.per_try_timeout);
            let one = match per_try {
                None => self.one(&chosen.endpoint).await,
                Some(time) => tokio::select! {
                    biased;
                    one = self.one(&chosen.endpoint) => one,
                    () = self.sent_and(time) => One::Failed(Outcome::TryTimeout, RequestEnd::Timeout),
                },
            };
            let target = chosen.endpoint.target;
            tried.push(chosen.id);
            let asked = self.current.take().is_some();
            let (outcome, result) = match one {
                One::Response(response, lease) => (outcome(&response), Ok((response, lease, chosen))),
                One::Failed(outcome, end) => (outcome, Err(end)),
                One::Refused(end) => return Err(end),
            };
            if let Some(health) = health(outcome).filter(|_| asked || outcome == Outcome::ConnectFailure) {
                self.cluster.ended(target, health, worker.now());
            }
            let throw = self.asked.dice.throw(Throw::Pause(number));
            let Some(pause) = tries.another(outcome, self.recorded.can_replay(), throw) else {
                self.tried(&tries, outcome, result.is_ok());
                return result;
            };
            drop(retry.take()); // its own
            let Ok(counted) = self.cluster.shared.begin(Counted::Retry) else {
                self.exchange.record.may_not_try();
                return result;
            };
            retry = Some(counted);
            self.cluster.shared.count(|counts| counts.retries += 1);
            self.recorded.give_up(); // before another try is waited for: what it reads is to be kept whole
            drop(result);
            sleep(pause).await;
        }
    }

    /// This outcome is the request's.
    fn tried(&self, tries: &Tries<'_>, outcome: Outcome, is_response: bool) {
        if tries.are_used_up(outcome) {
            self.exchange.record.tries_used_up();
            self.cluster.shared.count(|counts| counts.retries_limit += 1);
        } else if tries.retries() > 0 && is_response {
            self.cluster.shared.count(|counts| counts.retries_success += 1);
        }
    }

    /// The endpoint of the try of this number.
    pub(super) fn choose(&self, tried: &[EndpointId], number: u32) -> Result<Chosen, NoEndpoint> {
        let connection = self.asked.connection;
        let retry = self.forward.retry;
        let chosen = self.cluster.pick(&Ask {
            key: self.hashed.key,
            called: Some(SocketAddr::new(connection.called.address, connection.called.port)),
            tried,
            avoids_tried: retry.is_some_and(|retry| retry.avoids_previous),
            remote_localities: retry.is_some_and(|retry| retry.remote_localities),
            now: connection.worker.now(),
            dice: self.asked.dice.throw(Throw::Endpoint(number)),
        })?;
        let Endpoint { target, workload, .. } = &*chosen.endpoint;
        let workload = self.asked.configuration.world.workload(workload).cloned();
        self.exchange.record.tries(Party { address: *target, workload, identity: None });
        Ok(chosen)
    }

    /// Tokens and policies of an endpoint let the request pass, as it will read it, and those of the waypoint still do.
    pub(super) async fn admitted(&self, endpoint: &Rc<Endpoint>) -> Result<(), RequestEnd> {
        let connection = self.asked.connection;
        let head =
            at_endpoint(connection, endpoint, &self.head, &self.came).await.map_err(RequestEnd::Unauthenticated)?;
        let head = self.authorized(endpoint, head).await?;
        let world = connection.worker.world();
        let gates = connection.gates(&world);
        if gates.is_judged(endpoint) {
            self.exchange.record.judged_aside(gates.aside_at_endpoint(endpoint, &head));
            if !gates.at_endpoint(endpoint, &head) {
                return Err(RequestEnd::Denied);
            }
        }
        let mut target = self.target.clone();
        if !Rc::ptr_eq(&head, &self.head) {
            let changed = head::target(self.version, Scheme::HTTP, &head.authority, &head.path, &head.method);
            target = changed.map_err(|_| RequestEnd::BadRequest)?;
            self.exchange.record.note(|notes| notes.shows(&head.path, &head.headers));
        }
        self.opened.reaches(endpoint, Some(Rc::clone(&head)));
        if !self.opened.passes() {
            return Err(RequestEnd::Denied);
        }
        self.sent.replace(Sent { head, target });
        Ok(())
    }

    /// One try: a connection, and the head of a response.
    async fn one(&self, endpoint: &Endpoint) -> One {
        let connection = self.asked.connection;
        let mut stale = 0;
        loop {
            let leased = lease(&connection.worker, &self.cluster, endpoint, &connection.client, self.version).await;
            let lease = match leased {
                Ok(lease) => lease,
                Err(LeaseError::Overflow(overflow)) => return One::Failed(Outcome::Overflow, overflow.into()),
                Err(LeaseError::Connect(error)) => {
                    self.exchange.record.note(|notes| notes.failed(&error));
                    return not_connected(endpoint, &error);
                }
            };
            self.exchange.record.reached(endpoint.identity.as_ref());
            if !self.opened.goes_on() {
                return One::Refused(RequestEnd::Denied);
            }
            self.current.set(Some(endpoint.target));
            match lease.send(self.numbered()).await {
                // The request asked for no other protocol, and what has two readings is no answer.
                Ok(response)
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS || !form::is_plain_response(&response) =>
                {
                    return One::Failed(Outcome::Reset { is_sent: true }, RequestEnd::Protocol);
                }
                Ok(response) => return One::Response(response, lease),
                Err((error, unsent)) => {
                    let is_stale = is_stale(&error, unsent.is_some(), &lease, &self.head.method);
                    if is_stale && stale < MOST_STALE && self.recorded.can_replay() {
                        self.recorded.give_up();
                        stale += 1;
                        continue;
                    }
                    tracing::debug!(endpoint = %endpoint.target, %error, "a request to an endpoint failed");
                    return failed(&error, unsent.is_none());
                }
            }
        }
    }

    /// The request of the next try.
    pub(super) fn request(&self) -> Request<RequestBody> {
        let sent = self.sent.borrow();
        let mut request = Request::new(RequestBody::Try(self.recorded.next()));
        *request.method_mut() = sent.head.method.clone();
        *request.uri_mut() = sent.target.clone();
        *request.version_mut() = self.http;
        *request.headers_mut() = sent.head.headers.clone();
        request
    }

    /// The same, with the number of the try.
    pub(super) fn numbered(&self) -> Request<RequestBody> {
        let mut request = self.request();
        request.headers_mut().insert(ATTEMPT_COUNT, self.exchange.record.attempts().into());
        request
    }

    /// Completes when the client has sent its request, and then this time is over.
    async fn sent_and(&self, time: Duration) {
        self.recorded.ended().await;
        sleep(time).await;
    }

    /// Completes when the time of the route is over: it begins when the client has sent its request. One that is held up until there
    /// is a connection is for so long at most. Also where the client goes away before.
    async fn late(&self, deadline: &Cell<Option<Instant>>) -> RequestEnd {
        let time = self.forward.timeout;
        loop {
            match self.recorded.read_ahead().await {
                Ok(Ahead::Ended) => break,
                Ok(Ahead::HeldUp) => {}
                Err(error) => return of_body(&error),
            }
            tokio::select! {
                biased;
                () = self.recorded.is_read() => {}
                () = over(time.map(|time| Instant::now() + time)) => return RequestEnd::Timeout,
            }
        }
        deadline.set(time.map(|time| Instant::now() + time));
        over(deadline.get()).await;
        RequestEnd::Timeout
    }

    /// The response to the client; its end is the request's.
    pub(super) fn respond(
        self,
        response: Response<Incoming>,
        on: Option<(Lease, Chosen)>,
        deadline: Option<Instant>,
        counted: CountGuard,
    ) -> Response<ResponseBody> {
        let (mut parts, incoming) = response.into_parts();
        let (lease, chosen) = on.unzip();
        parts.version = http::Version::HTTP_11; // what the client speaks is hyper's to say
        let is_switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = is_switching.then(|| parts.headers.get(header::UPGRADE).cloned()).flatten();
        head::remove_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        change_response(&mut parts.headers, self.forward.headers.iter().copied(), &self.forward.cors);
        if let Some(cookie) = self.hashed.set_cookie.as_ref().and_then(|cookie| cookie.parse().ok()) {
            parts.headers.append(header::SET_COOKIE, cookie);
        }
        self.exchange.said.add_to(&mut parts.headers);
        parts.extensions.clear();
        let mut exchange = self.exchange;
        exchange.record.answered(parts.status, &parts.headers);
        if incoming.is_end_stream() {
            exchange.end(RequestEnd::Finished);
            return Response::from_parts(parts, ResponseBody::Own(None));
        }
        let deadline = self.forward.timeout.map(|time| {
            let recorded = Rc::clone(&self.recorded);
            let late = async move {
                if deadline.is_none() {
                    recorded.ended().await;
                }
                sleep_until(deadline.unwrap_or_else(|| Instant::now() + time)).await;
            };
            Box::pin(late) as std::pin::Pin<Box<dyn Future<Output = ()>>>
        });
        let recorded = self.recorded;
        let (incoming, counted) = (Some(incoming), Some(counted));
        let streamed = Streamed { incoming, lease, exchange, counted, chosen, recorded };
        let body = EndpointBody::new(streamed, deadline, self.opened);
        Response::from_parts(parts, ResponseBody::Endpoint(Box::new(body)))
    }
}
