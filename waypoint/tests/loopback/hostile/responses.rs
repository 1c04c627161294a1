//! Responses of HTTP/1 that two readers could read in two ways, or that are not whole: the client reads what the endpoint has said, or
//! an error. And what an endpoint says beyond its response is part of no other one.

use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::wire::{Raw, When, responses};
use crate::{
    CART,
    mesh::{Mesh, run},
    routes::ALL_TO_V1,
};

/// Bytes of the endpoint, whether its connection ends there, and what the client reads of it: status and body.
type Row<'r> = (&'r str, bool, &'r str);

/// Every row as the answer to a request with this method, on connections of its own.
async fn check(method: &str, rows: &[Row<'_>]) {
    let mesh = Mesh::new(ALL_TO_V1).await;
    let raw = Rc::new(Raw::default());
    *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
    let mut wrong = Vec::new();
    for (answer, closes, expect) in rows {
        *raw.answer.borrow_mut() = answer.as_bytes().to_vec();
        raw.closes.set(*closes);
        let text = format!("{method} /a HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n");
        let got = responses(&mesh, "web", text.as_bytes()).await;
        let got: Vec<_> = got.iter().map(|(status, body)| format!("{status} {body}").trim_end().to_owned()).collect();
        let got = got.join(" | ");
        // Of an answer that was made here its status says all.
        let got = if got.starts_with("50") { got.split(' ').next().unwrap_or_default().to_owned() } else { got };
        // Its head may be lost with the connection.
        let got = if got.ends_with("broken") { "broken".to_owned() } else { got };
        if got != *expect {
            let begin: String = answer.chars().take(120).collect();
            wrong.push(format!("{method} {begin:?}: {got:?}, not {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lengths_of_bodies() {
    run(check(
        "GET",
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, "200 hello"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, "200 hello"),
            ("HTTP/1.1 200 OK\r\n\r\nhello", true, "200 hello"),
            ("HTTP/1.0 200 OK\r\n\r\nhello", true, "200 hello"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                false,
                "502",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                false,
                "502",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", true, "502"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, "502"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                false,
                "502",
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\nhello", true, "502"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nhello", true, "502"),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true, "502"),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, "204"),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", false, "502"),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, "502"),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", false, "304"),
            // What ends with this connection is not the client's to read.
            ("HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello", false, "200 hello"),
        ],
    ));
    run(check(
        "HEAD",
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, "200"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, "200"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, "200"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false, "502"),
        ],
    ));
}

#[test]
fn what_is_not_whole_is_no_success() {
    run(check(
        "GET",
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", true, "broken"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, "broken"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true, "broken"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", true, "broken"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", true, "broken"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", false, "broken"),
            ("HTTP/1.1 200 OK\r\nContent-Le", true, "503"),
            ("", true, "503"),
        ],
    ));
}

#[test]
fn heads() {
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(100 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "x: y\r\n".repeat(101));
    let interim = format!(
        "{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(10_000)
    );
    run(check(
        "GET",
        &[
            (&large, false, "502"),
            (&many, false, "502"),
            (&interim, false, "200 ok"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, "200 ok"),
            ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", false, "502"),
            ("HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/1.1 200 OK\r\nX: y\x00\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/1.1 200 OK\r\nX: y\rz\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, "502"),
            ("ICY 200 OK\r\n\r\nhello", true, "502"),
            ("hello", true, "502"),
        ],
    ));
}

#[test]
fn bytes_beyond_a_response_are_part_of_no_other() {
    const BEYOND: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        for (when, beyond) in [
            (When::Whole, BEYOND),
            (When::Whole, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            (When::Whole, "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
            (When::Whole, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n0\r\n\r\n"),
            (When::Before, BEYOND),
        ] {
            let raw = Rc::new(Raw::default());
            *raw.answer.borrow_mut() = beyond.as_bytes().to_vec();
            raw.when.set(when);
            *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
            let text = "GET /a HTTP/1.1\r\nHost: cart\r\n\r\n".repeat(3);
            let last = "GET /a HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
            let got = responses(&mesh, "web", format!("{text}{last}").as_bytes()).await;
            assert!(got.len() == 4 && got.iter().all(|(_, body)| !body.contains("evil")), "{beyond:?}: {got:?}");
        }
    });
}

#[test]
fn a_response_that_comes_before_the_body_ends_its_connection() {
    run(async {
        let mesh = Mesh::new(ALL_TO_V1).await;
        let raw = Rc::new(Raw::default());
        raw.when.set(When::Head);
        *mesh.node.raw.borrow_mut() = Some(Rc::clone(&raw));
        let mut stream = mesh.connect("web", CART).await.expect("accepted");
        // The body does not come to its end, and what the endpoint has answered is whole.
        stream.write_all(b"POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 9\r\n\r\nhalf").await.expect("sent");
        let mut read = Vec::new();
        while !read.ends_with(b"ok") {
            assert!(stream.read_buf(&mut read).await.expect("read") > 0, "{}", String::from_utf8_lossy(&read));
        }
        // A request of the same source takes another connection.
        raw.when.set(When::Whole);
        let text = b"GET /next HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
        assert_eq!(responses(&mesh, "web", text).await, [("200".to_owned(), "ok".to_owned())]);
        assert_eq!(raw.connections.get(), 2);
        assert_eq!(raw.came.borrow().last().map(String::as_str), Some("GET /next"));
    });
}
