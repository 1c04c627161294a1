//! The archive that a kernel unpacks as its first file system: cpio's `newc` format, uncompressed
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Cmd;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Debug information is most of a program that has more than this.
const WORTH_STRIPPING_BYTES: usize = 1 << 20;

/// Writes entries, each with the folders above it, each once.
pub(crate) struct Archive<W> {
    out: W,
    seen: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, seen: BTreeSet::new() }
    }

    pub(crate) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER | 0o755, &[])
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, LINK | 0o777, target.as_bytes())
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(name, FILE | mode, content)
    }

    /// A program with the libraries it needs.
    pub(crate) fn executable(&mut self, name: &str, program: &Path) -> Result<()> {
        self.file(name, 0o755, &stripped(program)?)?;
        for library in libraries(program) {
            let content = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
            self.file(&inside(&library), 0o755, &content)?;
        }
        Ok(())
    }

    /// A file or a folder at its own path, links followed, programs with the libraries they need.
    pub(crate) fn put(&mut self, path: &Path) -> Result<()> {
        let data = fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
        if data.is_dir() {
            self.folder(&inside(path))?;
            for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
                self.put(&entry.with_context(|| format!("cannot list {}", path.display()))?.path())?;
            }
            return Ok(());
        }
        let mode = data.permissions().mode() & 0o777;
        if mode & 0o111 != 0 {
            return self.executable(&inside(path), path);
        }
        self.file(&inside(path), mode, &fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.write("TRAILER!!!", 0, &[])?;
        self.out.flush().context("cannot finish the archive")
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.write(name, mode, content)
    }

    fn write(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too large for the archive"))?;
        let name_size = u32::try_from(name.len() + 1).with_context(|| format!("{name} is too long for the archive"))?;
        // A number of its own for each entry, else the kernel takes them for links to one file.
        let number = u32::try_from(self.seen.len()).context("too many files for the archive")?;
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut head = fields.iter().fold(String::from("070701"), |head, field| format!("{head}{field:08x}"));
        head.push_str(name);
        head.push('\0');
        pad(self.out.write_all(head.as_bytes()), &mut self.out, head.len()).context("cannot write the archive")?;
        pad(self.out.write_all(content), &mut self.out, content.len()).context("cannot write the archive")
    }
}

/// Everything begins at a multiple of four bytes.
fn pad(written: std::io::Result<()>, out: &mut impl Write, length: usize) -> std::io::Result<()> {
    written?;
    out.write_all(&[0; 3][..length.wrapping_neg() % 4])
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// The program without debug information where `strip` can do it: the guest's memory holds every byte.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let whole = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    if whole.len() < WORTH_STRIPPING_BYTES || !whole.starts_with(b"\x7fELF") {
        return Ok(whole);
    }
    let output = std::env::temp_dir().join(format!("underpass-stripped-{}", std::process::id()));
    let worked = Cmd::new("strip").args(["-g", "-o"]).arg(&output).arg(program).succeeds();
    let small = fs::read(&output);
    let _ = fs::remove_file(&output); // not there where `strip` is not
    Ok(if worked { small.unwrap_or(whole) } else { whole })
}

/// The libraries of a program, its loader included; none for a script or a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    Cmd::new("ldd").arg(program).read().map(|text| parse_ldd(&text)).unwrap_or_default()
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)`, or `/lib64/ld-linux-x86-64.so.2 (0x0000)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    let paths = text.lines().filter_map(|line| {
        let (before, _) = line.trim().rsplit_once(" (0x")?;
        let path = before.rsplit_once("=> ").map_or(before, |(_, path)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (name, mode, content) of every entry, read the way the kernel does.
    fn unpack(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |at: usize| {
                u32::from_str_radix(std::str::from_utf8(&bytes[6 + at * 8..14 + at * 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let content = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), content);
                return entries;
            }
            entries.push((name, mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn the_kernel_can_read_it() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("a/b/c", 0o644, b"12345").unwrap();
        archive.link("a/l", "/run").unwrap();
        archive.file("a/b/c", 0o644, b"again").unwrap();
        archive.file("e", 0o755, b"").unwrap();
        archive.finish().unwrap();
        let entries = unpack(&bytes);
        let want: &[(&str, u32, &[u8])] = &[
            ("a", 0o040_755, b""),
            ("a/b", 0o040_755, b""),
            ("a/b/c", 0o100_644, b"12345"),
            ("a/l", 0o120_777, b"/run"),
            ("e", 0o100_755, b""),
        ];
        let entries: Vec<_> =
            entries.iter().map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice())).collect();
        assert_eq!(entries, want);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld-linux.so.2 (0x00007f)\n\tlibx.so => not found\n";
        assert_eq!(parse_ldd(text), [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld-linux.so.2")]);
        assert_eq!(parse_ldd("\tstatically linked\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_folder_comes_with_what_is_in_it() {
        let folder = std::env::temp_dir().join(format!("underpass-xtask-archive-{}", std::process::id()));
        fs::create_dir_all(folder.join("in")).unwrap();
        fs::write(folder.join("in/file"), "text").unwrap();
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.put(&folder).unwrap();
        assert!(archive.put(&folder.join("absent")).is_err());
        archive.finish().unwrap();
        let entries = unpack(&bytes);
        let (name, _, content) = entries.last().unwrap();
        assert_eq!((name.as_str(), content.as_slice()), (inside(&folder.join("in/file")).as_str(), b"text".as_slice()));
        fs::remove_dir_all(folder).unwrap();
    }
}
