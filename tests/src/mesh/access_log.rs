//! The access logs of a mesh's agents.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::{Mesh, fits};
use crate::testbed::wait::wait_for;

/// Lines that are shown where an expected one does not come.
const SHOWN_LINES: usize = 20;

impl Mesh {
    pub(super) fn access_log(&self, node: &str) -> PathBuf {
        self.bed.lab().directory().join(format!("access-{node}.log"))
    }

    /// Every line of a node's access log so far.
    pub fn log(&self, node: &str) -> Result<Vec<Value>> {
        whole_lines(&read(&self.access_log(node), 0)?).map(parsed).collect()
    }

    /// Waits for a line of a node's access log that has these values (`-`: no such field), and returns it.
    pub fn logged(&self, node: &str, want: &[(&str, &str)]) -> Result<Value> {
        self.logged_after(node, 0, want)
    }

    /// The same among the lines that come after the first `lines` of them.
    pub fn logged_after(&self, node: &str, lines: usize, want: &[(&str, &str)]) -> Result<Value> {
        let look = || Ok(self.log(node)?.into_iter().skip(lines).find(|line| fits(line, want)));
        wait_for(&format!("a line of {node}'s access log with {want:?}"), look).map_err(|e| {
            let log = self.log(node).unwrap_or_default();
            let log: Vec<_> = log.iter().skip(lines).rev().take(SHOWN_LINES).map(Value::to_string).collect();
            anyhow!("{e:#}; the newest lines are\n{}", log.join("\n"))
        })
    }

    /// The length of a node's access log, in bytes.
    pub fn log_end(&self, node: &str) -> Result<u64> {
        match fs::metadata(self.access_log(node)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
            read => Ok(read?.len()),
        }
    }

    /// As [`Self::logged`], among the lines behind this end of the log: under load it is too long to be read whole, again and again.
    pub fn logged_since(&self, node: &str, end: u64, want: &[(&str, &str)]) -> Result<Value> {
        wait_for(&format!("a new line of {node}'s access log with {want:?}"), || {
            let text = read(&self.access_log(node), end)?;
            // The first line may have begun before.
            let mut new = whole_lines(&text).skip(1).map(parsed);
            new.find(|line| line.as_ref().map_or(true, |line| fits(line, want))).transpose()
        })
    }
}

/// The text from this byte on; empty where there is no file yet.
fn read(path: &Path, from: u64) -> Result<String> {
    let mut file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last line may be half written.
fn whole_lines(text: &str) -> std::str::Lines<'_> {
    text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines()
}

fn parsed(line: &str) -> Result<Value> {
    serde_json::from_str(line).with_context(|| line.to_owned())
}
