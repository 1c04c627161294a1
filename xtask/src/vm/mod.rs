//! The minimum kernel in a virtual machine: one job, run as root by an initramfs that holds nothing but what it needs.
//!
//! QEMU emulates (`-accel tcg`): that works on every machine, nested or not, and boots in seconds, but runs programs 5 to 20
//! times slower, so nothing may be measured there. The guest has no network and no disk. Its console carries the job's
//! output between two marks, of which the last says how the job ended.

mod archive;
mod kernel;

use std::env;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context, Result, ensure};

use crate::install::{self, Program, find_program};
use crate::process::{Cmd, quote};
use crate::workspace::Workspace;
use archive::Archive;
use kernel::Kernel;
pub(crate) use kernel::{Version, parse_version};

const INIT: &str = include_str!("init.sh");
const PROGRAMS: &[Program] = &[
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86" },
    Program { name: "busybox", package: "busybox-static" },
    Program { name: "dpkg-deb", package: "dpkg" },
];
/// Unpacking holds every file twice for a moment.
const MEMORY_MIB: &str = "4096";

/// Arguments of `boot`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernel's version
    #[arg(long, default_value = "6.1", value_parser = parse_version)]
    kernel: Version,
    /// Files and folders to put in at the same path, with the libraries they need
    #[arg(long = "put", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// A command of busybox, or one that was put in
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// `cargo xtask boot`: true if the command succeeded.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let machine = Machine::prepare(workspace, options.kernel)?;
    let mut job = Job::default();
    for file in &options.files {
        job.file(&std::path::absolute(file).with_context(|| format!("cannot find {}", file.display()))?);
    }
    let words: Vec<_> = options.command.iter().map(|word| quote(word)).collect();
    job.line(&words.join(" "));
    Ok(machine.run(&job, |_| {})? == 0)
}

/// A job for the machine: commands, and the files that they need.
#[derive(Default)]
pub(crate) struct Job {
    files: Vec<PathBuf>,
    script: String,
}

impl Job {
    /// Puts a file or a folder in at the same path.
    pub(crate) fn file(&mut self, path: &Path) {
        self.files.push(path.to_path_buf());
    }

    /// Puts a program of this machine's PATH in.
    pub(crate) fn program(&mut self, name: &str) -> Result<()> {
        self.file(&find_program(name).with_context(|| format!("no program `{name}` on PATH"))?);
        Ok(())
    }

    /// An environment variable for the commands after it.
    pub(crate) fn variable(&mut self, name: &str, value: &str) {
        self.script.push_str(&format!("export {name}={}\n", quote(value)));
    }

    /// Runs a test binary as cargo does: in its package's folder.
    pub(crate) fn command(&mut self, package: &Path, program: &Path, arguments: &[String]) {
        let folder = quote(&package.to_string_lossy());
        let words = [program.to_string_lossy().into_owned()].into_iter().chain(arguments.iter().cloned());
        let words: Vec<_> = words.map(|word| quote(&word)).collect();
        self.line(&format!("(cd {folder} && CARGO_MANIFEST_DIR={folder} {})", words.join(" ")));
    }

    /// A line of shell; the job goes on when it fails, and then ends with its status.
    fn line(&mut self, line: &str) {
        self.script.push_str(&format!("{line} || code=$?\n"));
    }

    fn text(&self) -> String {
        format!("code=0\n{}exit $code\n", self.script)
    }
}

/// A kernel that is ready to boot.
pub(crate) struct Machine {
    kernel: Kernel,
    folder: PathBuf,
}

impl Machine {
    /// Installs QEMU and fetches the kernel where they are missing.
    pub(crate) fn prepare(workspace: &Workspace, version: Version) -> Result<Self> {
        ensure!(env::consts::ARCH == "x86_64", "the virtual machine is x86_64 only, this is {}", env::consts::ARCH);
        install::programs(PROGRAMS)?;
        let folder = workspace.root().join("target/kernels");
        Ok(Self { kernel: Kernel::fetch(&folder.join(version.to_string()), version)?, folder })
    }

    /// Boots, runs the job, shows its output and each line of it to `seen`, and returns the job's exit status.
    pub(crate) fn run(&self, job: &Job, mut seen: impl FnMut(&str)) -> Result<i32> {
        let initrd = Temporary(self.folder.join(format!("initrd-{}", process::id())));
        self.write_initrd(&initrd.0, job).with_context(|| format!("cannot write {}", initrd.0.display()))?;
        let mut console = Console::default();
        let status = Cmd::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB])
            .args(["-nographic", "-no-reboot", "-nic", "none", "-append"])
            .arg("console=ttyS0 quiet panic=-1 mitigations=off")
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(&initrd.0)
            .lines(|line| {
                let shown = console.line(line);
                if shown {
                    seen(line);
                }
                shown
            })?;
        console.code.with_context(|| {
            let before = console.before.join("\n");
            format!("the virtual machine ended ({status}) before its job did; its console began:\n{before}")
        })
    }

    fn write_initrd(&self, path: &Path, job: &Job) -> Result<()> {
        let file = File::create(path)?;
        let mut archive = Archive::new(BufWriter::new(file));
        for folder in ["proc", "sys", "dev", "tmp", "run", "root", "mnt"] {
            archive.folder(folder)?;
        }
        archive.link("var/run", "/run")?;
        archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
        archive.file("init", 0o755, INIT.as_bytes())?;
        archive.file("job", 0o644, job.text().as_bytes())?;
        let busybox = find_program("busybox").context("no busybox")?;
        archive.executable("bin/busybox", &busybox)?;
        // busybox's shell prefers its own `ip` to the one on PATH; this machine's shell does not.
        archive.executable("bin/sh", Path::new("/bin/sh"))?;
        for (position, module) in self.kernel.modules.iter().enumerate() {
            // insmod knows no dependencies: the name keeps the order.
            archive.file(&format!("modules/{position:02}.ko"), 0o644, &fs::read(module)?)?;
        }
        for file in &job.files {
            archive.put(file)?;
        }
        archive.finish()
    }
}

/// A file that is gone when its owner is.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing to be done about a file that cannot be removed, and it may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

/// Lines of the boot that are kept for the case that nothing else comes.
const KEPT_LINES: usize = 40;

/// The output of the guest's console: the firmware and the kernel, `@@begin`, the job's output, `@@end CODE`.
#[derive(Default)]
struct Console {
    begun: bool,
    before: Vec<String>,
    code: Option<i32>,
}

impl Console {
    /// True if the line is of the job's output.
    fn line(&mut self, line: &str) -> bool {
        if let Some(code) = line.strip_prefix("@@end ") {
            self.code = self.code.or(code.trim().parse().ok());
        } else if line == "@@begin" {
            self.begun = true;
        } else if self.begun {
            return self.code.is_none();
        } else if self.before.len() < KEPT_LINES {
            self.before.push(line.to_owned());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], shown: &[&str], code: Option<i32>) {
        let mut console = Console::default();
        let seen: Vec<_> = lines.iter().copied().filter(|line| console.line(line)).collect();
        assert_eq!((seen.as_slice(), console.code), (shown, code), "{lines:?}");
    }

    #[test]
    fn the_jobs_output_is_between_the_marks() {
        check(&["SeaBIOS", "@@begin", "one", "@@end 0", "reboot: Power down"], &["one"], Some(0));
        check(&["@@begin", "one", "@@end 101"], &["one"], Some(101));
    }

    #[test]
    fn a_machine_that_dies_has_no_status() {
        check(&["SeaBIOS", "Kernel panic"], &[], None);
        check(&["@@begin", "one", "Kernel panic"], &["one", "Kernel panic"], None);
        check(&["@@begin", "@@end x"], &[], None);
    }

    #[test]
    fn a_job_goes_on_after_a_failure_and_fails() {
        let mut job = Job::default();
        job.variable("WORDS", "two words");
        job.command(Path::new("/"), Path::new("/bin/sh"), &["-c".to_owned(), "exit 3".to_owned()]);
        job.command(
            Path::new("/"),
            Path::new("/bin/sh"),
            &["-c".to_owned(), "echo $WORDS $CARGO_MANIFEST_DIR".to_owned()],
        );
        let mut lines = Vec::new();
        let status = Cmd::new("sh").args(["-c", &job.text()]).lines(|line| {
            lines.push(line.to_owned());
            false
        });
        assert_eq!((lines.join("|"), status.unwrap().code()), ("two words /".to_owned(), Some(3)));
    }
}
