//! Words of Istio's command that are none of ours: each is refused by name, with what to do instead. docs/istioctl.md has the whole
//! table, and a test holds the two together.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::CliError;

/// A word of Istio's command, and what to do here.
struct Elsewhere {
    word: &'static str,
    instead: &'static str,
}

const fn word(word: &'static str, instead: &'static str) -> Elsewhere {
    Elsewhere { word, instead }
}

/// Words of the first place.
const COMMANDS: &[Elsewhere] = &[
    word("operator", "underpass install takes an IstioOperator with -f; nothing in the cluster watches one"),
    word("validate", "underpass analyze -f FILE checks manifests without a cluster"),
    word("ztunnel-config", "underpass workloads, services, policies, certificates and connections show the same"),
    word("bug-report", "underpass status -o json, and kubectl logs of the agents"),
    word("dashboard", "there is none; docs/metrics.md lists the metrics"),
    word("admin", "underpass log changes the level of an agent's log"),
    word("tag", "there are no revisions: underpass upgrade replaces the agents of a node without a failed connection"),
    word(
        "waypoint",
        "write its Gateway yourself: agents run waypoints from files, in a cluster nothing starts one yet, docs/waypoints.md",
    ),
    word("remote-clusters", "there is one cluster"),
    word("create-remote-secret", "there is one cluster"),
    word("dry-run", "the annotation istio.io/dry-run on a policy, and docs/operations.md"),
];

/// Words behind `proxy-config`: there is no Envoy on a node.
const PROXY_CONFIG: &[Elsewhere] = &[
    word("all", "underpass workloads, services and policies"),
    word("bootstrap", "underpass config shows the settings of an agent"),
    word("cluster", "underpass services lists services"),
    word("clusters", "underpass services lists services"),
    word("c", "underpass services lists services"),
    word("ecds", "nothing extends the agents"),
    word("endpoint", "underpass services -o wide lists endpoints"),
    word("endpoints", "underpass services -o wide lists endpoints"),
    word("ep", "underpass services -o wide lists endpoints"),
    word("listener", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
    word("listeners", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
    word("l", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
    word("log", "underpass log shows and sets the level of an agent's log"),
    word("rootca-compare", "underpass ca status names the roots of every agent"),
    word("route", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
    word("routes", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
    word("r", "underpass explain SOURCE DESTINATION:PORT shows what happens to a connection"),
];

/// The refusal of such a word; none: it is a mistake of another kind. `words` are the command's arguments.
pub(crate) fn refuse(error: &clap::Error, words: impl Iterator<Item = String>) -> Option<CliError> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let first = words.into_iter().find(|word| !word.starts_with('-'))?;
    let (table, said) = match &*first {
        "proxy-config" | "pc" => (PROXY_CONFIG, format!("proxy-config {given}")),
        "x" | "exp" | "experimental" => (COMMANDS, format!("x {given}")),
        _ => (COMMANDS, given.clone()),
    };
    let instead = table.iter().find(|one| one.word == given)?.instead;
    Some(CliError::Elsewhere { said, instead })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    fn said(line: &str) -> Option<String> {
        let words = || line.split(' ').map(str::to_owned);
        let error = Args::try_parse_from(std::iter::once("underpass".to_owned()).chain(words())).err()?;
        refuse(&error, words()).map(|e| e.to_string())
    }

    #[test]
    fn words_of_istio_are_refused_by_name() {
        for (line, want) in [
            ("operator init", "underpass has no `operator`: underpass install takes an IstioOperator with -f"),
            ("pc routes x", "underpass has no `proxy-config routes`: underpass explain"),
            ("proxy-config log x", "underpass has no `proxy-config log`: underpass log"),
            ("x dry-run", "underpass has no `x dry-run`: the annotation"),
        ] {
            let got = said(line).unwrap_or_default();
            assert!(got.starts_with(want), "{line}: {got}");
        }
        for not_ours in ["stattus", "pc unheard-of", "services --what", "status"] {
            assert_eq!(said(not_ours), None, "{not_ours}");
        }
    }

    #[test]
    fn every_command_that_is_told_is_refused() {
        let (_, told) = include_str!("../../../docs/istioctl.md").split_once("## By another name").unwrap();
        let rows = told.lines().filter_map(|line| line.strip_prefix("| `istioctl ")?.split(" | ").next());
        let mut count = 0;
        for row in rows {
            // `istioctl profile list`, `dump`: what stands behind replaces the last word.
            let mut words = row.split('`').step_by(2);
            let first = words.next().unwrap();
            let before = first.rsplit_once(' ').map_or(String::new(), |(before, _)| format!("{before} "));
            for line in std::iter::once(first.to_owned()).chain(words.map(|word| format!("{before}{word}"))) {
                assert!(said(&line).is_some(), "{line}");
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn the_table_of_the_documents_has_every_word() {
        let table = include_str!("../../../docs/istioctl.md");
        for Elsewhere { word, .. } in COMMANDS {
            let told = [format!("`{word}`"), format!("`istioctl {word}"), format!("`istioctl x {word}")];
            assert!(told.iter().any(|told| table.contains(told)), "{word}");
        }
        let whole = |word: &Elsewhere| word.word.len() > 2;
        for Elsewhere { word, .. } in PROXY_CONFIG.iter().filter(|word| whole(word)) {
            let singular = word.strip_suffix('s').unwrap_or(word);
            let told = [word, singular].map(|word| [format!("`istioctl proxy-config {word}`"), format!("`{word}`")]);
            assert!(told.concat().iter().any(|told| table.contains(told)), "proxy-config {word}");
        }
        for Elsewhere { word, .. } in COMMANDS {
            assert!(said(word).is_some(), "{word} is a command of ours by now");
        }
    }
}
