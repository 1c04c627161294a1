//! The pods of this node and the namespaces as entries: the objects as they are read from the API server, not as they stand there. They
//! have no environment, no volumes and no annotations but those that the mesh reads. No IO.

use std::collections::BTreeSet;

use serde_json::Error;
use underpass_core::{
    Kind, ObjectKey,
    objects::{Batch, Change, Namespace, Object, Pod},
};

use super::journal::{Changes, Entries};

/// The key that says that they were complete.
const COMPLETE: &[u8] = b"objects";
/// The first bytes of their keys, before the name.
const KINDS: [(Kind, &[u8]); 2] = [(Kind::Namespace, b"namespace "), (Kind::Pod, b"pod ")];

/// Reads them. None: they were never complete.
pub(super) fn read(entries: &Entries) -> Result<Option<Vec<Object>>, Error> {
    if !entries.contains_key(COMPLETE) {
        return Ok(None);
    }
    let mut objects = Vec::new();
    for (key, value) in entries {
        match KINDS.iter().find(|(_, prefix)| key.starts_with(prefix)) {
            Some((Kind::Pod, _)) => objects.push(serde_json::from_slice::<Pod>(value)?.into()),
            Some(_) => objects.push(serde_json::from_slice::<Namespace>(value)?.into()),
            None => {}
        }
    }
    Ok(Some(objects))
}

/// The changes after which there are none.
pub(super) fn forgotten(entries: &Entries) -> Changes {
    let is_own = |key: &[u8]| key == COMPLETE || KINDS.iter().any(|(_, prefix)| key.starts_with(prefix));
    entries.keys().filter(|key| is_own(key)).map(|key| (key.clone(), None)).collect()
}

/// The changes of a batch, with which they are complete. Objects of other kinds are left out.
pub(crate) fn changes(batch: &Batch) -> Changes {
    let mut changes = Changes::from([(COMPLETE.into(), Some(Box::default()))]);
    for change in &batch.changes {
        let (of, value) = match change {
            Change::Put(object) => (object.key(), serde_json::to_vec(object).ok()),
            Change::Remove(key) => (key.clone(), None),
        };
        if let Some((_, prefix)) = KINDS.iter().find(|(kind, _)| *kind == of.kind) {
            let key = [*prefix, of.name.to_string().as_bytes()].concat();
            changes.insert(key.into(), value.map(Into::into));
        }
    }
    changes
}

/// An update that has everything, after these: those that are not in it are gone.
pub(crate) fn replace(before: &[Object], update: &mut Batch) {
    let key = |change: &Change| match change {
        Change::Put(object) => object.key(),
        Change::Remove(key) => key.clone(),
    };
    let there: BTreeSet<ObjectKey> = update.changes.iter().map(key).collect();
    let gone = before.iter().map(Object::key).filter(|key| !there.contains(key)).map(Change::Remove);
    update.changes.splice(0..0, gone.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use underpass_core::{
        Few,
        objects::{ContainerPort, OwnProxy, Phase},
        testing::{ambient, labels, namespace, pod},
        world::{Distribution, Owner, OwnerKind},
    };

    use super::*;

    fn entries(changes: Changes) -> Entries {
        changes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    #[test]
    fn objects_come_back_as_they_were() {
        let full = Pod {
            node: Some("node-1".into()),
            hostname: Some(Box::new(("h".into(), "s".into()))),
            host_network: true,
            phase: Phase::Terminal,
            ready: false,
            draining: true,
            deleted: true,
            weight: 7,
            annotations: labels("a=1 b="),
            owner: Some(Owner { kind: OwnerKind::CronJob, name: "o".into() }),
            ports: vec![ContainerPort { name: "http".into(), port: 8080 }],
            probes: Few::from([1, 65535]),
            proxy: Some(OwnProxy::Gateway),
            ..ambient("default/full", "10.0.0.1 fd00::1", "app=x")
        };
        let near = Namespace { distribution: Some(Distribution::SameNode), ..namespace("near") };
        let far = Namespace { labels: labels("istio-injection=enabled"), distribution: None, ..namespace("far") };
        let objects: Vec<Object> = vec![far.into(), near.into(), full.into(), pod("default/plain", "").into()];
        let batch: Batch = objects.iter().cloned().collect();
        let mut kept = entries(changes(&batch));
        assert_eq!(read(&kept).unwrap(), Some(objects.clone()));
        kept.remove(COMPLETE);
        assert_eq!(read(&kept).unwrap(), None);
        // One that cannot be read spoils them all, and none stays.
        let broken: Entries = [(COMPLETE, &b""[..]), (b"pod a/b", b"{}")].map(|(k, v)| (k.into(), v.into())).into();
        assert!(read(&broken).is_err());
        let mut more = broken.clone();
        more.insert(b"address a".as_slice().into(), Box::default());
        let gone: Changes = broken.into_keys().map(|key| (key, None)).collect();
        assert_eq!(forgotten(&more), gone);
    }

    #[test]
    fn what_an_update_with_everything_lacks_is_gone() {
        let object = |name: &str| Object::from(pod(name, ""));
        let before = [object("a/gone"), object("a/stays"), namespace("gone").into()];
        let mut update: Batch = [object("a/new"), object("a/stays")].into_iter().collect();
        replace(&before, &mut update);
        let shown = update.changes.iter().map(|change| match change {
            Change::Put(object) => format!("+{}", object.key().name),
            Change::Remove(key) => format!("-{}", key.name),
        });
        assert_eq!(shown.collect::<Vec<_>>(), ["-a/gone", "-gone", "+a/new", "+a/stays"]);
        let removed = changes(&update).into_iter().filter(|(_, value)| value.is_none());
        let removed: Vec<_> = removed.map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect();
        assert_eq!(removed, ["namespace gone", "pod a/gone"]);
    }
}
