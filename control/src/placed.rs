//! The accounts of the pods of each node: what the CA goes by. Follows the World by what differs, so that a change costs what
//! it touches.

use std::sync::Arc;

use imbl::OrdMap;
use underpass_core::{
    World,
    world::{Account, Delta, Workload},
};

/// By node and account, the count of pods. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Placed(OrdMap<(Arc<str>, Account), usize>);

impl Placed {
    /// Goes from one World to another.
    pub fn follow(&mut self, old: &World, new: &World) {
        for differs in Delta::between(old, new).workloads {
            if let Some(key) = differs.new.and_then(|new| place(new)) {
                let count = self.0.get(&key).copied().unwrap_or_default();
                self.0.insert(key, count.saturating_add(1));
            }
            if let Some(key) = differs.old.and_then(|old| place(old)) {
                match self.0.get(&key).copied().unwrap_or_default() {
                    0 | 1 => drop(self.0.remove(&key)),
                    count => drop(self.0.insert(key, count.saturating_sub(1))),
                }
            }
        }
    }

    /// A pod of this account runs on this node.
    #[must_use]
    pub fn has(&self, node: &str, account: &Account) -> bool {
        self.0.contains_key(&(Arc::from(node), account.clone()))
    }
}

fn place(workload: &Workload) -> Option<(Arc<str>, Account)> {
    Some((workload.node.clone()?, workload.account.clone()?))
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        objects::{Batch, Pod},
        resolve::Model,
        testing::pod,
        world::MeshSettings,
    };

    use super::*;

    #[test]
    fn accounts_come_and_go_with_their_pods() {
        let mut model = Model::empty(MeshSettings::default());
        let mut placed = Placed::default();
        let mut step = |batch: Batch| {
            let old = model.world().clone();
            model.apply(&batch);
            placed.follow(&old, model.world());
            placed.clone()
        };
        let of = |name: &str, ip: &str, account: &str, node: Option<&str>| Pod {
            service_account: account.into(),
            node: node.map(Into::into),
            ..pod(name, ip)
        };
        let web = Account { namespace: "default".into(), name: "web".into() };
        let has = |placed: &Placed, node: &str| placed.has(node, &web);

        let two = [of("default/a", "10.0.0.1", "web", Some("n1")), of("default/b", "10.0.0.2", "web", Some("n1"))];
        let now = step(two.into_iter().map(Into::into).collect());
        assert_eq!([has(&now, "n1"), has(&now, "n2")], [true, false]);
        assert!(!now.has("n1", &Account { namespace: "other".into(), name: "web".into() }));
        // one of two goes elsewhere, then the other one changes its account
        let now = step([of("default/a", "10.0.0.1", "web", Some("n2")).into()].into_iter().collect());
        assert_eq!([has(&now, "n1"), has(&now, "n2")], [true, true]);
        let now = step([of("default/b", "10.0.0.2", "db", Some("n1")).into()].into_iter().collect());
        assert_eq!([has(&now, "n1"), has(&now, "n2")], [false, true]);
        let mut gone = Batch::default();
        gone.remove(underpass_core::objects::Object::from(pod("default/a", "")).key());
        let now = step(gone);
        assert_eq!([has(&now, "n1"), has(&now, "n2")], [false, false]);
        assert_eq!(now.0.len(), 1);
    }
}
