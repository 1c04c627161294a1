//! The command against an agent: the admin server that agents have, with answers that are known.

mod certificates;
mod connections;
mod errors;
mod listed;
mod settings;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod terminal;

use std::time::{SystemTime, UNIX_EPOCH};

use expect_test::Expect;
use serde_json::Value;
use underpass_telemetry::admin::{Limits, Listener, Method, Response, Router, Server};

use support::{command, shown};

const HOUR: u64 = 3600;

/// A running agent's admin server, the runtime that it runs on, and where its socket is.
struct Agent {
    server: Server,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn start(router: Router) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::unix(&directory.path().join("admin.sock")).unwrap();
        let server = runtime.block_on(async { listener.serve(router, Limits::default()).unwrap() });
        Self { server, runtime, _directory: directory }
    }

    fn address(&self) -> String {
        self.server.target().to_string()
    }

    /// The output of the command with this agent; the address, which differs from run to run, as `AGENT`.
    fn check(&self, args: &[&str], want: &Expect) {
        let address = self.address();
        let output = command(args).env("UNDERPASS_AGENT", &address).output().unwrap();
        want.assert_eq(&shown(&output).replace(&address, "AGENT"));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _entered = self.runtime.enter(); // the server's task ends on its own runtime
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn get(router: Router, path: &'static str, answer: impl Fn() -> Value + Send + Sync + 'static) -> Router {
    router.route(Method::GET, path, move |_| std::future::ready(Response::json(&answer())))
}

fn answers(router: Router, path: &'static str, answer: Value) -> Router {
    get(router, path, move || answer.clone())
}
