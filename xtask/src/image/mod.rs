//! `cargo xtask image`: the container image as one file, without a container runtime, a daemon or a registry.
//!
//! An image has programs, the libraries that they are linked to, and the few files of /etc that a program reads. There is no
//! musl `std` on every machine that builds Underpass, so programs stay linked to glibc, and the image has the glibc of the
//! machine that built them. The CNI plugin leaves the image and runs on the node: glibc is in it. What must hold: the same
//! inputs are the same bytes, and what cannot run in the image is refused here, by name. deploy/image/Dockerfile makes the same
//! image of the same files.

mod bom;
mod debian;
#[cfg(test)]
mod dockerfile;
mod elf;
mod libraries;
mod oci;
mod origin;
mod reference;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;

use crate::build::{self, NEXT_AGENT, PLUGIN, Programs};
use crate::ebpf;
use crate::install::{self, Program};
use crate::metadata::Metadata;
use crate::process::Cmd;
use crate::workspace::Workspace;
use bom::{Crates, Library, Subject};
use debian::Deb;
use libraries::Loader;
use oci::{Config, Image};
use origin::Origin;
use reference::Reference;
use tree::{Tree, write_whole};

/// One version for all packages.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const LICENCES: &str = env!("CARGO_PKG_LICENSE");
/// Where programs are looked for in an image.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Where programs are.
const BIN: &str = "/usr/local/bin";
/// Where the bill of materials and the licence are.
const SHARE: &str = "/usr/share/underpass";

/// The programs of the image that run in it, each with its package.
const PROGRAMS: [(&str, &str); 3] = [
    ("underpass-agent", "underpass-agent"),
    ("underpass-control", "underpass-control"),
    ("underpass", "underpass-cli"),
];
/// What of glibc and GCC is linked into the CNI plugin.
const ARCHIVES: [&str; 2] = ["libc.a", "libgcc_eh.a"];
/// What runs where a pod names no command.
const COMMAND: [&str; 2] = ["underpass", "--help"];
const TESTAPP: &str = "underpass-testapp";
/// Where the images of the testbed's clusters are.
const TESTBED: &str = "target/image/testbed";

/// Files that a program reads by way of libc. 65532 is the user that images without a shell call `nonroot`.
const ETC: [(&str, &str); 3] = [
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("etc/passwd", "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"),
    ("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
];

/// Arguments of `image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How programs are built: release, or dev as the tests have it
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    #[command(flatten)]
    destination: Destination,
    /// Write the image's files into this folder instead, which is empty or not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "tag"])]
    rootfs: Option<PathBuf>,
    /// The image of the testbed's applications instead (with the profile dev)
    #[arg(long, conflicts_with = "profile")]
    testapp: bool,
}

/// What an image is called, and where it is written.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Destination {
    /// The archive [default: target/image/underpass-VERSION.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name [default: underpass:VERSION]
    #[arg(long, value_name = "NAME:TAG", value_parser = Reference::parse)]
    tag: Option<Reference>,
}

/// How programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// As they are published.
    Release,
    /// As the tests have built them already.
    Dev,
}

/// Builds what was asked for.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    match (&options.rootfs, options.testapp) {
        (Some(folder), false) => Recipe::underpass(workspace, options.profile)?.write(workspace, folder),
        (Some(folder), true) => Recipe::testapp(workspace)?.write(workspace, folder),
        (None, false) => underpass(workspace, options.profile, &options.destination).map(drop),
        (None, true) => testapp(workspace, &options.destination).map(drop),
    }
}

/// The archive of the image of Underpass: by default `target/image/underpass-VERSION[-dev].tar`, named `underpass:VERSION`.
/// Built anew only where something that it is made of has changed.
pub(crate) fn underpass(workspace: &Workspace, profile: Profile, destination: &Destination) -> Result<PathBuf> {
    Recipe::underpass(workspace, profile)?.archive(workspace, destination)
}

/// The same for the testbed's applications: `underpass-testapp:VERSION`, whose entry point is the program.
pub(crate) fn testapp(workspace: &Workspace, destination: &Destination) -> Result<PathBuf> {
    Recipe::testapp(workspace)?.archive(workspace, destination)
}

/// The images of the testbed's clusters as archives in `target/image/testbed`, each named `localhost/NAME:testbed`: Underpass, the
/// testbed's applications, and these programs, which are linked to no library. The folder.
pub(crate) fn for_testbed(workspace: &Workspace, programs: &[(&'static str, &Path)]) -> Result<PathBuf> {
    let folder = workspace.root().join(TESTBED);
    let others = programs.iter().map(|(name, path)| Ok(Recipe::alone(name, path)));
    for recipe in [Recipe::underpass(workspace, Profile::Dev), Recipe::testapp(workspace)].into_iter().chain(others) {
        let recipe = recipe?;
        let tag = Reference::parse(&format!("localhost/{}:testbed", recipe.name)).map_err(anyhow::Error::msg)?;
        let output = folder.join(format!("{}.tar", recipe.name));
        recipe.archive(workspace, &Destination { output: Some(output), tag: Some(tag) })?;
    }
    Ok(folder)
}

/// The image of Underpass with the agent of the version after this one, beside the others of the testbed's clusters:
/// `underpass-next.tar`, named `localhost/underpass:next`.
pub(crate) fn next_for_testbed(workspace: &Workspace, programs: &Programs) -> Result<()> {
    let (agent, next) = (PROGRAMS[0].0, programs.path(NEXT_AGENT)?);
    let mut recipe = Recipe { billed: false, ..Recipe::underpass(workspace, Profile::Dev)? };
    recipe.programs.iter_mut().filter(|(name, _)| *name == agent).for_each(|(_, path)| *path = next.to_owned());
    let tag = Reference::parse("localhost/underpass:next").map_err(anyhow::Error::msg)?;
    let output = Some(workspace.root().join(TESTBED).join("underpass-next.tar"));
    recipe.archive(workspace, &Destination { output, tag: Some(tag) }).map(drop)
}

/// What an image is to be.
struct Recipe {
    name: &'static str,
    profile: Profile,
    /// Programs that are linked to libraries: name in the image, and path on this machine.
    programs: Vec<(&'static str, PathBuf)>,
    /// Those that are linked to none.
    static_programs: Vec<(&'static str, PathBuf)>,
    entrypoint: Vec<&'static str>,
    command: Vec<&'static str>,
    /// Whether a bill of materials is in it.
    billed: bool,
}

/// What an image has of the machine that builds it, found and not read yet.
struct Ingredients {
    loader: Loader,
    libraries: Vec<PathBuf>,
}

impl Recipe {
    /// Builds Underpass' programs.
    fn underpass(workspace: &Workspace, profile: Profile) -> Result<Self> {
        ebpf::build(workspace)?;
        let (programs, plugin) = match profile {
            Profile::Dev => {
                let built = Programs::build(workspace)?;
                let find = |name: &'static str| Ok((name, built.path(name)?.to_path_buf()));
                (PROGRAMS.iter().map(|(name, _)| find(name)).collect::<Result<_>>()?, find(PLUGIN)?)
            }
            Profile::Release => {
                let packages = PROGRAMS.iter().flat_map(|(_, package)| ["-p", package]);
                let build = workspace.cargo().args(["build", "--release", "--locked", "--bins"]).args(packages);
                let built = build::executables(build)?;
                let find = |name: &'static str| {
                    let found = built.iter().find(|executable| executable.name == name);
                    Ok((name, found.with_context(|| format!("cargo built no {name}"))?.path.clone()))
                };
                let programs = PROGRAMS.iter().map(|(name, _)| find(name)).collect::<Result<_>>()?;
                (programs, (PLUGIN, build::plugin(workspace)?))
            }
        };
        Ok(Self {
            name: "underpass",
            profile,
            programs,
            static_programs: vec![plugin],
            entrypoint: Vec::new(),
            command: COMMAND.to_vec(),
            billed: true,
        })
    }

    /// Builds the testbed's applications.
    fn testapp(workspace: &Workspace) -> Result<Self> {
        let program = Programs::build(workspace)?.path(TESTAPP)?.to_path_buf();
        let (programs, entrypoint) = (vec![(TESTAPP, program)], vec![TESTAPP]);
        let (name, profile) = (TESTAPP, Profile::Dev);
        let (static_programs, command) = (Vec::new(), Vec::new());
        Ok(Self { name, profile, programs, static_programs, entrypoint, command, billed: false })
    }

    /// Of one program that needs no library.
    fn alone(name: &'static str, program: &Path) -> Self {
        let (static_programs, entrypoint) = (vec![(name, program.to_owned())], vec![name]);
        let (programs, command) = (Vec::new(), Vec::new());
        Self { name, profile: Profile::Dev, programs, static_programs, entrypoint, command, billed: false }
    }

    /// All programs: name in the image, and path on this machine.
    fn all_programs(&self) -> impl Iterator<Item = &(&'static str, PathBuf)> {
        self.programs.iter().chain(&self.static_programs)
    }

    fn ingredients(&self) -> Result<Ingredients> {
        let loader = Loader::of_machine()?;
        for (_, program) in &self.static_programs {
            let cannot = || format!("{} cannot be in an image", program.display());
            loader.architecture.check_static(&read(program)?).with_context(cannot)?;
        }
        let programs = self.programs.iter().map(|(_, path)| path.as_path());
        let libraries = if self.programs.is_empty() { Vec::new() } else { loader.libraries(programs)? };
        Ok(Ingredients { loader, libraries })
    }

    fn config(&self, origin: &Origin, architecture: &'static str) -> Config {
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.title", self.name.to_owned()),
            ("org.opencontainers.image.version", VERSION.to_owned()),
            ("org.opencontainers.image.licenses", LICENCES.to_owned()),
            ("org.opencontainers.image.created", origin.created.clone()),
        ]);
        labels.extend(origin.revision.clone().map(|revision| ("org.opencontainers.image.revision", revision)));
        let (entrypoint, command) = (self.entrypoint.clone(), self.command.clone());
        Config { architecture, created: origin.created.clone(), path: PATH, entrypoint, command, labels }
    }

    /// Writes the image's files into an empty folder.
    fn write(&self, workspace: &Workspace, folder: &Path) -> Result<()> {
        let (tree, _) = self.ingredients()?.tree(workspace, self)?;
        tree.write(folder)?;
        eprintln!("image: its files are in {} ({})", folder.display(), megabytes(tree.size()));
        Ok(())
    }

    /// Writes the archive, and beside it the bill of materials, unless they are there already.
    fn archive(&self, workspace: &Workspace, destination: &Destination) -> Result<PathBuf> {
        let reference = match &destination.tag {
            Some(reference) => reference.clone(),
            None => Reference::parse(&format!("{}:{VERSION}", self.name)).map_err(anyhow::Error::msg)?,
        };
        let by_default = || workspace.root().join("target/image").join(self.file_name());
        let output = destination.output.clone().unwrap_or_else(by_default);
        let ingredients = self.ingredients()?;
        let config = self.config(&Origin::of(workspace)?, ingredients.loader.architecture.oci);
        let inputs = self.inputs(workspace, &ingredients, &format!("{} {config:?}", reference.full()))?;
        let (key, bill_file) = (beside(&output, ".inputs"), beside(&output, ".cdx.json"));
        let complete = output.is_file() && (!self.billed || bill_file.is_file());
        if complete && fs::read_to_string(&key).is_ok_and(|present| present == inputs) {
            eprintln!("image: {} ({}, unchanged)", output.display(), reference.short());
            return Ok(output);
        }
        // From here on until everything is written, no key says what is there.
        if key.exists() {
            fs::remove_file(&key).with_context(|| format!("cannot remove {}", key.display()))?;
        }
        let (tree, bill) = ingredients.tree(workspace, self)?;
        let short = reference.short();
        let archive = Image { reference, tree, config }.archive(self.profile.compression())?;
        write_whole(&output, &archive.bytes)?;
        if let Some(bill) = bill {
            write_whole(&bill_file, bill.as_bytes())?;
        }
        write_whole(&key, inputs.as_bytes())?;
        let (compressed, unpacked) = (megabytes(archive.compressed), megabytes(archive.unpacked));
        eprintln!("image: {} ({short}, {compressed}, unpacked {unpacked}, {})", output.display(), archive.digest);
        Ok(output)
    }

    fn file_name(&self) -> String {
        let end = if self.profile == Profile::Dev { "-dev" } else { "" };
        format!("{}-{VERSION}{end}.tar", self.name)
    }

    /// A digest of everything that the image is made of, and of the program that makes it.
    fn inputs(&self, workspace: &Workspace, ingredients: &Ingredients, config: &str) -> Result<String> {
        // Not by its path, where another build of it may be by now.
        let xtask = PathBuf::from("/proc/self/exe");
        let root = workspace.root();
        let own = [xtask, root.join("Cargo.lock"), root.join("LICENSE")];
        let files = own.iter().chain(self.all_programs().map(|(_, path)| path)).chain(&ingredients.libraries);
        let mut all = format!("{config}\n");
        for file in files {
            let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            all += &format!("{} {}\n", oci::sha256(&content), file.display());
        }
        Ok(oci::sha256(all.as_bytes()))
    }
}

impl Ingredients {
    /// The image's files, and its bill of materials where the recipe wants one.
    fn tree(&self, workspace: &Workspace, recipe: &Recipe) -> Result<(Tree, Option<String>)> {
        let mut tree = Tree::default();
        tree.folder("tmp", 0o1777);
        ETC.iter().for_each(|(path, content)| tree.file(path, 0o644, *content));
        for (name, path) in recipe.all_programs() {
            tree.file(&format!("{BIN}/{name}"), 0o755, stripped(workspace, path)?);
        }
        let mut libraries = Vec::new();
        let mut enter = |tree: &mut Tree, file: &Path| -> Result<Vec<u8>> {
            let (path, content) = (file.display().to_string(), read(file)?);
            let package = Deb::owner(file);
            if let Some(copyright) = package.as_ref().map(Deb::copyright).filter(|path| Path::new(path).is_file()) {
                tree.file(&copyright, 0o644, read(Path::new(&copyright))?);
            }
            libraries.push(Library { sha256: oci::sha256(&content), path, package });
            Ok(content)
        };
        for file in &self.libraries {
            let content = enter(&mut tree, file)?;
            tree.file(&file.display().to_string(), 0o755, content);
        }
        if recipe.billed {
            for archive in ARCHIVES {
                enter(&mut tree, &archive_of_compiler(archive)?)?;
            }
        }
        tree.file(&format!("{SHARE}/LICENSE"), 0o644, read(&workspace.root().join("LICENSE"))?);
        let bill = recipe.billed.then(|| bill(workspace, recipe.name, &libraries)).transpose()?;
        if let Some(bill) = &bill {
            tree.file(&format!("{SHARE}/sbom.cdx.json"), 0o644, bill.as_bytes());
        }
        Ok((tree, bill))
    }
}

impl Profile {
    /// What is published is worth the time, what one test run loads is not.
    fn compression(self) -> Compression {
        match self {
            Self::Release => Compression::best(),
            Self::Dev => Compression::fast(),
        }
    }
}

/// The package of each program.
fn packages() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().map(|(_, package)| *package).chain([PLUGIN])
}

/// Where the C compiler finds an archive that it links.
fn archive_of_compiler(name: &str) -> Result<PathBuf> {
    let said = Cmd::new("cc").arg(format!("-print-file-name={name}")).read()?;
    // It says the name alone where it knows none.
    let path = fs::canonicalize(said.trim()).with_context(|| format!("the C compiler has no {name}"))?;
    Ok(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The program without symbols and debug information.
fn stripped(workspace: &Workspace, program: &Path) -> Result<Vec<u8>> {
    install::programs(&[Program { name: "strip", package: "binutils" }])?;
    let folder = workspace.root().join("target/image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let aside = folder.join(format!("stripped.{}", std::process::id()));
    Cmd::new("strip").arg("--strip-all").arg("-o").arg(&aside).arg(program).read()?;
    let content = fs::read(&aside).with_context(|| format!("cannot read {}", aside.display()))?;
    fs::remove_file(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    Ok(content)
}

/// The bill of materials of Underpass' programs, the kernel programs in the agent, and these libraries.
fn bill(workspace: &Workspace, name: &str, libraries: &[Library]) -> Result<String> {
    let (host, rust) = (build::compiler("host: ")?, build::compiler("release: ")?);
    let user_space = || workspace.cargo();
    let tree = user_space().arg("tree").args(packages().flat_map(|package| ["-p", package])).args(["--target", &host]);
    let user_space = crates(tree, Metadata::load(user_space(), Some(&host))?, workspace.root())?;
    // Both objects of the agent, that of `--kernel-log` among them.
    let tree = ebpf::host_cargo(workspace)?.args(["tree", "--features", ebpf::LOG]);
    let metadata = Metadata::load(ebpf::host_cargo(workspace)?, None)?;
    let kernel = crates(tree, metadata, &workspace.programs())?;
    let programs: Vec<_> = packages().chain(["underpass-programs"]).collect();
    let subject = Subject { name, version: VERSION, programs: &programs, rust: &rust };
    let bill = bom::bill(&subject, &[user_space, kernel], libraries)?;
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// What a `cargo tree` says is linked.
fn crates(tree: Cmd, metadata: Metadata, folder: &Path) -> Result<Crates> {
    let tree =
        tree.args(["--locked", "--edges", "no-dev,no-build,no-proc-macro", "--prefix", "none", "--format", "{p}"]);
    let lock = folder.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    Ok(Crates { metadata, linked: bom::parse_tree(&tree.read()?), checksums: bom::parse_lock(&lock)? })
}

/// The file beside an archive: `a.tar` has `a.cdx.json`.
fn beside(archive: &Path, end: &str) -> PathBuf {
    let mut path = if archive.extension().is_some_and(|end| end == "tar") {
        archive.with_extension("").into_os_string()
    } else {
        archive.as_os_str().to_owned()
    };
    path.push(end);
    path.into()
}

fn megabytes(bytes: usize) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let own = std::env::current_exe().unwrap();
        let (programs, command) = (vec![("underpass", own)], COMMAND.to_vec());
        let (name, profile, static_programs, entrypoint) = ("underpass", Profile::Dev, Vec::new(), Vec::new());
        Recipe { name, profile, programs, static_programs, entrypoint, command, billed: false }
    }

    fn origin(revision: Option<&str>) -> Origin {
        Origin { revision: revision.map(str::to_owned), created: "2026-01-01T00:00:00Z".to_owned() }
    }

    #[test]
    fn labels_say_what_it_is_and_where_it_comes_from() {
        let labels = recipe().config(&origin(Some("abc-dirty")), "amd64").labels;
        let label = |name: &str| labels[format!("org.opencontainers.image.{name}").as_str()].as_str();
        assert_eq!((label("title"), label("version"), label("licenses")), ("underpass", VERSION, "Apache-2.0"));
        assert_eq!((label("revision"), label("created")), ("abc-dirty", "2026-01-01T00:00:00Z"));
        assert!(!recipe().config(&origin(None), "amd64").labels.contains_key("org.opencontainers.image.revision"));
    }

    #[test]
    fn its_files_are_the_same_each_time_and_for_every_user() {
        let (workspace, recipe) = (Workspace::find().unwrap(), recipe());
        let tar = || {
            let (tree, bill) = recipe.ingredients().unwrap().tree(&workspace, &recipe).unwrap();
            assert!(bill.is_none());
            tree.tar().unwrap()
        };
        let bytes = tar();
        assert!(bytes == tar());
        let mut archive = tar::Archive::new(&bytes[..]);
        let modes = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (format!("/{}", entry.path().unwrap().display()), entry.header().mode().unwrap())
        });
        let modes: BTreeMap<String, u32> = modes.collect();
        assert!(modes.values().all(|mode| mode & 0o444 == 0o444), "{modes:?}");
        let loader = Loader::of_machine().unwrap().architecture.loader;
        for (path, want) in [
            ("/usr/local/bin/underpass", 0o755),
            (loader, 0o755),
            ("/etc/nsswitch.conf", 0o644),
            ("/usr/share/underpass/LICENSE", 0o644),
            ("/tmp/", 0o1777),
        ] {
            assert_eq!(modes.get(path), Some(&want), "{path}: {modes:?}");
        }
        assert!(PATH.split(':').any(|folder| folder == BIN), "{BIN} is in the PATH");
    }

    #[test]
    fn a_program_for_the_node_has_no_loader() {
        let own = std::env::current_exe().unwrap();
        let error = Recipe::alone("underpass-cni", &own).ingredients().err().expect("an error");
        let error = format!("{error:#}");
        assert!(error.contains(&own.display().to_string()) && error.contains("its loader is"), "{error}");
    }

    #[test]
    fn files_are_named_by_the_archive() {
        assert_eq!(recipe().file_name(), format!("underpass-{VERSION}-dev.tar"));
        assert_eq!(beside(Path::new("/x/a-0.1.0.tar"), ".cdx.json"), Path::new("/x/a-0.1.0.cdx.json"));
        assert_eq!(beside(Path::new("/x/a-0.1.0"), ".cdx.json"), Path::new("/x/a-0.1.0.cdx.json"));
        assert_eq!(megabytes(12_345_678), "12.3 MB");
    }
}
