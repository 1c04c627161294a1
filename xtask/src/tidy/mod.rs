//! `cargo xtask tidy`: the rules of the house that a machine can check.
//!
//! Each rule is a module with a pure function from what it looks at to its findings, tested on inputs that break it. The
//! cheap rules come first; all run, so that one round shows everything.

mod deny;
mod header;
mod length;
mod licence;
mod lint;
mod manifest;
mod path;
mod sources;
mod storeys;
mod words;

use anyhow::{Context, Result};

use crate::ebpf;
use crate::install;
use crate::metadata::Metadata;
use crate::test::summary::Tally;
use crate::workspace::Workspace;
use sources::Source;

/// Arguments of `tidy`.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Only these checks (default: all)
    #[arg(value_enum)]
    only: Vec<Check>,
}

/// One rule.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Check {
    /// Every Rust file opens with what it is
    Headers,
    /// No Rust file is longer than 500 lines before its tests
    Length,
    /// Nothing is left undone, no test is switched off, and no pronoun stands where a noun belongs
    Words,
    /// No path of one machine
    Paths,
    /// Every crate inherits the workspace's lints
    Manifests,
    /// Every crate depends on lower storeys only
    Storeys,
    /// Licences, sources and who may depend on what, as deny.toml says
    Deny,
    /// rustfmt
    Format,
    /// clippy, of user space and of the kernel programs
    Clippy,
    /// rustdoc without warnings
    Docs,
}

/// Something that breaks a rule: where, and what is wrong.
pub(crate) type Finding = String;

/// Runs the checks, prints what they find, and counts them.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    use clap::ValueEnum;
    let checks = if options.only.is_empty() { Check::value_variants() } else { &options.only };
    let subject = Subject::read(workspace)?;
    let mut tally = Tally::default();
    for check in checks {
        let name = check.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let findings = subject.check(*check).unwrap_or_else(|error| vec![format!("{error:#}")]);
        for finding in &findings {
            println!("tidy: {name}: {finding}");
        }
        let word = if findings.is_empty() { "ok" } else { "FAILED" };
        println!("tidy: {name} ... {word}");
        tally.count(findings.is_empty());
    }
    Ok(tally)
}

/// Everything the checks look at.
struct Subject<'a> {
    workspace: &'a Workspace,
    sources: Vec<Source>,
}

impl<'a> Subject<'a> {
    fn read(workspace: &'a Workspace) -> Result<Self> {
        Ok(Self { workspace, sources: sources::read(workspace.root())? })
    }

    fn check(&self, check: Check) -> Result<Vec<Finding>> {
        let rust = || self.sources.iter().filter(|source| source.is_rust());
        Ok(match check {
            Check::Headers => rust().filter_map(header::check).collect(),
            Check::Length => rust().filter_map(length::check).collect(),
            Check::Words => self.sources.iter().flat_map(words::check).collect(),
            Check::Paths => {
                let own = self.workspace.root().to_string_lossy();
                self.sources.iter().flat_map(|source| path::check(source, &own)).collect()
            }
            Check::Manifests => self.sources.iter().filter_map(manifest::check).collect(),
            Check::Storeys => storeys::check(&self.user_space(None)?, self.workspace.root()),
            Check::Deny => self.deny()?,
            Check::Format => {
                install::rust_components()?;
                lint::format(self.workspace, &self.sources)
            }
            Check::Clippy => {
                install::rust_components()?;
                lint::clippy(self.workspace)
            }
            Check::Docs => lint::docs(self.workspace),
        })
    }

    fn user_space(&self, platform: Option<&str>) -> Result<Metadata> {
        Metadata::load(self.workspace.cargo(), platform)
    }

    fn deny(&self) -> Result<Vec<Finding>> {
        let file = self.sources.iter().find(|source| source.path == "deny.toml").context("there is no deny.toml")?;
        let rules = deny::Rules::parse(&file.text)?;
        let mut findings = Vec::new();
        for platform in rules.platforms() {
            findings.extend(rules.check(&self.user_space(Some(platform))?));
        }
        // Kernel programs are one platform, the same on every node: so are their packages.
        let programs = ebpf::host_cargo(self.workspace)?;
        findings.extend(rules.check(&Metadata::load(programs, None)?));
        findings.sort();
        findings.dedup();
        Ok(findings)
    }
}
