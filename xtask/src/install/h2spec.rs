//! h2spec, the conformance suite that the loopback tests run against our HTTP/2.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::install::{self, Program};
use crate::process::Cmd;
use crate::workspace::Workspace;

/// The last release that builds from its own go.mod.
const MODULE: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";

/// Installs h2spec where it is missing and returns its path, which tests get as `H2SPEC`.
pub(crate) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let bin = workspace.tools().join("h2spec-2.2.1");
    let program = bin.join("h2spec");
    if program.is_file() {
        return Ok(program);
    }
    let hint = format!("h2spec is missing. Where Go is installed:\n  GOBIN={} go install {MODULE}", bin.display());
    install::programs(&[Program { name: "go", package: "golang-go" }]).context(hint.clone())?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    Cmd::new("go").args(["install", MODULE]).env("GOBIN", &bin).env("GOFLAGS", "").run().context(hint)?;
    Ok(program)
}
