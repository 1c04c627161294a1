//! h2spec, the conformance suite for HTTP/2, against the server's end of a tunnel.
//!
//! h2spec has no client certificate to show, so a relay here takes its plain connections and opens mutual TLS towards
//! the tunnel for each. It is another program: `cargo xtask test loopback` installs it, names it in `H2SPEC` and turns on
//! the feature that has this file compiled.

use std::{
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::TcpListener,
    task::{spawn_blocking, spawn_local},
};
use underpass_identity::testing::Leaf;

use crate::peer::Tls;
use underpass_net::testing::{ALICE, Mesh, raw, run};

/// How many cases there are: a suite that runs fewer shows nothing.
const CASES: usize = 146;

/// Cases that do not pass, and why: section, the beginning of the description, reason. Of what is no CONNECT the tunnel
/// makes 400, which has no content and comes with the request's end; lib/hbone shows the same rules where it has.
const NO_CONTENT: &str = "wants an answer with content";
const SKIPPED: [(&str, &str, &str); 7] = [
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream", NO_CONTENT),
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream", NO_CONTENT),
    ("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE", NO_CONTENT),
    ("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1", NO_CONTENT),
    ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS", NO_CONTENT),
    ("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative", NO_CONTENT),
    (
        "http2/5.1.2",
        "Sends HEADERS frames that causes",
        "whole requests are answered at once: none is open beside another",
    ),
];

#[test]
fn the_server_conforms() {
    let program = std::env::var_os("H2SPEC").map(PathBuf::from);
    let program = program.expect("run `cargo xtask test loopback`: it installs h2spec");
    run(async {
        let mut mesh = Mesh::new();
        // A frame that the suite calls large is then larger than allowed, and one that it calls whole fits the window.
        mesh.settings.hbone.max_frame_size = 16_384;
        let server = mesh.serve(drop).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("name").port();
        let tls = Rc::new(Tls::new(&mesh.ca, &Leaf::of(ALICE)));
        spawn_local(async move {
            loop {
                let (mut plain, _) = listener.accept().await.expect("accepted");
                plain.set_nodelay(true).expect("option");
                let tls = Rc::clone(&tls);
                spawn_local(async move {
                    let mut tunnel = tls.connect(raw(server.address).await).await.expect("handshake");
                    // Fails where one of the two breaks off, which is what some cases are about.
                    let _ = copy_bidirectional(&mut plain, &mut tunnel).await;
                    let _ = tunnel.shutdown().await;
                });
            }
        });
        let cases = spawn_blocking(move || cases(&program, port)).await.expect("no panic");
        judge(&cases);
    });
}

/// One case of the suite.
#[derive(Debug)]
struct Case {
    section: String,
    description: String,
    passed: bool,
    /// The expected and the actual result, where it did not pass; empty where it was left out.
    #[expect(dead_code, reason = "read in the message of a failure")]
    said: String,
}

/// Runs the suite and reads its report.
fn cases(program: &Path, port: u16) -> Vec<Case> {
    let folder = tempfile::tempdir().expect("folder");
    let report = folder.path().join("report.xml");
    let output = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--timeout", "2", "--strict", "--junit-report"])
        .arg(&report)
        .output()
        .expect("h2spec runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let report = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report: {e}\n{told}"));
    report.split("<testcase ").skip(1).map(case).collect()
}

/// `package="http2/4.2" classname="Sends ..." time="0.1"><error>...</error></testcase>`
fn case(text: &str) -> Case {
    let (text, _) = text.split_once("</testcase>").expect("a whole case");
    let (attributes, said) = text.split_once('>').expect("attributes");
    let attribute = |name: &str| {
        let (_, rest) = attributes.split_once(&format!("{name}=\"")).expect("attribute");
        rest.split_once('"').expect("quoted").0.to_owned()
    };
    Case {
        section: attribute("package"),
        description: attribute("classname"),
        passed: said.is_empty(),
        said: said.replace("<error>", "").replace("</error>", "").replace("<skipped></skipped>", ""),
    }
}

/// What fails is in the table, and what is in the table fails.
fn judge(cases: &[Case]) {
    assert_eq!(cases.len(), CASES, "cases that ran");
    let is_skipped = |case: &Case| {
        SKIPPED.iter().any(|(section, begins, _)| case.section == *section && case.description.starts_with(begins))
    };
    let failed: Vec<_> = cases.iter().filter(|case| !case.passed && !is_skipped(case)).collect();
    assert!(failed.is_empty(), "{} of {CASES} failed: {failed:#?}", failed.len());
    for (section, begins, reason) in SKIPPED {
        let case = cases.iter().find(|case| case.section == section && case.description.starts_with(begins));
        assert!(case.is_some_and(|case| !case.passed), "no longer to be left out ({reason}): {section} {begins}");
    }
}
