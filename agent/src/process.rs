//! The process of the agent, from its command line to its exit status: settings, checks, one runtime, signals.

use std::{ffi::OsString, path::Path, process::ExitCode, time::SystemTime};

use underpass_keeper::supervision::SupervisedTask;

use crate::{
    authority, check, cleanup,
    config::{self, Config, Loaded, Reloader, Sources, Stop},
    mounts, node, preflight, probe,
    signals::Signals,
};

/// Runs the agent, or the command of the first argument.
#[must_use]
pub fn main() -> ExitCode {
    // Keys live in this process, also for the CA's commands: no core file may hold them, no other process may read them.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("underpass-agent: cannot keep keys out of core files: {error}");
        return ExitCode::FAILURE;
    }
    if let Some(parsed) = authority::Command::parse_own(std::env::args_os()) {
        return match parsed {
            Ok(command) => command.run(SystemTime::now()),
            Err(error) => error.exit(),
        };
    }
    if let Some(parsed) = probe::Command::parse_own(std::env::args_os()) {
        return match parsed {
            Ok(command) => command.run(),
            Err(error) => error.exit(),
        };
    }
    if let Some(parsed) = check::Command::parse_own(std::env::args_os()) {
        return match parsed {
            Ok(command) => command.run(),
            Err(error) => error.exit(),
        };
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "mount-bpffs") {
        return mount_bpffs(std::env::args_os().skip(2).collect());
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "pause") {
        return pause();
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == "cleanup") {
        let mut sources = Sources::of_process();
        sources.args.remove(1);
        return match cleanup::load(&sources, |file| std::fs::read(file)) {
            Ok(config) => clean_up(&config),
            Err(stop) => not_loaded("underpass-agent cleanup", stop),
        };
    }
    let sources = Sources::of_process();
    let loaded = match config::load(&sources, |file| std::fs::read(file)) {
        Ok(loaded) => loaded,
        Err(stop) => return not_loaded("underpass-agent", stop),
    };
    if loaded.config.print_config {
        print!("{}", config::yaml(&loaded.settings));
        return ExitCode::SUCCESS;
    }
    match run(sources, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn not_loaded(program: &str, stop: Stop) -> ExitCode {
    match stop {
        Stop::Answer(answer) => answer.exit(),
        Stop::Problems(problems) => {
            eprintln!("{program}: {problems}");
            ExitCode::FAILURE
        }
    }
}

fn mount_bpffs(arguments: Vec<OsString>) -> ExitCode {
    let [directory] = &arguments[..] else {
        eprintln!("underpass-agent mount-bpffs: write one directory, such as /sys/fs/bpf");
        return ExitCode::FAILURE;
    };
    match mounts::mount_bpffs(Path::new(directory)) {
        Ok(mounted) => {
            println!("{}: {}", directory.display(), if mounted { "mounted" } else { "is a bpf file system already" });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("underpass-agent mount-bpffs: {:#}", anyhow::Error::new(error));
            ExitCode::FAILURE
        }
    }
}

/// Does nothing until it is asked to end: the container of a pod whose work its init containers have done. Such a pod is ready from then
/// on, and a container that ends would be started again.
fn pause() -> ExitCode {
    let waited = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            Signals::watch()?.next().await;
            Ok(())
        })
    });
    match waited {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-agent pause: cannot watch signals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn clean_up(config: &Config) -> ExitCode {
    match cleanup::run(config).map_err(anyhow::Error::from) {
        Ok(report) => {
            print!("{report}");
            if report.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("underpass-agent cleanup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(sources: Sources, loaded: Loaded) -> anyhow::Result<()> {
    let config = &loaded.config.clone();
    let levels = underpass_telemetry::log::init(config.log_format, config.log.clone())?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!(%warning, "setting probably misspelt"));
    underpass_net::open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The channel to a control plane belongs to a runtime from its beginning.
    let entered = runtime.enter();
    let checked = preflight::check(config, SystemTime::now()).map_err(|faults| {
        let lines: String = faults.iter().map(|fault| format!("\n  - {fault}")).collect();
        anyhow::anyhow!("cannot start:{lines}")
    })?;
    drop(entered);
    let ran = runtime.block_on(async {
        let mut stop = Signals::watch()?;
        let (reloader, settings) = Reloader::new(sources, loaded);
        let mut reloading = SupervisedTask::spawn("the reload of the settings", reloader.run(levels.clone())?);
        tokio::select! {
            ran = node::run(&settings, checked, &levels, &mut stop) => Ok(ran?),
            ended = reloading.ended() => Err(anyhow::Error::from(ended)),
        }
    });
    runtime.shutdown_background();
    ran
}
