//! The loading of one [`Config`] from flags, environment and file: the most particular source wins, every value is checked, and
//! all problems are reported at once, with their origins.
//!
//! The values of environment and file are put in front of the command line as flags, for those settings that the
//! command line does not name. So clap alone turns text into values, and there is one grammar.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, FromArgMatches as _, error::ErrorKind, parser::ValueSource};

use super::{
    Config, file,
    problem::{Origin, Problem, Problems},
    table::{Row, relaxed, rows},
};

/// The command line and environment of the process. Captured once: a later look at the file meets the same flags and environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The command line, with the program's name.
    pub args: Vec<OsString>,
    /// The environment, as far as it may be meant for the agent.
    pub env: BTreeMap<OsString, OsString>,
}

impl Sources {
    /// The sources of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let rows = rows();
        let is_ours = |name: &OsString| {
            let name = name.to_string_lossy();
            name.starts_with("UNDERPASS_") || rows.iter().any(|row| row.variable.as_deref() == Some(&*name))
        };
        let env = std::env::vars_os().filter(|(name, _)| is_ours(name)).collect();
        Self { args: std::env::args_os().collect(), env }
    }

    /// The value of a variable. An empty one is not set, as in a shell's `${NAME:-default}`.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

/// One setting in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The flag's name without its dashes.
    pub name: String,
    /// None: not set; more than one: a list.
    pub values: Vec<OsString>,
    /// The origin of the values.
    pub origin: Origin,
    /// Whether it can change while the agent runs.
    pub live: bool,
}

/// Loaded settings.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings as values.
    pub config: Config,
    /// The settings as text, each with its origin, in the order of the table.
    pub settings: Vec<Effective>,
    /// Environment variables that are probably misspelt: others may set what begins as ours do.
    pub warnings: Vec<String>,
}

/// A load without settings as its result.
#[derive(Debug)]
pub enum Stop {
    /// `--help` or `--version`: clap has the answer.
    Answer(clap::Error),
    /// Problems of the sources.
    Problems(Problems),
}

/// Loads the settings. `read` reads the file of `--config`.
///
/// # Errors
/// All problems, or clap's answer to `--help`.
pub fn load(sources: &Sources, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Loaded, Stop> {
    load_with(sources, read, true)
}

/// As [`load`]. `needs_source`: without the mesh's source, manifests or a control plane, the settings are not complete.
pub(crate) fn load_with(
    sources: &Sources,
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    needs_source: bool,
) -> Result<Loaded, Stop> {
    let mut problems = Vec::new();
    let flags = flags(&sources.args, &mut problems)?;
    let path = path_of(&flags, sources);
    let rows = rows();
    let entries = path.as_deref().map(|path| entries(path, &read, &rows, &mut problems)).unwrap_or_default();
    let settings: Vec<_> =
        rows.iter().map(|row| effective(row, &flags, sources, path.as_deref(), &entries, &mut problems)).collect();
    let is_source = |s: &&Effective| super::SOURCES.contains(&&*s.name) && s.origin != Origin::Default;
    let given: Vec<Origin> = settings.iter().filter(is_source).map(|s| s.origin.clone()).collect();
    if given.len() > 1 || (needs_source && given.is_empty()) {
        problems.push(Problem::OneOf { names: &super::SOURCES, given });
    }
    if !problems.is_empty() {
        return Err(Stop::Problems(Problems(problems)));
    }
    let config = assemble(&sources.args, &settings).map_err(|p| Stop::Problems(Problems(vec![p])))?;
    Ok(Loaded { config, settings, warnings: misspelt(sources, &rows) })
}

/// `settings` as values; those from the command line are taken from it.
pub(super) fn assemble(args: &[OsString], settings: &[Effective]) -> Result<Config, Problem> {
    let (program, given) = args.split_first().map_or_else(|| (OsString::new(), args), |(p, rest)| (p.clone(), rest));
    let mut argv = vec![program];
    for row in rows() {
        let here = settings.iter().find(|s| s.name == row.name);
        let here = here.filter(|s| !matches!(s.origin, Origin::Flag | Origin::Default));
        argv.extend(here.into_iter().flat_map(|s| &s.values).filter_map(|value| row.flag(value)));
    }
    argv.extend_from_slice(given);
    // The process's environment is not asked again.
    let command = <Config as clap::CommandFactory>::command().mut_args(|a| a.env(clap::builder::Resettable::Reset));
    let parsed = command.try_get_matches_from(argv).and_then(|matches| Config::from_arg_matches(&matches));
    parsed.map_err(|e| Problem::Usage(usage(&e)))
}

/// The command line, with values as text.
fn flags(args: &[OsString], problems: &mut Vec<Problem>) -> Result<ArgMatches, Stop> {
    match relaxed(true).try_get_matches_from(args) {
        Ok(matches) => Ok(matches),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Err(Stop::Answer(<Config as clap::CommandFactory>::command().try_get_matches_from(args).err().unwrap_or(e)))
        }
        Err(e) => {
            problems.push(Problem::Usage(usage(&e)));
            // What can be understood is checked all the same.
            Ok(relaxed(true).ignore_errors(true).try_get_matches_from(args).unwrap_or_default())
        }
    }
}

/// clap's error without the words around it.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim).filter(|l| !l.is_empty());
    said.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").replace(" For more information, try '--help'.", "")
}

fn given(flags: &ArgMatches, id: &str) -> bool {
    flags.try_contains_id(id).is_ok() && flags.value_source(id) == Some(ValueSource::CommandLine)
}

fn raw(flags: &ArgMatches, id: &str) -> Vec<OsString> {
    let values = flags.try_get_raw(id).ok().flatten();
    values.map(|all| all.map(OsStr::to_owned).collect()).unwrap_or_default()
}

fn path_of(flags: &ArgMatches, sources: &Sources) -> Option<PathBuf> {
    let flag = given(flags, "config").then(|| raw(flags, "config").pop()).flatten();
    flag.or_else(|| sources.variable(super::CONFIG_VARIABLE).map(OsStr::to_owned)).map(PathBuf::from)
}

fn entries(
    path: &Path,
    read: &impl Fn(&Path) -> io::Result<Vec<u8>>,
    rows: &[Row],
    problems: &mut Vec<Problem>,
) -> Vec<file::Entry> {
    let origin = |line| Origin::File { path: path.to_owned(), line };
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(e) => {
            problems.push(Problem::File { origin: origin(None), reason: format!("cannot read it: {e}") });
            return Vec::new();
        }
    };
    let (mut entries, faults) = file::parse(path, &bytes);
    problems.extend(faults);
    entries.retain(|entry| {
        let known = rows.iter().find(|row| row.name == entry.name);
        if let Some(row) = known {
            let reason = unfit(row, entry);
            problems.extend(reason.map(|reason| Problem::File { origin: origin(Some(entry.line)), reason }));
            return true; // with any value it is not missing
        }
        let hint = underpass_config::nearest(&entry.name, rows.iter().map(|row| row.name.as_str()));
        problems.push(Problem::Unknown {
            origin: origin(Some(entry.line)),
            name: entry.name.clone(),
            hint: hint.map(str::to_owned),
        });
        false
    });
    entries
}

/// The reason for which an entry cannot be meant for the setting, with any value.
fn unfit(row: &Row, entry: &file::Entry) -> Option<String> {
    if entry.values.len() != 1 && !row.is_list() {
        return Some(format!("{}: one value, no list", row.name));
    }
    let reason = || format!("{}: YAML reads yes, no, on, off, y and n as true or false: write it in quotes", row.name);
    (entry.has_truth && !row.is_truth()).then(reason)
}

/// The value of one setting. Values that are overruled are checked as well: a mistake must not appear on the day on which the
/// other one goes.
fn effective(
    row: &Row,
    flags: &ArgMatches,
    sources: &Sources,
    path: Option<&Path>,
    entries: &[file::Entry],
    problems: &mut Vec<Problem>,
) -> Effective {
    let flag = given(flags, row.id())
        .then(|| (Origin::Flag, if row.is_switch() { vec!["true".into()] } else { raw(flags, row.id()) }));
    let variable = row.variable.as_deref().and_then(|name| {
        let value = sources.variable(name)?;
        Some((Origin::Environment(name.to_owned()), vec![value.to_owned()]))
    });
    let in_file = entries.iter().find(|e| e.name == row.name).zip(path).map(|(entry, path)| {
        let origin = Origin::File { path: path.to_owned(), line: Some(entry.line) };
        (origin, entry.values.iter().map(OsString::from).collect())
    });
    let layers: Vec<(Origin, Vec<OsString>)> = [flag, variable, in_file].into_iter().flatten().collect();
    for (origin, values) in &layers {
        for value in values {
            if let Err(reason) = row.check(value) {
                problems.push(Problem::Value {
                    origin: origin.clone(),
                    name: row.name.clone(),
                    value: value.to_string_lossy().into_owned(),
                    reason,
                });
            }
        }
    }
    let (origin, values) = layers.into_iter().next().unwrap_or_else(|| (Origin::Default, row.defaults.clone()));
    if row.is_required() && origin == Origin::Default {
        problems.push(Problem::Missing { name: row.name.clone(), variable: row.variable.clone() });
    }
    Effective { name: row.name.clone(), values, origin, live: row.live }
}

/// Warnings of variables that are nearly the agent's. Kubernetes itself makes some for every service, so one that is not near
/// is no mistake.
fn misspelt(sources: &Sources, rows: &[Row]) -> Vec<String> {
    let known: Vec<&str> = rows.iter().filter_map(|row| row.variable.as_deref()).collect();
    let ours = |name: &&str| name.starts_with("UNDERPASS_") && !known.contains(name) && *name != super::CONFIG_VARIABLE;
    let names = sources.env.keys().filter_map(|name| name.to_str()).filter(ours);
    names
        .filter_map(|name| {
            let near = underpass_config::nearest(name, known.iter().copied())?;
            Some(format!("environment {name}: no such setting: did you mean {near}?"))
        })
        .collect()
}
