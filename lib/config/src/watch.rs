//! The watch of a directory: it is looked at whenever something in it changes. Notifications only trigger a look, and
//! never say what changed: changes that they lose, merge or do not know (network file systems, an overflow, no watches
//! left) are found by the next regular look.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// Changes that come closer together than this are one look: an editor and `kubectl` write in several steps.
const SETTLE: Duration = Duration::from_millis(20);
/// The longest time between looks at a directory that never comes to rest.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);
/// The interval of looks without notifications of changes.
const REGULARLY: Duration = Duration::from_secs(5);
/// The same, where there are no notifications at all.
const REGULARLY_UNTOLD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Changed,
    Stop,
}

/// Watches until it is dropped, which waits for a running callback to return.
#[derive(Debug)]
pub struct Watch {
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// The thread has ended: its callback panicked. Nothing is watched any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A thread that is gone needs no signal; one that panicked has said so.
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks at once, and again whenever something below `root` changes, on a thread of this name. A root that is a file is watched
/// through its folder.
///
/// # Errors
/// When no thread can be started.
pub fn watch(name: &str, root: PathBuf, mut look: impl FnMut() + Send + 'static) -> io::Result<Watch> {
    let (signals, received) = mpsc::channel();
    let told = signals.clone();
    let run = move || {
        // Watched before the first look, so that nothing falls between the two.
        let mut notifier = Notifier::new(told);
        notifier.attach(&root);
        loop {
            look();
            match wait(&received, if notifier.is_attached { REGULARLY } else { REGULARLY_UNTOLD }) {
                Wake::Told => {}
                // Folders that a link leads to may be others now, and a root may have come back.
                Wake::Time => notifier.attach(&root),
                Wake::Stop => return,
            }
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(Watch { signals, thread: Some(thread) })
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Told,
    Time,
    Stop,
}

/// Waits until the next look is due.
fn wait(signals: &Receiver<Signal>, regularly: Duration) -> Wake {
    match signals.recv_timeout(regularly) {
        Ok(Signal::Changed) => {}
        Err(RecvTimeoutError::Timeout) => return Wake::Time,
        Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
    }
    let began = Instant::now();
    loop {
        match signals.recv_timeout(SETTLE) {
            Ok(Signal::Changed) if began.elapsed() < SETTLE_AT_MOST => {}
            Ok(Signal::Changed) | Err(RecvTimeoutError::Timeout) => return Wake::Told,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
        }
    }
}

/// The kernel's notifications, where there are any.
struct Notifier {
    watcher: Option<RecommendedWatcher>,
    is_attached: bool,
}

impl Notifier {
    fn new(told: Sender<Signal>) -> Self {
        let on_event = move |event: notify::Result<notify::Event>| {
            // Reading a file makes events too: they would have us look for ever. Errors and overflows are news.
            if event.is_ok_and(|e| e.kind.is_access() && !e.need_rescan()) {
                return;
            }
            let _ = told.send(Signal::Changed);
        };
        let watcher = notify::recommended_watcher(on_event);
        if let Err(e) = &watcher {
            tracing::warn!(error = %e, "no file notifications, looking every second");
        }
        Self { watcher: watcher.ok(), is_attached: false }
    }

    /// Watches everything under `root`. A file is watched through its folder, because editors replace it.
    fn attach(&mut self, root: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let folder =
            if root.is_dir() { root } else { root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(root) };
        let mode = if folder == root { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        let was_attached = self.is_attached;
        self.is_attached = match watcher.watch(folder, mode) {
            Ok(()) => true,
            Err(e) => {
                if was_attached {
                    tracing::warn!(error = %e, path = %folder.display(), "no file notifications, looking every second");
                }
                false
            }
        };
    }
}
