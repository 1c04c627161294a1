//! The root certificates by which the agent knew the control plane, as entries, one each. They tell two clusters of one name apart: a
//! machine that was taken into another cluster has the disk of the one before. A root that is replaced is trusted beside its successor for a
//! while, so what was kept outlives that. No IO.

use underpass_identity::CertificateDer;

use super::journal::{Changes, Entries};

/// The first bytes of their keys, before the certificate. They have no value.
const ROOT: &[u8] = b"root ";

/// Those that were trusted last.
pub(super) fn read(entries: &Entries) -> Vec<CertificateDer<'static>> {
    let of = |key: &[u8]| key.strip_prefix(ROOT).map(|der| CertificateDer::from(der.to_vec()));
    entries.keys().filter_map(|key| of(key)).collect()
}

/// The changes from these roots to those; none, where they are the same.
pub(crate) fn changes(before: &[CertificateDer<'static>], after: &[CertificateDer<'static>]) -> Changes {
    let key = |root: &CertificateDer<'static>| Box::<[u8]>::from([ROOT, root.as_ref()].concat());
    let gone = before.iter().filter(|root| !after.contains(root)).map(|root| (key(root), None));
    let new = after.iter().filter(|root| !before.contains(root)).map(|root| (key(root), Some(Box::default())));
    gone.chain(new).collect()
}
