//! Which Debian package a library is of, by dpkg, where there is one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Cmd;

/// A package of a distribution that has dpkg.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deb {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// `debian`, by /etc/os-release.
    pub(crate) system: String,
    /// `12`, by /etc/os-release.
    pub(crate) release: String,
}

impl Deb {
    /// The package that owns a file; absent where no dpkg knows.
    pub(crate) fn owner(file: &Path) -> Option<Self> {
        let said = places(file).into_iter().find_map(|place| Cmd::new("dpkg").arg("-S").arg(place).read().ok())?;
        let format = "${Package}\t${Version}\t${Architecture}";
        let said = Cmd::new("dpkg-query").args(["-W", "-f", format, owner(&said)?]).read().ok()?;
        let mut words = said.split('\t').map(str::to_owned);
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Some(Self {
            name: words.next()?,
            version: words.next()?,
            architecture: words.next()?,
            system: os_release(&os, "ID")?,
            release: os_release(&os, "VERSION_ID").unwrap_or_default(),
        })
    }

    /// The package URL, as the purl specification has it for the type `deb`.
    pub(crate) fn purl(&self) -> String {
        let Self { name, version, architecture, system, release } = self;
        let distribution = if release.is_empty() { system.clone() } else { format!("{system}-{release}") };
        format!("pkg:deb/{system}/{}@{}?arch={architecture}&distro={distribution}", percent(name), percent(version))
    }

    /// Where the package's licence is.
    pub(crate) fn copyright(&self) -> String {
        format!("/usr/share/doc/{}/copyright", self.name)
    }
}

/// The paths under which dpkg may know a file: `/lib` is a link to `/usr/lib`, and packages name the one or the other.
fn places(file: &Path) -> Vec<PathBuf> {
    let mut places = vec![file.to_path_buf()];
    places.extend(fs::canonicalize(file));
    let short: Vec<_> =
        places.iter().filter_map(|place| Some(Path::new("/").join(place.strip_prefix("/usr").ok()?))).collect();
    places.extend(short);
    places
}

/// The package in a line of `dpkg -S`: `libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6`.
fn owner(said: &str) -> Option<&str> {
    let lines = said.lines().filter(|line| !line.starts_with("diversion "));
    lines.filter_map(|line| line.split_once(": ")).find_map(|(packages, _)| packages.split(", ").next())
}

fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// A part of a package URL: everything but letters, digits and `.-_~:` is percent-encoded.
pub(crate) fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read() {
        for (said, want) in [
            ("libc6:amd64: /lib/x86_64-linux-gnu/libc.so.6\n", Some("libc6:amd64")),
            ("diversion by a from: /x\ndiversion by a to: /y\nb, c: /x\n", Some("b")),
            ("", None),
        ] {
            assert_eq!(owner(said), want, "{said}");
        }
    }

    #[test]
    fn systems_are_read() {
        let text = "PRETTY_NAME=\"X\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_release(text, "ID").as_deref(), Some("debian"));
        assert_eq!(os_release(text, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release(text, "NAME"), None);
    }

    #[test]
    fn purls_are_encoded() {
        assert_eq!(percent("1:2.36-9+deb12u14~x"), "1:2.36-9%2Bdeb12u14~x");
    }
}
