//! A scrape over a real socket: both paths, and what a crowd costs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use underpass_telemetry::{
    admin::{Client, Limits, Listener, Router, Server},
    metrics::{Family, Registry, routes},
};

/// Long enough for any machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

static CALLS: Family = Family::counter("test_calls_total", "Calls.", &["side"]);

fn serve(registry: &Registry) -> Server {
    let listener = Listener::any("[::]:0".parse().unwrap()).unwrap();
    listener.serve(routes(Router::new(), registry), Limits::default()).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: node-1\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
    };
    timeout(DEADLINE, exchange).await.expect("the server answers");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).expect("a content-type");
    (kind.to_owned(), body.to_owned())
}

#[tokio::test]
async fn both_paths_over_both_families() {
    let registry = Registry::default();
    registry.counter(&CALLS).with_label_values(&["in"]).inc_by(3);
    let server = serve(&registry);
    let port = server.target().address().unwrap().port();
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{port}").parse().unwrap();
        for path in ["/metrics", "/stats/prometheus"] {
            let (kind, body) = get(address, path).await;
            assert_eq!(kind, "text/plain; version=0.0.4", "{path}");
            assert!(body.contains("\ntest_calls_total{side=\"in\"} 3\n"), "{body}");
        }
    }
    assert!(Client::new(server.target().clone()).text("/config_dump").await.is_err(), "nothing else is served there");
}

#[tokio::test]
async fn a_crowd_costs_what_one_scraper_costs() {
    let registry = Registry::default();
    let gathered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gathered);
    registry.collect(&[&CALLS], move |samples| {
        count.fetch_add(1, Relaxed);
        samples.add(&CALLS, &["in"], 1_u64);
    });
    let server = serve(&registry);
    let address = format!("127.0.0.1:{}", server.target().address().unwrap().port()).parse().unwrap();
    let began = std::time::Instant::now();
    let crowd: Vec<_> = (0..40).map(|_| tokio::spawn(async move { get(address, "/metrics").await })).collect();
    for one in crowd {
        one.await.unwrap();
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(gathered.load(Relaxed) <= 1 + seconds, "{} for 40 within {seconds} s", gathered.load(Relaxed));

    let before = gathered.load(Relaxed);
    timeout(DEADLINE, async {
        while gathered.load(Relaxed) == before {
            get(address, "/metrics").await;
        }
    })
    .await
    .expect("an old answer is not kept");
}
