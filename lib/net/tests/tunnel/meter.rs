//! Metrics of tunnels: each event is counted once.

use underpass_identity::testing::Leaf;
use underpass_net::tunnel::{Ended, Meter, TunnelEnd};
use underpass_telemetry::metrics::Registry;

use underpass_net::testing::{Mesh, Server, call, connect, converse, echo, run, until};

/// A mesh whose tunnels are counted, of both ends in one place.
fn metered() -> (Mesh, Registry) {
    let registry = Registry::default();
    let mut mesh = Mesh::new();
    mesh.settings.meter = Meter::new(&registry);
    (mesh, registry)
}

/// The value of `name{labels}`; nothing where there is none.
fn value(registry: &Registry, series: &str) -> Option<i64> {
    let text = registry.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series).and_then(|rest| rest.strip_prefix(' ')))?;
    Some(line.parse().expect("a number"))
}

const BOTH: [&str; 2] = ["outbound", "inbound"];

#[test]
fn tunnels_and_streams_are_counted_while_they_last() {
    run(async {
        let (mesh, registry) = metered();
        let each = |what: &str, want: i64| {
            BOTH.iter().all(|direction| {
                let series = format!("underpass_{what}{{direction=\"{direction}\"}}");
                value(&registry, &series).unwrap_or_default() == want
            })
        };
        let (tunnel, server) = mesh.pair().await;
        let application = echo("127.0.0.1:0").await;
        for n in 1..=2 {
            let mut call = call(&tunnel, &application.to_string()).await;
            assert_eq!(converse(&mut call.app, b"hello").await.expect("carried"), b"hello");
            assert_eq!(call.ended().await, Ended::Finished);
            assert!(each("streams_opened_total", n));
        }
        until("no stream is left", || each("streams_open", 0)).await;
        assert!(each("tunnels_opened_total", 1) && each("tunnels_open", 1));
        assert!(each("handshake_duration_seconds_count", 1));
        tunnel.end(TunnelEnd::Drained);
        server.ended().await;
        until("no tunnel is left", || each("tunnels_open", 0)).await;
        let ended = |direction, reason| {
            let labels = format!("{{direction=\"{direction}\",reason=\"{reason}\"}}");
            value(&registry, &format!("underpass_tunnels_closed_total{labels}"))
        };
        assert_eq!((ended("outbound", "drain"), ended("inbound", "tunnel_closed")), (Some(1), Some(1)));
        assert!(!registry.text().contains("handshakes_failed"));
    });
}

#[test]
fn a_handshake_that_fails_is_none_that_took_time() {
    run(async {
        let (mesh, registry) = metered();
        let thief = mesh.ca.credential(&Leaf::of("spiffe://cluster.local/ns/default/sa/thief"));
        let tls = mesh.server_of(&thief, &mesh.ca.roots(1));
        let server = Server::new(
            &mesh,
            tls,
            "127.0.0.1:0",
            std::rc::Rc::new(|accepted| {
                tokio::task::spawn_local(connect(accepted));
            }),
        )
        .await;
        let tunnel = mesh.tunnel(server.address);
        assert!(matches!(call(&tunnel, "10.0.0.1:80").await.ended().await, Ended::Tunnel(TunnelEnd::Tls(_))));
        server.ended().await;
        let failed = |direction, reason| {
            let labels = format!("{{direction=\"{direction}\",reason=\"{reason}\"}}");
            value(&registry, &format!("underpass_handshakes_failed_total{labels}"))
        };
        until("the client says whom it refused", || failed("outbound", "tls_unexpected_identity") == Some(1)).await;
        let told = || failed("inbound", "tls_alert_certificate_unknown") == Some(1);
        until("the server says that it was refused", told).await;
        assert_eq!(value(&registry, "underpass_handshake_duration_seconds_count{direction=\"outbound\"}"), Some(0));
    });
}
