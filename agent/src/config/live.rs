//! The reload of settings while the agent runs: of the file, on SIGHUP and regularly (by content, which shows every kind of edit,
//! a mounted ConfigMap's links included). Live settings change at once, changes of others are reported; a file with a problem
//! is reported, and the settings before stay in effect.
//!
//! ```text
//! file --> load --> next(running, loaded) --> Running, published --> log, certificates, pods ...
//! ```

use std::{ffi::OsString, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use underpass_telemetry::{
    admin::view::{PendingSetting, Setting, Settings},
    log::Levels,
};

use super::{
    Config,
    load::{Effective, Loaded, Sources, Stop, assemble, load},
    problem::{Origin, Problems},
};

/// The interval between two looks at the file without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The settings in effect.
#[derive(Clone, Debug)]
pub struct Running {
    /// The settings as values.
    pub config: Arc<Config>,
    /// The settings as text, with their origins.
    pub settings: Vec<Effective>,
    /// Changes that need a restart.
    pub pending: Vec<Pending>,
    /// The problems for which the file as it is now is not in effect.
    pub problem: Option<Problems>,
}

/// A change that waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The setting.
    pub name: String,
    /// Its new values.
    pub values: Vec<OsString>,
    /// Their origin.
    pub origin: Origin,
}

impl From<Loaded> for Running {
    fn from(Loaded { config, settings, warnings: _ }: Loaded) -> Self {
        Self { config: Arc::new(config), settings, pending: Vec::new(), problem: None }
    }
}

impl Running {
    /// The answer to `GET /config`.
    #[must_use]
    pub fn view(&self) -> Settings {
        let texts = |values: &[OsString]| values.iter().map(|v| v.to_string_lossy().into_owned()).collect();
        let setting = |s: &Effective| Setting {
            name: s.name.clone(),
            values: texts(&s.values),
            source: s.origin.to_string(),
            live: s.live,
        };
        let pending = |p: &Pending| PendingSetting {
            name: p.name.clone(),
            values: texts(&p.values),
            source: p.origin.to_string(),
        };
        Settings {
            file: self.config.config.as_ref().map(|file| file.display().to_string()),
            settings: self.settings.iter().map(setting).collect(),
            needs_restart: self.pending.iter().map(pending).collect(),
            problem: self.problem.as_ref().map(ToString::to_string),
        }
    }
}

/// The settings in effect after a reload, and the names of those that changed.
fn next(running: &Running, args: &[OsString], loaded: Result<Loaded, Problems>) -> (Running, Vec<String>) {
    let refused = |problem| (Running { problem: Some(problem), ..running.clone() }, Vec::new());
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problem) => return refused(problem),
    };
    let (mut changed, mut pending, mut settings) = (Vec::new(), Vec::new(), Vec::new());
    for (old, new) in running.settings.iter().zip(loaded.settings) {
        if old.values == new.values || new.live {
            if old.values != new.values {
                changed.push(new.name.clone());
            }
            settings.push(new);
        } else {
            pending.push(Pending { name: new.name, values: new.values, origin: new.origin });
            settings.push(old.clone());
        }
    }
    match assemble(args, &settings) {
        Ok(config) => (Running { config: Arc::new(config), settings, pending, problem: None }, changed),
        Err(problem) => refused(Problems(vec![problem])),
    }
}

/// The task that reloads the file, beside the agent.
#[derive(Debug)]
pub struct Reloader {
    sources: Sources,
    running: watch::Sender<Arc<Running>>,
}

impl Reloader {
    /// With the settings that the agent was started with.
    #[must_use]
    pub fn new(sources: Sources, loaded: Loaded) -> (Self, watch::Receiver<Arc<Running>>) {
        let (running, receiver) = watch::channel(Arc::new(Running::from(loaded)));
        (Self { sources, running }, receiver)
    }

    /// Reloads for as long as it is polled. From the call on SIGHUP ends the process no longer.
    ///
    /// # Errors
    /// Where SIGHUP cannot be waited for.
    pub fn run(self, levels: Levels) -> std::io::Result<impl Future<Output = ()>> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(self.watch(levels, hangup))
    }

    async fn watch(self, levels: Levels, mut hangup: Signal) {
        let file = self.running.borrow().config.config.clone();
        let content = || file.as_deref().map(|file| std::fs::read(file).map_err(|e| e.kind()));
        // Nothing: it may have changed between the start and here, so the first look is never passed over.
        let mut seen = None;
        loop {
            tokio::select! {
                _ = hangup.recv() => tracing::info!(signal = "SIGHUP", "reloading settings"),
                () = tokio::time::sleep(LOOK_EVERY), if file.is_some() => {
                    if seen.as_ref() == Some(&content()) {
                        continue;
                    }
                }
            }
            seen = Some(content());
            self.look(&levels);
        }
    }

    fn look(&self, levels: &Levels) {
        let loaded = load(&self.sources, |path| std::fs::read(path)).map_err(|stop| match stop {
            Stop::Problems(problems) => problems,
            Stop::Answer(_) => Problems(Vec::new()), // --help does not get this far
        });
        let before = Arc::clone(&self.running.borrow());
        let (running, changed) = next(&before, &self.sources.args, loaded);
        for problem in running.problem.iter().flat_map(|problems| &problems.0) {
            tracing::error!(%problem, "settings file rejected, previous settings stay in effect");
        }
        for pending in running.pending.iter().filter(|p| !before.pending.contains(p)) {
            tracing::warn!(setting = %pending.name, source = %pending.origin, "setting changed, needs a restart");
        }
        for name in &changed {
            tracing::info!(setting = %name, "setting changed");
        }
        if running.config.log != before.config.log
            && let Err(error) = levels.set(running.config.log.clone())
        {
            tracing::warn!(%error, "changing the log level failed");
        }
        self.running.send_replace(Arc::new(running));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::sources, *};

    fn loaded(text: &str) -> Result<Loaded, Problems> {
        load(&sources(&["--config", "/f"], &[]), |_| Ok(text.as_bytes().to_vec())).map_err(|stop| match stop {
            Stop::Problems(problems) => problems,
            Stop::Answer(e) => panic!("{e}"),
        })
    }

    const START: &str = "node: a\nmanifests: /m\nrelease-drain: 30s\n";

    #[test]
    fn what_may_change_changes_and_the_rest_is_named() {
        let args = sources(&["--config", "/f"], &[]).args;
        let start = Running::from(loaded(START).unwrap());
        let names = |p: &[Pending]| p.iter().map(|p| format!("{} {}", p.name, p.origin)).collect::<Vec<_>>();

        let (same, changed) = next(&start, &args, loaded(START));
        assert_eq!((changed.len(), same.pending.len()), (0, 0));

        let text = "# moved down\nnode: b\nmanifests: /m\nrelease-drain: 1m\nlog: debug\n";
        let (now, changed) = next(&start, &args, loaded(text));
        assert_eq!(changed, ["log", "release-drain"]);
        assert_eq!(names(&now.pending), ["node /f:2"]);
        assert_eq!((&*now.config.node, now.config.release_drain.as_secs()), ("a", 60));
        assert_eq!(now.config.log.to_string(), "debug");
        let view = now.view();
        let drain = view.settings.iter().find(|s| s.name == "release-drain").unwrap();
        assert_eq!((&*drain.values[0], &*drain.source, drain.live), ("1m", "/f:4", true));
        assert_eq!(view.needs_restart[0].values, ["b"]);

        let (back, changed) = next(&now, &args, loaded(START));
        assert_eq!((changed.len(), back.pending.len()), (2, 0), "taken back, nothing waits for a restart any more");
    }

    #[test]
    fn a_bad_file_keeps_the_last_good_one() {
        let args = sources(&["--config", "/f"], &[]).args;
        let start = Running::from(loaded(START).unwrap());
        let (bad, changed) = next(&start, &args, loaded("node: a\nmanifests: /m\nrelease-drain: soon\n"));
        assert!(changed.is_empty());
        assert_eq!((bad.config.release_drain.as_secs(), &bad.settings), (30, &start.settings));
        assert!(bad.view().problem.unwrap().contains("/f:3: release-drain: \"soon\""));
        let (good, _) = next(&bad, &args, loaded(START));
        assert_eq!(good.problem, None);
    }
}
