//! istiod, built from source, and Istio's base chart with the definitions of its kinds, for `cargo xtask interop`.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::install::go;
use crate::workspace::Workspace;

/// Its module, the version, and the oldest Go that builds it. Go's checksum database answers for the sources.
const MODULE: &str = "istio.io/istio";
const VERSION: &str = "0.0.0-20260827124520-eed52ebb66ad";
const GO: (u32, u32) = (1, 26);
/// Its program, and the folder of the base chart among its sources.
const PACKAGE: &str = "istio.io/istio/pilot/cmd/pilot-discovery";
const BASE: &str = "manifests/charts/base";

/// Where they are.
#[derive(Debug)]
pub(crate) struct Istiod {
    program: PathBuf,
    base: PathBuf,
}

impl Istiod {
    /// The environment of the tests.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 2] {
        [("UNDERPASS_ISTIOD", &self.program), ("UNDERPASS_ISTIO_BASE", &self.base)]
    }
}

/// Builds istiod where it is missing. The first time takes minutes.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Istiod> {
    let program = go::installed(workspace, PACKAGE, VERSION, GO)?;
    let base = go::sources(MODULE, VERSION)?.join(BASE);
    ensure!(base.is_dir(), "{} is missing", base.display());
    Ok(Istiod { program, base })
}
