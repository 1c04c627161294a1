//! Metrics and readiness of the process, at its own addresses and the ports at which Istio's waypoints have them. A port that is
//! taken is waited for: while agents change, the process of before has it until it drains, and requests do not wait for that.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::task::JoinSet;
use underpass_telemetry::{
    admin::{Limits, Listener, Readiness, Router, healthz},
    metrics::{self, Registry},
};

/// The port of `/metrics` and `/stats/prometheus`.
const METRICS_PORT: u16 = 15020;
/// The port of `/healthz/ready`, and of `/healthz`.
const READINESS_PORT: u16 = 15021;
/// Time after which a port that was taken is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// The servers. Dropped, they end, and their ports are free once the runtime has had a turn.
#[derive(Debug)]
pub(super) struct Servers {
    _tasks: JoinSet<()>,
}

impl Servers {
    /// Serves at these addresses. Within the tokio runtime.
    pub(super) fn new(addresses: &[IpAddr], registry: &Registry, readiness: &Readiness) -> Self {
        let mut tasks = JoinSet::new();
        for address in addresses {
            let metrics = metrics::routes(Router::new(), registry);
            let readiness = healthz(readiness.routes(Router::new()));
            for (port, router) in [(METRICS_PORT, metrics), (READINESS_PORT, readiness)] {
                tasks.spawn(serve(SocketAddr::new(*address, port), router));
            }
        }
        Self { _tasks: tasks }
    }
}

async fn serve(at: SocketAddr, router: Router) {
    let mut is_first = true;
    let listener = loop {
        match Listener::any(at) {
            Ok(listener) => break listener,
            Err(error) if is_first => tracing::warn!(%error, "metrics or readiness have to wait for their port"),
            Err(_) => {}
        }
        is_first = false;
        tokio::time::sleep(AGAIN).await;
    };
    match listener.serve(router, Limits::default()) {
        Ok(_server) => std::future::pending().await,
        Err(error) => tracing::error!(%error, "metrics or readiness are not served"),
    }
}
