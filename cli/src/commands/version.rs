//! `underpass version`: of this command, the control plane and the agents.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;
use underpass_kube::pods::ComponentPod;
use underpass_telemetry::admin::view::Status;

use super::nodes::NodeStatus;
use crate::{
    agents::Agents,
    args::{Format, Way},
    error::CliError,
    output::{self, Colour, Output},
    show::Style,
    table::{Cell, Table, Tone, list},
};

/// The versions of this command, of the control plane and of the agents, with their images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0, or 2 where an agent gave no answer, or 1 where there is none at all.")]
pub(crate) struct Version {
    /// Ask the cluster, or the agent of this node; `--remote=false`: this command alone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    remote: bool,
    /// Versions alone, in short.
    #[arg(short = 's', long)]
    short: bool,
    /// Format of the answer.
    #[arg(short = 'o', long, value_enum, default_value_t = VersionFormat::Text)]
    output: VersionFormat,
    #[command(flatten)]
    way: Way,
}

/// The format of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VersionFormat {
    /// For people.
    #[value(alias = "table", alias = "wide")]
    Text,
    /// Versions alone.
    Short,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
}

/// All versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    /// Of this command.
    client_version: String,
    /// The pods of the control plane.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mesh_version: Vec<Part>,
    /// The agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data_plane_version: Vec<Part>,
}

/// A pod of the mesh.
#[derive(Debug, Serialize)]
struct Part {
    component: &'static str,
    node: Option<String>,
    pod: Option<String>,
    image: Option<String>,
    /// What it says itself; of the control plane its image's tag.
    version: Option<String>,
    ready: bool,
    error: Option<String>,
}

pub(crate) fn run(args: &Version) -> Result<Output, CliError> {
    let mut versions = Versions {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        mesh_version: Vec::new(),
        data_plane_version: Vec::new(),
    };
    if args.remote {
        match Agents::open(&args.way) {
            Ok(Agents::Local(agent)) => versions.data_plane_version.push(Part::of_status(&agent.get("/status")?)),
            Ok(Agents::Cluster(fleet)) => {
                versions.mesh_version = fleet.control_plane()?.iter().map(Part::of_control).collect();
                let nodes = NodeStatus::all(fleet.every("/status")?);
                versions.data_plane_version = nodes.into_iter().map(Part::of_node).collect();
            }
            // Nothing was named, and there is nothing to ask: its own version is the answer.
            Err(CliError::NoWay { source }) => output::complain(&format!("this command's version alone: {source}")),
            Err(e) => return Err(e),
        }
    }
    let code =
        if versions.data_plane_version.iter().all(|part| part.error.is_none()) { output::OK } else { output::NO };
    let is_short = args.short || args.output == VersionFormat::Short;
    let format = match args.output {
        VersionFormat::Text | VersionFormat::Short => Format::Text,
        VersionFormat::Json => Format::Json,
        VersionFormat::Yaml => Format::Yaml,
    };
    Ok(Output { code, ..Style::new(format).render(&versions, |_, colour| text(&versions, is_short, colour))? })
}

impl Part {
    fn of_status(status: &Status) -> Self {
        Self {
            component: "agent",
            node: Some(status.node.clone()),
            pod: None,
            image: None,
            version: Some(status.version.clone()),
            ready: status.waiting.is_empty(),
            error: None,
        }
    }

    fn of_node(node: NodeStatus) -> Self {
        Self {
            component: "agent",
            node: Some(node.node.to_string()),
            pod: Some(node.agent),
            image: Some(node.image.to_string()),
            version: node.status.map(|status| status.version),
            ready: node.ready,
            error: node.error,
        }
    }

    fn of_control(pod: &ComponentPod) -> Self {
        Self {
            component: "control",
            node: pod.node.as_deref().map(str::to_owned),
            pod: Some(pod.name.to_string()),
            image: Some(pod.image.to_string()),
            version: tag(&pod.image).map(str::to_owned),
            ready: pod.is_ready(),
            error: None,
        }
    }
}

/// The tag of an image; none: it is named by its digest alone, or not at all.
fn tag(image: &str) -> Option<&str> {
    let image = image.split('@').next().unwrap_or(image);
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map(|(_, tag)| tag)
}

/// `1.2.3 (2 agents), 1.2.2 (1 agent)`.
fn sums(parts: &[Part], what: &str) -> String {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for part in parts {
        *count.entry(part.version.as_deref().unwrap_or("unknown")).or_default() += 1;
    }
    let one = |(version, n): (&str, usize)| format!("{version} ({n} {what}{})", if n == 1 { "" } else { "s" });
    list(count.into_iter().map(one))
}

fn text(versions: &Versions, is_short: bool, colour: Colour) -> String {
    let mut out = format!("client version: {}\n", versions.client_version);
    for (name, parts, what) in [
        ("control plane version", &versions.mesh_version, "pod"),
        ("data plane version", &versions.data_plane_version, "agent"),
    ] {
        if !parts.is_empty() {
            out += &format!("{name}: {}\n", output::one_line(&sums(parts, what)));
        }
    }
    let parts: Vec<&Part> = versions.mesh_version.iter().chain(&versions.data_plane_version).collect();
    if is_short || parts.is_empty() {
        return out;
    }
    let mut table = Table::new(&["COMPONENT", "NODE", "POD", "VERSION", "READY", "IMAGE"]);
    for part in &parts {
        let or_nothing = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or_default());
        table.row(vec![
            Cell::from(part.component),
            or_nothing(&part.node),
            or_nothing(&part.pod),
            or_nothing(&part.version),
            Cell::new(if part.ready { "yes" } else { "no" }, if part.ready { Tone::Good } else { Tone::Bad }),
            or_nothing(&part.image),
        ]);
    }
    out += &table.text(colour, "");
    for error in parts.iter().filter_map(|part| part.error.as_deref()) {
        out += &format!("{} {}\n", colour.red("no answer:"), output::one_line(error));
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::commands::nodes::tests::{node, status};

    #[test]
    fn versions_are_counted_and_listed() {
        let control = Part {
            component: "control",
            pod: Some("mesh/control-1".into()),
            image: Some("r.example:5000/underpass:1.2.4".into()),
            version: tag("r.example:5000/underpass:1.2.4").map(str::to_owned),
            ..Part::of_status(&status("n-1"))
        };
        let mut older = status("n-2");
        older.version = "1.2.2".into();
        let agents = [node("n-1", Some(status("n-1"))), node("n-2", Some(older)), node("n-3", None)];
        let versions = Versions {
            client_version: "1.2.3".into(),
            mesh_version: vec![control],
            data_plane_version: agents.into_iter().map(Part::of_node).collect(),
        };
        expect![[r#"
            client version: 1.2.3
            control plane version: 1.2.4 (1 pod)
            data plane version: 1.2.2 (1 agent), 1.2.3 (1 agent), unknown (1 agent)
            COMPONENT  NODE  POD                VERSION  READY  IMAGE
            control    n-1   mesh/control-1     1.2.4    yes    r.example:5000/underpass:1.2.4
            agent      n-1   mesh/agent-of-n-1  1.2.3    yes    localhost/underpass:1
            agent      n-2   mesh/agent-of-n-2  1.2.2    yes    localhost/underpass:1
            agent      n-3   mesh/agent-of-n-3  -        no     localhost/underpass:1
            no answer: node n-3: agent mesh/agent-of-n-3: no answer; see logs
        "#]]
        .assert_eq(&text(&versions, false, Colour::Never));
        assert_eq!(text(&versions, true, Colour::Never).lines().count(), 3);
    }

    #[test]
    fn tags_of_images() {
        for (image, want) in [
            ("a", None),
            ("a:1", Some("1")),
            ("r:5000/a", None),
            ("r:5000/b/a:1", Some("1")),
            ("a:1@sha256:00", Some("1")),
            ("a@sha256:00", None),
        ] {
            assert_eq!(tag(image), want, "{image}");
        }
    }
}
