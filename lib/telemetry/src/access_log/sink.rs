//! The target of the lines, standard output or a file, and its failures: a full disk or a closed pipe costs lines, never the
//! process, and never glues half a line to the next one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::PathBuf,
    time::Duration,
};

use super::AccessLogError;

/// Owner and group: lines name workloads and addresses.
const FILE_MODE: u32 = 0o640;
/// Pause before a full pipe is tried again, where another process has made it non-blocking.
const FULL_PIPE_WAIT: Duration = Duration::from_millis(10);

/// The target of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file, which is made (mode 0640) if it is missing.
    File(PathBuf),
}

impl Target {
    /// A descriptor of its own: no lock and no buffer of `std::io::Stdout` between the lines and their reader.
    pub(super) fn open(&self) -> Result<File, AccessLogError> {
        match self {
            Self::Stdout => {
                let own = io::stdout().as_fd().try_clone_to_owned();
                own.map(File::from).map_err(|source| AccessLogError::Stdout { source })
            }
            Self::File(path) => (OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path))
                .map_err(|source| AccessLogError::Open { path: path.clone(), source }),
        }
    }
}

pub(super) struct Sink<W> {
    out: W,
    /// The last write ended inside a line.
    torn: bool,
}

impl<W: Write> Sink<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, torn: false }
    }

    /// Writes whole lines. The number of those that were written, and the error that stopped the rest.
    pub(super) fn write(&mut self, text: &str) -> (u64, io::Result<()>) {
        if self.torn {
            match self.write_some(b"\n") {
                (_, Ok(())) => self.torn = false,
                (_, failed) => return (0, failed),
            }
        }
        let (length, result) = self.write_some(text.as_bytes());
        let written = text.as_bytes().get(..length).unwrap_or_default();
        self.torn = written.last().is_some_and(|b| *b != b'\n');
        (written.iter().map(|b| u64::from(*b == b'\n')).sum(), result)
    }

    fn write_some(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return (bytes.len() - rest.len(), Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_PIPE_WAIT),
                Err(e) => return (bytes.len() - rest.len(), Err(e)),
            }
        }
        (bytes.len(), self.out.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A writer that takes and fails as scripted.
    struct Moody {
        moods: VecDeque<Result<usize, io::ErrorKind>>,
        took: Vec<u8>,
    }

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = self.moods.pop_front().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.took.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(moods: &[Result<usize, io::ErrorKind>], want_written: &[u64], want: &str) {
        let mut sink = Sink::new(Moody { moods: moods.iter().copied().collect(), took: Vec::new() });
        let written: Vec<_> = ["a1\na2\n", "b1\nb2\n"].iter().map(|text| sink.write(text).0).collect();
        assert_eq!(written, want_written, "{moods:?}");
        assert_eq!(String::from_utf8(sink.out.took).unwrap(), want, "{moods:?}");
    }

    #[test]
    fn lines_are_whole_or_counted_as_lost() {
        use io::ErrorKind::{BrokenPipe, Interrupted, StorageFull, WouldBlock};
        check(&[], &[2, 2], "a1\na2\nb1\nb2\n");
        check(&[Ok(1), Err(Interrupted), Ok(1), Err(WouldBlock)], &[2, 2], "a1\na2\nb1\nb2\n");
        check(&[Err(StorageFull)], &[0, 2], "b1\nb2\n");
        check(&[Ok(3), Err(StorageFull)], &[1, 2], "a1\nb1\nb2\n");
        check(&[Ok(4), Err(StorageFull)], &[1, 2], "a1\na\nb1\nb2\n");
        check(&[Ok(4), Err(StorageFull), Err(StorageFull)], &[1, 0], "a1\na");
        check(&[Ok(0)], &[0, 2], "b1\nb2\n");
        check(&[Err(BrokenPipe), Err(BrokenPipe)], &[0, 0], "");
    }
}
