//! The limit of open files, and its part for connections: the rest is kept for control, so that a process full of connections still
//! answers its admin API and resets connections that a policy denies.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are kept for control, in percent.
const RESERVED_PERCENT: usize = 10;
/// The least number of them: for the files that are open before the first connection, and room to work.
const RESERVED_MIN: usize = 128;

/// Raises the limit of this process as far as it may be: every connection costs descriptors.
pub fn raise_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "raising the limit of open files failed");
    }
}

/// The part of the limit that connections may have.
#[must_use]
pub fn for_connections() -> usize {
    // Unlimited is more than there can be.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
    part(files)
}

fn part(files: usize) -> usize {
    let reserved = (files / 100).saturating_mul(RESERVED_PERCENT).max(RESERVED_MIN);
    files.saturating_sub(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_descriptors_is_kept() {
        for (files, expect) in [(0, 0), (128, 0), (256, 128), (1024, 896), (20_000, 18_000), (1 << 20, 943_726)] {
            assert_eq!(part(files), expect, "{files}");
        }
        assert!(part(usize::MAX) > usize::MAX / 10 * 8, "unlimited");
    }
}
