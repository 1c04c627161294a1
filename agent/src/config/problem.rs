//! Problems of settings, each with its origin: all of them are reported at once.

use std::{fmt, path::PathBuf};

/// The origin of a setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment(String),
    /// A file of settings.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<u32>,
    },
    /// The default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A command line that cannot be parsed.
    #[error("{0}")]
    Usage(String),
    /// A file, or a part of it, that cannot be read.
    #[error("{origin}: {reason}")]
    File {
        /// The file.
        origin: Origin,
        /// The reason.
        reason: String,
    },
    /// A key that is no setting.
    #[error("{origin}: unknown setting {name:?}{}", meant(.hint.as_deref()))]
    Unknown {
        /// Its origin.
        origin: Origin,
        /// The key.
        name: String,
        /// The setting that was probably meant.
        hint: Option<String>,
    },
    /// Settings of which exactly one is to be given.
    #[error("{}", one_of(.names, .given))]
    OneOf {
        /// The settings.
        names: &'static [&'static str],
        /// The origins of those that are given.
        given: Vec<Origin>,
    },
    /// A value that the setting does not take.
    #[error("{origin}: {name}: {value:?}: {reason}")]
    Value {
        /// Its origin.
        origin: Origin,
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// The reason.
        reason: String,
    },
    /// A required setting without a value.
    #[error("{name} is not set: give --{name}{}, or `{name}:` in the file of --config", or_variable(.variable.as_deref()))]
    Missing {
        /// The setting.
        name: String,
        /// Its environment variable.
        variable: Option<String>,
    },
}

fn one_of(names: &[&str], given: &[Origin]) -> String {
    let flags: Vec<_> = names.iter().map(|name| format!("--{name}")).collect();
    let origins: Vec<_> = given.iter().map(ToString::to_string).collect();
    match given {
        [] => format!("{} is not set: give one of them", flags.join(" or ")),
        _ => format!("{}: both are set ({}): give one of them", flags.join(" and "), origins.join("; ")),
    }
}

fn meant(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!(": did you mean {hint:?}?"))
}

fn or_variable(variable: Option<&str>) -> String {
    variable.map_or_else(String::new, |variable| format!(", the environment variable {variable}"))
}

/// All problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}
