//! Puts the Helm chart into the command, whole: a file that is added to the chart is in it without an edit here.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The chart, from the folder of this package.
const CHART: &str = "../deploy/helm/underpass";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={CHART}");
    let root = fs::canonicalize(CHART)?;
    let mut files = Vec::new();
    list(&root, &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&root)?.to_str().ok_or("a name that is no text")?;
        writeln!(table, "    ({name:?}, include_str!({:?})),", file.to_str().ok_or("a path that is no text")?)?;
    }
    table.push_str("]\n");
    fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("chart.rs"), table)?;
    Ok(())
}

/// Files at any depth. Hidden ones are editors' own, and no part of a chart.
fn list(directory: &Path, into: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), into)?,
            false => into.push(entry.path()),
        }
    }
    Ok(())
}
