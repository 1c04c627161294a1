//! The access log of requests: a line for each that ended, with what became of it.

use std::path::PathBuf;

use underpass_telemetry::{
    Format,
    access_log::{AccessLog, LineFormat, RequestLog, Settings, Target},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    CART,
    mesh::{Answer, Mesh, empty, full, request, run, until},
    routes::{ALL_TO_V1, routes},
};

/// A log, and its file.
pub(crate) struct Lines {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Lines {
    pub(crate) fn new(format: Format, text: &str) -> (RequestLog, Self) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("access.log");
        let log = AccessLog::start(&Settings { target: Target::File(path.clone()), ..Settings::default() });
        let format = LineFormat::new(format, text, "w-1").expect("a format");
        (RequestLog::new(log.expect("log"), format), Self { path, _folder: folder })
    }

    fn all(&self) -> Vec<String> {
        std::fs::read_to_string(&self.path).expect("read").lines().map(str::to_owned).collect()
    }

    /// The lines, once there are so many.
    pub(crate) async fn first(&self, count: usize) -> Vec<String> {
        until("lines", || self.all().len() >= count).await;
        let all = self.all();
        assert_eq!(all.len(), count, "{all:?}");
        all
    }
}

const SHORT: &str = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %ROUTE_NAME%";

#[test]
fn a_line_for_each_request_says_how_it_ended() {
    run(async {
        let (log, lines) = Lines::new(Format::Text, SHORT);
        let mesh = Mesh::logging(
            &routes(
                "{match: [{uri: {prefix: /hang}}], timeout: 50ms, route: [{destination: {host: cart, subset: v1}}]},
                 {match: [{uri: {prefix: /aborted}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: cart}}]},
                 {match: [{uri: {prefix: /tried}}], retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: cart, subset: v1}}]},
                 {match: [{uri: {prefix: /none}}], route: [{destination: {host: cart, subset: v3}}]},
                 {match: [{uri: {prefix: /direct}}], directResponse: {status: 204}},
                 {name: ok, match: [{uri: {prefix: /ok}}], rewrite: {uri: /new}, route: [{destination: {host: cart, subset: v1}}]}",
            ),
            log,
        )
        .await;
        let cluster = |subset: &str| format!("outbound|80|{subset}|cart.shop.svc.cluster.local");
        let (v1, v3) = (format!("10.0.0.2:8080 {}", cluster("v1")), format!("- {}", cluster("v3")));
        let reset = "upstream_reset_before_response_started{connection_failure}";
        let mut expect = Vec::new();
        for (path, end) in [
            ("/ok?a=1", format!("200 - via_upstream 1 {v1} ok")),
            ("/hang", format!("504 UT upstream_response_timeout 1 {v1} -")),
            ("/aborted", "418 FI fault_filter_abort 0 - - -".to_owned()),
            ("/tried", format!("503 URX via_upstream 2 {v1} -")),
            ("/none", format!("503 UH no_healthy_upstream 0 {v3} -")),
            ("/direct", "204 - direct_response 0 - - -".to_owned()),
            ("/unrouted", "404 NR route_not_found 0 - - -".to_owned()),
            ("/tried", format!("503 UF,URX {reset} 2 {v1} -")),
        ] {
            let is_last = end.contains("UF");
            mesh.node.refuses.set(if is_last { 503 } else { 0 });
            let pod = if is_last { "other" } else { "web" };
            mesh.get(pod, CART, path, if path == "/tried" { &[("x-fail", "v1=503")] } else { &[] }).await;
            expect.push(format!("GET {path} HTTP/1.1 {end}"));
        }
        let mut sender = mesh.http2("web", CART).await;
        let hangs = sender.send_request(request("GET", "http://cart/ok", &[], empty()));
        let answer = hangs.await.expect("answered");
        Answer::of(answer).await;
        expect.push(format!("GET /ok HTTP/2 200 - via_upstream 1 {v1} ok"));
        assert_eq!(lines.first(expect.len()).await, expect);
    });
}

#[test]
fn values_of_the_heads_and_the_bytes() {
    run(async {
        let text = r#"{"id": "%REQ(X-REQUEST-ID)%", "own": "%REQ(X-OWN)%", "set": "%REQ(X-SET)%", "pod": "%RESP(X-POD)%",
            "status": "%TRAILER(GRPC-STATUS)%", "grpc": "%GRPC_STATUS%", "authority": "%REQ(:AUTHORITY)%", "received": "%BYTES_RECEIVED%",
            "sent": "%BYTES_SENT%", "from": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "to": "%DOWNSTREAM_LOCAL_ADDRESS%",
            "by": "%UPSTREAM_LOCAL_ADDRESS%", "who": "%DOWNSTREAM_PEER_URI_SAN%", "whom": "%UPSTREAM_PEER_URI_SAN%",
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "host": "%HOSTNAME%", "xff": "%REQ(X-FORWARDED-FOR)%"}"#;
        let (log, lines) = Lines::new(Format::Json, text);
        let mesh = Mesh::logging(
            &routes("{headers: {request: {set: {x-set: '1'}}}, route: [{destination: {host: cart, subset: v1}}]}"),
            log,
        )
        .await;
        let mut sender = mesh.http2("web", "10.96.0.10:90").await;
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-trailers", "7"),
            ("x-own", "a \"b\""),
            ("x-request-id", "42"),
        ];
        let answer = sender.send_request(request("POST", "http://cart/p.S/M", &headers, full("four"))).await;
        Answer::of(answer.expect("answered")).await;
        let line: serde_json::Value = serde_json::from_str(&lines.first(1).await[0]).expect("JSON");
        let expect = serde_json::json!({
            "id": "42", "own": "a \"b\"", "set": "1", "pod": line["pod"], "status": "7", "grpc": "PermissionDenied",
            "authority": "cart", "received": 4, "sent": 4, "from": "10.0.0.1", "to": "10.96.0.10:90", "by": "10.0.0.100:0",
            "who": "spiffe://cluster.local/ns/front/sa/web", "whom": line["whom"], "failure": null, "host": "w-1",
            "xff": "10.0.0.1",
        });
        assert_eq!(line, expect);
        assert_eq!(line["whom"], format!("spiffe://cluster.local/ns/shop/sa/{}", line["pod"].as_str().expect("text")));
        // A failure to connect is named.
        mesh.node.refuses.set(503);
        mesh.get("other", CART, "/", &[]).await;
        let line: serde_json::Value = serde_json::from_str(&lines.first(2).await[1]).expect("JSON");
        assert_eq!(line["failure"].as_str(), Some("refused with status 503"));
        assert_eq!(line["id"].as_str().map(str::len), Some(36), "one is made");
    });
}

#[test]
fn one_that_the_client_gave_up_has_a_line_when_it_ends() {
    run(async {
        let (log, lines) = Lines::new(Format::Text, SHORT);
        let mesh = Mesh::logging(ALL_TO_V1, log).await;
        let mut sender = mesh.http2("web", CART).await;
        let hangs = tokio::task::spawn_local(sender.send_request(request("GET", "http://cart/hang", &[], empty())));
        until("it came", || mesh.node.requests.borrow().contains_key("v1")).await;
        assert_eq!(lines.all(), [""; 0], "it has not ended");
        hangs.abort();
        let cluster = "outbound|80|v1|cart.shop.svc.cluster.local";
        let expect = format!("GET /hang HTTP/2 0 DC downstream_remote_disconnect 1 10.0.0.2:8080 {cluster} -");
        assert_eq!(lines.first(1).await, [expect]);
    });
}

#[test]
fn connections_that_are_no_http_have_lines_with_their_bytes() {
    run(async {
        let format = "%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% \
            %UPSTREAM_CLUSTER% %DOWNSTREAM_LOCAL_ADDRESS% %UPSTREAM_TRANSPORT_FAILURE_REASON% %CONNECTION_TERMINATION_DETAILS%";
        let (log, lines) = Lines::new(Format::Text, format);
        let mesh = Mesh::logging(ALL_TO_V1, log).await;
        let line = |lines: Vec<String>, host: &str| lines.last().expect("a line").replace(host, "ENDPOINT");
        let mut stream = mesh.connect("web", "10.96.0.10:70").await.expect("accepted");
        stream.write_all(b"\0six..").await.expect("sent");
        let mut echoed = [0; 6];
        stream.read_exact(&mut echoed).await.expect("echoed");
        assert_eq!(lines.all(), [""; 0], "it has not ended");
        stream.shutdown().await.expect("ended");
        assert_eq!(stream.read(&mut echoed).await.expect("read"), 0);
        let pod = mesh.asked.borrow()[0].pod;
        let host = format!("{}:7070", crate::mesh::ip(pod));
        let cluster = "outbound|70||cart.shop.svc.cluster.local 10.96.0.10:70";
        assert_eq!(line(lines.first(1).await, &host), format!("- - 0 - 6 6 ENDPOINT {cluster} - -"));
        // The server speaks first, on a port that may be anything.
        let mut stream = mesh.connect("other", "10.96.0.10:71").await.expect("accepted");
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.expect("greeted");
        stream.shutdown().await.expect("ended");
        while stream.read(&mut greeting).await.expect("read") > 0 {}
        let text = lines.first(2).await[1].clone();
        assert!(text.starts_with("- - 0 - 0 11 "), "{text}");
        // One that is no HTTP on a port that may be anything, and one that turns out to be HTTP.
        mesh.get("web", "10.96.0.10:60", "/", &[]).await;
        let text = lines.first(3).await[2].clone();
        assert!(text.starts_with("GET HTTP/1.1 200 - 0 0 "), "{text}");
        mesh.node.refuses.set(401);
        assert_eq!(mesh.connect("web", "10.96.0.10:70").await.err(), Some(401));
        let text = lines.first(4).await[3].clone();
        assert!(text.ends_with("denied by the endpoint's node rbac_access_denied"), "{text}");
        mesh.node.refuses.set(503);
        assert_eq!(mesh.connect("web", "10.96.0.10:70").await.err(), Some(503));
        let text = lines.first(5).await[4].clone();
        assert!(text.starts_with("- - 0 UF 0 0 ") && text.ends_with("refused with status 503 -"), "{text}");
    });
}
