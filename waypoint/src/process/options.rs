//! The command line of a waypoint: what its agent passes on of its own settings. What changes, or names what the process is, comes
//! by the control socket.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Parser;
use underpass_telemetry::{
    Format,
    access_log::{AccessLog, AccessLogError, LineFormat, LineFormatError, RequestLog, Settings, Target},
    log::Filter,
};

/// The waypoint of an Underpass mesh: the L7 proxy before Services. The agent of a node starts it, and hands it the sockets that it
/// needs; it cannot be started by hand.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "underpass-waypoint", version)]
pub(super) struct Options {
    /// The format of its log, on standard error.
    #[arg(long, value_name = "text|json", default_value_t = Format::Text)]
    pub(super) log_format: Format,

    /// The filter of its log: a level, or levels by target, such as `info,underpass_net=debug`.
    #[arg(long, value_name = "FILTER", default_value_t = Filter::default())]
    pub(super) log: Filter,

    /// The number of worker threads; by default that of the cores, at most 4.
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,

    /// The file of the access log of requests, `/dev/stdout` for standard output; without it no line is written. Istio's
    /// accessLogFile.
    #[arg(long, value_name = "FILE")]
    pub(super) access_log: Option<PathBuf>,

    /// The encoding of its lines. Istio's accessLogEncoding.
    #[arg(long, value_name = "text|json", default_value_t = Format::Text)]
    pub(super) access_log_encoding: Format,

    /// The format of its lines, with Envoy's operators; with json an object. Istio's accessLogFormat, and its default.
    #[arg(long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    pub(super) access_log_format: String,
}

impl Options {
    /// Starts the access log, where there is one.
    ///
    /// # Errors
    /// Where its format cannot be read, or its file not be opened.
    pub(super) fn access_log(&self) -> Result<Option<RequestLog>, AccessLogFailure> {
        let hostname = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
        let format = LineFormat::new(self.access_log_encoding, &self.access_log_format, hostname.trim())?;
        let Some(path) = &self.access_log else { return Ok(None) };
        let is_stdout = path.as_os_str() == STDOUT;
        let target = if is_stdout { Target::Stdout } else { Target::File(path.clone()) };
        let log = AccessLog::start(&Settings { target, ..Settings::default() })?;
        Ok(Some(RequestLog::new(log, format)))
    }
}

/// Where the kernel says the name of the host (proc_sys_kernel(5)); nothing where it does not.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// The descriptor that is open already: what it names may not be opened again by another user.
const STDOUT: &str = "/dev/stdout";

/// The reason why there is no access log.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessLogFailure {
    #[error(transparent)]
    Format(#[from] LineFormatError),
    #[error(transparent)]
    Start(#[from] AccessLogError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_passes_on() {
        let parse = |text: &str| Options::try_parse_from(format!("underpass-waypoint {text}").split_whitespace());
        let defaults = Options {
            log_format: Format::Text,
            log: Filter::default(),
            workers: None,
            access_log: None,
            access_log_encoding: Format::Text,
            access_log_format: String::new(),
        };
        assert_eq!(parse("").unwrap(), defaults);
        let given = parse("--log-format json --log debug --workers 2").unwrap();
        assert_eq!(given.log_format, Format::Json);
        assert_eq!((given.log.to_string().as_str(), given.workers), ("debug", NonZeroUsize::new(2)));
        for wrong in ["--log-format xml", "--log loud", "--workers 0", "--manifests /x", "x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_access_log() {
        let start = |args: &[&str]| {
            let args = std::iter::once("underpass-waypoint").chain(args.iter().copied());
            Options::try_parse_from(args).unwrap().access_log().map(|log| log.is_some()).map_err(|e| e.to_string())
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let file = path.to_str().unwrap();
        assert_eq!(start(&[]), Ok(false));
        assert_eq!(start(&["--access-log", file, "--access-log-encoding", "json"]), Ok(true));
        assert_eq!(start(&["--access-log", file, "--access-log-format", "%PROTOCOL%"]), Ok(true));
        assert!(path.exists());
        let wrong = "accessLogFormat, character 1: %X%: there is no such operator";
        assert_eq!(start(&["--access-log-format", "%X%"]), Err(wrong.to_owned()), "also without a file");
        let missing = folder.path().join("none/access.log");
        assert!(start(&["--access-log", missing.to_str().unwrap()]).is_err());
    }
}
