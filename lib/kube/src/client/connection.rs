//! The connection of a client, and when another one takes its place. Its own file because the decision takes the time as
//! a value.

use std::time::{Duration, Instant};

/// The shortest time between two attempts to connect anew: a client that is refused for good makes no connection per
/// request.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that another one can take the place of.
#[derive(Clone)]
pub(super) struct Renewable<C> {
    pub(super) present: C,
    /// How many came before it.
    pub(super) generation: u64,
    /// When another one was last tried.
    tried: Option<Instant>,
}

impl<C> Renewable<C> {
    pub(super) const fn new(first: C) -> Self {
        Self { present: first, generation: 0, tried: None }
    }

    /// Another one takes its place, where `make` has one. `refused` is the generation that was refused: one that is over
    /// has been renewed already.
    pub(super) fn renew<E>(&mut self, refused: u64, now: Instant, make: impl FnOnce() -> Result<C, E>) {
        let is_soon = self.tried.is_some_and(|tried| now.duration_since(tried) < PAUSE);
        if refused != self.generation || is_soon {
            return;
        }
        self.tried = Some(now);
        if let Ok(next) = make() {
            self.present = next;
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_refused_is_renewed_once_a_second() {
        let start = Instant::now();
        let mut connection = Renewable::new("first");
        let mut check = |refused, now_ms, made: Result<_, ()>, expected| {
            connection.renew(refused, start + Duration::from_millis(now_ms), || made);
            let Renewable { present, generation, .. } = connection;
            assert_eq!((present, generation), expected, "{refused} {now_ms} {made:?}");
        };
        check(0, 0, Ok("second"), ("second", 1));
        check(1, 999, Ok("soon"), ("second", 1));
        check(0, 5000, Ok("over"), ("second", 1));
        check(1, 5000, Err(()), ("second", 1));
        check(1, 5999, Ok("soon"), ("second", 1));
        check(1, 6000, Ok("third"), ("third", 2));
    }
}
