//! The routes that every binary has.

use http::{Method, StatusCode};

use super::router::{Request, Response, Router};
use crate::log::{Filter, Levels, LogError};

/// `GET /healthz`: the process answers.
#[must_use]
pub fn healthz(router: Router) -> Router {
    router.route(Method::GET, "/healthz", async |_| Response::json(&serde_json::json!({ "status": "ok" })))
}

/// `GET /logging` tells the level, `PUT /logging?level=info,underpass_net=debug` sets it; both answer `{"level": ...}`.
#[must_use]
pub fn logging(router: Router, levels: &Levels) -> Router {
    let (show, set) = (levels.clone(), levels.clone());
    router.route(Method::GET, "/logging", move |_| std::future::ready(show_level(&show))).route(
        Method::PUT,
        "/logging",
        move |request| std::future::ready(set_level(&set, &request)),
    )
}

fn show_level(levels: &Levels) -> Response {
    Response::json(&serde_json::json!({ "level": levels.current().to_string() }))
}

fn set_level(levels: &Levels, request: &Request) -> Response {
    let Some(level) = request.query("level") else {
        return Response::error(StatusCode::BAD_REQUEST, "the query has no level: PUT /logging?level=info");
    };
    match level.parse::<Filter>() {
        Err(e) => Response::error(StatusCode::BAD_REQUEST, e),
        Ok(filter) => match levels.set(filter) {
            Ok(()) => {
                tracing::info!(filter = level, "log level changed");
                show_level(levels)
            }
            Err(e @ LogError::Gone) => Response::error(StatusCode::SERVICE_UNAVAILABLE, e),
            Err(e) => Response::error(StatusCode::BAD_REQUEST, e),
        },
    }
}
