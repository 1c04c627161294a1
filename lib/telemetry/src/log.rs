//! The operational log, by `tracing`: events with fields to standard error, as text or JSON, with a level that the admin API
//! can change while the program runs.
//!
//! A filter is a closed grammar of our own, `info` or `info,underpass_net=debug`: tracing's reads a misspelt level as
//! the name of a target and turns everything else off.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::Format;

/// Libraries that log as errors what we log with its object and reason. They are heard at `debug`, or where the filter names them.
const QUIET: [&str; 1] = ["kube_client"];
/// The most parts of a filter, more than are written by hand.
const MAX_PARTS: usize = 64;

/// The reason why a log or its filter is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A part of a filter.
    #[error(
        "log filter: {0:?} is neither LEVEL nor TARGET=LEVEL, with off, error, warn, info, debug or trace as LEVEL"
    )]
    Part(String),
    /// A filter that contradicts itself.
    #[error("log filter: {0:?} is set twice")]
    Twice(String),
    /// A filter that is longer than any useful one.
    #[error("log filter: more than {MAX_PARTS} parts")]
    TooLong,
    /// Set up a second time.
    #[error("the log of this process is set up already")]
    AlreadySet,
    /// The log that this handle belongs to is gone.
    #[error("the log that this level belongs to is gone")]
    Gone,
}

/// A log filter: a level for everything, and others for targets by prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    default: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

impl Default for Filter {
    /// `info`.
    fn default() -> Self {
        Self { default: LevelFilter::INFO, targets: Vec::new() }
    }
}

impl FromStr for Filter {
    type Err = LogError;

    /// `LEVEL` and `TARGET=LEVEL`, separated by commas; without a LEVEL for everything it is `info`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut default = None;
        let mut targets: Vec<(String, LevelFilter)> = Vec::new();
        for (n, part) in text.split(',').map(str::trim).enumerate() {
            if n >= MAX_PARTS {
                return Err(LogError::TooLong);
            }
            let bad = || LogError::Part(part.to_owned());
            let twice = || LogError::Twice(part.to_owned());
            match part.split_once('=') {
                None if default.replace(level(part).ok_or_else(bad)?).is_some() => return Err(twice()),
                None => {}
                Some((target, name)) => {
                    let level = level(name).filter(|_| is_target(target)).ok_or_else(bad)?;
                    if targets.iter().any(|(t, _)| t == target) {
                        return Err(twice());
                    }
                    targets.push((target.to_owned(), level));
                }
            }
        }
        Ok(Self { default: default.unwrap_or(LevelFilter::INFO), targets })
    }
}

fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.default)?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

impl Filter {
    fn targets(&self) -> Targets {
        let is_named = |library: &str| self.targets.iter().any(|(target, _)| target.starts_with(library));
        let quiet = QUIET.into_iter().filter(|library| self.default <= LevelFilter::INFO && !is_named(library));
        let quiet = quiet.map(|library| (library.to_owned(), LevelFilter::OFF));
        Targets::new().with_default(self.default).with_targets(quiet.chain(self.targets.iter().cloned()))
    }
}

/// A handle that changes the level of a running log. Cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<Shared>);

struct Shared {
    /// The current filter as it was given: tracing's handle cannot tell.
    filter: Mutex<Filter>,
    handle: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Levels").field(&self.current().to_string()).finish()
    }
}

impl Levels {
    /// The current filter.
    #[must_use]
    pub fn current(&self) -> Filter {
        self.0.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the filter.
    ///
    /// # Errors
    /// Where the log is gone.
    pub fn set(&self, filter: Filter) -> Result<(), LogError> {
        let mut current = self.0.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.handle.reload(filter.targets()).map_err(|_| LogError::Gone)?;
        *current = filter;
        Ok(())
    }
}

/// Sets up the log of this process: to standard error, coloured only on a terminal without `NO_COLOR` in its
/// environment. Records of other libraries through the `log` crate are included.
///
/// # Errors
/// Where the process has a log already.
pub fn init(format: Format, filter: Filter) -> Result<Levels, LogError> {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (subscriber, levels) = subscriber(format, filter, colours, io::stderr);
    subscriber.try_init().map_err(|_| LogError::AlreadySet)?;
    Ok(levels)
}

fn subscriber<W>(
    format: Format,
    filter: Filter,
    colours: bool,
    out: W,
) -> (impl tracing::Subscriber + Send + Sync, Levels)
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    let (targets, handle) = reload::Layer::new(filter.targets());
    let layer = tracing_subscriber::fmt::layer().with_writer(out).with_ansi(colours);
    let layer = match format {
        Format::Text => layer.boxed(),
        // Not flattened: a field called `level` would be a second `level`.
        Format::Json => layer.json().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
    (subscriber, Levels(Arc::new(Shared { filter: Mutex::new(filter), handle })))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn page(format: Format, filter: &str) -> (impl tracing::Subscriber + Send + Sync, Levels, Page) {
        let page = Page::default();
        let writer = page.clone();
        let (subscriber, levels) = subscriber(format, filter.parse().unwrap(), false, move || writer.clone());
        (subscriber, levels, page)
    }

    #[test]
    fn what_is_logged_elsewhere_with_its_reason_is_not_logged_twice() {
        for (filter, want) in [
            ("info", false),
            ("error,underpass_kube=debug", false),
            ("debug", true),
            ("info,kube_client=warn", true),
            ("info,kube_client::client=warn", true),
        ] {
            let (subscriber, _levels, mut page) = page(Format::Text, filter);
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "kube_client::client::builder", "failed with error");
                tracing::error!("ours");
            });
            page.flush().unwrap();
            let text = page.take();
            assert_eq!((text.contains("failed with error"), text.contains("ours")), (want, true), "{filter}: {text}");
        }
    }

    #[test]
    fn filters() {
        let good = |text: &str, want: &str| {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.to_string(), want);
            assert_eq!(filter.to_string().parse(), Ok(filter));
        };
        good("info", "info");
        good("off", "off");
        good("warn,underpass_net::tls=debug", "warn,underpass_net::tls=debug");
        good(" underpass_net=trace , error ", "error,underpass_net=trace");
        good("hyper=off", "info,hyper=off");

        let bad = |text: &str, want: LogError| assert_eq!(text.parse::<Filter>(), Err(want), "{text:?}");
        bad("", LogError::Part(String::new()));
        bad("inof", LogError::Part("inof".into()));
        bad("INFO", LogError::Part("INFO".into()));
        bad("info,", LogError::Part(String::new()));
        bad("a=", LogError::Part("a=".into()));
        bad("=info", LogError::Part("=info".into()));
        bad("a=b=info", LogError::Part("a=b=info".into()));
        bad("a[span{x=1}]=info", LogError::Part("a[span{x=1}]=info".into()));
        bad("3", LogError::Part("3".into()));
        bad("info,debug", LogError::Twice("debug".into()));
        bad("a=info,a=debug", LogError::Twice("a=debug".into()));
        bad(&"a=info,".repeat(65), LogError::Twice("a=info".into()));
        let many: Vec<_> = (0..65).map(|n| format!("a{n}=info")).collect();
        bad(&many.join(","), LogError::TooLong);
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let (subscriber, levels, page) = page(Format::Text, "info");
        tracing::subscriber::with_default(subscriber, || {
            let says = |text: &str| {
                tracing::debug!("{text}");
                page.take().contains(text)
            };
            assert!(!says("before"));
            levels.set("debug".parse().unwrap()).unwrap();
            assert!(says("while"));
            levels.set("warn,elsewhere=debug".parse().unwrap()).unwrap();
            assert!(!says("elsewhere only"));
            levels.set("warn,underpass_telemetry=debug".parse().unwrap()).unwrap();
            assert!(says("here"));
            assert_eq!(levels.current().to_string(), "warn,underpass_telemetry=debug");
        });
        assert_eq!(levels.set(Filter::default()), Err(LogError::Gone));
        assert_eq!(levels.current().to_string(), "warn,underpass_telemetry=debug");
    }

    #[test]
    fn events_are_lines_with_fields() {
        let event = || tracing::info!(object = "Pod default/a\n", count = 3, "pod enrolled");
        let (subscriber, _levels, text) = page(Format::Text, "info");
        tracing::subscriber::with_default(subscriber, event);
        let line = text.take();
        assert!(
            line.ends_with("underpass_telemetry::log::tests: pod enrolled object=\"Pod default/a\\n\" count=3\n"),
            "{line:?}"
        );
        assert!(!line.contains('\u{1b}'), "{line:?}");

        let (subscriber, _levels, json) = page(Format::Json, "info");
        tracing::subscriber::with_default(subscriber, event);
        let line: serde_json::Value = serde_json::from_str(&json.take()).unwrap();
        assert_eq!(line["fields"]["message"], "pod enrolled");
        assert_eq!(line["fields"]["object"], "Pod default/a\n");
        assert_eq!(line["fields"]["count"], 3);
        assert_eq!(line["level"], "INFO");
    }
}
