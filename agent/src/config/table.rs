//! The table of settings, read off clap's definition of [`Config`]: one declaration is flag, environment variable, key
//! of the file, and row of docs/settings.md.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, Command, CommandFactory as _,
    builder::{Resettable, ValueParser},
    error::ErrorKind,
};

use super::{Config, LIVE};

/// Flags that are no settings: they concern this one start, or name the file itself.
const NO_SETTINGS: [&str; 4] = ["help", "version", "config", "print-config"];

/// One setting.
#[derive(Clone, Debug)]
pub(super) struct Row {
    arg: Arg,
    pub(super) name: String,
    pub(super) variable: Option<String>,
    pub(super) defaults: Vec<OsString>,
    /// Whether it can change while the agent runs.
    pub(super) live: bool,
}

impl Row {
    fn of(arg: &Arg) -> Option<Self> {
        let name = arg.get_long().filter(|name| !NO_SETTINGS.contains(name))?;
        Some(Self {
            arg: arg.clone(),
            name: name.to_owned(),
            variable: arg.get_env().map(|v| v.to_string_lossy().into_owned()),
            defaults: if arg.get_action().takes_values() {
                arg.get_default_values().iter().map(|v| v.as_os_str().to_owned()).collect()
            } else {
                vec!["false".into()]
            },
            live: arg.get_help_heading() == Some(LIVE),
        })
    }

    pub(super) fn id(&self) -> &str {
        self.arg.get_id().as_str()
    }

    pub(super) fn is_required(&self) -> bool {
        self.arg.is_required_set()
    }

    /// A list where more than one value may be given.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.arg.get_action(), clap::ArgAction::Append)
    }

    /// A flag without a value: `true` and `false` elsewhere.
    pub(super) fn is_switch(&self) -> bool {
        !self.arg.get_action().takes_values()
    }

    pub(super) fn value_name(&self) -> String {
        let names = self.arg.get_value_names().unwrap_or_default();
        if self.is_switch() { "true|false".to_owned() } else { names.join(" ") }
    }

    /// Its values are `true` and `false`.
    pub(super) fn is_truth(&self) -> bool {
        self.value_name() == "true|false"
    }

    /// Its documentation, in one line.
    pub(super) fn help(&self) -> String {
        let help = self.arg.get_long_help().or_else(|| self.arg.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let line = help.split_whitespace().collect::<Vec<_>>().join(" ");
        // clap takes the full stop of a single sentence away.
        if line.is_empty() || line.ends_with(['.', '?']) { line } else { line + "." }
    }

    /// The flag with `value`; none for a switch that is off.
    pub(super) fn flag(&self, value: &OsStr) -> Option<OsString> {
        if self.is_switch() {
            return (value == "true").then(|| format!("--{}", self.name).into());
        }
        let mut flag = OsString::from(format!("--{}=", self.name));
        flag.push(value);
        Some(flag)
    }

    /// Checks a value.
    pub(super) fn check(&self, value: &OsStr) -> Result<(), String> {
        if self.is_switch() {
            let known = value == "true" || value == "false";
            return if known { Ok(()) } else { Err("true or false".to_owned()) };
        }
        let argv = [OsString::from("underpass-agent")].into_iter().chain(self.flag(value));
        // A missing setting is another problem.
        match relaxed(false).try_get_matches_from(argv) {
            Err(e) if matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) => Err(reason(&e)),
            Err(e) if e.kind() == ErrorKind::InvalidUtf8 => Err("is no UTF-8".to_owned()),
            _ => Ok(()),
        }
    }
}

/// clap's reason against a value, without the words around it.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Every setting, in the order of the table.
pub(super) fn rows() -> Vec<Row> {
    Config::command().get_arguments().filter_map(Row::of).collect()
}

/// The definition where nothing is required and nothing has a default or an environment variable: what it finds was
/// given on the command line. `raw`: values are not looked at.
pub(super) fn relaxed(raw: bool) -> Command {
    Config::command().mut_args(|arg| {
        let arg = arg.required(false).env(Resettable::Reset);
        if !arg.get_action().takes_values() {
            return arg;
        }
        let arg = arg.default_value(Resettable::Reset);
        if raw { arg.value_parser(ValueParser::os_string()) } else { arg }
    })
}
