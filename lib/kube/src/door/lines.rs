//! The lines of a body that arrives in pieces. An event of a watch is one line; a piece ends anywhere.

/// The longest line: an object has at most 1.5 MiB in etcd, and an event may escape much of it.
pub(super) const MAX_LINE_BYTES: usize = 16 << 20;

/// A line is longer than [`MAX_LINE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {MAX_LINE_BYTES} bytes")]
pub(super) struct TooLong;

/// What has arrived of the next line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes a piece, and passes on the lines that it completes, without their ends.
    ///
    /// # Errors
    /// When a line is too long; the body is of no use then.
    pub(super) fn take(&mut self, mut piece: &[u8], mut line: impl FnMut(&[u8])) -> Result<(), TooLong> {
        while let Some(end) = piece.iter().position(|b| *b == b'\n') {
            let (head, tail) = piece.split_at(end);
            if self.rest.is_empty() {
                line(head);
            } else {
                self.add(head)?;
                line(&self.rest);
                self.rest.clear();
            }
            piece = tail.get(1..).unwrap_or_default();
        }
        self.add(piece)
    }

    fn add(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        if self.rest.len().saturating_add(piece.len()) > MAX_LINE_BYTES {
            return Err(TooLong);
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a\n]{0,40}", cuts in proptest::collection::vec(0usize..40, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let (mut lines, mut got) = (Lines::default(), Vec::new());
            for cut in cuts.windows(2) {
                lines.take(&text.as_bytes()[cut[0]..cut[1]], |line| got.push(line.to_vec())).unwrap();
            }
            let whole = text.rsplit_once('\n').map(|(whole, _)| whole.split('\n').map(|l| l.as_bytes().to_vec()).collect());
            prop_assert_eq!(got, whole.unwrap_or_else(Vec::new));
            prop_assert_eq!(&lines.rest, text.rsplit('\n').next().unwrap().as_bytes());
        }
    }

    #[test]
    fn a_line_has_a_limit() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; MAX_LINE_BYTES / 2];
        lines.take(&piece, |_| {}).unwrap();
        lines.take(&piece, |_| {}).unwrap();
        assert_eq!(lines.take(b"x", |_| {}), Err(TooLong));
        let mut seen = 0;
        lines.take(b"\n", |line| seen = line.len()).unwrap();
        assert_eq!(seen, MAX_LINE_BYTES);
    }
}
