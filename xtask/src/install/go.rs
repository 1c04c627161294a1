//! Programs that Go builds from source: the module proxy has the sources of every release.
//!
//! Of several programs together a Go module of ours (a folder of xtask) names the releases and nothing else, and its committed
//! go.sum says that the sources are the ones. A program that comes alone is built by its own go.mod; Go's checksum database
//! answers for its sources.
//!
//! What must hold: a program in the folder of programs is whole. It is built aside and renamed, by one xtask at a time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::process::Cmd;
use crate::workspace::Workspace;

/// Programs of one Go module of ours.
#[derive(Debug)]
pub(crate) struct Programs {
    /// What they are together: `Kubernetes`.
    pub(crate) title: &'static str,
    /// The folder of the module, below xtask, and of what is built, below target/tools.
    pub(crate) folder: &'static str,
    /// The module whose version is the name of the folder.
    pub(crate) main: &'static str,
    /// The programs, by their packages. The last word is the program's name.
    pub(crate) packages: &'static [&'static str],
    /// Build tags.
    pub(crate) tags: &'static str,
    /// Further flags of the linker, by the version of `main`.
    pub(crate) linker: fn(&str) -> String,
}

impl Programs {
    /// Builds what is missing, and returns the folder of the programs. The first time takes minutes.
    pub(crate) fn ensure(&self, workspace: &Workspace) -> Result<PathBuf> {
        let module = workspace.root().join("xtask").join(self.folder);
        let wanted = self.wanted(&module)?;
        let home = workspace.tools().join(self.folder).join(&wanted.version);
        let bin = home.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
        let _lock = lock(&home)?;
        self.build_missing(&module, &wanted, &home, &bin)?;
        Ok(bin)
    }

    fn wanted(&self, module: &Path) -> Result<Wanted> {
        let file = module.join("go.mod");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Wanted::parse(&text, self.main).with_context(|| format!("cannot read {}", file.display()))
    }

    /// Builds the programs that are not in `bin`.
    fn build_missing(&self, module: &Path, wanted: &Wanted, home: &Path, bin: &Path) -> Result<()> {
        let missing: Vec<_> = self.packages.iter().filter(|package| !bin.join(name(package)).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        check(wanted.go).with_context(|| format!("{} {}", self.title, wanted.version))?;
        let aside = home.join("build");
        fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
        eprintln!("{} {} is built from source, which takes some minutes the first time", self.title, wanted.version);
        // Without symbols and debug information, as a release.
        let flags = format!("-s -w{}", (self.linker)(&wanted.version));
        go().current_dir(module)
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", self.tags, "-ldflags", &flags])
            .arg("-o")
            .arg(&aside)
            .args(&missing)
            .run()
            .with_context(|| {
                let title = self.title;
                format!("cannot build {title}: Go fetches the sources by its module proxy (`go env GOPROXY`)")
            })?;
        for package in missing {
            let (from, to) = (aside.join(name(package)), bin.join(name(package)));
            fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
        }
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))
    }

    /// The folder of the sources of `main`, as Go has fetched them.
    pub(crate) fn sources(&self, workspace: &Workspace) -> Result<PathBuf> {
        let module = workspace.root().join("xtask").join(self.folder);
        downloaded(go().current_dir(&module), self.main)
    }
}

/// The folder of the sources of a module, as Go fetches them.
pub(crate) fn sources(module: &str, version: &str) -> Result<PathBuf> {
    downloaded(go(), &format!("{module}@v{version}"))
}

fn downloaded(go: Cmd, module: &str) -> Result<PathBuf> {
    let told = go.args(["mod", "download", "-json", module]).read()?;
    let told: serde_json::Value = serde_json::from_str(&told).context("what `go mod download` said")?;
    told["Dir"].as_str().map(PathBuf::from).with_context(|| format!("no folder in {told}"))
}

/// A program of one module, built as its own go.mod says.
pub(crate) fn installed(workspace: &Workspace, package: &str, version: &str, oldest: (u32, u32)) -> Result<PathBuf> {
    let name = name(package);
    let bin = workspace.tools().join(format!("{name}-{version}"));
    let program = bin.join(name);
    if program.is_file() {
        return Ok(program);
    }
    let module = format!("{package}@v{version}");
    let hint = format!("{name} is missing. Where Go is installed:\n  GOBIN={} go install {module}", bin.display());
    check(oldest).context(hint.clone())?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let _lock = lock(&bin)?;
    if program.is_file() {
        return Ok(program);
    }
    let aside = bin.join("build");
    eprintln!("{name} {version} is built from source, which takes some minutes the first time");
    go().args(["install", "-trimpath", "-ldflags", "-s -w", &module])
        .env("CGO_ENABLED", "0")
        .env("GOBIN", &aside)
        .run()
        .context(hint)?;
    fs::rename(aside.join(name), &program).with_context(|| format!("cannot move {name}"))?;
    Ok(program)
}

/// Waits until no other xtask builds in this folder: what it was about to build is there then.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(lock)
}

/// Go with nothing of the machine's own settings, and no other Go than the one that is there.
fn go() -> Cmd {
    Cmd::new("go").env("GOTOOLCHAIN", "local").env("GOWORK", "off").env("GOFLAGS", "")
}

fn name(package: &str) -> &str {
    package.rsplit('/').next().unwrap_or(package)
}

/// What go.mod asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// The version of the main module: `1.37.2`.
    version: String,
    /// The oldest Go that builds it: major and minor number.
    go: (u32, u32),
}

impl Wanted {
    fn parse(go_mod: &str, main: &str) -> Result<Self> {
        let find = |start: &str| go_mod.lines().find_map(|line| line.trim().strip_prefix(start)?.split(' ').next());
        let version = find(&format!("{main} v")).with_context(|| format!("no line `{main} v...`"))?;
        let go = find("go ").and_then(version_of_go).context("no line `go ...`")?;
        Ok(Self { version: version.to_owned(), go })
    }
}

/// Checks that Go is there and not older than this. Debian's is usually too old, so that it is not installed here.
fn check(oldest: (u32, u32)) -> Result<()> {
    let (major, minor) = oldest;
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let hint = format!(
        "it needs Go {major}.{minor} or later. Run:\n  \
         curl -sSL https://go.dev/dl/go{major}.{minor}.0.linux-{machine}.tar.gz | sudo tar -C /usr/local -xz && \
         export PATH=/usr/local/go/bin:$PATH"
    );
    ensure!(install::find_program("go").is_some(), "Go is missing: {hint}");
    let said = Cmd::new("go").env("GOTOOLCHAIN", "local").args(["env", "GOVERSION"]).read().context(hint.clone())?;
    let said = said.trim();
    let found = said.strip_prefix("go").and_then(version_of_go);
    ensure!(found.is_some_and(|found| found >= oldest), "Go is too old, this is `{said}`: {hint}");
    Ok(())
}

/// `1.26.8` or `1.27-devel`, without the last number.
fn version_of_go(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks that the committed module of `programs` has every one of them.
#[cfg(test)]
pub(super) fn check_module(programs: &Programs) {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join(programs.folder);
    programs.wanted(&module).unwrap();
    let text = fs::read_to_string(module.join("go.mod")).unwrap();
    for package in programs.packages {
        assert!(text.lines().any(|line| line.trim().trim_start_matches("tool ") == *package), "{package}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "k8s.io/kubernetes";
    const GO_MOD: &str = "module m\n\ngo 1.26.0\n\ntool k8s.io/kubernetes/cmd/kubectl\n\n\
                          require (\n\tgo.example/x v0.1.0\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n";
    const PROGRAMS: Programs = Programs {
        title: "Two programs",
        folder: "none",
        main: MAIN,
        packages: &["example/cmd/one", "example/cmd/two"],
        tags: "",
        linker: |_| String::new(),
    };

    #[test]
    fn the_versions_are_those_of_go_mod() {
        assert_eq!(Wanted::parse(GO_MOD, MAIN).unwrap(), Wanted { version: "1.37.2".into(), go: (1, 26) });
        for (without, want) in [("k8s.io/kubernetes v", "k8s.io/kubernetes"), ("go 1.26.0", "`go ...`")] {
            let error = Wanted::parse(&GO_MOD.replace(without, ""), MAIN).unwrap_err().to_string();
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
            assert_eq!(version_of_go(text), want, "{text}");
        }
        assert!(version_of_go("1.9") < version_of_go("1.26.0"));
    }

    #[test]
    fn an_old_go_is_refused_with_the_command_that_brings_another() {
        let error = check((9, 99)).unwrap_err().to_string();
        assert!(error.contains("needs Go 9.99 or later") && error.contains("go9.99.0"), "{error}");
    }

    #[test]
    fn what_is_there_is_not_built_again() {
        let home = std::env::temp_dir().join(format!("underpass-xtask-go-{}", std::process::id()));
        let bin = home.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let wanted = Wanted { version: "1.37.2".into(), go: (9, 99) };
        let build = || PROGRAMS.build_missing(&home, &wanted, &home, &bin);
        for package in PROGRAMS.packages {
            // No Go is new enough, so that one missing program is one error.
            assert!(build().is_err());
            fs::write(bin.join(name(package)), "").unwrap();
        }
        build().unwrap();
        fs::remove_dir_all(home).unwrap();
    }
}
