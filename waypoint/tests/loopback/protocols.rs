//! What is spoken: HTTP of both versions, gRPC's trailers, WebSocket, and protocols that are no HTTP.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    CART,
    mesh::{Answer, Mesh, empty, fed, full, request, run, until},
};

#[test]
fn bodies_stream_both_ways() {
    run(async {
        let mesh = Mesh::new("").await;
        for authority in [CART, "10.96.0.10:90"] {
            let mut sender = mesh.http2("web", authority).await;
            let (chunks, body) = fed();
            let under_way = sender.send_request(request("POST", "http://cart/", &[], body));
            chunks.send("a".into()).expect("sent");
            let mut answer = under_way.await.expect("answered before the end").into_body();
            for chunk in ["b", "c"] {
                let data = answer.frame().await.expect("a frame").expect("data").into_data().expect("data");
                assert_eq!(data.len(), 1);
                chunks.send(chunk.into()).expect("sent");
            }
            drop(chunks);
            assert_eq!(answer.collect().await.expect("whole").to_bytes(), "c");
            let large = vec![7; 3 << 20];
            let answer = sender.send_request(request("POST", "http://cart/", &[], full(large.clone()))).await;
            assert!(Answer::of(answer.expect("answered")).await.body == large, "{authority}");
        }
    });
}

#[test]
fn trailers_of_grpc_arrive() {
    run(async {
        let mesh = Mesh::new("").await;
        let mut sender = mesh.http2("web", "10.96.0.10:90").await;
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-trailers", "7")];
        let answer = sender.send_request(request("POST", "http://cart/p.S/M", &headers, full("x"))).await;
        let answer = Answer::of(answer.expect("answered")).await;
        assert_eq!((answer.header("x-version"), &answer.body[..]), ("HTTP/2.0", &b"x"[..]));
        assert!(answer.header("x-headers").contains("te=trailers"));
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "7");
        // What is answered here is answered in gRPC's way.
        mesh.node.refuses.set(401);
        let mut sender = mesh.http2("other", "10.96.0.10:90").await;
        let answer = sender.send_request(request("POST", "http://cart/p.S/M", &headers[..2], full("x"))).await;
        let answer = Answer::of(answer.expect("answered")).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "7"));
    });
}

#[test]
fn a_connection_is_another_protocols_after_101() {
    run(async {
        let mesh = Mesh::new("").await;
        let mut stream = mesh.connect("web", CART).await.expect("accepted");
        let head = "GET /chat HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"early") {
            assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "{}", String::from_utf8_lossy(&answer));
        }
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 101") && text.contains("upgrade: websocket"), "{text}");
        for n in 0..3_u8 {
            stream.write_all(&[n; 5]).await.expect("sent");
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.expect("back");
            assert_eq!(back, [n; 5]);
        }
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("ended"), 0);
    });
}

#[test]
fn a_websocket_of_a_library() {
    run(async {
        let mesh = Mesh::new("").await;
        let mut sender = mesh.http1("web", CART).await;
        let headers = [("connection", "x, upgrade"), ("upgrade", "websocket"), ("x", "own")];
        let answer = sender.send_request(request("GET", "/", &headers, empty())).await.expect("answered");
        assert_eq!(answer.status(), 101);
        assert!(!answer.headers()["x-headers"].to_str().expect("text").contains("x=own"), "a header of this hop");
    });
}

#[test]
fn bytes_of_ports_that_are_no_http() {
    run(async {
        let mesh = Mesh::new("").await;
        for port in [70, 72] {
            let mut stream = mesh.connect("web", &format!("10.96.0.10:{port}")).await.expect("accepted");
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.expect("sent");
            let mut back = [0; 14];
            stream.read_exact(&mut back).await.expect("back");
            assert_eq!(&back, b"*1\r\n$4\r\nPING\r\n");
            stream.shutdown().await.expect("ended");
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("ended"), 0, "half-close travels");
        }
        mesh.node.refuses.set(401);
        assert_eq!(mesh.connect("other", "10.96.0.10:70").await.err(), Some(401), "before a byte was taken");
    });
}

#[test]
fn who_speaks_first_decides_where_nothing_is_said() {
    run(async {
        let set =
            |settings: &mut underpass_waypoint::Settings| settings.first_bytes = std::time::Duration::from_millis(1);
        let mesh = Mesh::with("", set).await;
        let mut stream = mesh.connect("web", "10.96.0.10:71").await.expect("accepted");
        let mut hello = [0; 11];
        stream.read_exact(&mut hello).await.expect("the server speaks first");
        assert_eq!(&hello, b"220 ready\r\n");
        stream.write_all(b"HELO").await.expect("sent");
        stream.read_exact(&mut hello[..4]).await.expect("back");
        assert_eq!(&hello[..4], b"HELO");
        // A client that takes its time and then speaks HTTP is routed.
        let mut stream = mesh.connect("web", "10.96.0.10:60").await.expect("accepted");
        until("the server was asked", || mesh.asked.borrow().len() == 2).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("answered");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        assert_eq!(mesh.metric("underpass_waypoint_requests_total{end=\"finished\"}"), 1.0);
    });
}

#[test]
fn where_neither_side_speaks_the_connection_has_its_time_and_a_drain_ends_it() {
    run(async {
        let set =
            |settings: &mut underpass_waypoint::Settings| settings.first_bytes = std::time::Duration::from_millis(1);
        for (limits, ends) in
            [("tcp: {idleTimeout: 20ms}", true), ("tcp: {maxConnectionDuration: 20ms}", true), ("tcp: {}", false)]
        {
            let mesh = Mesh::with(&crate::connections::pool(limits, crate::connections::TO_V1), set).await;
            let mut stream = mesh.connect("web", "10.96.0.10:72").await.expect("accepted");
            until("the server was asked", || mesh.asked.borrow().len() == 1).await;
            if !ends {
                until("it waits", || mesh.node.open.get() == 1).await;
                mesh.waypoint().drain().await;
            }
            assert!(stream.read(&mut [0]).await.is_err(), "reset, {limits}");
            until("the endpoint heard of it", || mesh.node.open.get() == 0).await;
        }
    });
}

#[test]
fn http_that_is_none_is_answered() {
    run(async {
        let mesh = Mesh::new("").await;
        for (text, expect) in [
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400"),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"),
            ("nonsense\r\n\r\n", "HTTP/1.1 400"),
            ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", "HTTP/1.1 400"),
        ] {
            let mut stream = mesh.connect("web", CART).await.expect("accepted");
            stream.write_all(text.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read_buf(&mut answer).await.expect("read");
                assert!(n > 0, "{text:?}: {}", String::from_utf8_lossy(&answer));
            }
            assert!(answer.starts_with(expect.as_bytes()), "{text:?}: {}", String::from_utf8_lossy(&answer));
        }
        let many: Vec<_> = (0..200).map(|n| (format!("x-{n}"), "v".to_owned())).collect();
        let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(mesh.get("web", CART, "/", &many).await.status, 431);
    });
}

#[test]
fn a_client_that_goes_away_is_told_to_the_endpoint() {
    run(async {
        let mesh = Mesh::new("").await;
        // Over HTTP/2 a stream is reset, over HTTP/1 the connection ends.
        let mut sender = mesh.http2("web", "10.96.0.10:90").await;
        let under_way = sender.send_request(request("GET", "http://cart/hang", &[], empty()));
        let waited = tokio::task::spawn_local(under_way);
        until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 1).await;
        waited.abort();
        until("it was given up", || mesh.node.given_up.get() == 1).await;
        let stream = mesh.connect("web", CART).await.expect("accepted");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("begun");
        let driver = tokio::task::spawn_local(connection);
        let under_way = tokio::task::spawn_local(sender.send_request(request("GET", "/hang", &[], empty())));
        until("it came", || mesh.node.requests.borrow().values().sum::<u32>() == 2).await;
        under_way.abort();
        driver.abort();
        until("it was given up", || mesh.node.given_up.get() == 2).await;
        until("it is counted", || mesh.metric("underpass_waypoint_requests_total{end=\"client_reset\"}") == 2.0).await;
        let _: Bytes = Bytes::new();
    });
}

/// The answer to a text of HTTP/1, up to the end of its head.
async fn answer_to(mesh: &Mesh, text: &str) -> String {
    let mut stream = mesh.connect("web", CART).await.expect("accepted");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "{text:?}");
    }
    String::from_utf8(answer).expect("text")
}

#[test]
fn a_connection_goes_over_to_websocket_alone() {
    run(async {
        let mesh = Mesh::new("").await;
        // The application would go over to anything that it is asked for: so it is not asked.
        for protocol in ["h2c", "TLS/1.0", "websocket, h2c"] {
            let head = format!(
                "GET / HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            );
            let answer = answer_to(&mesh, &head).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{protocol}: {answer}");
            assert!(!answer.to_ascii_lowercase().contains("http2-settings="), "{answer}");
        }
    });
}

#[test]
fn targets_that_are_no_request_for_a_service() {
    run(async {
        let mesh = Mesh::new("").await;
        for head in [
            "CONNECT cart:80 HTTP/1.1\r\nHost: cart\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@cart\r\n\r\n",
            "GET http://cart/ HTTP/1.1\r\nHost: cart\r\nHost: other\r\n\r\n",
        ] {
            assert!(answer_to(&mesh, head).await.starts_with("HTTP/1.1 400"), "{head}");
        }
        assert!(mesh.node.requests.borrow().is_empty());
    });
}

#[test]
fn a_body_without_a_length_arrives_with_any_method() {
    run(async {
        let mesh = Mesh::new("").await;
        for method in ["GET", "POST"] {
            let mut sender = mesh.http1("web", CART).await;
            let (chunks, body) = fed();
            let mut asked = request(method, "/", &[], body);
            asked.headers_mut().insert("transfer-encoding", "chunked".parse().expect("value"));
            let under_way = sender.send_request(asked);
            chunks.send("searched".into()).expect("sent");
            drop(chunks);
            let answer = Answer::of(under_way.await.expect("answered")).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"searched"[..]), "{method}");
        }
    });
}
