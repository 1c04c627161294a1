//! Answers of the API, and how the client reads them.

use expect_test::expect;
use tokio::{net::TcpStream, time::timeout};
use underpass_telemetry::admin::{Client, Limits, Listener, Method, Readiness, Router, Target};

use super::{DEADLINE, at, check, hyper, local, raw, serve, status_line};

#[tokio::test]
async fn routes_are_answered_and_others_are_told() {
    let server = serve(Limits::default());
    let at = at(&server);
    check(
        at,
        Method::GET,
        "/healthz",
        &expect![[r#"
        200
        {
          "status": "ok"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=a%20b+c",
        &expect![[r#"
        200
        "a b c"
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=%ff",
        &expect![[r#"
        400
        {
          "error": "query: \"%ff\" is not percent-encoded UTF-8"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/echo?q=1&q=2",
        &expect![[r#"
        400
        {
          "error": "query: \"q\" is given twice"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::DELETE,
        "/echo",
        &expect![[r#"
        405
        allow: GET, PUT
        {
          "error": "no DELETE on /echo: GET, PUT"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::POST,
        "/",
        &expect![[r#"
        405
        allow: GET
        {
          "error": "no POST on /: GET"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/nothing%0a",
        &expect![[r#"
        404
        {
          "error": "no /nothing%0a here; GET / lists what there is"
        }
    "#]],
    )
    .await;
    check(
        at,
        Method::GET,
        "/",
        &expect![[r#"
            200
            {
              "/change": [
                "POST"
              ],
              "/echo": [
                "GET",
                "PUT"
              ],
              "/healthz": [
                "GET"
              ],
              "/large": [
                "GET"
              ],
              "/never": [
                "GET"
              ],
              "/panic": [
                "GET"
              ]
            }
        "#]],
    )
    .await;
    let (status, headers, body) = hyper(at, Method::HEAD, "/healthz", Vec::new()).await;
    assert_eq!((status, headers["content-length"].to_str().unwrap(), &*body), (200, "21", ""));
}

#[tokio::test]
async fn a_body_is_read_within_its_limit() {
    let server = serve(Limits { body_bytes: 1000, ..Limits::default() });
    let put = |n: usize| hyper(at(&server), Method::PUT, "/echo", vec![b'x'; n]);
    assert_eq!(put(1000).await.2, "1000\n");
    let (status, _, body) = put(1001).await;
    assert_eq!((status, &*body), (413, "{\n  \"error\": \"a body has at most 1000 bytes\"\n}\n"));

    // Without a length, chunk by chunk: the limit counts what came.
    let chunked = "PUT /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunks = "ff\r\n".to_owned() + &"x".repeat(255) + "\r\n";
    let answer = raw(at(&server), (chunked.to_owned() + &chunks.repeat(5)).as_bytes(), false).await;
    assert_eq!(status_line(&answer), "HTTP/1.1 413 Payload Too Large");
}

#[tokio::test]
async fn errors_of_the_client_name_request_and_cause() {
    let server = serve(Limits::default());
    let at = at(&server);
    let client = Client::new(Target::Tcp(at));
    let told =
        async |path: &str| client.json::<u64>(path).await.unwrap_err().to_string().replace(&at.to_string(), "ADDRESS");
    assert_eq!(
        told("/nothing").await,
        "GET /nothing on ADDRESS: 404 Not Found: no /nothing here; GET / lists what there is"
    );
    assert_eq!(
        told("/healthz").await,
        "GET /healthz on ADDRESS: unexpected JSON: invalid type: map, expected u64 at line 1 column 0"
    );
    assert_eq!(told("a b").await, "\"a b\" is no path: invalid uri character");
    assert_eq!(client.json::<Option<String>>("/echo?q=x").await.unwrap().as_deref(), Some("x"));
    assert_eq!(client.json::<String>("/large").await.unwrap().len(), 8 << 20);

    drop(server);
    let refused = async { while TcpStream::connect(at).await.is_ok() {} };
    timeout(DEADLINE, refused).await.expect("no listener is left");
    assert_eq!(told("/healthz").await, "cannot connect to ADDRESS: Connection refused (os error 111)");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let readiness = Readiness::new();
    let gate = readiness.gate("world", "no World yet");
    let server = Listener::any(local()).unwrap().serve(readiness.routes(Router::new()), Limits::default()).unwrap();
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        503
        {
          "error": "not ready",
          "waiting": [
            {
              "part": "world",
              "reason": "no World yet"
            }
          ]
        }
    "#]],
    )
    .await;
    gate.open();
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        200
        {
          "ready": true
        }
    "#]],
    )
    .await;
    drop(gate);
    check(
        at(&server),
        Method::GET,
        "/healthz/ready",
        &expect![[r#"
        503
        {
          "error": "not ready",
          "waiting": [
            {
              "part": "world",
              "reason": "its task has ended"
            }
          ]
        }
    "#]],
    )
    .await;
}
