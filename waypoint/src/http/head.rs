//! Heads of requests and responses: what of a client's head goes on to the endpoint and back, and what a route changes in it.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{self, Entry},
    uri::{PathAndQuery, Scheme},
};
use underpass_core::{
    Identity,
    http::{Dice, HttpVersion},
    objects::HeaderChanges,
};

use super::form;

const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers by which proxies tell each other how a request is handled and by whom it was sent. Envoy believes none of a client that it
/// does not trust, and consumes the others (`cleanInternalHeaders`, `RetryStateImpl::create`). Of clients none is believed here:
/// `x-envoy-original-path` alone would have the log say another path than the request had.
const OF_PROXIES: [&str; 23] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-is-timeout-retry",
    "x-envoy-max-retries",
    "x-envoy-original-dst-host",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// What the header `x-forwarded-client-cert` of a request says to the endpoint. None of a client is believed: it would be
/// a claim about who has called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// Nothing: it is removed (Envoy's SANITIZE).
    #[default]
    Removed,
    /// The client's identity, and the waypoint's (SANITIZE_SET).
    Set,
    /// The same, behind what the client says: for clients that are trusted gateways (APPEND_FORWARD).
    Appended,
}

impl ClientCert {
    pub(crate) fn change(self, headers: &mut HeaderMap, own: &Identity, client: &Identity) {
        let said = headers.remove(X_FORWARDED_CLIENT_CERT);
        let said = said.as_ref().filter(|_| self == Self::Appended);
        if self == Self::Removed {
            return;
        }
        let mut all = said.map(|said| [said.as_bytes(), b","].concat()).unwrap_or_default();
        all.extend_from_slice(format!("By={};URI={}", own.uri(), client.uri()).as_bytes());
        if let Ok(value) = HeaderValue::from_bytes(&all) {
            headers.insert(X_FORWARDED_CLIENT_CERT, value);
        }
    }
}

/// The authority of a request: of its target, else its `Host`. None: it has none, or several.
pub(crate) fn authority<B>(request: &Request<B>) -> Option<&str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return None;
    }
    let text = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => host?.to_str().ok(),
    };
    text.filter(|text| form::is_host(text))
}

/// The client asks for another protocol on its connection (RFC 9110, 7.8).
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && lists(request.headers(), &header::CONNECTION, "upgrade")
}

fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(word))
}

/// Removes what a client says in the name of a proxy. Most have nothing of the kind, which costs one look.
pub(crate) fn remove_claims(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
        OF_PROXIES.iter().for_each(|name| drop(headers.remove(*name)));
    }
}

/// Removes what is about one connection alone (RFC 9110, 7.6.1); `te: trailers` stays, for gRPC.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
    };
    let has_trailers = lists(headers, &header::TE, "trailers");
    for name in listed.iter().chain(&[
        header::CONNECTION,
        HTTP2_SETTINGS,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
        header::TE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ]) {
        headers.remove(name);
    }
    if has_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What every request gets on its way: who sent it, and a name by which it can be found in all logs.
pub(crate) fn add_origin(headers: &mut HeaderMap, client: IpAddr, dice: Dice) {
    let from = client.to_string();
    match headers.entry(X_FORWARDED_FOR) {
        Entry::Occupied(mut known) => {
            let mut all = Vec::new();
            for value in known.iter() {
                all.extend_from_slice(value.as_bytes());
                all.extend_from_slice(b",");
            }
            all.extend_from_slice(from.as_bytes());
            if let Ok(value) = HeaderValue::from_bytes(&all) {
                known.insert(value);
            }
        }
        Entry::Vacant(new) => {
            if let Ok(value) = HeaderValue::from_str(&from) {
                new.insert(value);
            }
        }
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Entry::Vacant(new) = headers.entry(X_REQUEST_ID)
        && let Ok(value) = HeaderValue::from_str(&request_id(dice))
    {
        new.insert(value);
    }
}

/// The path before a rewrite, as policies have read it; endpoints and the access log look for it here.
pub(crate) fn add_original_path(headers: &mut HeaderMap, path: &str) {
    if let Ok(value) = HeaderValue::from_str(path) {
        headers.insert(X_ENVOY_ORIGINAL_PATH, value);
    }
}

/// The path of a request as the client has written it, with its query.
pub(crate) fn written(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// The headers, lent to what decides.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// A UUID of version 4 (RFC 9562, 5.4).
fn request_id(dice: Dice) -> String {
    let [high, low] = dice.name();
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xfff);
    let (d, e) = (low >> 48 & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

/// Changes headers as a route says: first what is removed, then what is set and added. `host` is not among them: an authority is
/// answered, where one is set.
pub(crate) fn change<'c>(headers: &mut HeaderMap, changes: &'c HeaderChanges) -> Option<&'c str> {
    for name in &changes.remove {
        headers.remove(&**name);
    }
    let mut authority = None;
    for (name, value) in &changes.set {
        if is_host(name) {
            authority = Some(&**value);
        } else if let Some((name, value)) = parsed(name, value) {
            headers.insert(name, value);
        }
    }
    for (name, value) in changes.add.iter().filter(|(name, _)| !is_host(name)) {
        if let Some((name, value)) = parsed(name, value) {
            headers.append(name, value);
        }
    }
    authority
}

fn is_host(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}

fn parsed(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

/// The target of a request to an endpoint: the path alone by HTTP/1, which has the authority in `Host`.
pub(crate) fn target(
    version: HttpVersion,
    scheme: Scheme,
    authority: &str,
    path: &str,
    method: &Method,
) -> Result<Uri, http::Error> {
    let path: PathAndQuery = if path == "*" && method == Method::OPTIONS {
        PathAndQuery::from_static("*")
    } else {
        PathAndQuery::from_maybe_shared(bytes::Bytes::copy_from_slice(path.as_bytes()))?
    };
    match version {
        HttpVersion::Http1 => Ok(Uri::from(path)),
        HttpVersion::Http2 => Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build(),
    }
}

/// Makes headers those of a request in this version to this authority.
pub(crate) fn fit(
    headers: &mut HeaderMap,
    version: HttpVersion,
    authority: &str,
    is_of_unknown_length: bool,
) -> Result<(), http::Error> {
    headers.remove(header::TRANSFER_ENCODING);
    match version {
        HttpVersion::Http1 => {
            headers.insert(header::HOST, HeaderValue::from_str(authority)?);
            join_cookies(headers);
            if is_of_unknown_length {
                // Without a word about its length a body of GET would be none.
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        HttpVersion::Http2 => drop(headers.remove(header::HOST)),
    }
    Ok(())
}

/// What HTTP/2 may send in several headers is one in HTTP/1 (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn text(headers: &HeaderMap) -> String {
        let one = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}", value.to_str().unwrap());
        let mut all: Vec<_> = headers.iter().map(one).collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn headers_of_one_connection_end_here() {
        let check = |all: &[(&str, &str)], expect: &str| {
            let mut headers = headers(all);
            remove_hop_by_hop(&mut headers);
            assert_eq!(text(&headers), expect, "{all:?}");
        };
        check(&[("connection", "keep-alive, X-Own"), ("x-own", "1"), ("keep-alive", "5"), ("a", "b")], "a=b");
        check(&[("te", "trailers, deflate"), ("transfer-encoding", "chunked")], "te=trailers");
        check(&[("te", "deflate"), ("upgrade", "h2c"), ("proxy-connection", "x")], "");
    }

    #[test]
    fn no_client_speaks_for_a_proxy() {
        let check = |all: &[(&str, &str)], expect: &str| {
            let mut headers = headers(all);
            remove_claims(&mut headers);
            assert_eq!(text(&headers), expect, "{all:?}");
        };
        let all = OF_PROXIES.map(|name| (name, "x"));
        check(&all, "");
        check(
            &[&all[..], &[("x-envoy-external-address", "1.1.1.1"), ("a", "b")]].concat(),
            "a=b x-envoy-external-address=1.1.1.1",
        );
        check(&[("x-own", "1")], "x-own=1");
    }

    #[test]
    fn a_request_says_where_it_comes_from() {
        let mut made = headers(&[]);
        add_origin(&mut made, "10.0.0.1".parse().unwrap(), Dice(7));
        let id = made.get("x-request-id").unwrap().to_str().unwrap().to_owned();
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!((parts, &id[14..15]), (vec![8, 4, 4, 4, 12], "4"));
        assert_eq!(text(&made), format!("x-forwarded-for=10.0.0.1 x-forwarded-proto=http x-request-id={id}"));
        let mut known =
            headers(&[("x-forwarded-for", "1.1.1.1"), ("x-request-id", "r"), ("x-forwarded-proto", "https")]);
        known.append("x-forwarded-for", HeaderValue::from_static("2.2.2.2"));
        add_origin(&mut known, "fd00::1".parse().unwrap(), Dice(7));
        let expect = "x-forwarded-for=1.1.1.1,2.2.2.2,fd00::1 x-forwarded-proto=https x-request-id=r";
        assert_eq!(text(&known), expect);
    }

    #[test]
    fn no_client_says_who_it_is() {
        let of = |account: &str| Identity::new(&underpass_core::TrustDomain::default(), "shop", account);
        let check = |how: ClientCert, said: &[&str], expect: &str| {
            let mut headers = headers(&[]);
            for value in said {
                headers.append("x-forwarded-client-cert", value.parse().unwrap());
            }
            how.change(&mut headers, &of("w"), &of("web"));
            assert_eq!(text(&headers), expect, "{how:?} {said:?}");
        };
        let own = "By=spiffe://cluster.local/ns/shop/sa/w;URI=spiffe://cluster.local/ns/shop/sa/web";
        check(ClientCert::Removed, &["URI=admin", "URI=root"], "");
        check(ClientCert::Set, &["URI=admin"], &format!("x-forwarded-client-cert={own}"));
        check(ClientCert::Set, &[], &format!("x-forwarded-client-cert={own}"));
        check(ClientCert::Appended, &["URI=a"], &format!("x-forwarded-client-cert=URI=a,{own}"));
        check(ClientCert::Appended, &[], &format!("x-forwarded-client-cert={own}"));
    }

    #[test]
    fn changes_of_a_route() {
        let pairs = |all: &[(&str, &str)]| all.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let changes = HeaderChanges {
            set: pairs(&[("a", "2"), ("host", "other")]),
            add: pairs(&[("b", "2"), ("c", "1")]),
            remove: vec!["d".into(), "c".into()],
        };
        let mut all = headers(&[("a", "1"), ("b", "1"), ("c", "0"), ("d", "1")]);
        assert_eq!(change(&mut all, &changes), Some("other"));
        assert_eq!(text(&all), "a=2 b=1 b=2 c=1");
    }

    #[test]
    fn authorities() {
        let check = |uri: &str, hosts: &[&str], expect: Option<&str>| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            assert_eq!(authority(&request.body(()).unwrap()), expect, "{uri} {hosts:?}");
        };
        check("/x", &["cart:80"], Some("cart:80"));
        check("/x", &["cart", "cart"], None);
        check("/x", &["a b"], None);
        check("/x", &[], None);
        check("http://cart/x", &["other"], Some("cart"));
        check("http://cart/x", &["other", "more"], None);
        check("/x", &["user@cart"], None);
        check("http://user@cart/x", &[], None);
    }
}
