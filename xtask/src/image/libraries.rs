//! The shared libraries that programs need, of the machine that built them: the machine's own loader says which.
//!
//! The loader is asked without its cache and without this process's settings, so that what it finds here it finds in an
//! image that has nothing but these files. glibc resolves names by `files` and `dns` alone without a plugin, from 2.34 on;
//! before that the plugins are loaded by name at run time, and no loader lists them.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::elf::Architecture;
use crate::process::Cmd;

/// The first glibc that resolves names without plugins (its NEWS: "nss_files and nss_dns are built into libc").
const OLDEST: (u32, u32) = (2, 34);

/// A machine's loader, which knows where libraries are.
pub(crate) struct Loader {
    pub(crate) architecture: &'static Architecture,
}

impl Loader {
    /// The one of this machine; an error if it is not glibc's, or too old.
    pub(crate) fn of_machine() -> Result<Self> {
        let architecture = Architecture::by_name(ARCH)?;
        let said = Cmd::new(architecture.loader).arg("--version").read();
        let said = said.with_context(|| format!("{} is not glibc 2.34 or later", architecture.loader))?;
        check_version(&said)?;
        Ok(Self { architecture })
    }

    /// The loader and the libraries of programs, sorted: their paths on this machine, and in an image.
    pub(crate) fn libraries<'a>(&self, programs: impl IntoIterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
        let mut found = BTreeSet::from([PathBuf::from(self.architecture.loader)]);
        for program in programs {
            let needs = || format!("{} cannot be in an image", program.display());
            let bytes = fs::read(program).with_context(needs)?;
            self.architecture.check(&bytes).with_context(needs)?;
            let list = Cmd::new(self.architecture.loader)
                .args(["--inhibit-cache", "--glibc-hwcaps-mask", "none", "--list"])
                .arg(program)
                .env_remove("LD_LIBRARY_PATH")
                .env_remove("LD_PRELOAD")
                .read()
                .with_context(needs)?;
            found.extend(parse(&list).with_context(needs)?);
        }
        Ok(found.into_iter().collect())
    }
}

/// An error if the version in `ld.so (Debian GLIBC 2.36-9) stable release version 2.36.` is too old.
fn check_version(said: &str) -> Result<()> {
    let line = said.lines().next().unwrap_or_default();
    let number = line.rsplit_once("version ").map(|(_, number)| number.trim_end_matches('.'));
    let mut numbers = number.unwrap_or_default().split('.').map(|number| number.parse().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    let version = version.with_context(|| format!("the loader says no version of glibc, but `{line}`"))?;
    ensure!(
        version >= OLDEST,
        "glibc {}.{} resolves names by plugins that an image would lack: glibc {}.{} or later is needed",
        version.0,
        version.1,
        OLDEST.0,
        OLDEST.1
    );
    Ok(())
}

/// The paths in the loader's list: lines `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f...)`. A line without an arrow is the
/// loader itself, the kernel's own vdso, or what the machine preloads.
fn parse(list: &str) -> Result<Vec<PathBuf>> {
    let found = list.lines().filter_map(|line| line.trim().split_once(" => ")).map(|(name, place)| {
        let path = place.rsplit_once(" (0x").map_or(place, |(path, _)| path);
        ensure!(path.starts_with('/'), "it needs {name}, which is in no folder that the loader searches by itself");
        Ok(PathBuf::from(path))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_this_test_are_found() {
        let own = std::env::current_exe().unwrap();
        let loader = Loader::of_machine().unwrap();
        let found = loader.libraries([own.as_path()]).unwrap();
        assert!(found.contains(&PathBuf::from(loader.architecture.loader)), "{found:?}");
        assert!(found.iter().any(|path| path.ends_with("libc.so.6")), "{found:?}");
        assert!(found.iter().all(|path| path.is_file()), "{found:?}");
    }

    #[test]
    fn what_is_no_program_is_named() {
        let error = Loader::of_machine().unwrap().libraries([Path::new("/etc/passwd")]).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("/etc/passwd") && error.contains("no 64-bit"), "{error}");
    }

    #[test]
    fn the_loaders_list_is_read() {
        let list = "\tlinux-vdso.so.1 (0x00007f4f)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f4f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f4f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f4f)\n";
        let want = ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libc.so.6"].map(PathBuf::from);
        assert_eq!(parse(list).unwrap(), want);
        let error = parse("\tlibx.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libx.so.1"), "{error}");
    }

    #[test]
    fn a_glibc_that_resolves_by_plugins_is_refused() {
        let said =
            |number| format!("ld.so (Debian GLIBC 2.36-9+deb12u14) stable release version {number}.\nCopyright\n");
        for number in ["2.34", "2.36", "3.1"] {
            check_version(&said(number)).unwrap();
        }
        let error = check_version(&said("2.33")).unwrap_err().to_string();
        assert!(error.contains("glibc 2.33 resolves names by plugins"), "{error}");
        assert!(check_version("musl libc (x86_64)\n").is_err());
        assert!(check_version("").is_err());
    }
}
