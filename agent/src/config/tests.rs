//! The table, its sources and its reference. The environment is a value here, never the process's own.

use expect_test::{Expect, expect, expect_file};

use super::*;

const BASE: [&str; 5] = ["underpass-agent", "--node", "n", "--manifests", "/m"];

pub(super) fn sources(args: &[&str], env: &[(&str, &str)]) -> Sources {
    Sources {
        args: std::iter::once(&"underpass-agent").chain(args).map(Into::into).collect(),
        env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
    }
}

fn parse(more: &[&str]) -> Result<Config, String> {
    let args = [&BASE[1..], more].concat();
    match load(&sources(&args, &[]), |_| panic!("no file was named")) {
        Ok(loaded) => Ok(loaded.config),
        Err(Stop::Problems(problems)) => Err(problems.to_string()),
        Err(Stop::Answer(e)) => Err(e.to_string()),
    }
}

fn with_file(args: &[&str], env: &[(&str, &str)], text: &str) -> Result<Loaded, String> {
    load(&sources(args, env), |path| {
        assert_eq!(path, Path::new("/etc/u.yaml"));
        Ok(text.as_bytes().to_vec())
    })
    .map_err(|stop| match stop {
        Stop::Problems(problems) => problems.to_string(),
        Stop::Answer(e) => e.to_string(),
    })
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.mesh(), MeshSettings::default());
    assert_eq!(config.certificate_lifetime, Duration::from_secs(86_400));
    assert_eq!(config.keepalive(), Keepalive::default());
    assert_eq!(config.release_drain, Duration::from_secs(30));
    assert_eq!(config.admin_address, "127.0.0.1:15000".parse().unwrap());
}

#[test]
fn bad_values_are_named() {
    for (flag, value, says) in [
        ("--trust-domain", "a b", "trust-domain"),
        ("--certificate-lifetime", "1", "at least 4s"),
        ("--certificate-lifetime", "soon", "a number of seconds"),
        ("--keepalive-idle", "0", "whole seconds, 1 to 32767"),
        ("--keepalive-idle", "10h", "whole seconds, 1 to 32767"),
        ("--keepalive-interval", "1500ms", "whole seconds, 1 to 32767"),
        ("--keepalive-probes", "0", "0 is not in 1..=127"),
        ("--release-drain", "-1", "release-drain"),
        ("--release-drain", "1.5", "a number of seconds"),
        ("--admin-address", "localhost", "admin-address"),
        ("--workers", "0", "workers"),
        ("--pod-sockets", "0", "pod-sockets"),
        ("--pod-sockets", "9", "at least 10"),
        ("--node-memory", "256M", "node-memory"),
        ("--pod-memory", "-1", "pod-memory"),
        ("--access-log-format", "xml", "write text or json"),
        ("--sidecar-keys", "perhaps", "sidecar-keys"),
    ] {
        let error = parse(&[&format!("{flag}={value}")]).unwrap_err();
        assert!(error.contains(says) && error.contains("flag"), "{flag} {value}: {error}");
        assert_eq!(error.lines().count(), 2, "one problem: {error}");
    }
    for (flag, value, seconds) in [("--release-drain", "90", 90), ("--release-drain", "1m30s", 90)] {
        assert_eq!(parse(&[flag, value]).unwrap().release_drain, Duration::from_secs(seconds));
    }
}

#[test]
fn the_flag_overrules_the_variable_the_variable_the_file_the_file_the_default() {
    let file = "node: file\nmanifests: /file\nrelease-drain: 1\nworkers: 3\nsidecar-keys: no\n\
                trust-domain-aliases: [a.example, b.example]\n";
    let env = [("UNDERPASS_RELEASE_DRAIN", "2"), ("UNDERPASS_MANIFESTS", "/env"), ("UNDERPASS_CONFIG", "/etc/u.yaml")];
    let Loaded { config, settings, warnings } = with_file(&["--release-drain=3"], &env, file).unwrap();
    assert_eq!(config.release_drain.as_secs(), 3);
    assert_eq!(config.manifests, Some("/env".into()));
    assert_eq!((&*config.node, config.workers.unwrap().get(), config.sidecar_keys), ("file", 3, false));
    assert_eq!(config.trust_domain_aliases.len(), 2);
    assert!(warnings.is_empty());
    let from = |name: &str| settings.iter().find(|s| s.name == name).unwrap().origin.to_string();
    for (name, origin) in [
        ("release-drain", "flag"),
        ("manifests", "environment UNDERPASS_MANIFESTS"),
        ("node", "/etc/u.yaml:1"),
        ("trust-domain-aliases", "/etc/u.yaml:6"),
        ("state", "default"),
        ("cgroup-root", "default"),
    ] {
        assert_eq!(from(name), origin, "{name}");
    }
    // An empty variable is not set, and a file named by a flag overrules one named by a variable.
    let env = [("UNDERPASS_CONFIG", "/elsewhere"), ("UNDERPASS_MANIFESTS", "")];
    let loaded = with_file(&["--config", "/etc/u.yaml"], &env, file).unwrap();
    assert_eq!(loaded.config.manifests, Some("/file".into()));
}

#[test]
fn all_problems_are_reported_at_once_with_their_origins() {
    let check = |args: &[&str], env: &[(&str, &str)], text: &str, want: Expect| {
        let args = [&["--config", "/etc/u.yaml"], args].concat();
        want.assert_eq(&with_file(&args, env, text).unwrap_err());
    };
    check(
        &["--workers=none"],
        &[("UNDERPASS_TRUST_DOMAIN", "a b"), ("UNDERPASS_STATE", "/s")],
        "node: no\nrelese-drain: 1m\nworkers: 0\nroot-namespace: [a, b]\nlog: loud\nlog: info\nstate:\nconfig: /x\n",
        expect![[r#"
            settings:
              - /etc/u.yaml:6: log is set twice: first in line 5
              - /etc/u.yaml:7: state: a value, or a list of values: remove the line for the default
              - /etc/u.yaml:1: node: YAML reads yes, no, on, off, y and n as true or false: write it in quotes
              - /etc/u.yaml:2: unknown setting "relese-drain": did you mean "release-drain"?
              - /etc/u.yaml:4: root-namespace: one value, no list
              - /etc/u.yaml:8: unknown setting "config"
              - /etc/u.yaml:5: log: "loud": log filter: "loud" is neither LEVEL nor TARGET=LEVEL, with off, error, warn, info, debug or trace as LEVEL
              - environment UNDERPASS_TRUST_DOMAIN: trust-domain: "a b": a trust domain is 1 to 255 of a-z, 0-9, `.`, `-` and `_`
              - flag: workers: "none": invalid digit found in string
              - /etc/u.yaml:3: workers: "0": number would be zero for non-zero type
              - --manifests or --control-plane is not set: give one of them"#]],
    );
    check(
        &["--nod=n", "--manifests=/m", "--release-drain=x"],
        &[],
        "a: [",
        expect![[r#"
            settings:
              - unexpected argument '--nod' found tip: a similar argument exists: '--node'
              - /etc/u.yaml:1: is not valid YAML: unclosed bracket '['
              - node is not set: give --node, the environment variable NODE_NAME, or `node:` in the file of --config
              - --manifests or --control-plane is not set: give one of them"#]],
    );
    check(
        &[],
        &[("NODE_NAME", "n")],
        "- manifests\n",
        expect![[r#"
            settings:
              - /etc/u.yaml:1: settings are a mapping, such as `node: node-1`
              - --manifests or --control-plane is not set: give one of them"#]],
    );
}

#[test]
fn the_mesh_is_known_from_one_source() {
    let check = |args: &[&str], want: Result<(), &str>| {
        let args = [&["underpass-agent", "--node=n"], args].concat();
        let sources = Sources { args: args.iter().map(Into::into).collect(), ..Sources::default() };
        let loaded = load(&sources, |_| Err(std::io::ErrorKind::NotFound.into())).map(drop);
        let loaded = loaded.map_err(|stop| match stop {
            Stop::Problems(problems) => problems.to_string(),
            Stop::Answer(answer) => answer.to_string(),
        });
        assert_eq!(loaded, want.map_err(|problem| format!("settings:\n  - {problem}")), "{args:?}");
    };
    check(&["--manifests=/m"], Ok(()));
    check(&["--control-plane=underpass-control.underpass-system.svc:15012"], Ok(()));
    check(&["--control-plane=[fd00::1]:15012"], Ok(()));
    check(&[], Err("--manifests or --control-plane is not set: give one of them"));
    let both = "--manifests and --control-plane: both are set (flag; flag): give one of them";
    check(&["--manifests=/m", "--control-plane=a:1"], Err(both));
    for bad in ["a", "a:", "user@a:1", ":1"] {
        let problem = format!("flag: control-plane: {bad:?}: ");
        let args = ["underpass-agent", "--node=n", "--control-plane", bad];
        let sources = Sources { args: args.iter().map(Into::into).collect(), ..Sources::default() };
        let Err(Stop::Problems(problems)) = load(&sources, |_| Err(std::io::ErrorKind::NotFound.into())) else {
            panic!("{bad}")
        };
        assert!(problems.to_string().contains(&problem), "{problems}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    let stop = load(&sources(&["--config=/none", "--node=n", "--manifests=/m"], &[]), missing).unwrap_err();
    let Stop::Problems(problems) = stop else { panic!("{stop:?}") };
    assert_eq!(problems.to_string(), "settings:\n  - /none: cannot read it: entity not found");
}

#[test]
fn misspelt_variables_are_warned_about_and_others_are_not() {
    let env = [("UNDERPASS_MANIFEST", "/m"), ("UNDERPASS_AGENT_SERVICE_HOST", "10.0.0.1"), ("HOME", "/")];
    let loaded = load(&sources(&BASE[1..], &env), |_| panic!("no file")).unwrap();
    let want = "environment UNDERPASS_MANIFEST: no such setting: did you mean UNDERPASS_MANIFESTS?";
    assert_eq!(loaded.warnings, [want]);
}

#[test]
fn help_is_an_answer_and_no_problem() {
    let stop = load(&sources(&["--help"], &[]), |_| panic!("no file")).unwrap_err();
    let Stop::Answer(answer) = stop else { panic!("{stop:?}") };
    assert!(!answer.use_stderr() && answer.to_string().contains("UNDERPASS_RELEASE_DRAIN"));
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let args = [&BASE[1..], &["--access-log", "/var/log/a b #c", "--trust-domain-aliases=a.b,c.d"]].concat();
    let loaded = load(&sources(&args, &[]), |_| panic!("no file")).unwrap();
    let text = yaml(&loaded.settings);
    assert!(text.contains("# cgroup-root: not set\n") && text.contains("# default\n"), "{text}");
    let again = with_file(&["--config", "/etc/u.yaml"], &[], &text).unwrap();
    let values = |l: &Loaded| l.settings.iter().map(|s| (s.name.clone(), s.values.clone())).collect::<Vec<_>>();
    assert_eq!(values(&again), values(&loaded), "{text}");
}

#[test]
fn every_setting_is_documented_and_has_a_variable() {
    for row in table::rows() {
        assert!(row.help().ends_with(['.', '?']), "{}: {}", row.name, row.help());
        assert!(row.variable.is_some(), "{}", row.name);
    }
    expect_file!["../../../docs/settings.md"].assert_eq(&markdown());
}
