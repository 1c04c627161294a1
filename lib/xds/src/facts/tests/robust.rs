//! Any bytes: no panic, and what was served stays served or is replaced by what closes.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};
use underpass_core::{
    World,
    testing::some_world,
    world::{Action, MeshSettings},
};

use super::{changes, encode};
use crate::{
    facts::Decoder,
    resource::{Change, ResourceKind, Resources},
};

proptest! {
    #[test]
    fn mutated_resources_are_taken_or_told(world in some_world(), edits in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..24)) {
        let mut all = changes(&Resources::default(), &encode(&world));
        prop_assume!(!all.is_empty());
        for (which, at, byte, how) in edits {
            let which = which.index(all.len());
            let change = &mut all[which];
            let mut body = change.body.clone().unwrap().to_vec();
            if !body.is_empty() {
                let at = at.index(body.len());
                match how {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    _ => body.truncate(at),
                }
            }
            change.body = Some(body.into());
        }
        let settings = Arc::new(world.settings().clone());
        let mut fresh = Decoder::new(Arc::clone(&settings));
        let decoded = fresh.apply(all.clone());
        let now = World::empty(MeshSettings::clone(&settings)).apply(decoded.facts);
        // A policy that cannot be read has what closes in its place; a dry run, which enforces nothing, has nothing.
        for (_, problem) in &decoded.problems {
            prop_assert!(!problem.to_string().is_empty());
            if problem.effect == Some(underpass_door::Effect::Closed)
                && let Some(policy) = problem.object.as_ref().and_then(|object| now.policy(&object.name))
            {
                prop_assert_eq!(policy.action, Action::Deny);
                prop_assert_eq!(policy.rules.len(), 1);
            }
        }
        // After good ones, each bad one leaves the good one.
        let mut warm = Decoder::new(Arc::clone(&settings));
        let good = World::empty(MeshSettings::clone(&settings)).apply(warm.apply(changes(&Resources::default(), &encode(&world))).facts);
        let decoded = warm.apply(all.clone());
        let bad: Vec<_> = decoded.problems.iter().filter(|(_, p)| p.effect.is_some()).collect();
        prop_assert!(bad.iter().all(|(_, p)| p.effect == Some(underpass_door::Effect::LastGood)));
        if bad.len() == all.len() {
            prop_assert_eq!(good.apply(decoded.facts.clone()), good.clone());
        }
        // All of it goes by name.
        let gone = all.iter().map(|change| Change { body: None, ..change.clone() });
        let end = good.apply(decoded.facts).apply(warm.apply(gone).facts);
        prop_assert_eq!(end, World::empty(MeshSettings::clone(&settings)));
        prop_assert_eq!(warm.problems().count(), 0);
    }

    #[test]
    fn any_bytes(body in vec(any::<u8>(), 0..64), name in "[a-z/]{0,8}", policy in any::<bool>()) {
        let kind = if policy { ResourceKind::Authorization } else { ResourceKind::Address };
        let change = Change { kind, name: name.into(), version: Arc::default(), body: Some(body.into()) };
        let decoded = Decoder::new(Arc::default()).apply([change]);
        prop_assert!(!decoded.problems.is_empty(), "its name cannot be that of its content");
    }
}
