//! The CNI plugin on this node: its program among the runtime's plugins, and a configuration of our own that follows the primary
//! plugin's. A thread looks whenever the directory of configurations changes, and regularly.
//!
//! What must hold: the program is there before a configuration names it, and goes after it. The primary's file is never
//! written. What cannot be followed is reported by name, and the last good configuration stays: without it pods would start
//! past the mesh. The end of the agent removes nothing.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use underpass_cni::chain::{self, File, PROGRAM, Plugin};
use underpass_config::watch::{Watch, watch};
use underpass_telemetry::admin::Gate;

use super::sandboxes;
use crate::config::Config;

/// The mode of the program.
const EXECUTABLE: u32 = 0o755;

/// What is installed, and where. Paths are the node's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of configurations.
    pub config_dir: PathBuf,
    /// The directory of programs.
    pub bin_dir: PathBuf,
    /// The plugin's program, to be copied.
    pub program: PathBuf,
    /// The plugin's part of the configuration.
    pub plugin: Plugin,
}

impl Settings {
    /// Those of this agent, whose own pod is in this namespace; none: no plugin is installed.
    ///
    /// # Errors
    /// Where the agent does not know its own program, beside which the plugin's is.
    pub fn of(config: &Config, own_namespace: Option<String>) -> io::Result<Option<Self>> {
        let (Some(config_dir), Some(socket)) = (config.cni_config_dir.clone(), config.cni_socket.clone()) else {
            return Ok(None);
        };
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let plugin =
            Plugin { socket, namespaces: super::list_file(&config.state), exempt: exempt(config, own_namespace) };
        Ok(Some(Self { config_dir, bin_dir: config.cni_bin_dir.clone(), program, plugin }))
    }
}

/// The namespaces whose pods never wait for an agent: those of the settings, and the agent's own, where the
/// control plane is.
#[must_use]
pub fn exempt(config: &Config, own_namespace: Option<String>) -> BTreeSet<String> {
    let own = own_namespace.filter(|own| !own.is_empty());
    config.cni_exempt.iter().filter(|namespace| !namespace.is_empty()).cloned().chain(own).collect()
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or a file of the node, or the program beside the agent's.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    File {
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The primary plugin's configuration.
    #[error("cannot follow {path}: {source}", path = .path.display())]
    Primary {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: chain::Error,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

/// A change on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The program is there, of this build.
    Program(PathBuf),
    /// Our configuration follows the primary's.
    Written {
        /// Ours.
        path: PathBuf,
        /// The primary's.
        primary: PathBuf,
    },
    /// A file of ours is gone.
    Removed(PathBuf),
}

/// The outcome of one look.
#[derive(Debug, Default)]
pub struct Look {
    /// The changes made.
    pub changes: Vec<Change>,
    /// The step that failed; none after it was done.
    pub problem: Option<Error>,
    /// Our configuration stands behind a primary's; false also where there is no primary.
    pub follows: bool,
}

/// Looks at the node and makes the changes that it needs.
pub fn look(settings: &Settings) -> Look {
    let mut look = Look::default();
    let mut steps = || {
        look.changes.extend(install_program(settings)?);
        look.follows = follow(settings, &mut look.changes)?;
        Ok(())
    };
    look.problem = steps().err();
    look
}

fn install_program(settings: &Settings) -> Result<Option<Change>, Error> {
    let program = fs::read(&settings.program).map_err(failed("read", &settings.program))?;
    let path = settings.bin_dir.join(PROGRAM);
    let is_executable = fs::metadata(&path).is_ok_and(|there| there.permissions().mode() & 0o111 == 0o111);
    if is_executable && fs::read(&path).is_ok_and(|there| there == program) {
        return Ok(None);
    }
    // By a rename: a runtime that runs the one before goes on, and none finds half of one.
    replace(&path, &program, Permissions::from_mode(EXECUTABLE)).map_err(failed("write", &path))?;
    Ok(Some(Change::Program(path)))
}

/// Whether there is a primary.
fn follow(settings: &Settings, changes: &mut Vec<Change>) -> Result<bool, Error> {
    let directory = &settings.config_dir;
    let names = names(directory).map_err(failed("list", directory))?;
    let mut wanted = None;
    if let Some(name) = chain::primary(names.iter().map(String::as_str)) {
        let path = directory.join(name);
        let (text, mode) = read(&path).map_err(failed("read", &path))?;
        let primary = File { name: name.to_owned(), text };
        let ours = chain::follow(&primary, &settings.plugin)
            .map_err(|source| Error::Primary { path: path.clone(), source })?;
        let target = directory.join(&ours.name);
        if !fs::read(&target).is_ok_and(|there| there == ours.text.as_bytes()) {
            replace(&target, ours.text.as_bytes(), mode).map_err(failed("write", &target))?;
            changes.push(Change::Written { path: target, primary: path });
        }
        wanted = Some(ours.name);
    }
    let others = names.iter().filter(|name| chain::is_own(name) && Some(*name) != wanted.as_ref());
    for path in others.map(|name| directory.join(name)) {
        changes.extend(remove_file(&path)?.then_some(Change::Removed(path)));
    }
    Ok(wanted.is_some())
}

/// The names of the files in a directory. Those that are no text are no configurations.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// A file with its mode: the primary's may not be for all to read.
fn read(path: &Path) -> io::Result<(String, Permissions)> {
    let mut file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions();
    Ok((io::read_to_string(&mut file)?, mode))
}

/// Writes a file aside, and renames it into place. Its name aside ends as no configuration's does.
fn replace(path: &Path, content: &[u8], mode: Permissions) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(content)?;
    file.set_permissions(mode)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&aside, path)
}

/// Whether there was one.
fn remove_file(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

/// Removes what was installed: configurations of ours in the one directory, then the program in the other one, the list and the
/// records of sandboxes last. What is not there is no error. The files that were.
///
/// # Errors
/// The first that cannot be removed; those after it stay.
pub fn remove(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    if let Some(directory) = &config.cni_config_dir {
        let names = match names(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(failed("list", directory))?,
        };
        files.extend(names.iter().filter(|name| chain::is_own(name)).map(|name| directory.join(name)));
        files.push(config.cni_bin_dir.join(PROGRAM));
    }
    files.push(super::list_file(&config.state));
    let records = sandboxes::folder(&config.state);
    files.extend(sandboxes::records(&records).map_err(failed("list", &records))?);
    let mut removed = Vec::new();
    for file in files {
        if remove_file(&file)? {
            removed.push(file);
        }
    }
    Ok(removed)
}

/// Installs the plugin and keeps it installed. To be called once the agent answers the plugin: from the first look on pods of the
/// mesh wait for it. To be dropped at a hand-over: two agents of different settings would write over each other. `installed`: opened
/// once it is installed, and open from then on, because what was installed stays.
///
/// # Errors
/// When no thread can be started. What is in the way on the node is in the log, and tried again.
pub fn start(settings: Settings, installed: Arc<Gate>) -> io::Result<Watch> {
    let mut log = Log::default();
    let (directory, mut done) = (settings.config_dir.clone(), false);
    start_with(settings, move |look| {
        log.look(&look);
        done |= look.follows;
        match &look.problem {
            _ if done => installed.open(),
            Some(error) => installed.close(format!("it is not installed: {error}")),
            None => {
                let at = directory.display();
                installed
                    .close(format!("no other plugin has a configuration in {at} (cni-config-dir; chart: cni.confDir)"));
            }
        }
    })
}

fn start_with(settings: Settings, mut on_look: impl FnMut(Look) + Send + 'static) -> io::Result<Watch> {
    watch("cni install", settings.config_dir.clone(), move || on_look(look(&settings)))
}

/// Each change once, and each problem once until it is another one.
#[derive(Debug, Default)]
struct Log {
    problem: Option<String>,
}

impl Log {
    fn look(&mut self, look: &Look) {
        for change in &look.changes {
            match change {
                Change::Program(path) => tracing::info!(path = %path.display(), "CNI plugin installed"),
                Change::Written { path, primary } => {
                    tracing::info!(path = %path.display(), primary = %primary.display(), "CNI configuration written");
                }
                Change::Removed(path) => tracing::info!(path = %path.display(), "CNI configuration removed"),
            }
        }
        let problem = look.problem.as_ref().map(ToString::to_string);
        if problem != self.problem {
            match &problem {
                Some(error) => tracing::error!(%error, "CNI plugin not installed, what was installed before stays"),
                None => tracing::info!("CNI plugin can be installed again"),
            }
            self.problem = problem;
        }
    }
}

#[cfg(test)]
mod tests;
