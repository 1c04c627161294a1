//! The form of requests and responses: what HTTP lets through, or its library, and what two readers could still read in two ways. Such a
//! request is refused before anything else is asked of it, and such a response is none.
//!
//! What must hold: policies read the headers that the application reads. So what ends with this connection is not among them, and what
//! would make another message of it by being taken away cannot be listed.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority,
};

/// What a `Connection` header may not list: without these a message has another body, another host or another sender. Envoy refuses some
/// of them as well (`HeaderUtility::sanitizeConnectionHeader`, "sanitize"); those by which a body ends are ours.
const FIXED: [&str; 12] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "trailer",
    "cookie",
    "authorization",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// What is looked at before it ends here: the request to go over to another protocol, and whether trailers are taken.
const READ_LATER: [HeaderName; 2] = [header::UPGRADE, header::TE];

/// The form of this request leaves no doubt about its body, its target and its host.
pub(super) fn is_plain<B>(request: &Request<B>) -> bool {
    let (uri, headers) = (request.uri(), request.headers());
    let is_options = request.method() == Method::OPTIONS;
    // `host:port` alone, of CONNECT (RFC 9112, 3.2.3): of others it is a path without its slash, and read as a host.
    let has_target = uri.scheme().is_some() || uri.authority().is_none();
    has_target
        && (uri.path() != "*" || is_options)
        && has_host(request)
        && is_plainly_coded(headers)
        && lists_plain(headers)
}

/// HTTP/1.1 names its host in any case (RFC 9112, 3.2), and HTTP/2 the same one wherever it does (RFC 9113, 8.3.1).
fn has_host<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST);
    match (request.version(), request.uri().authority()) {
        (Version::HTTP_11, _) => host.is_some(),
        (Version::HTTP_2, Some(authority)) => {
            host.is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
        }
        _ => true,
    }
}

/// Chunks alone, and once: any other coding would be lost with its header (RFC 9112, 6.1).
fn is_plainly_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

/// The form of this response leaves no doubt about its body: one length or chunks, and neither where there can be no body. Envoy refuses
/// a length beside chunks as well; to believe one of them would cut the body for a client that believes the other.
pub(super) fn is_plain_response<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (length, is_one) = (lengths.next(), lengths.next().is_none());
    let is_number = |length: &HeaderValue| {
        let digits = length.as_bytes();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    };
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let has_body = is_chunked || length.is_some_and(|length| length != "0");
    is_plainly_coded(headers)
        && is_one
        && length.is_none_or(is_number)
        && !(is_chunked && length.is_some())
        && !(has_body && response.status() == StatusCode::NO_CONTENT)
}

/// What `Connection` lists are names, and none of those that are [`FIXED`].
fn lists_plain(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().all(|value| {
        let names = value.to_str().ok().map(|value| value.split(',').map(str::trim));
        names.is_some_and(|mut names| {
            names.all(|name| {
                name.is_empty() || name.parse::<HeaderName>().is_ok_and(|name| !FIXED.contains(&name.as_str()))
            })
        })
    })
}

/// Removes the headers that `Connection` lists, which no one behind this connection reads.
pub(super) fn remove_listed(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let listed: Vec<HeaderName> =
        values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
    for name in listed.iter().filter(|name| !READ_LATER.contains(name)) {
        headers.remove(name);
    }
}

/// An authority of a host and, where there is one, a port. One with a user in it is another host to some who read it, and what
/// stands where a port stands is to no one.
pub(super) fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = text.get(authority.host().len()..).unwrap_or_default();
    !text.contains('@') && (port.is_empty() || is_port(port))
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.is_some_and(|digits| digits.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn forms() {
        let check = |version, method: &str, target: &str, headers: &[(&str, &str)], expect: bool| {
            let request = request(version, method, target, headers);
            assert_eq!(is_plain(&request), expect, "{version:?} {method} {target} {headers:?}");
        };
        let (old, one, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        check(one, "GET", "/a", &[("host", "cart")], true);
        check(one, "GET", "/a", &[], false);
        check(old, "GET", "/a", &[], true);
        check(one, "GET", "http://cart/a", &[("host", "other")], true);
        check(one, "GET", "http://cart/a", &[], false);
        check(one, "GET", "cart", &[("host", "cart")], false);
        check(one, "GET", "*", &[("host", "cart")], false);
        check(one, "OPTIONS", "*", &[("host", "cart")], true);
        check(two, "GET", "http://cart/a", &[], true);
        check(two, "GET", "http://cart/a", &[("host", "CART")], true);
        check(two, "GET", "http://cart/a", &[("host", "other")], false);
        for (coding, expect) in [("chunked", true), ("CHUNKED", true), ("gzip, chunked", false), ("", false)] {
            check(one, "GET", "/a", &[("host", "cart"), ("transfer-encoding", coding)], expect);
        }
        let twice = [("host", "cart"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        check(one, "GET", "/a", &twice, false);
        for name in FIXED {
            check(one, "GET", "/a", &[("host", "cart"), ("connection", &format!("x, {}", name.to_uppercase()))], false);
        }
        for (listed, expect) in [
            ("close", true),
            ("keep-alive, x-own", true),
            ("TE, upgrade", true),
            (", x,", true),
            ("a b", false),
            (":path", false),
        ] {
            check(one, "GET", "/a", &[("host", "cart"), ("connection", listed)], expect);
        }
    }

    #[test]
    fn what_is_listed_is_read_by_no_one() {
        let all = [
            ("connection", "x-own, Upgrade"),
            ("connection", "te"),
            ("x-own", "1"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("a", "b"),
        ];
        let mut headers = request(Version::HTTP_11, "GET", "/", &all).headers().clone();
        remove_listed(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["a", "connection", "te", "upgrade"]);
    }

    #[test]
    fn responses() {
        let check = |status: u16, headers: &[(&str, &str)], expect: bool| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            assert_eq!(is_plain_response(&response.body(()).unwrap()), expect, "{status} {headers:?}");
        };
        let (five, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        check(200, &[], true);
        check(200, &[five], true);
        check(200, &[chunked], true);
        check(200, &[five, chunked], false);
        check(200, &[five, five], false);
        check(200, &[chunked, chunked], false);
        for length in ["", "5, 5", "+5", "5 5", "x"] {
            check(200, &[("content-length", length)], false);
        }
        check(200, &[("transfer-encoding", "gzip")], false);
        check(204, &[], true);
        check(204, &[("content-length", "0")], true);
        check(204, &[five], false);
        check(204, &[chunked], false);
        check(304, &[five], true);
    }

    #[test]
    fn hosts() {
        for host in ["cart", "cart:80", "CART.shop:1", "[::1]:80", "[::1]", "10.0.0.1", "a_b", "cart.:80"] {
            assert!(is_host(host), "{host}");
        }
        for not in [
            "",
            "a b",
            "u@cart",
            "u:p@cart:80",
            "cart:",
            "cart:x",
            "cart:+5",
            "cart:65536",
            "cart:80:80",
            "[::1",
            "cart/x",
        ] {
            assert!(!is_host(not), "{not}");
        }
    }
}
