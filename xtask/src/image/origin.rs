//! Where an image comes from: the commit of the checkout, and the time that stands in it.

use std::env;

use anyhow::{Context, Result};

use crate::process::Cmd;
use crate::workspace::Workspace;

/// A commit and a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The commit, with `-dirty` where a file differs from it. Absent without git.
    pub(crate) revision: Option<String>,
    /// RFC 3339: `SOURCE_DATE_EPOCH`, else the time of the commit, else 1970.
    pub(crate) created: String,
}

impl Origin {
    /// That of the checkout.
    pub(crate) fn of(workspace: &Workspace) -> Result<Self> {
        let git = |words: &[&str]| Cmd::new("git").current_dir(workspace.root()).args(words).read().ok();
        let commit = git(&["log", "-1", "--format=%H %ct"]);
        let commit = commit.as_deref().and_then(|line| line.trim().split_once(' '));
        let dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
        let seconds: u32 = match env::var("SOURCE_DATE_EPOCH") {
            Ok(seconds) => seconds.parse().with_context(|| format!("SOURCE_DATE_EPOCH={seconds} is no number"))?,
            Err(_) => commit.and_then(|(_, seconds)| seconds.parse().ok()).unwrap_or(0),
        };
        let revision = commit.map(|(hash, _)| format!("{hash}{}", if dirty { "-dirty" } else { "" }));
        Ok(Self { revision, created: rfc3339(seconds.into()) })
    }
}

/// Seconds since 1970, as a date in UTC.
fn rfc3339(seconds: u64) -> String {
    let (mut day, time) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while day >= 365 + leap(year) {
        day -= 365 + leap(year);
        year += 1;
    }
    let months = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, day + 1)
}

/// 1 in a leap year of the Gregorian calendar.
fn leap(year: u64) -> u64 {
    u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), want);
        }
    }
}
