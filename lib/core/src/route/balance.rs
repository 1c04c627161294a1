//! Choosing among equals.

/// One of `all`, each as likely as the others where `roll` is uniform over `u64`.
pub(super) fn pick<T>(all: &[T], roll: u64) -> Option<&T> {
    let n = u64::try_from(all.len()).ok().filter(|n| *n > 0)?;
    all.get(usize::try_from(roll % n).ok()?)
}
