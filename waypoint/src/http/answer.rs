//! Answers that are made here: of routes without an endpoint, and of requests that end without a response. To a client of gRPC in
//! gRPC's way, or it would not understand them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use underpass_core::{http::RequestEnd, jwt::TokenFault};

use super::response::ResponseBody;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Where the realm is not known.
const INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// A request of gRPC (gRPC over HTTP2, "Requests").
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let of = |value: &HeaderValue| {
        let kind = value.as_bytes();
        kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    headers.get(header::CONTENT_TYPE).is_some_and(of)
}

/// The answer of a request that ended here.
pub(crate) fn of_end(end: RequestEnd, is_grpc: bool) -> Response<ResponseBody> {
    let (status, body) = end.answer().unwrap_or((503, ""));
    let mut response = own(status, body.into(), is_grpc);
    match end {
        RequestEnd::Overflow(_) => drop(response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"))),
        RequestEnd::Unauthenticated(_) => drop(response.headers_mut().insert(header::WWW_AUTHENTICATE, INVALID)),
        _ => {}
    }
    response
}

/// The answer to a request with a token that is not good (RFC 6750, 3), without its query, in which a token may stand.
pub(crate) fn unauthenticated(fault: TokenFault, authority: &str, path: &str, is_grpc: bool) -> Response<ResponseBody> {
    let mut response = of_end(RequestEnd::Unauthenticated(fault), is_grpc);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    // What would end the quoted text is left out.
    let realm: String = [authority, path].concat().chars().filter(|c| !matches!(c, '"' | '\\')).take(256).collect();
    let challenge = format!("Bearer realm=\"http://{realm}\", error=\"invalid_token\"");
    if let Ok(value) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// An answer with this status and body.
pub(crate) fn own(status: u16, body: Bytes, is_grpc: bool) -> Response<ResponseBody> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(ResponseBody::Own(None));
    if is_grpc {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, GRPC);
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(status)));
        if let Some(message) = HeaderValue::from_bytes(&body).ok().filter(|message| !message.is_empty()) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return response;
    }
    *response.status_mut() = code;
    if !body.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
        *response.body_mut() = ResponseBody::Own(Some(body));
    }
    response
}

/// An answer with this status of gRPC.
pub(crate) fn of_grpc_status(status: u8) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(None));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    response
}

/// The status of gRPC for one of HTTP (grpc/doc/http-grpc-status-mapping.md).
const fn grpc_status(status: u16) -> u16 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(response: &Response<ResponseBody>) -> String {
        let one = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}", value.to_str().unwrap());
        response.headers().iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ends_as_answers() {
        let check = |end: RequestEnd, is_grpc, status: u16, expect: &str| {
            let response = of_end(end, is_grpc);
            assert_eq!((response.status().as_u16(), headers(&response).as_str()), (status, expect), "{end:?}");
        };
        check(RequestEnd::NoRoute, false, 404, "");
        check(RequestEnd::Denied, false, 403, "content-type=text/plain");
        let overflow = RequestEnd::Overflow(underpass_core::http::Counted::Request);
        check(overflow, false, 503, "content-type=text/plain x-envoy-overloaded=true");
        check(RequestEnd::NoRoute, true, 200, "content-type=application/grpc grpc-status=12");
        let denied = "content-type=application/grpc grpc-status=7 grpc-message=RBAC: access denied";
        check(RequestEnd::Denied, true, 200, denied);
    }

    #[test]
    fn challenges() {
        let check = |fault: TokenFault, path: &str, is_grpc, status: u16, expect: &str| {
            let response = unauthenticated(fault, "a:80", path, is_grpc);
            assert_eq!((response.status().as_u16(), headers(&response).as_str()), (status, expect), "{fault:?}");
        };
        let at = |path: &str| format!("www-authenticate=Bearer realm=\"http://a:80{path}\", error=\"invalid_token\"");
        let text = "content-type=text/plain";
        check(TokenFault::Expired, "/x?access_token=y", false, 401, &format!("{text} {}", at("/x")));
        check(TokenFault::Audience, "/a\"b\\c", false, 403, &format!("{text} {}", at("/abc")));
        let grpc = "content-type=application/grpc grpc-status=16 grpc-message=Jwt verification fails";
        check(TokenFault::Signature, "/p.S/M", true, 200, &format!("{grpc} {}", at("/p.S/M")));
    }

    #[test]
    fn requests_of_grpc() {
        for (kind, expect) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("a/b", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(is_grpc(&headers), expect, "{kind}");
        }
    }
}
