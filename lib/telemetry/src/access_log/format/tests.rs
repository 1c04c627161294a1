//! Formats in, lines out; and what is refused.

use expect_test::{Expect, expect};
use underpass_core::{Identity, TrustDomain};

use super::*;

fn headers(all: &[(&str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

/// The line of a request.
fn line(format: &LineFormat) -> String {
    let request = headers(&[
        ("user-agent", "curl/8 \"x\"\\"),
        ("x-request-id", "42-a"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-envoy-original-path", "/old?q=1"),
        ("x-empty", ""),
    ]);
    let (cluster, identity) = (
        underpass_core::http::ClusterKey {
            host: "cart.shop.svc.cluster.local".into(),
            port: 80,
            subset: Some("v1".into()),
        },
        Identity::new(&TrustDomain::default(), "front", "web"),
    );
    let kept = [
        format.keep_request(&request),
        format.keep_response(&headers(&[("x-envoy-upstream-service-time", "7")])),
        format.keep_trailers(&headers(&[("grpc-message", "no such item")])),
    ];
    let [request_headers, response_headers, trailers] = &kept;
    let entry = Entry {
        began_unix_us: 1_709_211_909_012_345,
        duration_us: 1_234_567,
        request_us: Some(1_000),
        response_us: None,
        bytes_received: 12,
        bytes_sent: 345,
        request: Some(RequestParts {
            method: "GET",
            scheme: "http",
            authority: "cart",
            path: "/new?q=1",
            protocol: "HTTP/2",
            grpc_status: Some(7),
        }),
        code: 503,
        details: Some("upstream_reset_before_response_started{connection failure}"),
        flags: "UF,URX",
        termination: None,
        failure: Some("refused with status 503"),
        upstream: Some("10.0.0.2:8080".parse().unwrap()),
        upstream_local: Some("10.0.0.100:0".parse().unwrap()),
        upstream_identity: None,
        cluster: Some(&cluster),
        attempts: 3,
        local: "10.96.0.10:80".parse().unwrap(),
        remote: "10.0.0.1:50000".parse().unwrap(),
        peer: Some(&identity),
        own: None,
        route: None,
        request_headers,
        response_headers,
        trailers,
    };
    let mut out = String::new();
    format.write(&mut out, &entry);
    out
}

fn check(format: Format, text: &str, expect: &Expect) {
    expect.assert_eq(&line(&LineFormat::new(format, text, "node-1").unwrap()));
}

#[test]
fn operators() {
    let check = |operator: &str, want: &str| {
        let format = LineFormat::new(Format::Text, operator, "node-1").unwrap();
        assert_eq!(line(&format).strip_suffix('\n'), Some(want), "{operator}");
    };
    check("100%% %HOSTNAME%", "100% node-1");
    check("%START_TIME% %EMIT_TIME%", "2024-02-29T13:05:09.012Z 2024-02-29T13:05:10.246Z");
    check("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2024/02/29T13:05:09+0000 1709211909");
    check("%START_TIME(%s.%3f)%", "1709211909.012");
    check("%START_TIME(%Y/%m/%dT%H:%M:%S%z (UTC))%", "2024/02/29T13:05:09+0000 (UTC)");
    check("%START_TIME((%Y) %m)% (%START_TIME(%d)%)", "(2024) 02 (29)");
    check("%REQ(:METHOD)% %REQ(:scheme)% %REQ(:AUTHORITY)% %REQ(Host)%", "GET http cart cart");
    check("%REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(X-NONE?:PATH)%", "/new?q=1 /old?q=1 /new?q=1");
    check("%REQ_WITHOUT_QUERY(:PATH)% %REQ(:PATH):4% %REQ(:PATH):400%", "/new /new /new?q=1");
    check("%REQ(X-NONE?:PATH):4% %REQ(:PATH?X-NONE):5% %REQ(:PATH?)% %REQ(?:PATH):2%", "/new /new? /new?q=1 /n");
    check("%REQ(X-NONE)% [%REQ(X-EMPTY)%] %REQ(:no)%", "- [] -");
    check(r#""%REQ(USER-AGENT)%""#, r#""curl/8 \"x\"\\""#);
    check("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(:STATUS)% %TRAILER(Grpc-Message)%", "7 503 no such item");
    check("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/2 503 UF,URX");
    check("%RESPONSE_CODE_DETAILS%", "upstream_reset_before_response_started{connection_failure}");
    check("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "upstream_reset_before_response_started{connection failure}");
    check("%CONNECTION_TERMINATION_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%", "- refused with status 503");
    check("%BYTES_RECEIVED% %BYTES_SENT%", "12 345");
    check("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION%", "1234 1 -");
    check("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.2:8080 10.0.0.2");
    check("%UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS%", "outbound|80|v1|cart.shop.svc.cluster.local 10.0.0.100:0");
    check("%UPSTREAM_REQUEST_ATTEMPT_COUNT% %ROUTE_NAME% %REQUESTED_SERVER_NAME%", "3 - -");
    check("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "10.96.0.10:80 80");
    check("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1:50000 10.0.0.1");
    check("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.1:50000");
    check("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/front/sa/web");
    check("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%", "PermissionDenied PERMISSION_DENIED");
    check("%GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", "7 7");
    check("%DYNAMIC_METADATA(a:b)% %DYNAMIC_METADATA(a:b):10% %METADATA(ROUTE:a:(b)):3%", "- - -");
    check("%FILTER_STATE(a:PLAIN):8% %CEL(request.headers['a'].matches('(b)'))% %START_TIME_LOCAL(%Q)%", "- - -");
    check("%PROTOCOL()% %HOSTNAME()% %START_TIME()%", "HTTP/2 node-1 2024-02-29T13:05:09.012Z");
    check("%REQUESTED_SERVER_NAME(SNI_ONLY)% %REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%", "- -");
}

#[test]
fn formats_of_istio() {
    check(
        Format::Text,
        "",
        &expect![[r#"
        [2024-02-29T13:05:09.012Z] "GET /old?q=1 HTTP/2" 503 UF,URX upstream_reset_before_response_started{connection_failure} - "refused with status 503" 12 345 1234 7 "10.0.0.1" "curl/8 \"x\"\\" "42-a" "cart" "10.0.0.2:8080" outbound|80|v1|cart.shop.svc.cluster.local 10.0.0.100:0 10.96.0.10:80 10.0.0.1:50000 - -
    "#]],
    );
    check(
        Format::Json,
        "",
        &expect![[r#"
        {"authority":"cart","bytes_received":12,"bytes_sent":345,"connection_termination_details":null,"downstream_local_address":"10.96.0.10:80","downstream_remote_address":"10.0.0.1:50000","duration":1234,"method":"GET","path":"/old?q=1","protocol":"HTTP/2","request_id":"42-a","requested_server_name":null,"response_code":503,"response_code_details":"upstream_reset_before_response_started{connection_failure}","response_flags":"UF,URX","route_name":null,"start_time":"2024-02-29T13:05:09.012Z","upstream_cluster":"outbound|80|v1|cart.shop.svc.cluster.local","upstream_host":"10.0.0.2:8080","upstream_local_address":"10.0.0.100:0","upstream_service_time":"7","upstream_transport_failure_reason":"refused with status 503","user_agent":"curl/8 \"x\"\\","x_forwarded_for":"10.0.0.1"}
    "#]],
    );
    let default = LineFormat::new(Format::Text, "", "").unwrap();
    assert_eq!(default.unserved(), [""; 0]);
}

#[test]
fn a_text_of_several_lines_is_written_so() {
    let text = "[%START_TIME%] \"%REQ(:METHOD)%\"\n%RESPONSE_CODE% %DURATION%\n";
    check(
        Format::Text,
        text,
        &expect![[r#"
        [2024-02-29T13:05:09.012Z] "GET"
        503 1234
    "#]],
    );
}

#[test]
fn json_keeps_types_and_nests() {
    let text = r#"{
        "code": "%RESPONSE_CODE%", "none": "%ROUTE_NAME%", "both": "%REQ(:METHOD)% \"%REQ(USER-AGENT)%\" %ROUTE_NAME%",
        "number": 1, "yes": true, "text": "plain \"x\"", "host": "%HOSTNAME%", "empty": "",
        "nested": {"list": ["%UPSTREAM_HOST%", {}, []]}
    }"#;
    check(
        Format::Json,
        text,
        &expect![[r#"
        {"both":"GET \"curl/8 \"x\"\\\" -","code":503,"empty":"","host":"node-1","nested":{"list":["10.0.0.2:8080",{},[]]},"none":null,"number":1,"text":"plain \"x\"","yes":true}
    "#]],
    );
    let line = line(&LineFormat::new(Format::Json, text, "node-1").unwrap());
    assert!(serde_json::from_str::<Json>(&line).is_ok());
}

#[test]
fn what_nothing_here_knows_is_named() {
    let format = LineFormat::new(Format::Text, "%TRACE_ID% %METADATA(ROUTE:a)% %TRACE_ID%", "").unwrap();
    assert_eq!(format.unserved(), ["%TRACE_ID%", "%METADATA%"]);
}

#[test]
fn wrong_formats() {
    let check = |format, text: &str, want: &str| {
        assert_eq!(LineFormat::new(format, text, "").unwrap_err().to_string(), want);
    };
    let text = |text: &str, want: &str| check(Format::Text, text, want);
    text("a %NONE% b", "accessLogFormat, character 3: %NONE%: there is no such operator");
    text(
        "ä%START_TIME",
        "accessLogFormat, character 2: %START_TIME: no % ends the operator (a % of the text is written %%)",
    );
    text("50% of", "accessLogFormat, character 3: %: no % ends the operator (a % of the text is written %%)");
    text("%%%a%", "accessLogFormat, character 3: %a%: no % ends the operator (a % of the text is written %%)");
    text("%PROTOCOL(x)%", "accessLogFormat, character 1: %PROTOCOL(x)%: it takes nothing in parentheses");
    text("%PROTOCOL:3%", "accessLogFormat, character 1: %PROTOCOL:3%: it takes no length");
    text("%REQ%", "accessLogFormat, character 1: %REQ%: it wants the name of a header in parentheses: (X) or (X?Y)");
    text(
        "%REQ(a b)%",
        "accessLogFormat, character 1: %REQ(a b)%: it wants the name of a header in parentheses: (X) or (X?Y)",
    );
    text(
        "%REQ()%",
        "accessLogFormat, character 1: %REQ()%: it wants the name of a header in parentheses: (X) or (X?Y)",
    );
    text(
        "%REQ(?)%",
        "accessLogFormat, character 1: %REQ(?)%: it wants the name of a header in parentheses: (X) or (X?Y)",
    );
    text(
        "%REQ(:PATH)4%",
        "accessLogFormat, character 1: %REQ(:PATH)4%: no % ends the operator (a % of the text is written %%)",
    );
    text(
        "%REQ(:PATH\n)%",
        "accessLogFormat, character 1: %REQ(:PATH: no % ends the operator (a % of the text is written %%)",
    );
    text("%START_TIME:3%", "accessLogFormat, character 1: %START_TIME:3%: it takes no length");
    text("%START_TIME(%Q)%", "accessLogFormat, character 1: %START_TIME(%Q)%: %Q is no specifier of a time");
    text(
        "%GRPC_STATUS(X)%",
        "accessLogFormat, character 1: %GRPC_STATUS(X)%: it takes CAMEL_STRING, SNAKE_STRING or NUMBER in parentheses",
    );
    let json = |text: &str, want: &str| check(Format::Json, text, want);
    json(r#"{"a": {"b": ["%NONE%"]}}"#, "accessLogFormat a.b[0], character 1: %NONE%: there is no such operator");
    json(
        "[1]",
        "accessLogFormat, character 1: [1]: with accessLogEncoding JSON the format is a JSON object: it is another value",
    );
}

proptest::proptest! {
    #[test]
    fn no_value_ends_a_line_or_a_quote(agent in "[\\x20-\\x7e\\x80-\\xff]{0,30}", text in "(%|[A-Z(){}:?]|REQ|\\n){0,12}") {
        // Any text is read or refused.
        drop(LineFormat::new(Format::Text, &text, ""));
        let format = LineFormat::new(Format::Text, "\"%REQ(USER-AGENT)%\"", "").unwrap();
        let json = LineFormat::new(Format::Json, r#"{"a": "%REQ(USER-AGENT)%"}"#, "").unwrap();
        let mut request = HeaderMap::new();
        request.insert("user-agent", http::HeaderValue::from_bytes(agent.as_bytes()).unwrap());
        let none = Kept::default();
        let mut out = String::new();
        for format in [&format, &json] {
            let kept = format.keep_request(&request);
            format.write(&mut out, &Entry { request_headers: &kept, ..plain(&none) });
        }
        let lines: Vec<&str> = out.lines().collect();
        proptest::prop_assert_eq!(lines.len(), 2);
        proptest::prop_assert_eq!(serde_json::from_str::<String>(lines[0]).unwrap(), agent.clone());
        proptest::prop_assert_eq!(&serde_json::from_str::<Json>(lines[1]).unwrap()["a"], &Json::from(agent));
    }
}

/// A connection that is no HTTP.
fn plain(none: &Kept) -> Entry<'_> {
    let address = "10.0.0.1:1".parse().unwrap();
    Entry {
        began_unix_us: 0,
        duration_us: 2_000,
        request_us: None,
        response_us: None,
        bytes_received: 1,
        bytes_sent: 2,
        request: None,
        code: 0,
        details: None,
        flags: "-",
        termination: None,
        failure: None,
        upstream: None,
        upstream_local: None,
        upstream_identity: None,
        cluster: None,
        attempts: 1,
        local: address,
        remote: address,
        peer: None,
        own: None,
        route: None,
        request_headers: none,
        response_headers: none,
        trailers: none,
    }
}

#[test]
fn a_connection_has_nothing_of_http() {
    let none = Kept::default();
    let format =
        LineFormat::new(Format::Text, "%REQ(:METHOD)% %REQ(A)% %PROTOCOL% %RESPONSE_CODE% %BYTES_SENT%", "").unwrap();
    let mut out = String::new();
    format.write(&mut out, &plain(&none));
    assert_eq!(out, "- - - 0 2\n");
}
