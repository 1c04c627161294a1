//! Copies of a request for the mirrors of its route. No request waits for one, none is tried again (but on another connection,
//! where the first one had gone), and what becomes of it is
//! counted and has no effect on the request.
//!
//! What must hold: a copy passes what its request does, by the World of the turn in which it is sent: policies of the waypoint, and
//! tokens and policies of the endpoint that it goes to, by the same source as the request and with what its tokens were before the
//! Service. None is sent before an endpoint's policies let the request itself pass, nor after the request was denied before it went on.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::sleep;
use underpass_core::http::{Ask, ClusterKey, Counted, Health, HttpVersion, Throw};

use super::{
    ClientConnection, RequestBody,
    authenticate::at_endpoint,
    copy::{Copied, CopyBody},
    forward::Forwarding,
    head,
    outcome::{MOST_STALE, health_of, is_stale},
};
use crate::{
    cluster::{At, Chosen, CountGuard, WorkerCluster},
    judging::{Head, Opened},
    upstream::{ConnectError, LeaseError, lease},
};

/// The time of a copy from the moment when nothing more of its original comes, where the route has none: a mirror that never
/// answers, or never reads, is not to hold its connection for ever.
const TIME: Duration = Duration::from_secs(60);

/// The end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MirrorEnd {
    /// The mirror has answered it; with what, does not matter.
    Answered,
    /// The mirror read it more slowly than the original was read, or the original broke off.
    Lost,
    /// A policy denies it, of the waypoint or of the mirror's endpoint, a token is not good there, or the request was denied.
    Denied,
    /// No endpoint, no connection, a limit, or it broke off.
    Failed,
    /// No answer in time.
    Timeout,
}

impl MirrorEnd {
    /// A stable word: metric label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Lost => "lost",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

/// One copy on its way.
struct Mirrored {
    connection: Rc<ClientConnection>,
    cluster: Rc<WorkerCluster>,
    chosen: Chosen,
    head: Rc<Head>,
    came: Rc<Head>,
    version: HttpVersion,
    copied: Rc<Copied>,
    opened: Opened,
    time: Duration,
    /// It was sent.
    asked: Cell<bool>,
    _counted: CountGuard,
}

impl Forwarding<'_> {
    /// Sends the copies on their way. To be called before a try reads the body.
    pub(super) fn mirror(&self) {
        let worker = &self.asked.connection.worker;
        for key in &self.forward.mirrors {
            match self.copy_to(key) {
                Ok(copy) => {
                    let worker = Rc::clone(worker);
                    tokio::task::spawn_local(async move { worker.recorder.mirrored(copy.send().await) });
                }
                Err(end) => worker.recorder.mirrored(end),
            }
        }
    }

    fn copy_to(&self, key: &ClusterKey) -> Result<Mirrored, MirrorEnd> {
        let (asked, connection) = (self.asked, self.asked.connection);
        let worker = &connection.worker;
        let (is_ipv4, now, dice) = (connection.called.is_ipv4(), worker.now(), worker.dice());
        let at = At { configuration: &asked.configuration, is_ipv4, now, dice };
        let cluster = worker.clusters.get(&worker.own, &at, key, asked.compiled.clusters.get(key));
        if cluster.policy().is_beyond_waypoints() {
            return Err(MirrorEnd::Failed);
        }
        let counted = cluster.shared.begin(Counted::Request).map_err(|_| MirrorEnd::Failed)?;
        let version = asked.version(key, &cluster);
        let mut headers = self.head.headers.clone();
        let authority: Rc<str> = shadow(&self.head.authority).into();
        head::fit(&mut headers, version, &authority, self.recorded.is_of_unknown_length())
            .map_err(|_| MirrorEnd::Failed)?;
        let (method, path) = (self.head.method.clone(), Rc::clone(&self.head.path));
        // No authorizer is asked about a copy: where other authorizers than the request's are to allow it, it is denied.
        let (token, allowed_by) = (self.head.token.clone(), self.head.allowed_by.clone());
        let head = Rc::new(Head { method, authority, path, headers, port: key.port, token, allowed_by });
        let hashed = head.lend(|head| asked.hashed(key, &head));
        let called = Some(SocketAddr::new(connection.called.address, connection.called.port));
        let ask = Ask {
            key: hashed.key,
            called,
            tried: &[],
            avoids_tried: false,
            remote_localities: false,
            now,
            dice: dice.throw(Throw::Endpoint(0)),
        };
        let chosen = cluster.pick(&ask).map_err(|_| MirrorEnd::Failed)?;
        let (opened, came) = (self.opened.copy(), Rc::clone(&self.came));
        let (connection, copied) = (Rc::clone(connection), self.recorded.copy());
        let time = self.forward.timeout.unwrap_or(TIME);
        let (asked, _counted) = (Cell::new(false), counted);
        Ok(Mirrored { connection, cluster, chosen, head, came, version, copied, opened, time, asked, _counted })
    }
}

impl Mirrored {
    async fn send(self) -> MirrorEnd {
        let late = async {
            self.copied.ended().await;
            sleep(self.time).await;
        };
        let (end, health) = tokio::select! {
            biased;
            () = self.opened.denied() => (MirrorEnd::Denied, None),
            ended = self.exchange() => ended,
            () = late => self.late(),
        };
        if let Some(health) = health {
            self.cluster.ended(self.chosen.endpoint.target, health, self.connection.worker.now());
        }
        end
    }

    /// Its time is over. A mirror that takes no more of a copy which is lost does not hear of that.
    fn late(&self) -> (MirrorEnd, Option<Health>) {
        match self.copied.is_lost() {
            true => (MirrorEnd::Lost, None),
            false => (MirrorEnd::Timeout, self.asked.get().then_some(Health::NoAnswer)),
        }
    }

    /// The end, and what it says about the endpoint.
    async fn exchange(&self) -> (MirrorEnd, Option<Health>) {
        let ClientConnection { worker, client, .. } = &*self.connection;
        let (head, target) = match self.admitted().await {
            Ok(admitted) => admitted,
            Err(end) => return (end, None),
        };
        let mut stale = 0;
        loop {
            let lease = match lease(worker, &self.cluster, &self.chosen.endpoint, client, self.version).await {
                Ok(lease) => lease,
                Err(LeaseError::Connect(ConnectError::Denied)) => return (MirrorEnd::Denied, None),
                Err(LeaseError::Overflow(_)) => return (MirrorEnd::Failed, None),
                Err(LeaseError::Connect(_)) => return (MirrorEnd::Failed, Some(Health::NoAnswer)),
            };
            if !self.opened.goes_on() {
                return (MirrorEnd::Denied, None);
            }
            if self.copied.is_lost() {
                return (MirrorEnd::Lost, None);
            }
            self.asked.set(true);
            match lease.send(self.request(&head, &target)).await {
                Ok(response) => {
                    let health = health_of(&response);
                    return (read(response).await, health);
                }
                Err(_) if self.copied.is_lost() => return (MirrorEnd::Lost, None),
                Err((error, unsent)) => {
                    let is_stale = is_stale(&error, unsent.is_some(), &lease, &head.method) && stale < MOST_STALE;
                    if !is_stale {
                        return (MirrorEnd::Failed, Some(Health::NoAnswer));
                    }
                    if !self.copied.is_unread() {
                        return (MirrorEnd::Failed, None);
                    }
                    self.asked.set(false);
                    stale += 1;
                }
            }
        }
    }

    /// The head that the endpoint gets, where its tokens and policies let it pass, and the target.
    async fn admitted(&self) -> Result<(Rc<Head>, Uri), MirrorEnd> {
        let (connection, endpoint) = (&*self.connection, &self.chosen.endpoint);
        let head = at_endpoint(connection, endpoint, &self.head, &self.came).await;
        let head = head.map_err(|_| MirrorEnd::Denied)?;
        let world = connection.worker.world();
        if !connection.gates(&world).at_endpoint(endpoint, &head) {
            return Err(MirrorEnd::Denied);
        }
        let target = head::target(self.version, self.cluster.scheme(), &head.authority, &head.path, &head.method);
        let target = target.map_err(|_| MirrorEnd::Failed)?;
        self.opened.reaches(endpoint, Some(Rc::clone(&head)));
        if !self.opened.passes() {
            return Err(MirrorEnd::Denied);
        }
        Ok((head, target))
    }

    fn request(&self, head: &Head, target: &Uri) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Copy(CopyBody(Rc::clone(&self.copied))));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = target.clone();
        *request.version_mut() = match self.version {
            HttpVersion::Http1 => http::Version::HTTP_11,
            HttpVersion::Http2 => http::Version::HTTP_2,
        };
        *request.headers_mut() = head.headers.clone();
        request
    }
}

/// Reads an answer to its end: its connection takes another request then.
async fn read(mut response: Response<Incoming>) -> MirrorEnd {
    while let Some(frame) = response.body_mut().frame().await {
        if frame.is_err() {
            return MirrorEnd::Failed;
        }
    }
    MirrorEnd::Answered
}

/// The authority of a copy, by which the mirror knows it for one, as Envoy writes it. An IPv6 address has no such form.
fn shadow(authority: &str) -> String {
    match authority.rsplit_once(':') {
        _ if authority.starts_with('[') => authority.to_owned(),
        Some((host, port)) => format!("{host}-shadow:{port}"),
        None => format!("{authority}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_of_copies() {
        for (authority, expect) in
            [("cart", "cart-shadow"), ("cart.shop:80", "cart.shop-shadow:80"), ("[fd00::1]:80", "[fd00::1]:80")]
        {
            assert_eq!(shadow(authority), expect);
        }
    }
}
