//! Settings of a process: the output of the binary before it starts, and the reload of a file while it runs.

use std::{fs, path::Path, process::Command, time::Duration};

use underpass_agent::config::{self, Reloader, Running, Sources};

/// The timeout of every wait.
const DEADLINE: Duration = Duration::from_secs(60);

fn agent(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass-agent"));
    let output = command.env_clear().envs(env.iter().copied()).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_binary_prints_what_would_hold() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("u.yaml");
    fs::write(&file, "manifests: /m\nrelease-drain: 1m\n").unwrap();
    let args = ["--config", file.to_str().unwrap(), "--print-config", "--workers=2"];
    let (code, out, err) = agent(&args, &[("NODE_NAME", "node-1")]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let line = |name: &str| {
        let line = out.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("{out}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("node"), "node: node-1 # environment NODE_NAME");
    assert_eq!(line("release-drain"), format!("release-drain: 1m # {}:2", file.display()));
    assert_eq!(line("workers"), "workers: 2 # flag");
    assert_eq!(line("log"), "log: info # default");
}

#[test]
fn the_binary_says_all_that_is_wrong_and_does_not_start() {
    let (code, out, err) = agent(&["--release-drain=soon", "--config", "/none"], &[("UNDERPASS_WORKERS", "0")]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for says in [
        "node is not set",
        "--manifests or --control-plane is not set",
        "flag: release-drain",
        "UNDERPASS_WORKERS",
        "/none",
    ] {
        assert_eq!(err.lines().filter(|line| line.contains(says)).count(), 1, "{says}: {err}");
    }
}

#[test]
fn a_place_for_a_bpf_file_system_is_named() {
    let (code, out, err) = agent(&["mount-bpffs"], &[]);
    assert!(code == Some(1) && out.is_empty() && err.contains("write one directory"), "{err}");
    let (code, out, err) = agent(&["mount-bpffs", "/nonexistent/bpf"], &[]);
    assert!(code == Some(1) && out.is_empty() && err.contains("cannot inspect /nonexistent/bpf: "), "{err}");
}

/// Waits until what holds is as it should be.
async fn until(seen: &mut tokio::sync::watch::Receiver<std::sync::Arc<Running>>, what: impl Fn(&Running) -> bool) {
    let wait = tokio::time::timeout(DEADLINE, seen.wait_for(|running| what(running))).await;
    wait.expect("in time").expect("the reloader runs");
}

/// As editors do.
fn replace(file: &Path, text: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, file).unwrap();
}

#[tokio::test]
async fn a_file_that_changes_is_followed_and_a_bad_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("u.yaml");
    fs::write(&file, "node: a\nmanifests: /m\n").unwrap();
    let args = ["underpass-agent", "--config", file.to_str().unwrap(), "--workers=1"];
    let sources = Sources { args: args.iter().map(Into::into).collect(), ..Sources::default() };
    let loaded = config::load(&sources, |path| fs::read(path)).unwrap();
    let levels = underpass_telemetry::log::init(loaded.config.log_format, loaded.config.log.clone()).unwrap();
    let (reloader, mut seen) = Reloader::new(sources, loaded);
    let task = tokio::spawn(reloader.run(levels.clone()).unwrap());

    replace(&file, "node: a\nmanifests: /m\nlog: debug\nrelease-drain: 5s\n");
    until(&mut seen, |r| r.config.release_drain == Duration::from_secs(5)).await;
    assert_eq!(levels.current().to_string(), "debug");

    replace(&file, "node: a\nmanifests: /m\nrelease-drain: soon\n");
    until(&mut seen, |r| r.problem.is_some()).await;
    assert_eq!(seen.borrow().config.release_drain, Duration::from_secs(5), "the last good one");
    assert_eq!(levels.current().to_string(), "debug");

    // A level that was set by hand stays where the file does not change it; SIGHUP does not wait for the next look.
    levels.set("warn".parse().unwrap()).unwrap();
    replace(&file, "node: b\nmanifests: /m\nlog: debug\nrelease-drain: 5s\nworkers: 9\n");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
    until(&mut seen, |r| r.problem.is_none()).await;
    let running = seen.borrow().clone();
    let pending: Vec<_> = running.pending.iter().map(|p| p.name.as_str()).collect();
    assert_eq!((pending, &*running.config.node), (vec!["node"], "a"), "and the flag overrules workers");
    assert_eq!(running.config.workers.unwrap().get(), 1);
    assert_eq!(levels.current().to_string(), "warn");

    fs::remove_file(&file).unwrap();
    until(&mut seen, |r| r.problem.is_some()).await;
    assert_eq!(seen.borrow().config.release_drain, Duration::from_secs(5));
    task.abort();
}
