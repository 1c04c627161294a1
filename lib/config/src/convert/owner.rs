//! The owner of a pod: `metadata.ownerReferences`, traced back to the object that people wrote. Only shown, in metrics
//! and baggage, so that what cannot be understood is left out, and is no mistake of the pod's.

use underpass_core::world::{Owner, OwnerKind};

use crate::shapes::ObjectMeta;

/// Put by the Deployment controller on the pods and in the name of its ReplicaSet.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// A CronJob names its Jobs by the minute, since 1970.
const MINUTE_DIGITS: std::ops::RangeInclusive<usize> = 8..=10;

/// The controller of a pod; a ReplicaSet's Deployment and a Job's CronJob where their names tell.
pub(super) fn owner(meta: &ObjectMeta) -> Option<Owner> {
    let reference = meta.owner_references.iter().find(|r| r.controller)?;
    let name = reference.name.as_str();
    let (kind, name) = match reference.kind.as_str() {
        "ReplicaSet" => {
            let deployment = meta.labels.get(TEMPLATE_HASH).and_then(|hash| deployment(name, hash));
            deployment.map_or((OwnerKind::Other, name), |deployment| (OwnerKind::Deployment, deployment))
        }
        "Job" => cron_job(name).map_or((OwnerKind::Job, name), |cron_job| (OwnerKind::CronJob, cron_job)),
        _ => (OwnerKind::Other, name),
    };
    (!name.is_empty()).then(|| Owner { kind, name: name.into() })
}

fn deployment<'a>(replica_set: &'a str, hash: &str) -> Option<&'a str> {
    replica_set.strip_suffix(hash)?.strip_suffix('-').filter(|name| !name.is_empty())
}

fn cron_job(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let is_minute = MINUTE_DIGITS.contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit());
    (is_minute && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::OwnerReference;

    fn of(kind: &str, name: &str, hash: Option<&str>, controller: bool) -> Option<(OwnerKind, String)> {
        let reference = OwnerReference { kind: kind.into(), name: name.into(), controller };
        let meta = ObjectMeta {
            owner_references: vec![reference],
            labels: hash.map(|hash| (TEMPLATE_HASH.to_owned(), hash.to_owned())).into_iter().collect(),
            ..ObjectMeta::default()
        };
        owner(&meta).map(|owner| (owner.kind, owner.name.to_string()))
    }

    #[test]
    fn a_controller_is_led_back_to_what_people_wrote() {
        let check = |kind, name, hash, want: Option<(OwnerKind, &str)>| {
            let want = want.map(|(kind, name)| (kind, name.to_owned()));
            assert_eq!(of(kind, name, hash, true), want, "{kind} {name} {hash:?}");
        };
        check("ReplicaSet", "web-7c9d-5fd8", Some("5fd8"), Some((OwnerKind::Deployment, "web-7c9d")));
        check("ReplicaSet", "web", Some("5fd8"), Some((OwnerKind::Other, "web")));
        check("ReplicaSet", "-5fd8", Some("5fd8"), Some((OwnerKind::Other, "-5fd8")));
        check("ReplicaSet", "5fd8", Some("5fd8"), Some((OwnerKind::Other, "5fd8")));
        check("ReplicaSet", "web-5fd8", None, Some((OwnerKind::Other, "web-5fd8")));
        check("StatefulSet", "db", None, Some((OwnerKind::Other, "db")));
        check("Job", "backup", None, Some((OwnerKind::Job, "backup")));
        check("Job", "backup-28912345", None, Some((OwnerKind::CronJob, "backup")));
        check("Job", "backup-2024", None, Some((OwnerKind::Job, "backup-2024")));
        check("Job", "-28912345", None, Some((OwnerKind::Job, "-28912345")));
        check("Node", "", None, None);
        assert_eq!(of("StatefulSet", "db", None, false), None, "an owner that does not control it");
    }
}
