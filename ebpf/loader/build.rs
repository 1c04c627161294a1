//! Embeds the built kernel programs: those that a variable names, else those of `cargo xtask build-ebpf` in the workspace's
//! `target`. Without them user space still builds, and its error at start names the command that builds them.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// One build of the kernel programs.
struct Build {
    /// The environment variable with the path of its object.
    variable: &'static str,
    /// The default path of its object, below `target/ebpf`.
    file: &'static str,
    /// Set where it is embedded.
    cfg: &'static str,
    /// Names to the compiler what is embedded.
    path: &'static str,
}

/// What is embedded.
const BUILDS: [Build; 2] = [
    Build { variable: "UNDERPASS_EBPF", file: "underpass-programs", cfg: "underpass_object", path: "UNDERPASS_OBJECT" },
    Build {
        variable: "UNDERPASS_EBPF_LOG",
        file: "underpass-programs-log",
        cfg: "underpass_log_object",
        path: "UNDERPASS_LOG_OBJECT",
    },
];

/// What a build of the version after this one embeds.
const NEXT: [Build; 1] = [Build {
    variable: "UNDERPASS_EBPF_NEXT",
    file: "underpass-programs-next",
    cfg: "underpass_object",
    path: "UNDERPASS_OBJECT",
}];

fn main() {
    let builds: &[Build] = if env::var_os("CARGO_FEATURE_NEXT").is_some() { &NEXT } else { &BUILDS };
    println!("cargo::rustc-check-cfg=cfg(underpass_object, underpass_log_object)");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = manifest.join("../../target/ebpf");
    for build in builds {
        println!("cargo::rerun-if-env-changed={}", build.variable);
        let named = env::var_os(build.variable).map(PathBuf::from);
        if let Some(path) = &named {
            assert!(path.is_file(), "{} names {}, which is not a file", build.variable, path.display());
        }
        // Beside an object that is named, one that was left by another build would decide otherwise.
        let is_left_out = named.is_none() && builds.iter().any(|other| env::var_os(other.variable).is_some());
        let object = named.unwrap_or_else(|| folder.join(build.file));
        if object.is_file() && !is_left_out {
            embed(build, &object);
        } else {
            // A file that is missing would count as changed at every build; a folder that is there does not. Where it
            // cannot be made (a read-only tree) that is all that is lost.
            let _ = fs::create_dir_all(&folder);
            println!("cargo::rerun-if-changed={}", folder.display());
        }
    }
}

fn embed(build: &Build, object: &Path) {
    let object = object.canonicalize().expect("the object is there");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env={}={}", build.path, object.display());
    println!("cargo::rustc-cfg={}", build.cfg);
}
