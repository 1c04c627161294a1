//! The external authorizers of a request: before the policies of each gate those are asked that its CUSTOM policies name, as in Envoy's
//! order of filters. What they have allowed once holds for the request and all of its tries.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderMap, Request, Response};
use underpass_core::{
    authz::Check,
    http::{RequestEnd, RequestHead},
};

use super::{
    ClientConnection, answer,
    exchange::{Asked, Exchange},
    forward::Forwarding,
    head,
    response::ResponseBody,
};
use crate::{
    authorizer::{Answer, CheckResult, ask},
    cluster::Endpoint,
    judging::Head,
};

/// What external authorizers say to the client of a request.
#[derive(Default)]
pub(super) struct Said {
    /// The answer of one that denies it.
    pub(super) refusal: Cell<Option<Response<ResponseBody>>>,
    /// Headers of its response, of those that allow it.
    headers: RefCell<HeaderMap>,
}

impl Said {
    /// Adds them to the response.
    pub(super) fn add_to(&self, response: &mut HeaderMap) {
        let said = self.headers.borrow();
        if !said.is_empty() {
            set(response, &said);
        }
    }
}

/// What the external authorizers of endpoints have said.
#[derive(Default)]
pub(super) struct Allowed {
    by: Vec<Arc<str>>,
    headers: HeaderMap,
}

impl Asked<'_> {
    /// Asks those of policies before the Service.
    ///
    /// # Errors
    /// One denies the request, or cannot be asked.
    pub(super) async fn authorize<B>(
        &mut self,
        request: &mut Request<B>,
        authority: &Rc<str>,
        path: &str,
        exchange: &Exchange,
    ) -> Result<(), RequestEnd> {
        let checks = {
            let gates = self.connection.gates(&self.configuration.world);
            if !gates.has_checks_at_waypoint() {
                return Ok(());
            }
            let headers = head::pairs(request.headers());
            let head = RequestHead {
                method: request.method().as_str(),
                scheme: request.uri().scheme_str().unwrap_or("http"),
                authority,
                path,
                headers: &headers,
                port: self.connection.called.port,
                source: self.source(),
            };
            gates.checks_at_waypoint(head, self.vouched())
        };
        if checks.is_empty() {
            return Ok(());
        }
        let head = self.head_of(request, Rc::clone(authority), path);
        for asked in checks {
            let headers = check(self.connection, &asked, &head, exchange, self.is_grpc).await?;
            set(request.headers_mut(), &headers);
            self.allowed_by.push(asked.provider);
        }
        exchange.record.note(|notes| notes.shows(path, request.headers()));
        Ok(())
    }
}

impl Forwarding<'_> {
    /// Asks those of an endpoint's policies about the head that it gets: with what they say of it.
    ///
    /// # Errors
    /// One denies the request, or cannot be asked.
    pub(super) async fn authorized(&self, endpoint: &Endpoint, head: Rc<Head>) -> Result<Rc<Head>, RequestEnd> {
        let connection = self.asked.connection;
        let head = self.with_allowed(head);
        let world = connection.worker.world();
        let gates = connection.gates(&world);
        if !gates.is_judged(endpoint) {
            return Ok(head);
        }
        let checks = gates.checks_at_endpoint(endpoint, &head);
        if checks.is_empty() {
            return Ok(head);
        }
        for asked in checks {
            let headers = check(connection, &asked, &head, &self.exchange, self.asked.is_grpc).await?;
            let mut allowed = self.allowed.borrow_mut();
            set(&mut allowed.headers, &headers);
            allowed.by.push(asked.provider);
        }
        Ok(self.with_allowed(head))
    }

    /// The head with what authorizers of endpoints have said so far.
    fn with_allowed(&self, head: Rc<Head>) -> Rc<Head> {
        let allowed = self.allowed.borrow();
        if allowed.by.is_empty() {
            return head;
        }
        let mut headers = head.headers.clone();
        set(&mut headers, &allowed.headers);
        let more = allowed.by.iter().filter(|name| !head.allowed_by.contains(name));
        let allowed_by = head.allowed_by.iter().chain(more).cloned().collect();
        Rc::new(Head {
            method: head.method.clone(),
            authority: Rc::clone(&head.authority),
            path: Rc::clone(&head.path),
            headers,
            port: head.port,
            token: head.token.clone(),
            allowed_by,
        })
    }
}

/// Asks one: the headers that the endpoint gets, where it allows the request.
async fn check(
    connection: &ClientConnection,
    asked: &Check,
    head: &Head,
    exchange: &Exchange,
    is_grpc: bool,
) -> Result<HeaderMap, RequestEnd> {
    let (worker, name) = (&connection.worker, &asked.provider);
    let configuration = worker.configuration();
    let root = &configuration.world.settings().root_namespace;
    let Some(authorizer) = configuration.sources.authorizer(root, name) else {
        worker.recorder.checked(name, CheckResult::Unknown);
        return Err(RequestEnd::AuthorizerFailed);
    };
    let (result, answer) = match ask(worker, authorizer, head).await {
        Ok(Answer::Allowed { to_endpoint, to_client }) => {
            set(&mut exchange.said.headers.borrow_mut(), &to_client);
            (CheckResult::Allowed, Ok(to_endpoint))
        }
        Ok(Answer::Denied(response)) => {
            let (parts, body) = response.into_parts();
            let mut response = answer::own(parts.status.as_u16(), body, is_grpc);
            if !is_grpc {
                *response.headers_mut() = parts.headers;
            }
            exchange.said.refusal.set(Some(response));
            (CheckResult::Denied, Err(RequestEnd::AuthorizerDenied))
        }
        Err(error) => {
            let effect = if authorizer.fails_open { "requests pass without it" } else { "requests are refused" };
            worker.failing_authorizers.failed(name, &error, effect);
            if authorizer.fails_open {
                worker.recorder.checked(name, CheckResult::FailedOpen);
                return Ok(HeaderMap::new());
            }
            let refusal = answer::own(authorizer.status_on_error, bytes::Bytes::new(), is_grpc);
            exchange.said.refusal.set(Some(refusal));
            worker.recorder.checked(name, CheckResult::Failed);
            return Err(RequestEnd::AuthorizerFailed);
        }
    };
    worker.failing_authorizers.answered(name);
    worker.recorder.checked(name, result);
    answer
}

/// Sets these headers in the place of those of their names.
fn set(headers: &mut HeaderMap, these: &HeaderMap) {
    these.keys().for_each(|name| drop(headers.remove(name)));
    for (name, value) in these {
        headers.append(name.clone(), value.clone());
    }
}
