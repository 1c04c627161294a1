//! Compiles the messages of `proto/` into Rust, without protoc.

use std::{error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let entries = std::fs::read_dir("proto")?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<PathBuf>, _>>()?;
    files.retain(|path| path.extension().is_some_and(|end| end == "proto"));
    files.sort();
    let set = protox::compile(files, ["proto"])?;
    // Ordered maps where the encoding is hashed: a resource has one.
    let messages = tonic_prost_build::configure().build_client(true).build_server(true).build_transport(false);
    messages.btree_map(".istio").btree_map(".underpass").compile_fds(set)?;
    Ok(())
}
