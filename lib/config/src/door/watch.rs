//! The door that stays open: the directory is read whenever something in it changes.

use std::io;

use underpass_door::Update;

use super::Door;
use crate::watch::{Watch, watch};

impl Door {
    /// Reads the directory whenever something changes, and hands on every update that differs from the one before. The
    /// first reading happens at once, on the new thread, and is always handed on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(mut self, mut on_update: impl FnMut(Update) + Send + 'static) -> io::Result<Watch> {
        let mut last: Option<Update> = None;
        let root = self.directory.root().to_owned();
        watch("manifests", root, move || {
            let update = self.look();
            let is_news = last.as_ref().is_none_or(|l| {
                !update.batch.is_empty()
                    || (&l.problems, &l.notices, &l.ignored) != (&update.problems, &update.notices, &update.ignored)
            });
            if is_news {
                on_update(update.clone());
            }
            last = Some(update);
        })
    }
}
