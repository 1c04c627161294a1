//! A directory that is watched: the World follows each kind of change. Tests wait for a World, never for a time.

use std::{
    fs,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use underpass_config::{Door, Watch};
use underpass_core::{resolve::Model, world::MeshSettings};
use underpass_door::Update;

use crate::directory::{Temp, namespace};

/// Generous: the regular look comes every 5 s.
const DEADLINE: Duration = Duration::from_secs(60);

struct Watched {
    updates: Receiver<Update>,
    model: Model,
    problems: usize,
    _watch: Watch,
}

impl Watched {
    fn new(dir: &Temp) -> Self {
        let (send, updates) = mpsc::channel();
        let watch = Door::new(dir.path()).watch(move |u| drop(send.send(u))).unwrap();
        Self { updates, model: Model::empty(MeshSettings::default()), problems: 0, _watch: watch }
    }

    /// Until the World has exactly these namespaces and this many problems.
    #[track_caller]
    fn wait(&mut self, namespaces: &[&str], problems: usize) {
        let end = Instant::now() + DEADLINE;
        loop {
            let have: Vec<_> = self.model.sources().objects().map(|(key, _)| key.name.name().to_owned()).collect();
            if have == namespaces && self.problems == problems {
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            let update = self.updates.recv_timeout(left);
            let update = update.unwrap_or_else(|e| panic!("{e}: {have:?}, {} problems", self.problems));
            self.model.apply(&update.batch);
            self.problems = update.problems.len();
        }
    }
}

#[test]
fn the_world_follows_the_directory() {
    let dir = Temp::new();
    dir.write("a.yaml", &namespace("a"));
    let mut watched = Watched::new(&dir);
    watched.wait(&["a"], 0);
    dir.write("b.yaml", &namespace("b"));
    watched.wait(&["a", "b"], 0);
    dir.write("new/deep/c.yaml", &namespace("c"));
    watched.wait(&["a", "b", "c"], 0);
    dir.write("a.yaml", "kind: [");
    watched.wait(&["a", "b", "c"], 1);
    dir.write("a.yaml", &namespace("d"));
    watched.wait(&["b", "c", "d"], 0);
    fs::remove_dir_all(dir.path().join("new")).unwrap();
    watched.wait(&["b", "d"], 0);
    // as editors save
    dir.write(".a.yaml.tmp", &namespace("e"));
    fs::rename(dir.path().join(".a.yaml.tmp"), dir.path().join("a.yaml")).unwrap();
    watched.wait(&["b", "e"], 0);
}

#[test]
fn a_swapped_link_is_followed() {
    let dir = Temp::new();
    dir.write("..1/a.yaml", &namespace("a"));
    dir.write("..2/a.yaml", &namespace("b"));
    dir.link("..1", "..data");
    dir.link("..data/a.yaml", "a.yaml");
    let mut watched = Watched::new(&dir);
    watched.wait(&["a"], 0);
    dir.link("..2", "..new");
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    watched.wait(&["b"], 0);
}

#[test]
fn a_directory_that_comes_later_is_found() {
    let dir = Temp::new();
    let (send, updates) = mpsc::channel();
    let watch = Door::new(dir.path().join("later")).watch(move |u| drop(send.send(u))).unwrap();
    let model = Model::empty(MeshSettings::default());
    let mut watched = Watched { updates, model, problems: 0, _watch: watch };
    watched.wait(&[], 1);
    dir.write("later/a.yaml", &namespace("a"));
    watched.wait(&["a"], 0);
}

#[test]
fn nothing_is_said_after_the_end() {
    let dir = Temp::new();
    let watched = Watched::new(&dir);
    let Watched { updates, _watch, .. } = watched;
    drop(_watch);
    dir.write("a.yaml", &namespace("a"));
    let said: Vec<_> = updates.iter().collect();
    assert!(said.len() <= 1, "the first look at most: {said:?}");
}
