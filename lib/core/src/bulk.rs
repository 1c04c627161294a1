//! The order in which many keys at once go into a persistent ordered map. Its own file because the World and what
//! follows from it are made of such maps, and a large mesh comes as a whole first.

/// Every second one, then those between them.
///
/// A full leaf of `imbl`'s maps is split in halves: of keys that come in their order every leaf stays half empty for
/// good. In this order the second half of the keys fills what the first one has left.
pub fn alternating<I: Iterator + Clone>(all: I) -> impl Iterator<Item = I::Item> {
    all.clone().step_by(2).chain(all.skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_once() {
        for (count, expect) in [(0, &[][..]), (1, &[0]), (2, &[0, 1]), (5, &[0, 2, 4, 1, 3])] {
            assert_eq!(alternating(0..count).collect::<Vec<_>>(), expect);
        }
    }
}
