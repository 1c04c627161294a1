//! Ends a demo that hangs: a step that is not done in time has failed. Its own thread because
//! what hangs may be a system call.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use underpass_tests::testbed::wait;

/// No step takes a tenth of this on an ordinary machine.
const STEP: Duration = Duration::from_secs(30);
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
    /// Starts the thread. `logs`: where the agents' logs are.
    pub(crate) fn start(logs: &Path) -> Self {
        let it = Self { state: Arc::default() };
        let (watch, logs) = (it.clone(), logs.to_owned());
        it.step("nodes, pods and agents");
        std::thread::spawn(move || watch.run(&logs));
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

    fn run(&self, logs: &Path) {
        let patience = STEP * wait::slowness();
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
    let mut logs: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
    logs.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("agent-")));
    logs.sort();
    for path in logs {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        println!("\n-- the end of {}", path.file_name().unwrap_or_default().to_string_lossy());
        lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).for_each(|line| println!("{line}"));
    }
}
