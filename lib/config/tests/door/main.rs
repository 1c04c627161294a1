//! The manifests door from outside: what a directory says, what is wrong with it, and what changes when it does.

mod bookinfo;
mod broken;
mod changes;
mod directory;
mod mesh_config;
mod policies;
mod properties;
mod provision;
mod routes;
mod tokens;
mod users;
mod watch;

use std::sync::Arc;

use underpass_config::door::{Content, State};
use underpass_core::{
    World,
    objects::{Object, Pod},
    resolve::{Model, Sources},
    world::MeshSettings,
};
use underpass_door::Update;

/// A directory in memory, the objects that it gave, and what follows from them.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    state: State,
    model: Model,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self { state: State::default(), model: Model::empty(MeshSettings::default()) }
    }

    /// The directory has these files now.
    pub(crate) fn put(&mut self, files: &[(&str, &str)]) -> Update {
        let files: Vec<_> = files.iter().map(|(p, t)| (Arc::from(*p), Content::Bytes(t.as_bytes()))).collect();
        let (state, update) = self.state.next(&files);
        self.state = state;
        self.model.apply(&update.batch);
        update
    }

    pub(crate) fn sources(&self) -> &Sources {
        self.model.sources()
    }

    pub(crate) fn world(&self) -> &World {
        self.model.world()
    }

    /// The count of AuthorizationPolicies that would judge this pod.
    pub(crate) fn judging(&self, pod: Pod) -> usize {
        let (name, mut with) = (pod.name.clone(), self.model.clone());
        with.apply(&[pod.into()].into_iter().collect());
        let pod = with.world().pod(&name).expect("a pod");
        with.world().authorization_policies(pod).count()
    }

    /// The first object.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.sources().objects().map(|(_, object)| object).next()
    }
}

/// Errors, warnings and notices, one a line.
pub(crate) fn lines(update: &Update) -> String {
    update.problems.iter().chain(&update.notices).map(|p| format!("{p}\n")).collect()
}
