//! Kubernetes' own programs for the level `kubernetes`, built from source: the module proxy has the sources of every
//! release, and the committed go.sum says that they are the ones. etcd is Debian's.
//!
//! The Go module xtask/kubernetes names the release and nothing else. It is there because k8s.io/kubernetes takes parts of
//! itself from folders beside it, which `go install` refuses; ours takes the published versions of these parts.
//! Another release: its number in every line of go.mod that has the old one, then `go mod tidy`.
//!
//! What must hold: a program in target/tools/kubernetes/VERSION/bin is whole. It is built aside and renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install::{self, unpacked};
use crate::process::Cmd;
use crate::workspace::Workspace;

/// The programs, by their packages. The last word is the program's name.
const PACKAGES: &[&str] = &["k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl"];

/// The packages with the variables by which Kubernetes' programs know their version: `kubectl version`, and the API
/// server's `/version`, by which clients judge it.
const VERSION_PACKAGES: &[&str] = &["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Kubernetes {
    bin: PathBuf,
    etcd: PathBuf,
}

impl Kubernetes {
    /// The environment of the tests: the folder of Kubernetes' programs, and the path of etcd.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 2] {
        [("UNDERPASS_KUBERNETES", &self.bin), ("UNDERPASS_ETCD", &self.etcd)]
    }
}

/// Builds what is missing. The first time takes minutes.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Kubernetes> {
    let etcd = match install::find_program("etcd") {
        Some(etcd) => etcd,
        None => unpacked::programs(workspace, "etcd-server", &["etcd"])?.join("etcd"),
    };
    let module = workspace.root().join("xtask/kubernetes");
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let wanted = Wanted::parse(&text).with_context(|| format!("cannot read {}", file.display()))?;
    let home = workspace.tools().join("kubernetes").join(&wanted.kubernetes);
    let bin = home.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    // Another xtask may be about to build the same: then its programs are there afterwards.
    let path = home.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    build_missing(&module, &wanted, &home, &bin)?;
    Ok(Kubernetes { bin, etcd })
}

/// Builds the programs that are not in `bin`.
fn build_missing(module: &Path, wanted: &Wanted, home: &Path, bin: &Path) -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|package| !bin.join(name(package)).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    wanted.check_go()?;
    let aside = home.join("build");
    fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
    eprintln!("Kubernetes {} is built from source, which takes some minutes the first time", wanted.kubernetes);
    Cmd::new("go")
        .current_dir(module)
        // Nothing of the machine's own settings of Go, and no other Go than this one.
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .env("GOFLAGS", "")
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", &wanted.linker_flags(), "-o"])
        .arg(&aside)
        .args(&missing)
        .run()
        .context(
            "cannot build Kubernetes' programs: Go fetches their sources by its module proxy (`go env GOPROXY`)",
        )?;
    for package in missing {
        let (from, to) = (aside.join(name(package)), bin.join(name(package)));
        fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))
}

fn name(package: &str) -> &str {
    package.rsplit('/').next().unwrap_or(package)
}

/// What go.mod asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Kubernetes' version: `1.37.2`.
    kubernetes: String,
    /// The oldest Go that builds it: major and minor number.
    go: (u32, u32),
}

impl Wanted {
    fn parse(go_mod: &str) -> Result<Self> {
        let find = |start: &str| go_mod.lines().find_map(|line| line.trim().strip_prefix(start)?.split(' ').next());
        let kubernetes = find("k8s.io/kubernetes v").context("no line `k8s.io/kubernetes v...`")?;
        let go = find("go ").and_then(go_version).context("no line `go ...`")?;
        Ok(Self { kubernetes: kubernetes.to_owned(), go })
    }

    /// Debian's Go is usually too old, so that it is not installed here.
    fn check_go(&self) -> Result<()> {
        let (major, minor) = self.go;
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let hint = format!(
            "Kubernetes {} needs Go {major}.{minor} or later. Run:\n  \
             curl -sSL https://go.dev/dl/go{major}.{minor}.0.linux-{machine}.tar.gz | sudo tar -C /usr/local -xz && \
             export PATH=/usr/local/go/bin:$PATH",
            self.kubernetes
        );
        ensure!(install::find_program("go").is_some(), "Go is missing: {hint}");
        let said =
            Cmd::new("go").env("GOTOOLCHAIN", "local").args(["env", "GOVERSION"]).read().context(hint.clone())?;
        let said = said.trim();
        let found = said.strip_prefix("go").and_then(go_version);
        ensure!(found.is_some_and(|found| found >= self.go), "Go is too old, this is `{said}`: {hint}");
        Ok(())
    }

    /// Without symbols and debug information, and with its version, as a release.
    fn linker_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        let mut numbers = self.kubernetes.split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        for package in VERSION_PACKAGES {
            flags += &format!(" -X {package}.gitVersion=v{}", self.kubernetes);
            flags += &format!(" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}");
        }
        flags
    }
}

/// `1.26.8` or `1.27-devel`, without the last number.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module m\n\ngo 1.26.0\n\ntool k8s.io/kubernetes/cmd/kubectl\n\n\
                          require (\n\tgo.example/x v0.1.0\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n";

    #[test]
    fn the_versions_are_those_of_go_mod() {
        assert_eq!(Wanted::parse(GO_MOD).unwrap(), Wanted { kubernetes: "1.37.2".into(), go: (1, 26) });
        for (without, want) in [("k8s.io/kubernetes v", "k8s.io/kubernetes"), ("go 1.26.0", "`go ...`")] {
            let error = Wanted::parse(&GO_MOD.replace(without, "")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn go_versions_are_compared_by_number() {
        for (text, want) in [
            ("1.26.8", Some((1, 26))),
            ("1.9", Some((1, 9))),
            ("1.27-devel_1a2b", Some((1, 27))),
            ("x", None),
            ("1", None),
        ] {
            assert_eq!(go_version(text), want, "{text}");
        }
        assert!(go_version("1.9") < go_version("1.26.0"));
    }

    #[test]
    fn an_old_go_is_refused_with_the_command_that_brings_another() {
        let error = Wanted { kubernetes: "1.37.2".into(), go: (9, 99) }.check_go().unwrap_err().to_string();
        assert!(error.contains("needs Go 9.99 or later") && error.contains("go9.99.0"), "{error}");
    }

    #[test]
    fn a_program_knows_its_version() {
        let flags = Wanted { kubernetes: "1.37.2".into(), go: (1, 26) }.linker_flags();
        for want in ["version.gitVersion=v1.37.2", "pkg/version.gitMajor=1 ", "base/version.gitMinor=37"] {
            assert!(flags.contains(want), "{flags}");
        }
    }

    #[test]
    fn the_committed_module_has_every_program() {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes");
        let text = fs::read_to_string(module.join("go.mod")).unwrap();
        Wanted::parse(&text).unwrap();
        for package in PACKAGES {
            assert!(text.lines().any(|line| line.trim().trim_start_matches("tool ") == *package), "{package}");
        }
    }

    #[test]
    fn what_is_there_is_not_built_again() {
        let home = std::env::temp_dir().join(format!("underpass-xtask-kubernetes-{}", std::process::id()));
        let bin = home.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let wanted = Wanted { kubernetes: "1.37.2".into(), go: (9, 99) };
        let build = || build_missing(&home, &wanted, &home, &bin);
        for package in PACKAGES {
            // No Go is new enough, so that one missing program is one error.
            assert!(build().is_err());
            fs::write(bin.join(name(package)), "").unwrap();
        }
        build().unwrap();
        fs::remove_dir_all(home).unwrap();
    }
}
