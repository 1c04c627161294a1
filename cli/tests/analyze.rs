//! `underpass analyze` as users run it: documents of the shape that guides have, mistakes, exit status, and that it
//! neither panics nor lets anything reach the terminal.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use expect_test::{Expect, expect, expect_file};
use serde_json::Value;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/analyze")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
    command
        .env_clear()
        .env("TERM", "xterm")
        .env("HOME", "/nonexistent")
        .current_dir(data())
        .arg("analyze")
        .args(args)
        .stdin(Stdio::null());
    command
}

fn analyze(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Exit status, standard output, and standard error behind `! `.
fn shown(output: &Output) -> String {
    let lines = |bytes: &[u8], mark: &str| -> String {
        String::from_utf8_lossy(bytes).lines().map(|l| format!("{}\n", format!("{mark}{l}").trim_end())).collect()
    };
    let code = output.status.code().unwrap();
    format!("exit {code}\n{}{}", lines(&output.stdout, ""), lines(&output.stderr, "! "))
}

fn stdin(args: &[&str], text: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    child.wait_with_output().unwrap()
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn documents_as_guides_have_them() {
    expect_file!["analyze/guide.txt"].assert_eq(&shown(&analyze(&["guide"])));
}

#[test]
fn typos() {
    expect_file!["analyze/typos.txt"].assert_eq(&shown(&analyze(&["typos/typos.yaml"])));
}

#[test]
fn traps() {
    expect_file!["analyze/traps.txt"].assert_eq(&shown(&analyze(&["traps", "--trust-domain", "acme.example"])));
}

#[test]
fn the_sample_is_clean() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/bookinfo");
    let output = analyze(&[sample, "--deny", "notices"]);
    assert!(shown(&output).starts_with("exit 0\nclean: "), "{}", shown(&output));
}

#[test]
fn exit_statuses() {
    let code = |args: &[&str]| analyze(args).status.code();
    assert_eq!(code(&["guide/kiali.yaml", "--deny", "notices"]), Some(0));
    assert_eq!(code(&["guide/values.yaml"]), Some(0), "notices only");
    assert_eq!(code(&["guide/values.yaml", "--deny", "warnings"]), Some(0));
    assert_eq!(code(&["guide/values.yaml", "--deny", "notices"]), Some(1));
    assert_eq!(code(&["guide/mtls.yaml"]), Some(0), "a warning");
    assert_eq!(code(&["guide/mtls.yaml", "--deny", "warnings"]), Some(1));
    assert_eq!(code(&["guide/mtls.yaml", "--failure-threshold", "Warning"]), Some(1));
    assert_eq!(code(&["guide/mtls.yaml", "--failure-threshold", "error"]), Some(0));
    assert_eq!(code(&["guide/values.yaml", "--failure-threshold", "Info"]), Some(1));
    assert_eq!(code(&["typos"]), Some(1), "errors");
    assert_eq!(code(&["nowhere"]), Some(1));
    assert_eq!(code(&[]), Some(1), "nothing to analyze");
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let want: Expect = expect![[r#"
        exit 1
        ! error: cannot read the manifests in nowhere: No such file or directory (os error 2)
    "#]];
    want.assert_eq(&shown(&analyze(&["guide", "nowhere"])));
}

/// Empty input is an error: in CI it is the wrong directory, or a pipe whose first half failed.
#[test]
fn without_any_manifest_nothing_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    fs::write(dir.path().join("README.md"), "# nothing").unwrap();
    let told = format!("exit 1\n! error: no manifests in {path}: of its files (1) none ends in .yaml, .yml or .json\n");
    assert_eq!(shown(&analyze(&[path])), told);
    assert_eq!(shown(&analyze(&["guide/pod.yaml", path])), told, "one of them is wrong");
    for command in ["workloads", "services", "policies"] {
        let output = Command::new(env!("CARGO_BIN_EXE_underpass")).args([command, "-f", path]).output().unwrap();
        assert_eq!(shown(&output), told, "{command}");
    }
    for nothing in ["", "\n \n"] {
        let output = shown(&stdin(&["-"], nothing.as_bytes()));
        assert_eq!(output, "exit 1\n! error: no manifests on standard input: it is empty\n");
    }
    fs::write(dir.path().join("a.yaml"), "# nothing yet\n").unwrap();
    assert_eq!(analyze(&[path]).status.code(), Some(0));
    assert_eq!(analyze(&[path, "--deny", "notices"]).status.code(), Some(1));
}

#[test]
fn several_places_are_one_mesh() {
    // The same file twice is one file; what one directory says is known to the other.
    let twice = analyze(&["guide/pod.yaml", "./guide/pod.yaml", "-f", "guide/pod.yaml"]);
    assert_eq!(last_line(&twice), "clean: 1 file read, 1 object served; 0 errors, 0 warnings, 0 notices");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(data().join("guide/pod.yaml"), dir.path().join("other.yaml")).unwrap();
    let other = dir.path().to_str().unwrap();
    let output = shown(&analyze(&["guide/pod.yaml", other]));
    assert!(output.starts_with("exit 1\n") && output.contains("duplicate object"), "{output}");
}

#[test]
fn standard_input() {
    let output = shown(&stdin(&["-"], b"apiVersion: v1\nkind: Pdo\nmetadata: {name: a}\n"));
    expect![[r#"
        exit 0
        ignored objects of other kinds: 1 v1 Pdo
        clean: 1 file read, 0 objects served; 0 errors, 0 warnings, 0 notices
    "#]]
    .assert_eq(&output);
}

#[test]
fn for_programs() {
    let output = analyze(&["guide", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"], 0);
    assert_eq!(report["served"], 7);
    assert_eq!(report["other_files"], 1);
    assert_eq!(report["ignored"]["v1 ConfigMap"], 1);
    let findings = report["findings"].as_array().unwrap();
    let paths = findings.iter().find(|f| f["field"] == "spec.rules[0].to[0].operation.paths").unwrap();
    let of = "AuthorizationPolicy shop/catalogue-readers";
    assert_eq!(
        (&paths["file"], &paths["line"], &paths["column"], &paths["severity"], &paths["object"]),
        (&"guide/authz.yaml".into(), &20.into(), &20.into(), &"warning".into(), &of.into())
    );
}

#[test]
fn nothing_written_in_a_file_acts_on_the_terminal() {
    for kind in ["Au\u{1b}[2Jth\u{202e}", "Auth\u{202e}"] {
        let text = format!("apiVersion: security.istio.io/v1\nkind: \"{kind}\"\nmetadata: {{name: \"a\\nb\"}}\n");
        for format in ["text", "json", "yaml"] {
            let told = String::from_utf8(stdin(&["-", "-o", format], text.as_bytes()).stdout).unwrap();
            let is_unsafe = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(told.contains("Au") && !told.contains(is_unsafe), "{told:?}");
        }
    }
}

#[test]
fn colours_are_for_terminals() {
    assert!(!analyze(&["typos"]).stdout.contains(&0x1b));
}

#[test]
fn no_file_makes_it_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lib/config/corpus/manifest");
    let mut count = 0;
    for file in fs::read_dir(corpus).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        for cut in [bytes.len(), bytes.len() / 2, bytes.len() / 3] {
            let output = stdin(&["-"], &bytes[..cut]);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}", shown(&output));
            assert!(output.stderr.is_empty(), "{}", shown(&output));
        }
        count += 1;
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn without_files_there_must_be_a_cluster() {
    let said = |args: &[&str]| shown(&analyze(args));
    assert!(said(&[]).contains("no cluster"), "{}", said(&[]));
    assert!(said(&["--use-kube=false"]).contains("nothing to check"), "{}", said(&["--use-kube=false"]));
    // files are checked alone where there is no cluster, unless one is wanted
    assert_eq!(analyze(&["guide/values.yaml"]).status.code(), Some(0));
    assert_eq!(analyze(&["guide/values.yaml", "--use-kube"]).status.code(), Some(1));
    assert_eq!(analyze(&["guide/values.yaml", "--context", "nowhere"]).status.code(), Some(1));
}
