//! Tests: directories of a node, and what is in them after a look.

use std::os::unix::fs::MetadataExt as _;

use std::{sync::mpsc, time::Duration};

use super::*;
use crate::config::{Sources, load_with};

const DEADLINE: Duration = Duration::from_secs(60);
const PRIMARY: &str = r#"{"name":"net","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}"#;
const OURS: &str = "00-00-underpass.conflist";

struct Node {
    directory: tempfile::TempDir,
    settings: Settings,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("net.d")).unwrap();
        fs::create_dir(path("bin")).unwrap();
        fs::write(path("built"), "program").unwrap();
        let plugin = Plugin { socket: "/s".into(), namespaces: "/l".into(), exempt: ["kube-system".to_owned()].into() };
        let settings = Settings { config_dir: path("net.d"), bin_dir: path("bin"), program: path("built"), plugin };
        Self { settings, directory }
    }

    fn config(&self, name: &str) -> PathBuf {
        self.settings.config_dir.join(name)
    }

    fn program(&self) -> PathBuf {
        self.settings.bin_dir.join(PROGRAM)
    }

    /// The names of all files in both directories.
    fn files(&self) -> Vec<String> {
        let mut all: Vec<_> =
            [&self.settings.config_dir, &self.settings.bin_dir].into_iter().flat_map(|d| names(d).unwrap()).collect();
        all.sort();
        all
    }

    fn ours(&self) -> String {
        fs::read_to_string(self.config(OURS)).unwrap()
    }

    /// The changes of a look without a problem.
    fn look(&self) -> Vec<Change> {
        let look = look(&self.settings);
        assert!(look.problem.is_none(), "{look:?}");
        look.changes
    }

    fn problem(&self) -> String {
        look(&self.settings).problem.expect("a problem").to_string()
    }
}

#[test]
fn ours_follows_the_primarys() {
    let node = Node::new();
    assert_eq!(node.look(), [Change::Program(node.program())], "there is no primary yet");
    fs::write(node.config("10-net.conflist"), PRIMARY).unwrap();
    fs::set_permissions(node.config("10-net.conflist"), Permissions::from_mode(0o600)).unwrap();
    let written = Change::Written { path: node.config(OURS), primary: node.config("10-net.conflist") };
    assert_eq!(node.look(), std::slice::from_ref(&written));
    assert_eq!(node.look(), [], "nothing has changed");
    assert_eq!(node.files(), [OURS, "10-net.conflist", PROGRAM], "nothing is left aside");
    assert!(node.ours().contains("bridge") && node.ours().contains(PROGRAM), "{}", node.ours());
    assert_eq!(fs::metadata(node.config(OURS)).unwrap().mode() & 0o777, 0o600, "as private as the primary's");
    // It is written anew, and ours taken away.
    fs::write(node.config("10-net.conflist"), PRIMARY.replace("bridge", "ptp")).unwrap();
    assert_eq!(node.look(), std::slice::from_ref(&written));
    assert!(node.ours().contains("ptp"), "{}", node.ours());
    fs::remove_file(node.config(OURS)).unwrap();
    assert_eq!(node.look(), [written]);
    // Another one comes before it.
    fs::write(node.config("00-00-a.conf"), r#"{"name":"a","cniVersion":"0.3.1","type":"host-device"}"#).unwrap();
    let before = node.config("+00-00-underpass.conflist");
    let written = Change::Written { path: before.clone(), primary: node.config("00-00-a.conf") };
    assert_eq!(node.look(), [written, Change::Removed(node.config(OURS))]);
    fs::remove_file(node.config("00-00-a.conf")).unwrap();
    fs::remove_file(node.config("10-net.conflist")).unwrap();
    assert_eq!(node.look(), [Change::Removed(before)], "without a primary pods have no network either");
    assert_eq!(node.files(), [PROGRAM]);
}

#[test]
fn the_last_good_one_stays() {
    let node = Node::new();
    let primary = node.config("10-net.conflist");
    fs::write(&primary, PRIMARY).unwrap();
    node.look();
    let good = node.ours();
    for broken in ["", r#"{"name":"net""#, r#"{"name":"net","cniVersion":"0.2.0","plugins":[{"type":"x"}]}"#] {
        fs::write(&primary, broken).unwrap();
        let problem = node.problem();
        assert!(problem.starts_with(&format!("cannot follow {}: it", primary.display())), "{problem}");
        assert_eq!(node.ours(), good);
    }
    fs::write(&primary, [0xff, 0xfe]).unwrap();
    let problem = node.problem();
    assert!(problem.starts_with(&format!("cannot read {}", primary.display())), "{problem}");
    fs::remove_dir_all(&node.settings.config_dir).unwrap();
    let problem = node.problem();
    assert!(problem.starts_with(&format!("cannot list {}: No such", node.settings.config_dir.display())), "{problem}");
}

#[test]
fn a_configuration_waits_for_its_program() {
    let mut node = Node::new();
    fs::write(node.config("10-net.conflist"), PRIMARY).unwrap();
    let built = node.settings.program.clone();
    node.settings.program = node.directory.path().join("absent");
    let problem = node.problem();
    assert!(problem.contains("absent") && node.files() == ["10-net.conflist"], "{problem}: {:?}", node.files());
    node.settings.program = built.clone();
    assert_eq!(node.look().len(), 2);
    let first = fs::metadata(node.program()).unwrap();
    assert_eq!(first.mode() & 0o777, EXECUTABLE);
    assert_eq!(node.look(), []);
    assert_eq!(fs::metadata(node.program()).unwrap().ino(), first.ino(), "it is written where it differs");
    // Another build, a mode that runtimes cannot start, and none at all.
    fs::write(&built, "another program").unwrap();
    assert_eq!(node.look(), [Change::Program(node.program())]);
    assert_eq!(fs::read(node.program()).unwrap(), b"another program");
    fs::set_permissions(node.program(), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(node.look(), [Change::Program(node.program())]);
    fs::remove_file(node.program()).unwrap();
    assert_eq!(node.look(), [Change::Program(node.program())]);
}

#[test]
fn a_change_is_followed_while_it_runs() {
    let node = Node::new();
    let (looked, looks) = mpsc::channel();
    let installed = start_with(node.settings.clone(), move |look| {
        let _ = looked.send(look.changes); // the test may have ended
    })
    .unwrap();
    let until = |is: &dyn Fn(&Change) -> bool| {
        loop {
            let changes: Vec<Change> = looks.recv_timeout(DEADLINE).expect("a look with this change");
            if changes.iter().any(is) {
                return;
            }
        }
    };
    until(&|change| matches!(change, Change::Program(_)));
    fs::write(node.config("10-net.conflist"), PRIMARY).unwrap();
    until(&|change| matches!(change, Change::Written { .. }));
    fs::remove_file(node.config("10-net.conflist")).unwrap();
    until(&|change| matches!(change, Change::Removed(_)));
    fs::write(node.config("20-net.conflist"), PRIMARY).unwrap();
    until(&|change| matches!(change, Change::Written { primary, .. } if primary.ends_with("20-net.conflist")));
    assert!(!installed.is_finished());
    drop(installed);
    assert_eq!(node.files(), [OURS, "20-net.conflist", PROGRAM], "its end removes nothing");
}

fn config(node: &Node, flags: &[&str]) -> Config {
    let state = format!("--state={}", node.directory.path().display());
    let args = ["underpass-agent", "--node=n", "--manifests=/m", &state].into_iter().chain(flags.iter().copied());
    let sources = Sources { args: args.map(Into::into).collect(), ..Sources::default() };
    load_with(&sources, |_| panic!("no file"), true).unwrap().config
}

#[test]
fn settings_say_whether_and_where() {
    let node = Node::new();
    let of = |flags: &[&str], own: Option<&str>| Settings::of(&config(&node, flags), own.map(str::to_owned)).unwrap();
    assert!(of(&[], None).is_none());
    assert!(of(&["--cni-socket=/s"], None).is_none());
    const SOCKET: &str = "--cni-socket=/run/cni.sock";
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let settings = of(&["--cni-config-dir=/etc/cni/net.d", SOCKET], Some("underpass-system")).unwrap();
    assert_eq!(settings.plugin.exempt, set(&["kube-system", "underpass-system"]));
    assert_eq!(settings.plugin.namespaces, node.directory.path().join("cni-namespaces.json"));
    assert_eq!((settings.bin_dir, settings.plugin.socket), ("/opt/cni/bin".into(), "/run/cni.sock".into()));
    assert!(settings.program.ends_with(PROGRAM) && settings.program.is_absolute(), "{:?}", settings.program);
    let settings =
        of(&["--cni-config-dir=/c", "--cni-bin-dir=/b", "--cni-socket=/s", "--cni-exempt=a,b"], None).unwrap();
    assert_eq!((settings.config_dir, settings.bin_dir), ("/c".into(), "/b".into()));
    assert_eq!((settings.plugin.socket, settings.plugin.exempt), ("/s".into(), set(&["a", "b"])));
    assert_eq!(of(&["--cni-config-dir=/c", SOCKET, "--cni-exempt="], Some("")).unwrap().plugin.exempt, set(&[]));
}

#[test]
fn everything_of_ours_is_removed_and_nothing_else() {
    let node = Node::new();
    fs::write(node.config("10-net.conflist"), PRIMARY).unwrap();
    fs::write(node.settings.bin_dir.join("bridge"), "another's").unwrap();
    node.look();
    let list = super::super::list_file(node.directory.path());
    fs::write(&list, "{}").unwrap();
    let [config_dir, bin_dir] = [("config", &node.settings.config_dir), ("bin", &node.settings.bin_dir)]
        .map(|(n, d)| format!("--cni-{n}-dir={}", d.display()));
    let whole = config(&node, &[&config_dir, &bin_dir]);
    assert_eq!(remove(&whole).unwrap(), [node.config(OURS), node.program(), list.clone()]);
    assert_eq!(node.files(), ["10-net.conflist", "bridge"]);
    assert_eq!(remove(&whole).unwrap(), [] as [PathBuf; 0], "and again");
    fs::write(&list, "{}").unwrap();
    fs::write(node.program(), "of a node without the setting").unwrap();
    assert_eq!(remove(&config(&node, &[&bin_dir])).unwrap(), [list]);
    assert_eq!(
        remove(&config(&node, &["--cni-config-dir=/nonexistent", "--cni-bin-dir=/nonexistent"])).unwrap(),
        [] as [PathBuf; 0]
    );
    fs::create_dir(node.config(OURS)).unwrap();
    assert_eq!(remove(&whole).unwrap(), [node.program()], "a directory is no configuration");
}
