//! The routes of a scrape. Every client that reaches the port may scrape, so that an answer is cached for a moment: many
//! scrapers cost what one costs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use prometheus::TEXT_FORMAT;

use super::Registry;
use crate::admin::{Response, Router};

/// The age up to which a cached answer is served.
pub const FRESH: Duration = Duration::from_secs(1);

/// The cached answer.
type Page = Mutex<Option<(Instant, Bytes)>>;

/// `GET /metrics`, and `/stats/prometheus`, where scrape annotations for Istio's proxies look.
#[must_use]
pub fn routes(router: Router, registry: &Registry) -> Router {
    let page: Arc<Page> = Arc::default();
    ["/metrics", "/stats/prometheus"].into_iter().fold(router, |router, path| {
        let (registry, page) = (registry.clone(), Arc::clone(&page));
        router.route(Method::GET, path, move |_| {
            let (registry, page) = (registry.clone(), Arc::clone(&page));
            async move {
                // Collectors take locks that others hold for a while.
                let written = tokio::task::spawn_blocking(move || answer(&registry, &page)).await;
                let failed = |e| Response::error(StatusCode::INTERNAL_SERVER_ERROR, e);
                written.map_or_else(failed, |body| Response::page(TEXT_FORMAT, body))
            }
        })
    })
}

/// The answer, made under the lock: concurrent scrapes get the same one.
fn answer(registry: &Registry, page: &Page) -> Bytes {
    let mut page = page.lock().unwrap_or_else(PoisonError::into_inner);
    match &*page {
        Some((at, body)) if at.elapsed() < FRESH => body.clone(),
        _ => {
            let body = Bytes::from(registry.text());
            *page = Some((Instant::now(), body.clone()));
            body
        }
    }
}
