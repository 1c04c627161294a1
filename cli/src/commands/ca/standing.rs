//! What is known of a CA and of its roots on every node, as data.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use underpass_identity::{
    Cacerts, Certificate,
    rotation::{Phase, Role, values::Origin},
};
use underpass_kube::write::Secret;
use underpass_telemetry::admin::view::Roots;

use super::Own;
use crate::{
    error::CliError,
    measure,
    output::Colour,
    table::{self, Cell, Table, Tone},
};

/// Names in one line.
const FEW: usize = 5;

/// The CA of a cluster. Times are seconds since 1970.
#[derive(Debug, Serialize)]
pub(super) struct Ca {
    /// The Secret, namespace/name.
    secret: String,
    /// `steady`, `prepared` or `activated`; none: it is plugged in, and its owner replaces its roots.
    phase: Option<&'static str>,
    #[serde(skip)]
    next_step: &'static str,
    /// The start of the phase.
    since_unix_s: u64,
    roots: Vec<Root>,
}

/// A root of the CA.
#[derive(Debug, Serialize)]
struct Root {
    /// Hexadecimal.
    serial: String,
    /// `signs`, `next` or `old`; of a plugged-in one `root`.
    role: &'static str,
    not_after_unix_s: u64,
}

/// The CA, and where its roots have arrived.
#[derive(Debug, Serialize)]
pub(super) struct Standing {
    #[serde(flatten)]
    ca: Ca,
    /// The number of agents.
    pub(super) agents: usize,
    /// Of each root, in the same order.
    on_nodes: Vec<OnNodes>,
    /// Roots that agents trust, and the CA does not have: serial and nodes.
    others: Vec<(String, Vec<String>)>,
}

/// Where a root has arrived.
#[derive(Debug, Default, Serialize)]
struct OnNodes {
    trusted_by: usize,
    /// Nodes whose agents have answered, and do not trust it.
    missing_on: Vec<String>,
    /// Certificates of pods by it.
    certificates: usize,
    /// The nodes that have those.
    certificates_on: Vec<String>,
}

impl Ca {
    /// One that was made here.
    pub(super) fn own(own: &Own, now: SystemTime) -> Result<Self, CliError> {
        let trust_domain = own.values.trust_domain(&own.name)?;
        let origin = Origin { name: &own.name, trust_domain: &trust_domain, since: own.secret.changed };
        let status = own.values.status(origin, now)?;
        let root = |(role, certificate): &(Role, Certificate)| Root::new(certificate, role.as_str());
        Ok(Self {
            secret: own.secret.name.to_string(),
            phase: Some(status.phase.as_str()),
            next_step: match status.phase {
                Phase::Steady => "underpass ca prepare begins a replacement of the root",
                Phase::Prepared => "next is underpass ca activate",
                Phase::Activated => "next is underpass ca retire",
            },
            since_unix_s: unix_s(status.since),
            roots: status.roots.iter().map(root).collect(),
        })
    }

    /// One that its owner has plugged in.
    pub(super) fn plugged_in(secret: &Secret) -> Result<Self, CliError> {
        let name = format!("Secret {}", secret.name);
        let values = Cacerts::read(&name, |key| secret.data.get(key).map(|value| value.as_slice()))?;
        Ok(Self {
            secret: secret.name.to_string(),
            phase: None,
            next_step: "its owner replaces it: docs/control.md#the-ca",
            since_unix_s: unix_s(secret.changed),
            roots: values.roots(&name)?.iter().map(|root| Root::new(root, "root")).collect(),
        })
    }

    /// The lines before the table of roots.
    pub(super) fn head(&self, now: u64) -> String {
        let since = measure::duration(now.saturating_sub(self.since_unix_s));
        let phase = match self.phase {
            None => format!("plugged in: {}", self.next_step),
            Some(phase) if self.roots.len() == 1 => format!("{phase}: {}", self.next_step),
            Some(phase) => format!("{phase} {since} ago: {}", self.next_step),
        };
        format!("CA      Secret {}\nphase   {phase}\n", self.secret)
    }

    fn with_role(&self, role: Role) -> impl Iterator<Item = usize> {
        let is_it = move |(_, root): &(usize, &Root)| root.role == role.as_str();
        self.roots.iter().enumerate().filter(is_it).map(|(i, _)| i)
    }
}

impl Root {
    fn new(certificate: &Certificate, role: &'static str) -> Self {
        Self { serial: certificate.serial().to_string(), role, not_after_unix_s: unix_s(certificate.not_after()) }
    }
}

impl Standing {
    /// `answers` are what agents said, by node; `agents` are all, those without an answer included.
    pub(super) fn new(ca: Ca, agents: usize, answers: &[(String, Roots)]) -> Self {
        let on_nodes = ca.roots.iter().map(|root| {
            let mut all = OnNodes::default();
            for (node, said) in answers {
                match said.trusted.contains(&root.serial) {
                    true => all.trusted_by += 1,
                    false => all.missing_on.push(node.clone()),
                }
                let certificates = said.certificates.get(&root.serial).copied().unwrap_or_default();
                all.certificates += certificates;
                if certificates > 0 {
                    all.certificates_on.push(node.clone());
                }
            }
            all
        });
        let on_nodes = on_nodes.collect();
        let mut others: Vec<(String, Vec<String>)> = Vec::new();
        for (node, said) in answers {
            let foreign = said.trusted.iter().filter(|serial| ca.roots.iter().all(|root| root.serial != **serial));
            for serial in foreign {
                match others.iter_mut().find(|(known, _)| known == serial) {
                    Some((_, nodes)) => nodes.push(node.clone()),
                    None => others.push((serial.clone(), vec![node.clone()])),
                }
            }
        }
        Self { ca, agents, on_nodes, others }
    }

    /// The nodes whose agents do not trust the next root yet.
    pub(super) fn without_next(&self) -> Vec<String> {
        self.of(Role::Next, |on| &on.missing_on)
    }

    /// The nodes that have certificates of the old root.
    pub(super) fn with_old_certificates(&self) -> Vec<String> {
        self.of(Role::Old, |on| &on.certificates_on)
    }

    fn of(&self, role: Role, nodes: impl Fn(&OnNodes) -> &Vec<String>) -> Vec<String> {
        let on = self.ca.with_role(role).filter_map(|i| self.on_nodes.get(i));
        on.flat_map(|on| nodes(on).iter().cloned()).collect()
    }

    /// Every agent that answered trusts the roots of the CA, and no others.
    pub(super) fn is_settled(&self) -> bool {
        self.others.is_empty() && self.on_nodes.iter().all(|on| on.missing_on.is_empty())
    }

    pub(super) fn text(&self, now: u64, colour: Colour) -> String {
        let mut table = Table::new(&["ROOT", "ROLE", "EXPIRES", "TRUSTED BY", "CERTIFICATES"]);
        for (root, on) in self.ca.roots.iter().zip(&self.on_nodes) {
            let left = root.not_after_unix_s.checked_sub(now);
            let tone = if on.missing_on.is_empty() { Tone::Good } else { Tone::Bad };
            table.row(vec![
                Cell::from(&root.serial),
                Cell::from(root.role),
                left.map_or_else(
                    || Cell::new("expired", Tone::Bad),
                    |left| Cell::from(format!("in {}", measure::duration(left))),
                ),
                Cell::new(format!("{} of {} agents", on.trusted_by, self.agents), tone),
                Cell::from(on.certificates.to_string()),
            ]);
        }
        let mut text = format!("{}\n{}", self.ca.head(now), table.text(colour, "no roots"));
        for (root, on) in self.ca.roots.iter().zip(&self.on_nodes).filter(|(_, on)| !on.missing_on.is_empty()) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "root {} is not trusted yet on {}", root.serial, few(&on.missing_on));
        }
        for (serial, nodes) in &self.others {
            let _ = writeln!(text, "root {serial} is none of this CA, and is trusted on {}", few(nodes));
        }
        text
    }
}

/// The first of these names.
pub(super) fn few(names: &[String]) -> String {
    table::few(names, FEW)
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;
    const DAY: u64 = 86_400;

    fn root(serial: &str, role: &'static str) -> Root {
        Root { serial: serial.to_owned(), role, not_after_unix_s: NOW + 10 * DAY }
    }

    fn ca(phase: Phase, roots: Vec<Root>) -> Ca {
        let next_step = "next is underpass ca activate";
        Ca {
            secret: "mesh/underpass-ca".to_owned(),
            phase: Some(phase.as_str()),
            next_step,
            since_unix_s: NOW - 40,
            roots,
        }
    }

    fn says(node: &str, trusted: &[&str], certificates: &[(&str, usize)]) -> (String, Roots) {
        let trusted = trusted.iter().map(|serial| (*serial).to_owned()).collect();
        let certificates = certificates.iter().map(|(serial, count)| ((*serial).to_owned(), *count)).collect();
        (node.to_owned(), Roots { trusted, certificates })
    }

    #[test]
    fn a_step_waits_for_the_agents_that_have_not_noticed_the_one_before() {
        let prepared = || ca(Phase::Prepared, vec![root("a1", "signs"), root("b2", "next")]);
        let late = [says("n-1", &["a1", "b2"], &[("a1", 3)]), says("n-2", &["a1"], &[("a1", 2)])];
        let standing = Standing::new(prepared(), 3, &late);
        assert_eq!(standing.without_next(), ["n-2"]);
        assert_eq!(standing.with_old_certificates(), Vec::<String>::new());
        assert!(!standing.is_settled());
        let text = standing.text(NOW, Colour::Never);
        assert_eq!(
            text,
            "CA      Secret mesh/underpass-ca\n\
             phase   prepared 40 s ago: next is underpass ca activate\n\n\
             ROOT  ROLE   EXPIRES  TRUSTED BY     CERTIFICATES\n\
             a1    signs  in 10 d  2 of 3 agents  5\n\
             b2    next   in 10 d  1 of 3 agents  0\n\
             root b2 is not trusted yet on n-2\n"
        );
        let all = [says("n-1", &["a1", "b2"], &[]), says("n-2", &["b2", "a1"], &[])];
        let standing = Standing::new(prepared(), 2, &all);
        assert!(standing.without_next().is_empty() && standing.is_settled());
    }

    #[test]
    fn an_old_root_is_in_use_where_a_certificate_leads_to_it() {
        let activated = ca(Phase::Activated, vec![root("b2", "signs"), root("a1", "old")]);
        let said = [says("n-1", &["a1", "b2"], &[("b2", 3)]), says("n-2", &["a1", "b2"], &[("a1", 1), ("b2", 2)])];
        let standing = Standing::new(activated, 2, &said);
        assert_eq!(standing.with_old_certificates(), ["n-2"]);
        assert!(standing.is_settled());
    }

    #[test]
    fn a_root_that_is_not_the_cas_is_named() {
        let standing =
            Standing::new(ca(Phase::Steady, vec![root("b2", "signs")]), 1, &[says("n-1", &["b2", "a1"], &[])]);
        assert!(!standing.is_settled());
        let text = standing.text(NOW, Colour::Never);
        assert!(
            text.contains("phase   steady: ") && text.ends_with("root a1 is none of this CA, and is trusted on n-1\n"),
            "{text}"
        );
    }
}
