//! The fuzz targets of this crate, and the tests over their stored corpora: any bytes are a file, and what an API server
//! says.

use std::sync::Arc;

use underpass_core::Kind;
use underpass_door::{Observation, Severity};

use crate::{
    door::{Content, State},
    json, manifest,
};

/// The folder of a target's corpus.
#[cfg(test)]
fn corpus(target: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// `manifest`: bytes to documents, objects and batches. Panics where something does not hold.
pub fn run(bytes: &[u8]) {
    let file: Arc<str> = "fuzz.yaml".into();
    let manifest = manifest::read(&file, bytes);
    for problem in &manifest.problems {
        assert!(!problem.to_string().contains('\n'), "one line: {problem}");
    }
    let bad = manifest.claims.iter().filter(|c| matches!(c.observed, Observation::Bad { .. })).count();
    assert!(bad == 0 || manifest.errors().count() > 0, "nothing is lost silently: {manifest:?}");
    let (first, _) = State::default().next(&[(Arc::clone(&file), Content::Bytes(bytes))]);
    let (_, again) = first.next(&[(Arc::clone(&file), Content::Bytes(bytes))]);
    assert!(again.batch.is_empty(), "the same file is no change: {:?}", again.batch);
    let (_, gone) = first.next(&[]);
    assert_eq!(gone.batch.changes.len(), first.len(), "nothing outlives its file");
    let text = String::from_utf8_lossy(bytes);
    Kind::ALL.into_iter().for_each(|kind| of_server(kind, &text));
}

/// The same text as an object of an API server.
fn of_server(kind: Kind, text: &str) {
    let Ok(claim) = json::object(kind, text) else { return };
    let has_error = claim.faults.iter().any(|f| f.fault.severity() == Severity::Error);
    match &claim.observed {
        Observation::Good(object) => assert!(object.key() == claim.key && !has_error, "{claim:?}"),
        _ => assert!(has_error, "nothing is lost silently: {claim:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_corpus_holds() {
        let files: Vec<_> = fs::read_dir(corpus("manifest")).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(files.len() >= 20, "{} files", files.len());
        for file in files {
            let bytes = fs::read(&file).unwrap();
            run(&bytes);
            // and everything that is left of it when a write is cut short, or a byte turns
            for cut in (0..bytes.len()).step_by(bytes.len().div_ceil(8).max(1)) {
                run(&bytes[..cut]);
                let mut turned = bytes.clone();
                turned[cut] ^= 0x41;
                run(&turned);
            }
        }
    }
}
