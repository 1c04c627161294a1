//! `underpass services`: addresses, ports, and who is behind them.

use underpass_telemetry::admin::view::{Port, Service};

use crate::{
    args::Services,
    error::CliError,
    output::{Colour, Output},
    show,
    source::Source,
    table::{Cell, Table, Tone, list, yes},
};

pub(crate) fn run(args: &Services) -> Result<Output, CliError> {
    let source = Source::open(&args.from)?;
    show::run(args.shown, |look| {
        let mut all = source.services()?;
        args.only.keep(&mut all, |s| &s.namespace);
        look.render(&all, |wide, colour| text(&all, wide, colour))
    })
}

pub(super) fn text(all: &[Service], wide: bool, colour: Colour) -> String {
    let head = ["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORTS", "READY", "MESH", "WAYPOINT"];
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
            Cell::from(s.waypoint.as_deref().unwrap_or_default()),
        ];
        if wide {
            row.push(Cell::from(&s.host));
            let name =
                |e: &underpass_telemetry::admin::view::Endpoint| e.workload.clone().unwrap_or(list(&e.addresses));
            row.push(Cell::from(list(s.endpoints.iter().map(name))));
        }
        table.row(row);
    }
    table.text(colour, "no services")
}

/// `80`, or `80->http` where it leads elsewhere.
fn port(port: &Port) -> String {
    if port.target == port.port.to_string() { port.target.clone() } else { format!("{}->{}", port.port, port.target) }
}
