//! Ends a demo that hangs: a step that is not done in time has failed. Its own thread because
//! what hangs may be a system call.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use underpass_tests::testbed::wait;

/// The interval of its looks.
const POLL: Duration = Duration::from_millis(200);
/// Lines of each agent's log that are shown when a step has failed.
const LAST_LINES: usize = 12;

/// The clock of the current step.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    state: Arc<Mutex<Option<Current>>>,
}

#[derive(Debug)]
struct Current {
    title: String,
    started: Instant,
}

impl Watch {
    /// Starts the thread. `logs`: where the agents' logs are; `step`: the longest time of a step on an ordinary machine.
    pub(crate) fn start(logs: &Path, step: Duration) -> Self {
        let it = Self { state: Arc::default() };
        let (watch, logs) = (it.clone(), logs.to_owned());
        it.step("what is there before the first step");
        std::thread::spawn(move || watch.run(&logs, step * wait::slowness()));
        it
    }

    /// A step begins.
    pub(crate) fn step(&self, title: &str) {
        *self.lock() = Some(Current { title: title.to_owned(), started: Instant::now() });
    }

    /// Nothing more is to be watched.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    fn run(&self, logs: &Path, patience: Duration) {
        loop {
            let late = match &*self.lock() {
                None => return,
                Some(current) => (current.started.elapsed() > patience).then(|| current.title.clone()),
            };
            if let Some(title) = late {
                println!("  FAILED  \"{title}\" is not done after {patience:?}");
                print_last_words(logs);
                std::process::exit(1); // the runner removes everything
            }
            std::thread::sleep(POLL);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints the ends of the agents' logs: what a failed step leaves to look at.
pub(crate) fn print_last_words(directory: &Path) {
    let mut logs = entries(directory, "agent-");
    // In a cluster they are those of containers, on each node where the kubelet has them.
    let pods = entries(directory, "node-").into_iter().flat_map(|node| entries(&node.join("log/pods"), "underpass-"));
    logs.extend(pods.flat_map(|pod| entries(&pod.join("agent"), "")));
    logs.sort();
    for path in logs {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        println!("\n-- the end of {}", path.strip_prefix(directory).unwrap_or(&path).display());
        lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).for_each(|line| println!("{line}"));
    }
}

/// The entries of a folder whose names begin so; none where there is no folder.
fn entries(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))).collect()
}
