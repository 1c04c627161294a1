//! Requests of HTTP/1 that two readers could read in two ways: the endpoint reads what the waypoint has judged, or nothing.

use std::rc::Rc;

use super::wire::{Raw, answers};
use crate::mesh::{Mesh, run};

/// Behind each row on the same connection: the row must have no part of it.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";

/// Bytes of a client, what it is answered, and what the endpoint reads.
type Row = (&'static str, &'static str, &'static str);

/// Every row on a connection of its own, and [`NEXT`] behind it.
fn check(rows: &[Row]) {
    run(async {
        let mesh = Mesh::new("").await;
        let raw = Rc::new(Raw::default());
        *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
        let mut wrong = Vec::new();
        for (text, answer, endpoint) in rows {
            let got = answers(&mesh, "web", format!("{text}{NEXT}").as_bytes()).await;
            let came = raw.came.take().join(" | ");
            if (got.as_str(), came.as_str()) != (*answer, *endpoint) {
                wrong.push(format!("{text:?}\n  answered {got}, not {answer}\n  endpoint {came:?}, not {endpoint:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Nothing that follows on its connection is read.
const fn refused(text: &'static str) -> Row {
    (text, "400", "")
}

/// It is plain where it ends: what follows is another request.
const fn refused_alone(text: &'static str) -> Row {
    (text, "400 200", "GET /next")
}

#[test]
fn lengths_of_bodies() {
    check(&[
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello",
            "200 200",
            "POST /a; content-length: 5 = hello | GET /next",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "200 200",
            "POST /a; content-length: 5 = hello | GET /next",
        ),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5, 5\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5, 6\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: +5\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: -5\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 0x5\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5 5\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: \"5\"\r\n\r\nhello"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length:\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 18446744073709551616\r\n\r\n"),
        ("POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 18446744073709551615\r\n\r\n", "431", ""),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 0005\r\n\r\nhello",
            "200 200",
            "POST /a; content-length: 0005 = hello | GET /next",
        ),
        (
            "GET /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\nhello",
            "200 200",
            "GET /a; content-length: 5 = hello | GET /next",
        ),
        ("POST /a HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "POST /a | GET /next"),
    ]);
}

#[test]
fn chunks_and_what_says_so() {
    check(&[
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "200 200",
            "POST /a; transfer-encoding: chunked = hello | GET /next",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "200 200",
            "POST /a; transfer-encoding: chunked = hello | GET /next",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "200",
            "POST /a; transfer-encoding: chunked = hello",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "200",
            "POST /a; transfer-encoding: chunked = hello",
        ),
        refused(
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        refused(
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        refused(
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        ),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: , chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding:\r\n\r\n"),
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding:\tchunked\t\r\n\r\n0\r\n\r\n",
            "200 200",
            "POST /a; transfer-encoding: chunked | GET /next",
        ),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
        refused("POST /a HTTP/1.0\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ]);
}

#[test]
fn sizes_and_ends_of_chunks() {
    const HEAD: &str = "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = |chunks: &str, body: &str| {
        let endpoint = format!("POST /a; transfer-encoding: chunked = {body} | GET /next");
        let row: Row = (format!("{HEAD}{chunks}").leak(), "200 200", endpoint.leak());
        row
    };
    check(&[
        whole("5\r\nhello\r\n0\r\n\r\n", "hello"),
        whole("005\r\nhello\r\n00\r\n\r\n", "hello"),
        whole("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", "hello"),
        whole("5 ;a\r\nhello\r\n0\r\n\r\n", "hello"),
        whole("A\r\n0\r\n\r\nGET /\r\n0\r\n\r\n", "0\r\n\r\nGET /"),
    ]);
    // What is no chunk breaks off, also where a part of the body has gone on.
    check_broken(
        &[
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-1\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "\r\n",
            "5\nhello\n0\n\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ]
        .map(|chunks| format!("{HEAD}{chunks}")),
    );
}

/// Of no row the endpoint gets a whole request, or one behind it.
fn check_broken(rows: &[String]) {
    run(async {
        let mesh = Mesh::new("").await;
        let raw = Rc::new(Raw::default());
        *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
        for text in rows {
            let got = answers(&mesh, "web", format!("{text}{NEXT}").as_bytes()).await;
            let came = raw.came.take();
            assert_eq!(got, "400", "{text:?}");
            assert!(came.iter().all(|came| came.starts_with("broke off: POST")), "{text:?}: {got} {came:?}");
        }
    });
}

#[test]
fn lines_and_names() {
    check(&[
        // A line feed alone ends a line (RFC 9112, 2.2), for policies and the endpoint alike: what goes on has none.
        ("GET /a HTTP/1.1\nHost: cart\n\n", "200 200", "GET /a | GET /next"),
        ("GET /a HTTP/1.1\r\nHost: cart\nX: 1\r\n\r\n", "200 200", "GET /a; x: 1 | GET /next"),
        refused("GET /a HTTP/1.1\r\nHost: cart\rX: 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX: 1\r2\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX: 1\r\n 2\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX: 1\r\n\t2\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\n Host: cart\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX: 1\x002\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX\x00: 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX : 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX Y: 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\n: 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX(: 1\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nX\u{e9}: 1\r\n\r\n"),
        refused("GET  /a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET /a  HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET\t/a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET /a b HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused(" GET /a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET /a HTTP/1.2\r\nHost: cart\r\n\r\n"),
        refused("GET /a HTTP/2.0\r\nHost: cart\r\n\r\n"),
        refused("GET /a http/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET /a\r\n\r\n"),
        refused("G(T /a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        ("\r\nGET /a HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "GET /a | GET /next"),
        ("GET /a HTTP/1.1\r\nHost: cart\r\nX:1\r\nY: \t2 \t\r\n\r\n", "200 200", "GET /a; x: 1; y: 2 | GET /next"),
        ("get /a HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "get /a | GET /next"),
    ]);
}

#[test]
fn headers_of_one_connection() {
    check(&[
        (
            "POST /a HTTP/1.1\r\nHost: cart\r\nConnection: x-own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: 5\r\nContent-Length: 1\r\n\r\nx",
            "200 200",
            "POST /a; content-length: 1 = x | GET /next",
        ),
        (
            "GET /a HTTP/1.1\r\nHost: cart\r\nProxy-Connection: keep-alive\r\nTE: gzip, trailers\r\n\r\n",
            "200 200",
            "GET /a; te: trailers | GET /next",
        ),
        ("GET /a HTTP/1.1\r\nHost: cart\r\nTE: gzip\r\n\r\n", "200 200", "GET /a | GET /next"),
        // What a message means without these is another message.
        refused("POST /a HTTP/1.1\r\nHost: cart\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\nx"),
        refused(
            "POST /a HTTP/1.1\r\nHost: cart\r\nConnection: close, transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: Host\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: x-forwarded-for\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: x, X-Forwarded-Proto\r\n\r\n"),
        refused(
            "GET /a HTTP/1.1\r\nHost: cart\r\nConnection: x\r\nConnection: Authorization\r\nAuthorization: x\r\n\r\n",
        ),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: cookie\r\nCookie: a=b\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: :path\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\nHost: cart\r\nConnection: a b\r\n\r\n"),
    ]);
}

#[test]
fn targets_and_hosts() {
    check(&[
        ("GET http://cart/a HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "GET /a | GET /next"),
        ("GET http://cart/a HTTP/1.1\r\nHost: other\r\n\r\n", "200 200", "GET /a | GET /next"),
        ("GET http://cart HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "GET / | GET /next"),
        refused_alone("GET http://cart?a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET http://cart/a HTTP/1.1\r\n\r\n"),
        refused_alone("GET http://u@cart/a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET http:///a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("GET /a HTTP/1.1\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost:\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart\r\nHost: cart\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart, other\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart other\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart/x\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart:80:80\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart:x\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: cart:99999\r\n\r\n"),
        refused_alone("GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        refused("GET a HTTP/1.1\r\nHost: cart\r\n\r\n"),
        ("GET /a#b HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "GET /a | GET /next"),
        refused("GET * HTTP/1.1\r\nHost: cart\r\n\r\n"),
        refused("CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n"),
        refused("GET cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: cart\r\n\r\n", "200 200", "OPTIONS * | GET /next"),
    ]);
}

#[test]
fn heads_that_are_too_large() {
    let large = format!("GET /a HTTP/1.1\r\nHost: cart\r\nX: {}\r\n\r\n", "x".repeat(100 << 10));
    let unending = format!("GET /a HTTP/1.1\r\nHost: cart\r\nX: {}", "x".repeat(1 << 20));
    let many = format!("GET /a HTTP/1.1\r\nHost: cart\r\n{}\r\n", "X: y\r\n".repeat(100));
    check(&[(large.leak(), "431", ""), (unending.leak(), "431", ""), (many.leak(), "431", "")]);
}

#[test]
fn trailers_are_no_headers() {
    const HEAD: &str =
        "POST /a HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    check(&[
        (
            format!("{HEAD}X-Sum: 1\r\n\r\n").leak(),
            "200 200",
            "POST /a; te: trailers; transfer-encoding: chunked = hello | GET /next",
        ),
        (
            format!("{HEAD}Content-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: other\r\n\r\n").leak(),
            "200 200",
            "POST /a; te: trailers; transfer-encoding: chunked = hello | GET /next",
        ),
    ]);
    check_broken(
        &["X\r\n\r\n", "X : 1\r\n\r\n", "X: 1\r\n 2\r\n\r\n", "X: \x00\r\n\r\n"]
            .map(|trailers| format!("{HEAD}{trailers}")),
    );
}
