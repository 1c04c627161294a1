//! The log level over the admin API. Its own program, because a process has one log.

use underpass_telemetry::{
    Format,
    admin::{Client, Limits, Listener, Router, logging},
    log::{self, Filter, LogError},
};

#[tokio::test]
async fn the_level_is_told_and_set() {
    let levels = log::init(Format::Json, Filter::default()).unwrap();
    assert_eq!(log::init(Format::Json, Filter::default()).unwrap_err(), LogError::AlreadySet);
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::unix(&directory.path().join("admin.sock")).unwrap();
    let server = listener.serve(logging(Router::new(), &levels), Limits::default()).unwrap();
    let client = Client::new(server.target().clone());
    let level = async || client.json::<serde_json::Value>("/logging").await.unwrap()["level"].clone();

    assert_eq!(level().await, "info");
    assert!(!tracing::enabled!(tracing::Level::DEBUG));
    client.set_log_level("debug,hyper=off").await.unwrap();
    assert_eq!(level().await, "debug,hyper=off");
    assert!(tracing::enabled!(tracing::Level::DEBUG));

    let error = client.set_log_level("inof").await.unwrap_err().to_string();
    assert!(error.contains("400 Bad Request: log filter: \"inof\" is neither LEVEL nor TARGET=LEVEL"), "{error}");
    assert_eq!(level().await, "debug,hyper=off");
}
