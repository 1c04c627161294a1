//! What a check knows of a cluster.

use std::{collections::BTreeMap, sync::Arc};

use underpass_config::{
    KNOWN,
    door::{Content, State},
};
use underpass_core::{Kind, ObjectKey, ObjectName};
use underpass_door::{Fault, Problem, Severity, Source, Update};
use underpass_kube::Client;

use crate::{
    agents::{connect, runtime},
    args::Cluster,
    error::CliError,
    live,
};

/// Everything of a cluster that the mesh reads.
pub(super) struct Live {
    /// All objects, with their problems.
    pub(super) update: Update,
    /// Its service accounts: their pods may come later.
    pub(super) accounts: Vec<ObjectName>,
    /// Its objects of kinds that are known and not served.
    pub(super) others: Others,
}

/// Objects of kinds that are known and not served.
#[derive(Default)]
pub(super) struct Others {
    pub(super) count: usize,
    /// What they do not do here.
    pub(super) notices: Vec<Problem>,
    /// Kinds or groups that cannot be read, each with the reason.
    pub(super) unread: Vec<String>,
}

impl Live {
    pub(super) fn read(cluster: &Cluster) -> Result<Self, CliError> {
        runtime()?.block_on(async {
            let client = connect(cluster).await?;
            let mut update = live::objects(&client, Kind::ALL).await?;
            // Where Istio or the Gateway API is not, their kinds are not either, and nothing is missing.
            let is_absent = |p: &Problem| match &p.reason {
                Fault::KindAbsent { kind } => Kind::ALL.into_iter().any(|k| is_for_waypoints(k) && k.as_str() == *kind),
                _ => false,
            };
            update.problems.retain(|p| !is_absent(p));
            update.notices.retain(|p| !is_absent(p));
            let accounts = client.service_accounts().await;
            let accounts =
                accounts.map_err(|e| CliError::api_server(e, "list service accounts of every namespace".to_owned()))?;
            Ok(Self { update, accounts, others: Others::read(&client).await })
        })
    }
}

impl Others {
    async fn read(client: &Client) -> Self {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for known in KNOWN {
            groups.entry(known.group).or_default().push(known.kind);
        }
        let (mut texts, mut count, mut unread) = (Vec::new(), 0, Vec::new());
        let is_read = |kind: &str| Kind::ALL.into_iter().any(|k| is_for_waypoints(k) && k.as_str() == kind);
        for (group, kinds) in groups {
            let kinds = match client.objects_of(group, &kinds).await {
                Ok(kinds) => kinds,
                Err(e) => {
                    unread.push(format!("{group}: {e}"));
                    continue;
                }
            };
            for kind in kinds {
                match kind.objects {
                    Ok(objects) => {
                        count += if is_read(&kind.name) { 0 } else { objects.len() };
                        texts.extend(objects.iter().map(ToString::to_string));
                    }
                    Err(e) => unread.push(format!("{}: {e}", kind.name)),
                }
            }
        }
        let notices = notices(&texts);
        // Those that the door reads as well are counted there, and what is wrong with them is said there.
        let is_read = |problem: &Problem| {
            let key = problem.object.as_ref().and_then(|object| object.to_string().parse::<ObjectKey>().ok());
            key.is_some_and(|key| is_for_waypoints(key.kind))
        };
        let notices = notices.into_iter().filter(|p| p.severity() == Severity::Notice || !is_read(p)).collect();
        Self { count, notices, unread }
    }
}

/// Kinds that a cluster without waypoints need not have.
fn is_for_waypoints(kind: Kind) -> bool {
    kind.is_of_waypoints() || kind == Kind::Gateway
}

/// What is to say of these objects, each a JSON text: read as manifests, whose lines do not count.
fn notices(texts: &[String]) -> Vec<Problem> {
    let contents = texts.iter().map(|text| Content::Bytes(text.as_bytes()));
    let files: Vec<_> =
        contents.enumerate().map(|(number, content)| (Arc::from(number.to_string()), content)).collect();
    let (_, update) = State::default().next(&files);
    let said = update.problems.into_iter().chain(update.notices);
    said.map(|problem| Problem { source: Source::ApiServer { resource_version: "".into() }, ..problem }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_known_kinds() {
        let object = r#"{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"hosts": ["cart.example"]}}"#;
        let said = notices(&[object.to_owned()]);
        let said: Vec<_> =
            said.iter().map(|p| (p.object.as_ref().map(ToString::to_string), p.field.to_string())).collect();
        let of = || Some("ServiceEntry shop/cart".to_owned());
        assert_eq!(said, [(of(), String::new()), (of(), "spec.hosts".to_owned())]);
    }
}
