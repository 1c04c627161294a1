//! The tokens of a request, before anything else looks at it: policies and routes see what its tokens have made of it, as in Envoy's
//! order of filters.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use underpass_core::{
    http::{RequestHead, Source},
    jwt::{Effects, TokenFault, TokenPlace, withheld},
    objects::JwtRule,
};

use super::{ClientConnection, exchange::Asked, head};
use crate::{
    cluster::Endpoint,
    judging::Head,
    metrics::Record,
    tokens::{self, Authenticated},
};

impl Asked<'_> {
    /// Checks the tokens by the rules that stand before the Service: the request has its principal then, and not what it must
    /// not have.
    ///
    /// # Errors
    /// A token that is not good.
    pub(super) async fn authenticate<B>(
        &mut self,
        request: &mut Request<B>,
        authority: &Rc<str>,
        path: &mut String,
        record: &Record,
    ) -> Result<(), TokenFault> {
        let called = &self.connection.called;
        let Some(rules) = self.configuration.tokens(&called.service) else { return Ok(()) };
        let rules: Vec<_> = rules.iter().collect();
        let authenticated = {
            let headers = head::pairs(request.headers());
            let head = RequestHead {
                method: request.method().as_str(),
                scheme: request.uri().scheme_str().unwrap_or("http"),
                authority,
                path,
                headers: &headers,
                port: called.port,
                source: self.source(),
            };
            tokens::authenticate(&self.connection.worker, &rules, &head).await?
        };
        if !authenticated.effects.is_empty() && self.configuration.selects_tokens() {
            self.as_it_came = Some(Rc::new(self.head_of(request, Rc::clone(authority), path)));
        }
        apply(&authenticated.effects, request.headers_mut(), path);
        record.note(|notes| notes.shows(path, request.headers()));
        self.token = authenticated.token;
        Ok(())
    }
}

/// Checks the tokens of a request, as it came, by the rules that select this endpoint: the head that it gets. Where there are none,
/// or no token, what the rules before the Service have found holds.
///
/// # Errors
/// A token that is not good.
pub(super) async fn at_endpoint(
    connection: &ClientConnection,
    endpoint: &Endpoint,
    sent: &Rc<Head>,
    came: &Head,
) -> Result<Rc<Head>, TokenFault> {
    let configuration = connection.worker.configuration();
    let workload = configuration.world.workload(&endpoint.workload);
    let rules = workload.map(|workload| configuration.tokens_at(workload)).unwrap_or_default();
    if rules.is_empty() {
        return Ok(Rc::clone(sent));
    }
    let headers = head::pairs(&came.headers);
    let Authenticated { token, effects } =
        tokens::authenticate(&connection.worker, &rules, &came.with(&headers)).await?;
    let (mut headers, mut path) = (sent.headers.clone(), sent.path.to_string());
    apply(&effects, &mut headers, &mut path);
    Ok(Rc::new(Head {
        method: sent.method.clone(),
        authority: Rc::clone(&sent.authority),
        path: path.into(),
        headers,
        port: sent.port,
        token: token.or_else(|| sent.token.clone()),
        allowed_by: sent.allowed_by.clone(),
    }))
}

/// Where tokens of a request stand that one of these rules keeps from the application.
pub(super) fn withheld_of<B>(rules: &[&JwtRule], request: &Request<B>) -> Vec<TokenPlace> {
    if rules.is_empty() {
        return Vec::new();
    }
    let headers = head::pairs(request.headers());
    withheld(
        rules,
        &RequestHead {
            method: request.method().as_str(),
            scheme: "http",
            authority: "",
            path: head::written(request.uri()),
            headers: &headers,
            port: 0,
            source: Source::default(), // of routes
        },
    )
}

/// Changes a request as its tokens say.
fn apply(effects: &Effects, headers: &mut HeaderMap, path: &mut String) {
    remove_tokens(&effects.remove_tokens, headers, path);
    for name in &effects.remove_headers {
        headers.remove(&**name);
    }
    for (name, value) in &effects.set_headers {
        let (name, value) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value.as_bytes()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
}

/// Removes what stands in these places, also from the path that a header names.
pub(crate) fn remove_tokens(places: &[TokenPlace], headers: &mut HeaderMap, path: &mut String) {
    for place in places {
        match place {
            TokenPlace::Header(name) => drop(headers.remove(&**name)),
            TokenPlace::Param(name) => {
                *path = without_parameter(path, name);
                let original = headers.get(head::X_ENVOY_ORIGINAL_PATH).and_then(|value| value.to_str().ok());
                if let Some(left) = original.map(|original| without_parameter(original, name)) {
                    head::add_original_path(headers, &left);
                }
            }
            TokenPlace::Cookie(name) => {
                let all: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
                headers.remove(header::COOKIE);
                for value in all {
                    if let Some(left) = without_cookie(&value, name) {
                        headers.append(header::COOKIE, left);
                    }
                }
            }
        }
    }
}

fn without_parameter(path: &str, name: &str) -> String {
    let Some((alone, query)) = path.split_once('?') else { return path.to_owned() };
    let is_left = |pair: &&str| pair.split('=').next() != Some(name);
    let left: Vec<&str> = query.split('&').filter(is_left).collect();
    if left.is_empty() { alone.to_owned() } else { [alone, "?", &left.join("&")].concat() }
}

/// None: nothing is left. A value that is no text has no token, and stays.
fn without_cookie(value: &HeaderValue, name: &str) -> Option<HeaderValue> {
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else { return Some(value.clone()) };
    let is_left = |pair: &&str| pair.split_once('=').is_none_or(|(known, _)| known.trim() != name);
    let left: Vec<&str> = text.split(';').map(str::trim).filter(is_left).collect();
    if left.is_empty() { None } else { HeaderValue::from_str(&left.join("; ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed() {
        let effects = Effects {
            remove_tokens: vec![
                TokenPlace::Header("authorization".into()),
                TokenPlace::Param("t".into()),
                TokenPlace::Cookie("t".into()),
            ],
            remove_headers: vec!["x-sub".into(), "x-none".into()],
            set_headers: vec![("x-sub".into(), "s".into())],
        };
        let check = |path: &str, headers: &[(&str, &str)], expect: (&str, &str)| {
            let mut request = Request::get("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (mut request, mut path) = (request.body(()).unwrap(), path.to_owned());
            apply(&effects, request.headers_mut(), &mut path);
            let left = request.headers().iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
            assert_eq!((path.as_str(), left.collect::<Vec<_>>().join(" ").as_str()), expect);
        };
        check("/a", &[], ("/a", "x-sub=s"));
        check("/a?t=1", &[("authorization", "Bearer x"), ("authorization", "Basic y")], ("/a", "x-sub=s"));
        check("/a?x=1&t=1&tt=2&t", &[("x-sub", "forged"), ("x-none", "forged")], ("/a?x=1&tt=2", "x-sub=s"));
        let rewritten = [("x-envoy-original-path", "/o?t=1&x=1")];
        check("/a?t=1", &rewritten, ("/a", "x-envoy-original-path=/o?x=1 x-sub=s"));
        check("/a", &[("cookie", "a=b; t=x;tt=y"), ("cookie", "t=z")], ("/a", "cookie=a=b; tt=y x-sub=s"));
    }
}
