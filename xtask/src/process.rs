//! Child processes: one builder whose errors always name the command line, and a way to read a child's output line by line
//! while it still reaches the terminal.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// A command line that knows how to name itself in an error.
pub(crate) struct Cmd {
    inner: Command,
}

impl Cmd {
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Self { inner: Command::new(program.into()) }
    }

    pub(crate) fn arg(mut self, value: impl AsRef<OsStr>) -> Self {
        self.inner.arg(value);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, values: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(values);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    pub(crate) fn current_dir(mut self, folder: &Path) -> Self {
        self.inner.current_dir(folder);
        self
    }

    /// The command as one would type it (without its environment).
    pub(crate) fn line(&self) -> String {
        let program = Path::new(self.inner.get_program()).file_name().unwrap_or(self.inner.get_program());
        let words = std::iter::once(program).chain(self.inner.get_args());
        words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// Prints the command line, then runs it on the caller's terminal; a non-zero status is an error.
    pub(crate) fn run(self) -> Result<()> {
        let line = self.line();
        match self.status()? {
            status if status.success() => Ok(()),
            status => bail!("`{line}` ended with {status}"),
        }
    }

    /// Like [`Cmd::run`], but the status is the caller's to judge.
    pub(crate) fn status(mut self) -> Result<ExitStatus> {
        eprintln!("+ {}", self.line());
        let line = self.line();
        self.inner.status().with_context(|| format!("cannot start `{line}`"))
    }

    /// Standard output of a quiet command; its standard error becomes part of the error.
    pub(crate) fn read(mut self) -> Result<String> {
        let line = self.line();
        let output = self.inner.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
        if !output.status.success() {
            bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// True if the command starts and succeeds; its output is dropped.
    pub(crate) fn succeeds(mut self) -> bool {
        self.inner.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.inner.status().is_ok_and(|status| status.success())
    }

    /// Runs the command, passing each line of its standard output on as it comes if `seen` says so.
    pub(crate) fn lines(mut self, mut seen: impl FnMut(&str) -> bool) -> Result<ExitStatus> {
        let line = self.line();
        eprintln!("+ {line}");
        let mut child = self
            .inner
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let output = child.stdout.take().with_context(|| format!("`{line}` has no output"))?;
        pass_on(BufReader::new(output), io::stdout(), &mut seen)
            .with_context(|| format!("cannot read from `{line}`"))?;
        child.wait().with_context(|| format!("cannot wait for `{line}`"))
    }

    /// Replaces this process, so that a Ctrl-C and the exit status belong to the command alone.
    pub(crate) fn exec(mut self) -> anyhow::Error {
        use std::os::unix::process::CommandExt;
        let line = self.line();
        eprintln!("+ {line}");
        anyhow::Error::from(self.inner.exec()).context(format!("cannot start `{line}`"))
    }
}

/// Output need not be UTF-8, nor end with a newline: it is passed on byte for byte, and shown to `seen` as text.
fn pass_on(mut from: impl BufRead, mut to: impl Write, seen: &mut impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? != 0 {
        if seen(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])) {
            to.write_all(&line)?;
            to.flush()?;
        }
        line.clear();
    }
    Ok(())
}

/// A word as a POSIX shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@+,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        for (word, want) in
            [("a-b/c.d:1=2", "a-b/c.d:1=2"), ("", "''"), ("*", "'*'"), ("a b", "'a b'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quote(word), want);
        }
    }

    #[test]
    fn output_passes_byte_for_byte_and_only_where_wanted() {
        let input: &[u8] = b"one\nhidden\n\xff\xfe\r\nlast";
        let (mut output, mut lines) = (Vec::new(), Vec::new());
        pass_on(input, &mut output, &mut |line| {
            lines.push(line.to_owned());
            line != "hidden"
        })
        .unwrap();
        assert_eq!(output, b"one\n\xff\xfe\r\nlast");
        assert_eq!(lines, ["one", "hidden", "\u{fffd}\u{fffd}", "last"]);
    }

    #[test]
    fn a_failed_command_is_named() {
        let error = Cmd::new("sh").args(["-c", "echo why >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo why >&2; exit 3'") && error.contains("why"), "{error}");
        let error = Cmd::new("sh").args(["-c", "exit 3"]).run().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        let error = Cmd::new("no-such-program-anywhere").read().unwrap_err().to_string();
        assert!(error.contains("no-such-program-anywhere"), "{error}");
    }

    #[test]
    fn lines_are_seen_and_the_status_is_the_childs() {
        let mut lines = Vec::new();
        let status = Cmd::new("sh")
            .args(["-c", "echo a; echo b; exit 4"])
            .lines(|line| {
                lines.push(line.to_owned());
                false
            })
            .unwrap();
        assert_eq!((lines.join(","), status.code()), ("a,b".to_owned(), Some(4)));
    }
}
