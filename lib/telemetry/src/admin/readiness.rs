//! Readiness of a program, and what it waits for. Each part that must be ready has a [`Gate`]; the program is ready while
//! every gate is open.
//!
//! What must hold: it is never ready because a part was forgotten. A gate starts closed, and the gate of a part that died
//! stays closed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, StatusCode};

use super::router::{Response, Router};

/// All gates of a program. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Gates>>);

#[derive(Debug, Default)]
struct Gates {
    next: u64,
    /// By number, so that two gates of one name are two. None: open; else what it waits for.
    gates: BTreeMap<u64, (&'static str, Option<String>)>,
}

/// The gate of one part. Dropped, it stays closed: the part is gone.
#[derive(Debug)]
pub struct Gate {
    readiness: Readiness,
    number: u64,
}

impl Readiness {
    /// Readiness without gates: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gate of a part, closed: it waits for `reason`.
    #[must_use]
    pub fn gate(&self, part: &'static str, reason: impl Into<String>) -> Gate {
        let mut gates = self.lock();
        let number = gates.next;
        gates.next += 1;
        gates.gates.insert(number, (part, Some(reason.into())));
        Gate { readiness: self.clone(), number }
    }

    /// The parts that are not ready with what they wait for, in the order of their gates; none: ready.
    #[must_use]
    pub fn waiting(&self) -> Vec<(&'static str, String)> {
        let gates = self.lock();
        gates.gates.values().filter_map(|(part, reason)| reason.clone().map(|r| (*part, r))).collect()
    }

    /// `GET /healthz/ready`: 200 `{"ready": true}`, or 503 `{"error": "not ready", "waiting": [{"part", "reason"}]}`.
    #[must_use]
    pub fn routes(&self, router: Router) -> Router {
        let readiness = self.clone();
        router.route(Method::GET, "/healthz/ready", move |_| std::future::ready(readiness.answer()))
    }

    fn answer(&self) -> Response {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return Response::json(&serde_json::json!({ "ready": true }));
        }
        let waiting: Vec<_> =
            (waiting.iter()).map(|(part, reason)| serde_json::json!({ "part": part, "reason": reason })).collect();
        let body = serde_json::json!({ "error": "not ready", "waiting": waiting });
        Response::json_with(StatusCode::SERVICE_UNAVAILABLE, &body)
    }

    fn lock(&self) -> MutexGuard<'_, Gates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Opens it: the part is ready.
    pub fn open(&self) {
        self.set(None);
    }

    /// Closes it: the part is not ready (any more), and waits for `reason`.
    pub fn close(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// Removes it: the part was needed once and is done.
    pub fn finish(self) {
        self.readiness.lock().gates.remove(&self.number);
    }

    fn set(&self, reason: Option<String>) {
        if let Some((_, waits_for)) = self.readiness.lock().gates.get_mut(&self.number) {
            *waits_for = reason;
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close("its task has ended");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(readiness: &Readiness, want: &Expect) {
        let response = readiness.answer();
        want.assert_eq(&format!("{} {}", response.status().as_u16(), String::from_utf8_lossy(response.body())));
    }

    #[test]
    fn ready_when_every_gate_is_open() {
        let readiness = Readiness::new();
        check(
            &readiness,
            &expect![[r#"
            200 {
              "ready": true
            }
        "#]],
        );
        let world = readiness.gate("world", "no World yet");
        let first = readiness.gate("certificate", "none for default/a");
        let second = readiness.gate("certificate", "none for default/b");
        check(
            &readiness,
            &expect![[r#"
            503 {
              "error": "not ready",
              "waiting": [
                {
                  "part": "world",
                  "reason": "no World yet"
                },
                {
                  "part": "certificate",
                  "reason": "none for default/a"
                },
                {
                  "part": "certificate",
                  "reason": "none for default/b"
                }
              ]
            }
        "#]],
        );
        world.open();
        first.open();
        check(
            &readiness,
            &expect![[r#"
            503 {
              "error": "not ready",
              "waiting": [
                {
                  "part": "certificate",
                  "reason": "none for default/b"
                }
              ]
            }
        "#]],
        );
        second.open();
        check(
            &readiness,
            &expect![[r#"
            200 {
              "ready": true
            }
        "#]],
        );
        first.finish();
        drop(world);
        check(
            &readiness,
            &expect![[r#"
            503 {
              "error": "not ready",
              "waiting": [
                {
                  "part": "world",
                  "reason": "its task has ended"
                }
              ]
            }
        "#]],
        );
        second.close("expired");
        assert_eq!(
            readiness.waiting(),
            [("world", "its task has ended".to_owned()), ("certificate", "expired".to_owned())]
        );
    }
}
