//! The bill of materials of an image: what is linked into its programs, and the libraries beside them (CycloneDX 1.6, JSON).
//!
//! cargo says what is linked, by the features of the very build; dependencies of tests, build scripts and macros are not in
//! it. Of a library, Debian's dpkg says the package and version where it is installed. No time and no random number: the
//! same image has the same bill.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::debian::{Deb, percent};
use crate::metadata::{Metadata, Package};

/// Crates of one workspace that are linked into something.
pub(crate) struct Crates {
    pub(crate) metadata: Metadata,
    /// Name and version.
    pub(crate) linked: BTreeSet<(String, String)>,
    pub(crate) checksums: Checksums,
}

/// sha256 by name and version, as a Cargo.lock has it.
pub(crate) type Checksums = HashMap<(String, String), String>;

/// A library file of the image, or an archive that is linked into a program of it.
pub(crate) struct Library {
    pub(crate) path: String,
    pub(crate) sha256: String,
    /// Absent without dpkg.
    pub(crate) package: Option<Deb>,
}

/// What the image is.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// The packages of its programs.
    pub(crate) programs: &'a [&'a str],
    /// Of the compiler whose standard library is linked.
    pub(crate) rust: &'a str,
}

/// The bill.
pub(crate) fn bill(subject: &Subject<'_>, crates: &[Crates], libraries: &[Library]) -> Result<Value> {
    // A crate of two workspaces is one component.
    let mut components = BTreeMap::new();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for part in crates {
        for key in &part.linked {
            let package = part.find(key)?;
            components.insert(reference(package), component(package, part.checksums.get(key)));
        }
        for edge in part.metadata.edges().iter().filter(|edge| edge.normal) {
            if part.has(edge.from) && part.has(edge.to) {
                uses.entry(reference(edge.from)).or_default().insert(reference(edge.to));
            }
        }
    }
    let std = standard_library(subject.rust);
    let carried = carried(libraries);
    let of_programs = components
        .iter()
        .filter(|(_, component)| component["name"].as_str().is_some_and(|name| subject.programs.contains(&name)));
    let direct: Vec<&str> = of_programs
        .map(|(name, _)| name.as_str())
        .chain(carried.iter().chain([&std]).filter_map(own_reference))
        .collect();
    let dependencies = [json!({ "ref": subject.name, "dependsOn": direct })].into_iter();
    let dependencies = dependencies.chain(uses.iter().map(|(from, to)| json!({ "ref": from, "dependsOn": to })));
    let dependencies: Vec<Value> = dependencies.collect();
    let components: Vec<&Value> = components.values().chain([&std]).chain(&carried).collect();
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": { "component": {
            "type": "container", "bom-ref": subject.name, "name": subject.name, "version": subject.version,
        } },
        "components": components, "dependencies": dependencies,
    }))
}

impl Crates {
    fn has(&self, package: &Package) -> bool {
        self.linked.contains(&(package.name.clone(), package.version.clone()))
    }

    fn find(&self, (name, version): &(String, String)) -> Result<&Package> {
        let found = self.metadata.packages.iter().find(|package| package.name == *name && package.version == *version);
        found.with_context(|| format!("`cargo metadata` has no {name} {version}, which `cargo tree` has"))
    }
}

/// The name of a component within the bill: its purl, or for a package of ours, which no registry has, `NAME@VERSION`.
fn reference(package: &Package) -> String {
    purl(package).unwrap_or_else(|| format!("{}@{}", package.name, package.version))
}

/// Absent for a package by path.
fn purl(package: &Package) -> Option<String> {
    package.source.as_ref()?;
    Some(format!("pkg:cargo/{}@{}", package.name, percent(&package.version)))
}

fn component(package: &Package, checksum: Option<&String>) -> Value {
    let mut component = json!({
        "type": "library", "bom-ref": reference(package), "name": package.name, "version": package.version,
    });
    if let Some(purl) = purl(package) {
        component["purl"] = json!(purl);
    }
    if let Some(licence) = &package.license {
        // `MIT/Apache-2.0` is how crates said OR once.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn standard_library(version: &str) -> Value {
    let purl = format!("pkg:generic/rust-std@{}", percent(version));
    json!({
        "type": "library", "bom-ref": purl, "name": "rust-std", "version": version, "purl": purl,
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    })
}

/// A component per Debian package, with its files; without dpkg one per file.
fn carried(libraries: &[Library]) -> Vec<Value> {
    let mut groups: BTreeMap<(Option<&Deb>, &str), Vec<&Library>> = BTreeMap::new();
    for library in libraries {
        let alone = if library.package.is_some() { "" } else { library.path.as_str() };
        groups.entry((library.package.as_ref(), alone)).or_default().push(library);
    }
    let component = |((package, path), files): ((Option<&Deb>, &str), Vec<&Library>)| {
        let mut component = match package {
            Some(package) => json!({
                "type": "library", "bom-ref": package.purl(), "name": package.name, "version": package.version,
                "purl": package.purl(),
            }),
            None => json!({ "type": "library", "bom-ref": path, "name": path.rsplit('/').next() }),
        };
        if let Some(licence) = files.iter().find_map(|file| licence(&file.path)) {
            component["licenses"] = json!([{ "expression": licence }]);
        }
        let file = |file: &&Library| {
            json!({
                "type": "file", "name": file.path, "hashes": [{ "alg": "SHA-256", "content": file.sha256 }],
            })
        };
        component["components"] = files.iter().map(file).collect();
        component
    };
    groups.into_iter().map(component).collect()
}

/// Of glibc and of GCC's run-time library, by the headers of their sources.
fn licence(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    match name.split(['.', '-']).next()? {
        "libc" | "libm" | "ld" => Some("LGPL-2.1-or-later"),
        "libgcc_s" | "libgcc_eh" => Some("GPL-3.0-or-later WITH GCC-exception-3.1"),
        _ => None,
    }
}

fn own_reference(component: &Value) -> Option<&str> {
    component["bom-ref"].as_str()
}

/// Names and versions in what `cargo tree --prefix none --format {p}` prints: `anyhow v1.0.104`, `xtask v0.1.0 (/path)`.
pub(crate) fn parse_tree(text: &str) -> BTreeSet<(String, String)> {
    let mut lines: Vec<_> = text.lines().map(str::split_whitespace).collect();
    let pairs = lines.iter_mut().filter_map(|words| Some((words.next()?, words.next()?.strip_prefix('v')?)));
    pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

/// The checksums in a Cargo.lock.
pub(crate) fn parse_lock(text: &str) -> Result<Checksums> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(text).context("cannot read Cargo.lock")?;
    Ok(lock.package.into_iter().filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::fixture;

    fn pair(name: &str) -> (String, String) {
        (name.to_owned(), "1.0.0".to_owned())
    }

    fn crates(linked: &[&str]) -> Crates {
        let metadata = fixture::metadata(
            &[("underpass-agent", "", "Apache-2.0"), ("a", "registry", "MIT/Apache-2.0"), ("b", "registry", "MIT")],
            &[("underpass-agent", "a", "normal"), ("a", "b", "build"), ("underpass-agent", "b", "normal")],
        );
        let lock = "[[package]]\nname = 'a'\nversion = '1.0.0'\nchecksum = 'cafe'\n\
                    [[package]]\nname = 'underpass-agent'\nversion = '1.0.0'\n";
        let linked = linked.iter().map(|name| pair(name)).collect();
        Crates { metadata, linked, checksums: parse_lock(lock).unwrap() }
    }

    fn library(path: &str, package: Option<&str>) -> Library {
        let deb = |name: &str| Deb {
            name: name.to_owned(),
            version: "2.36-9+deb12u14".to_owned(),
            architecture: "amd64".to_owned(),
            system: "debian".to_owned(),
            release: "12".to_owned(),
        };
        Library { path: path.to_owned(), sha256: "beef".to_owned(), package: package.map(deb) }
    }

    fn bill_of(linked: &[&str], libraries: &[Library]) -> Value {
        let subject = Subject { name: "underpass", version: "0.1.0", programs: &["underpass-agent"], rust: "1.95.0" };
        bill(&subject, &[crates(linked)], libraries).unwrap()
    }

    fn find<'a>(bill: &'a Value, name: &str) -> &'a Value {
        let mut components = bill["components"].as_array().unwrap().iter();
        components.find(|component| component["name"] == name).unwrap_or_else(|| panic!("no {name} in {bill:#}"))
    }

    /// What the schema of CycloneDX 1.6 requires, and that references lead somewhere, each to one component.
    #[test]
    fn the_bill_has_the_fields_of_its_schema() {
        let bill = bill_of(
            &["underpass-agent", "a", "b"],
            &[library("/lib/libc.so.6", Some("libc6")), library("/x.so", None)],
        );
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"], &bill["version"]),
            (&json!("CycloneDX"), &json!("1.6"), &json!(1))
        );
        let components = bill["components"].as_array().unwrap();
        let mut known = BTreeSet::from([own_reference(&bill["metadata"]["component"]).unwrap()]);
        for component in components {
            assert!(component["type"].is_string() && component["name"].is_string(), "{component}");
            assert!(known.insert(own_reference(component).unwrap()), "twice: {component}");
            for nested in component["components"].as_array().into_iter().flatten() {
                assert!(nested["type"] == "file" && nested["name"].is_string(), "{nested}");
            }
        }
        for dependency in bill["dependencies"].as_array().unwrap() {
            let to = dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]);
            to.for_each(|reference| assert!(known.contains(reference.as_str().unwrap()), "{reference}"));
        }
        assert_eq!(components.len(), 6, "three crates, the standard library, a package and a file");
    }

    #[test]
    fn a_crate_has_licence_purl_and_checksum() {
        let bill = bill_of(&["underpass-agent", "a"], &[]);
        let a = find(&bill, "a");
        assert_eq!(a["purl"], "pkg:cargo/a@1.0.0");
        assert_eq!(a["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(a["hashes"], json!([{ "alg": "SHA-256", "content": "cafe" }]));
        let ours = find(&bill, "underpass-agent");
        assert!(ours.get("purl").is_none() && ours.get("hashes").is_none(), "no registry has it: {ours}");
    }

    #[test]
    fn only_what_is_linked_is_listed_and_used() {
        let bill = bill_of(&["underpass-agent", "a"], &[]);
        let dependencies = &bill["dependencies"];
        let std = "pkg:generic/rust-std@1.95.0";
        assert_eq!(dependencies[0], json!({ "ref": "underpass", "dependsOn": ["underpass-agent@1.0.0", std] }));
        assert_eq!(dependencies[1], json!({ "ref": "underpass-agent@1.0.0", "dependsOn": ["pkg:cargo/a@1.0.0"] }));
        assert_eq!(dependencies.as_array().unwrap().len(), 2, "a build script's dependency is none");
        let subject = Subject { name: "underpass", version: "0.1.0", programs: &[], rust: "1.95.0" };
        let error = bill_error(&subject, crates(&["c"]));
        assert!(error.contains("no c 1.0.0"), "{error}");
    }

    fn bill_error(subject: &Subject<'_>, crates: Crates) -> String {
        bill(subject, &[crates], &[]).unwrap_err().to_string()
    }

    #[test]
    fn libraries_are_files_of_their_package() {
        let [libc, libm] = ["/lib/libc.so.6", "/lib/libm.so.6"].map(|path| library(path, Some("libc6")));
        let bill = bill_of(&[], &[libc, libm, library("/lib/libgcc_s.so.1", None)]);
        let package = find(&bill, "libc6");
        assert_eq!(package["purl"], "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12");
        assert_eq!(package["licenses"], json!([{ "expression": "LGPL-2.1-or-later" }]));
        assert_eq!(package["components"][1]["name"], "/lib/libm.so.6");
        let alone = find(&bill, "libgcc_s.so.1");
        assert_eq!(alone["components"][0]["hashes"], json!([{ "alg": "SHA-256", "content": "beef" }]));
        assert!(alone["licenses"][0]["expression"].as_str().unwrap().contains("GCC-exception"));
        assert!(alone.get("version").is_none(), "its version is not known without dpkg");
    }

    #[test]
    fn cargos_tree_is_read() {
        let text = "underpass-agent v0.1.0 (/x/agent)\nanyhow v1.0.104\nanyhow v1.0.104 (*)\n\nzerocopy v0.8.1+2 (*)\n";
        let want = [("anyhow", "1.0.104"), ("underpass-agent", "0.1.0"), ("zerocopy", "0.8.1+2")];
        let want = want.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(parse_tree(text), BTreeSet::from(want));
    }
}
