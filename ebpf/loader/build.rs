//! Finds the built kernel programs, which are embedded: `$UNDERPASS_EBPF`, else what `cargo xtask build-ebpf` leaves in
//! the workspace's `target`. Without them user space still builds, and says at start which command is missing.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(underpass_object)");
    println!("cargo::rerun-if-env-changed=UNDERPASS_EBPF");
    if let Some(path) = env::var_os("UNDERPASS_EBPF").map(PathBuf::from) {
        assert!(path.is_file(), "UNDERPASS_EBPF names {}, which is not a file", path.display());
        return embed(&path);
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let folder = manifest.join("../../target/ebpf");
    let object = folder.join("underpass-programs");
    if object.is_file() {
        return embed(&object);
    }
    // A file that is missing would count as changed at every build; a folder that is there does not. Where it cannot be
    // made (a read-only tree) that is all that is lost.
    let _ = fs::create_dir_all(&folder);
    println!("cargo::rerun-if-changed={}", folder.display());
}

fn embed(object: &Path) {
    let object = object.canonicalize().expect("the object is there");
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=UNDERPASS_OBJECT={}", object.display());
    println!("cargo::rustc-cfg=underpass_object");
}
