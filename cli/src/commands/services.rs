//! `underpass services`: addresses, ports, and who is behind them.

use underpass_telemetry::admin::view::{Endpoint, Port, Service};

use crate::{
    args::Listing,
    error::CliError,
    output::{Colour, Output},
    show,
    source::Source,
    table::{Cell, Table, Tone, list, yes},
};

pub(crate) fn run(args: &Listing) -> Result<Output, CliError> {
    let source = Source::open(&args.from)?;
    show::run(args.shown, |look| {
        let mut all = source.services()?;
        args.only.keep(&mut all, |s| &s.namespace);
        look.render(&all, |wide, colour| text(&all, wide, colour))
    })
}

pub(super) fn text(all: &[Service], wide: bool, colour: Colour) -> String {
    let head = ["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORTS", "READY", "MESH", "TRAFFIC", "WAYPOINT"];
    let mut table = Table::new(&[&head[..], if wide { &["HOST", "ENDPOINTS"] } else { &[] }].concat());
    for s in all {
        let ready = s.endpoints.iter().filter(|e| e.ready).count();
        let tone = if ready == 0 && s.r#type != "ExternalName" { Tone::Bad } else { Tone::Plain };
        let mut row = vec![
            Cell::from(&s.namespace),
            Cell::from(&s.name),
            Cell::from(&s.r#type),
            Cell::from(list(&s.vips)),
            Cell::from(list(s.ports.iter().map(port))),
            Cell::new(format!("{ready}/{}", s.endpoints.len()), tone),
            yes(s.in_mesh),
            Cell::from(list(&s.traffic)),
            Cell::from(s.waypoint.as_deref().unwrap_or_default()),
        ];
        if wide {
            row.push(Cell::from(&s.host));
            row.push(Cell::from(list(s.endpoints.iter().map(endpoint))));
        }
        table.row(row);
    }
    table.text(colour, "no services")
}

/// `80`, or `80->http` where it leads elsewhere.
fn port(port: &Port) -> String {
    if port.target == port.port.to_string() { port.target.clone() } else { format!("{}->{}", port.port, port.target) }
}

/// Its pod or addresses, and what is unusual about it.
fn endpoint(e: &Endpoint) -> String {
    let mut text = e.workload.clone().unwrap_or_else(|| list(&e.addresses));
    if e.weight != DEFAULT_WEIGHT {
        text.push_str(&format!(" x{}", e.weight));
    }
    if e.draining {
        text.push_str(" (draining)");
    } else if !e.ready {
        text.push_str(" (not ready)");
    }
    text
}

/// Of an endpoint that says nothing.
const DEFAULT_WEIGHT: u16 = 1;
