//! Where a redirect leads.

use std::borrow::Cow;

use super::{RequestHead, elements};
use crate::objects::{HttpRedirect, RedirectPort};

/// `Location`: parts that the redirect does not say are those of the request. `matched` are the elements of the path that
/// its rule's condition has.
pub(super) fn location(redirect: &HttpRedirect, head: &RequestHead<'_>, matched: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme);
    let written = redirect.authority.as_deref().unwrap_or(head.authority);
    let (host, port) = split(written);
    let authority = match redirect.port {
        RedirectPort::Number(port) => with_port(host, port, scheme),
        RedirectPort::Called => with_port(host, head.port, scheme),
        RedirectPort::ProtocolDefault => Cow::Borrowed(host),
        // The port of one scheme says nothing to another one.
        RedirectPort::AsWritten
            if redirect.authority.is_none() && scheme != head.scheme && port == default(head.scheme) =>
        {
            Cow::Borrowed(host)
        }
        RedirectPort::AsWritten => Cow::Borrowed(written),
    };
    let path = match &redirect.uri {
        // Its own query takes the place of the request's.
        Some(uri) if uri.contains('?') => uri.to_string(),
        Some(uri) => head.query().map_or_else(|| uri.to_string(), |query| format!("{uri}?{query}")),
        None => {
            redirect.prefix.as_ref().map_or_else(|| head.path.to_owned(), |new| elements::replaced(head, matched, new))
        }
    };
    format!("{scheme}://{authority}{path}")
}

/// The port of its scheme is not written.
fn with_port<'h>(host: &'h str, port: u16, scheme: &str) -> Cow<'h, str> {
    match default(scheme).is_some_and(|default| default == port.to_string()) {
        true => Cow::Borrowed(host),
        false => Cow::Owned(format!("{host}:{port}")),
    }
}

/// Host and port, an address in its brackets.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn default(scheme: &str) -> Option<&'static str> {
    match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Source, *};

    #[test]
    fn locations() {
        let none = HttpRedirect {
            uri: None,
            prefix: None,
            authority: None,
            port: RedirectPort::AsWritten,
            scheme: None,
            status: 301,
        };
        let prefix = |new: &str| HttpRedirect { prefix: Some(new.into()), ..none.clone() };
        let uri = |uri: &str| HttpRedirect { uri: Some(uri.into()), ..none.clone() };
        let port = |port| HttpRedirect { port, ..none.clone() };
        let https = || HttpRedirect { scheme: Some("https".into()), ..none.clone() };
        let other = |port| HttpRedirect { authority: Some("b:9".into()), port, ..none.clone() };
        for (redirect, authority, path, expect) in [
            (none.clone(), "a", "/x?q", "http://a/x?q"),
            (uri("/y"), "a", "/x?q", "http://a/y?q"),
            (uri("/y?r"), "a", "/x?q", "http://a/y?r"),
            (uri("/y"), "a:81", "/x", "http://a:81/y"),
            (https(), "a:80", "/x", "https://a/x"),
            (https(), "a:81", "/x", "https://a:81/x"),
            (https(), "[fd00::1]:80", "/", "https://[fd00::1]/"),
            (https(), "[fd00::1]", "/", "https://[fd00::1]/"),
            (port(RedirectPort::Number(8443)), "a:81", "/", "http://a:8443/"),
            (port(RedirectPort::ProtocolDefault), "a:81", "/", "http://a/"),
            (port(RedirectPort::Called), "a", "/", "http://a:8080/"),
            (other(RedirectPort::AsWritten), "a", "/", "http://b:9/"),
            (other(RedirectPort::Number(7)), "a", "/", "http://b:7/"),
            (port(RedirectPort::Number(80)), "a:81", "/", "http://a/"),
            (HttpRedirect { port: RedirectPort::Number(443), ..https() }, "a:81", "/", "https://a/"),
            (HttpRedirect { port: RedirectPort::Number(80), ..https() }, "a", "/", "https://a:80/"),
            (prefix("/new"), "a", "/x/y?q", "http://a/new/y?q"),
            (prefix("/"), "a", "/x?q", "http://a/?q"),
        ] {
            let (source, headers) = (Source::default(), &[][..]);
            let head = RequestHead { method: "GET", scheme: "http", authority, path, headers, port: 8080, source };
            assert_eq!(location(&redirect, &head, "/x"), expect, "{redirect:?} {authority}{path}");
        }
    }
}
