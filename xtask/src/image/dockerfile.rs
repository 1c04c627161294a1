//! Test: deploy/image/Dockerfile, which no test builds, says what `cargo xtask image` does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Parser;

use super::{COMMAND, LICENCES, Options, PATH, Profile, Recipe, VERSION};
use crate::image::origin::Origin;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// The instructions, with continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(checkout().join("deploy/image/Dockerfile")).unwrap();
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap();
        (name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.map(pair).collect()
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The rest of the one instruction that starts like this.
fn one(name: &str, start: &str) -> String {
    let all = instructions();
    let mut found = all.iter().filter_map(|(own, rest)| rest.strip_prefix(start).filter(|_| own == name));
    let one = found.next().unwrap_or_else(|| panic!("no {name} {start}"));
    assert!(found.next().is_none(), "{name} {start} twice");
    one.to_owned()
}

#[test]
fn it_has_the_files_that_xtask_writes() {
    let arguments = one("RUN", "cargo xtask image");
    let words = ["image"].into_iter().chain(arguments.split_whitespace());
    let Line { options } = Line::try_parse_from(words).unwrap();
    assert_eq!(options.profile, Profile::Release);
    let folder = options.rootfs.expect("it builds the files, not an archive");
    assert_eq!(one("COPY", "--from=build "), format!("{}/ /", folder.display()));
    assert_eq!(instructions().iter().filter(|(name, _)| name == "COPY").count(), 2, "the checkout, and the files");
}

#[test]
fn it_is_built_with_the_oldest_rust_that_is_enough() {
    let tag = one("FROM", "rust:");
    let version = tag.strip_suffix("-bookworm AS build").unwrap();
    assert_eq!(version, env!("CARGO_PKG_RUST_VERSION"));
    let ignored = fs::read_to_string(checkout().join("deploy/image/Dockerfile.dockerignore")).unwrap();
    let own = fs::read_to_string(checkout().join(".gitignore")).unwrap();
    assert_eq!(ignored, own, "what git ignores is no part of the image either");
}

#[test]
fn it_runs_and_is_described_alike() {
    let quoted: Vec<_> = COMMAND.iter().map(|word| format!("{word:?}")).collect();
    assert_eq!(one("CMD", ""), format!("[{}]", quoted.join(", ")));
    assert_eq!(one("ENV", ""), format!("PATH={PATH:?}"));
    assert!(instructions().iter().all(|(name, _)| name != "ENTRYPOINT" && name != "USER"));
    let label = one("LABEL", "");
    let labels = label.split(' ').map(|pair| pair.split_once('=').unwrap());
    let labels: BTreeMap<_, _> = labels.map(|(name, value)| (name, value.trim_matches('"'))).collect();
    let origin = Origin { revision: Some("$REVISION".to_owned()), created: String::new() };
    let recipe = Recipe {
        name: "underpass",
        profile: Profile::Release,
        programs: Vec::new(),
        static_programs: Vec::new(),
        entrypoint: Vec::new(),
        command: Vec::new(),
        billed: true,
    };
    let mut want = recipe.config(&origin, "amd64").labels;
    want.remove("org.opencontainers.image.created"); // Docker writes a time of its own
    let want: BTreeMap<_, _> = want.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(labels, want);
    assert!(labels.values().any(|value| *value == VERSION) && labels.values().any(|value| *value == LICENCES));
}
