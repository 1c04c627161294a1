//! Texts and ports that many facts have, in one copy for all of them. Its own file because it decides nothing: the
//! facts are equal without it, and larger.
//!
//! What must hold: a value that no fact has any more is forgotten before their number has doubled.

use std::{collections::BTreeSet, sync::Arc};

use crate::world::Workload;

/// So many values are never looked through.
const FEW: usize = 1024;

/// One copy of each value.
#[derive(Debug)]
struct Copies<T: ?Sized> {
    all: BTreeSet<Arc<T>>,
    /// With so many, those that nothing else has are forgotten.
    most: usize,
}

impl<T: ?Sized> Clone for Copies<T> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), most: self.most }
    }
}

impl<T: ?Sized> Default for Copies<T> {
    fn default() -> Self {
        Self { all: BTreeSet::new(), most: FEW }
    }
}

impl<T: Ord + ?Sized> Copies<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.all.get(&**value) {
            *value = Arc::clone(known);
            return;
        }
        if self.all.len() >= self.most {
            self.all.retain(|known| Arc::strong_count(known) > 1);
            self.most = FEW.max(self.all.len().saturating_mul(2));
        }
        self.all.insert(Arc::clone(value));
    }
}

/// What the facts of a resolver share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    texts: Copies<str>,
    ports: Copies<[(u16, u16)]>,
}

impl Shared {
    /// Exchanges what another fact has as well for its copy. Node and account are the pod's own already.
    pub(super) fn workload(&mut self, workload: &mut Workload) {
        let Workload { account, canonical_service, canonical_revision, app, version, endpoints, .. } = workload;
        let namespace = account.iter_mut().map(|account| &mut account.namespace);
        let names = [canonical_service, canonical_revision, app, version];
        namespace.chain(names).for_each(|text| self.texts.share(text));
        endpoints.iter_mut().for_each(|endpoint| self.ports.share(&mut endpoint.ports));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ambient, model, service, workload};

    #[test]
    fn facts_share_what_they_have_in_common() {
        let pod = |name, ip| ambient(name, ip, "app=web version=v1").into();
        let model = model([
            pod("default/a", "10.0.0.1"),
            pod("default/b", "10.0.0.2"),
            service("default/web app=web 10.96.0.1 80").into(),
        ]);
        let facts: Vec<_> = model.world().workloads().collect();
        let [a, b] = facts[..] else { panic!("{facts:?}") };
        let texts = |w: &Workload| [&w.canonical_service, &w.canonical_revision, &w.app, &w.version].map(Arc::clone);
        for (of_a, of_b) in texts(a).iter().zip(&texts(b)) {
            assert!(Arc::ptr_eq(of_a, of_b), "{of_a}");
        }
        let namespace = |w: &Workload| Arc::clone(&w.account.as_ref().unwrap().namespace);
        assert!(Arc::ptr_eq(&namespace(a), &namespace(b)));
        let ports = |w: &Workload| Arc::clone(&w.endpoints[0].ports);
        assert!(Arc::ptr_eq(&ports(a), &ports(b)));
    }

    #[test]
    fn what_no_fact_has_is_forgotten() {
        let mut shared = Shared::default();
        let named = |n: usize| Workload::clone(&workload(&ambient(&format!("default/pod-{n}"), "", "")));
        let mut kept = named(0);
        shared.workload(&mut kept);
        (1..5 * FEW).for_each(|n| shared.workload(&mut named(n)));
        assert!(shared.texts.all.len() <= FEW, "{}", shared.texts.all.len());
        let mut again = named(0);
        shared.workload(&mut again);
        assert!(Arc::ptr_eq(&again.app, &kept.app), "what a fact has stays");
    }
}
