//! `underpass certificates`: the certificates of nodes' pods, with identity and expiry.

use underpass_telemetry::admin::view::Certificate;

use crate::{
    agents::{Agents, OnNode},
    args::Certificates,
    error::CliError,
    measure,
    output::{Colour, Output},
    show,
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Certificates) -> Result<Output, CliError> {
    let agents = Agents::open(&args.way)?;
    show::run(args.shown, |style| {
        let (all, silent) = agents.listed::<Certificate>("/certificates")?;
        let now = show::unix_s();
        Ok(style.with_silent(style.render(&all, |wide, colour| text(&all, now, wide, colour))?, &silent))
    })
}

pub(super) fn text(all: &[OnNode<Certificate>], now: u64, wide: bool, colour: Colour) -> String {
    let has_nodes = all.iter().any(|c| c.node.is_some());
    let (node, head) = (if has_nodes { &["NODE"][..] } else { &[] }, ["IDENTITY", "STATE", "EXPIRES"]);
    let mut table =
        Table::new(&[node, &head[..], if wide { &["ISSUED", "SERIAL", "ISSUER", "PROBLEM"] } else { &[] }].concat());
    for OnNode { node, item: c } in all {
        let tone = match c.state.as_str() {
            "valid" => Tone::Good,
            "pending" => Tone::Plain,
            _ => Tone::Bad,
        };
        let mut row = super::connections::node_cell(has_nodes, node.as_deref());
        row.extend([Cell::from(&c.identity), Cell::new(&c.state, tone), Cell::from(when(c.not_after_unix_s, now))]);
        if wide {
            row.push(Cell::from(when(c.not_before_unix_s, now)));
            row.push(Cell::from(c.serial.as_deref().unwrap_or_default()));
            row.push(Cell::from(c.issuer.as_deref().unwrap_or_default()));
            row.push(Cell::new(c.error.as_deref().unwrap_or_default(), Tone::Bad));
        }
        table.row(row);
    }
    table.text(colour, "no certificates: no pod of this node is in the mesh")
}

/// In words; empty where there is no certificate.
fn when(unix_s: Option<u64>, now: u64) -> String {
    match unix_s {
        None => String::new(),
        Some(at) if at <= now => format!("{} ago", measure::duration(now - at)),
        Some(at) => format!("in {}", measure::duration(at - now)),
    }
}
