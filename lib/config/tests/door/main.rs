//! The manifests door from outside: what a directory says, what is wrong with it, and what changes when it does.

mod bookinfo;
mod broken;
mod changes;
mod directory;
mod generate;
mod policies;
mod print;
mod properties;
mod users;
mod watch;

use std::sync::Arc;

use underpass_config::{
    Update,
    door::{Content, State},
};
use underpass_core::{World, objects::Batch, world::MeshSettings};

/// A directory in memory, and the World that it made.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    state: State,
    pub(crate) world: World,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self { state: State::default(), world: World::empty(MeshSettings::default()) }
    }

    /// The directory has these files now.
    pub(crate) fn put(&mut self, files: &[(&str, &str)]) -> Update {
        let files: Vec<_> = files.iter().map(|(p, t)| (Arc::from(*p), Content::Bytes(t.as_bytes()))).collect();
        let (state, update) = self.state.next(&files);
        self.state = state;
        self.apply(&update.batch);
        update
    }

    fn apply(&mut self, batch: &Batch) {
        self.world = self.world.apply(batch);
    }
}

/// Errors, warnings and notices, one a line.
pub(crate) fn lines(update: &Update) -> String {
    update.problems.iter().chain(&update.notices).map(|p| format!("{p}\n")).collect()
}
