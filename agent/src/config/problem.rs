//! What can be wrong about settings, and where: all of it is said at once.

use std::{fmt, path::PathBuf};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
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
    /// Nowhere: the default.
    Default,
}

impl fmt::Display for Place {
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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The command line does not hold together.
    #[error("{0}")]
    Usage(String),
    /// The file cannot be read, or not this part of it.
    #[error("{place}: {says}")]
    File {
        /// The file.
        place: Place,
        /// Why not.
        says: String,
    },
    /// A key that is no setting.
    #[error("{place}: no setting is called {name:?}{}", meant(.hint.as_deref()))]
    Unknown {
        /// Where it stands.
        place: Place,
        /// What stands there.
        name: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// A value that the setting does not take.
    #[error("{place}: {name}: {value:?}: {says}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// Why not.
        says: String,
    },
    /// Nobody said it, and there is no default.
    #[error("{name} is not set: give --{name}{}, or `{name}:` in the file of --config", or_variable(.variable.as_deref()))]
    Missing {
        /// The setting.
        name: String,
        /// Its environment variable.
        variable: Option<String>,
    },
}

fn meant(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!(": did you mean {hint:?}?"))
}

fn or_variable(variable: Option<&str>) -> String {
    variable.map_or_else(String::new, |variable| format!(", the environment variable {variable}"))
}

/// Everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}
