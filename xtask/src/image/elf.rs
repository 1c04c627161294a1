//! The two facts that an image needs of a program's ELF header: its architecture, and the loader that starts it.
//!
//! Offsets: the ELF-64 object file format, version 1.5; numbers of machines: elf(5) and the kernel's elf-em.h.

use anyhow::{Context, Result, bail, ensure};

/// An architecture that images are made for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// As Rust names it.
    pub(crate) name: &'static str,
    /// As OCI names it.
    pub(crate) oci: &'static str,
    /// `e_machine`.
    machine: u16,
    /// Where glibc's dynamic loader is, by the platform's ABI.
    pub(crate) loader: &'static str,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { name: "x86_64", oci: "amd64", machine: 62, loader: "/lib64/ld-linux-x86-64.so.2" },
    Architecture { name: "aarch64", oci: "arm64", machine: 183, loader: "/lib/ld-linux-aarch64.so.1" },
];

/// `PT_INTERP`: the segment with the path of the loader.
const INTERPRETER: u32 = 3;

impl Architecture {
    /// The one by Rust's name.
    pub(crate) fn by_name(name: &str) -> Result<&'static Self> {
        let found = ARCHITECTURES.iter().find(|architecture| architecture.name == name);
        found.with_context(|| format!("no image is made for {name}, only for x86_64 and aarch64"))
    }

    /// An error unless the program is one of this architecture that glibc's loader starts.
    pub(crate) fn check(&self, program: &[u8]) -> Result<()> {
        self.check_machine(program)?;
        match interpreter(program)?.as_deref() {
            Some(loader) if loader == self.loader => Ok(()),
            Some(loader) => bail!("its loader is {loader}, and an image has glibc's, {}", self.loader),
            None => bail!("it is linked statically, and its libraries are none of the image's"),
        }
    }

    /// An error unless the program is one of this architecture that no loader starts: it runs on any node.
    pub(crate) fn check_static(&self, program: &[u8]) -> Result<()> {
        self.check_machine(program)?;
        match interpreter(program)? {
            None => Ok(()),
            Some(loader) => bail!("its loader is {loader}, and it runs where there may be another one, or none"),
        }
    }

    fn check_machine(&self, program: &[u8]) -> Result<()> {
        ensure!(program.starts_with(b"\x7fELF\x02\x01"), "this is no 64-bit little-endian ELF file");
        let machine = u16::from_le_bytes(bytes(program, 18)?);
        if machine != self.machine {
            let other = ARCHITECTURES.iter().find(|other| other.machine == machine);
            let other = other.map_or_else(|| format!("machine {machine}"), |other| other.name.to_owned());
            bail!("it is built for {other}, and its libraries would be this machine's, which is {}", self.name);
        }
        Ok(())
    }
}

/// The path of the loader, unless the program is linked statically.
fn interpreter(program: &[u8]) -> Result<Option<String>> {
    let table = usize::try_from(u64::from_le_bytes(bytes(program, 32)?))?;
    let (size, count) = (u16::from_le_bytes(bytes(program, 54)?), u16::from_le_bytes(bytes(program, 56)?));
    for at in (0..usize::from(count)).map(|segment| table.saturating_add(segment * usize::from(size))) {
        if u32::from_le_bytes(bytes(program, at)?) == INTERPRETER {
            let start = usize::try_from(u64::from_le_bytes(bytes(program, at.saturating_add(8))?))?;
            let length = usize::try_from(u64::from_le_bytes(bytes(program, at.saturating_add(32))?))?;
            let path = program.get(start..start.saturating_add(length)).context("the file is cut off")?;
            let path = path.strip_suffix(b"\0").unwrap_or(path);
            return Ok(Some(String::from_utf8(path.to_vec()).context("the loader's path is no text")?));
        }
    }
    Ok(None)
}

fn bytes<const N: usize>(program: &[u8], at: usize) -> Result<[u8; N]> {
    program.get(at..).and_then(|rest| rest.first_chunk()).copied().context("the file is cut off")
}

#[cfg(test)]
mod tests {
    use std::env::consts::ARCH;
    use std::fs;

    use super::*;

    /// This test's own program.
    fn own() -> Vec<u8> {
        fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn check(program: &[u8], want: &str) {
        let error = Architecture::by_name(ARCH).unwrap().check(program).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_program_of_this_machine_passes() {
        Architecture::by_name(ARCH).unwrap().check(&own()).unwrap();
    }

    #[test]
    fn a_program_for_another_architecture_is_refused_by_name() {
        let other = ARCHITECTURES.iter().find(|other| other.name != ARCH).unwrap();
        let mut program = own();
        program[18..20].copy_from_slice(&other.machine.to_le_bytes());
        check(&program, &format!("built for {}", other.name));
        program[18..20].copy_from_slice(&243_u16.to_le_bytes());
        check(&program, "built for machine 243");
        assert!(Architecture::by_name("riscv64").unwrap_err().to_string().contains("riscv64"));
    }

    #[test]
    fn a_program_with_another_loader_or_none_is_refused() {
        let program = own();
        let loader = Architecture::by_name(ARCH).unwrap().loader;
        let at = program.windows(loader.len()).position(|found| found == loader.as_bytes()).unwrap();
        let mut other = program.clone();
        other[at + 1] = b'L';
        check(&other, "its loader is /L");
        let mut none = program;
        none[56..58].copy_from_slice(&[0, 0]);
        check(&none, "linked statically");
    }

    #[test]
    fn a_program_with_a_loader_is_none_for_any_node() {
        let mut program = own();
        let own = Architecture::by_name(ARCH).unwrap();
        let error = own.check_static(&program).unwrap_err().to_string();
        assert!(error.contains(&format!("its loader is {}", own.loader)), "{error}");
        program[56..58].copy_from_slice(&[0, 0]);
        own.check_static(&program).unwrap();
        program[18..20].copy_from_slice(&243_u16.to_le_bytes());
        assert!(own.check_static(&program).unwrap_err().to_string().contains("machine 243"));
    }

    #[test]
    fn what_is_no_whole_program_is_refused() {
        let program = own();
        check(b"#!/bin/sh", "no 64-bit");
        check(b"", "no 64-bit");
        for length in [10, 40, 70] {
            check(&program[..length], "cut off");
        }
    }
}
