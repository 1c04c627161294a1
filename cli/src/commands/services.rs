//! `underpass services`: addresses, ports and endpoints.

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
    show::run(args.shown, |style| {
        let mut all = source.services()?;
        args.only.keep(&mut all, |s| &s.namespace);
        style.render(&all, |wide, colour| text(&all, wide, colour))
    })
}

pub(super) fn text(all: &[Service], wide: bool, colour: Colour) -> String {
    let head = ["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORTS", "READY", "MESH", "TRAFFIC", "WAYPOINT"];
    let mut table = Table::new(&[&head[..], if wide { &["HOST", "ENDPOINTS"] } else { &[] }].concat());
    for s in all {
        let ready = s.endpoints.iter().filter(|e| e.ready).count();
        let is_served = s.endpoints.iter().any(|e| e.ready || e.draining);
        let tone = if is_served || s.r#type == "ExternalName" { Tone::Plain } else { Tone::Bad };
        let mut row = vec![
            Cell::from(&s.namespace),
            Cell::from(&s.name),
            Cell::from(&s.r#type),
            Cell::from(list(&s.vips)),
            Cell::from(list(s.ports.iter().map(port))),
            Cell::new(format!("{ready}/{}", s.endpoints.len()), tone),
            yes(s.in_mesh),
            Cell::from(list(&s.traffic)),
            waypoint(s),
        ];
        if wide {
            row.push(Cell::from(&s.host));
            row.push(Cell::from(list(s.endpoints.iter().map(endpoint))));
        }
        table.row(row);
    }
    table.text(colour, "no services")
}

/// The waypoint that calls pass. Where it has no instance to call they are refused, unless they may bypass it.
fn waypoint(s: &Service) -> Cell {
    match &s.waypoint {
        None => Cell::from(""),
        Some(name) if s.waypoint_optional => Cell::from(format!("{name} (optional)")),
        Some(name) if s.waypoint_ready => Cell::from(name),
        Some(name) => Cell::new(format!("{name} (not ready)"), Tone::Bad),
    }
}

/// `80`, or `80->http` where it leads elsewhere.
fn port(port: &Port) -> String {
    if port.target == port.port.to_string() { port.target.clone() } else { format!("{}->{}", port.port, port.target) }
}

/// Its pod or addresses, with weight and state where they are unusual.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The cell of READY, with its colour, of a service with these endpoints: (ready, draining).
    fn check(kind: &str, endpoints: &[(bool, bool)], want: &str) {
        let endpoint = |(ready, draining): &(bool, bool)| Endpoint {
            addresses: Vec::new(),
            workload: None,
            ready: *ready,
            draining: *draining,
            weight: DEFAULT_WEIGHT,
            node: None,
            zone: None,
            in_mesh: true,
        };
        let service = Service {
            namespace: "shop".into(),
            name: "cart".into(),
            host: String::new(),
            r#type: kind.into(),
            vips: Vec::new(),
            ports: Vec::new(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            in_mesh: true,
            waypoint: None,
            waypoint_ready: false,
            waypoint_optional: false,
            traffic: Vec::new(),
        };
        let shown = text(&[service], false, Colour::Always);
        let row = shown.lines().nth(1).unwrap_or_default();
        assert!(row.contains(&format!("  {want}  ")), "{row:?}");
    }

    #[test]
    fn red_is_who_cannot_be_called() {
        check("ClusterIP", &[(true, false), (false, false)], "1/2");
        check("ClusterIP", &[(false, false)], "\u{1b}[31;1m0/1\u{1b}[0m");
        check("ClusterIP", &[], "\u{1b}[31;1m0/0\u{1b}[0m");
        check("ExternalName", &[], "0/0");
        // what drains serves as long as nothing else is ready
        check("ClusterIP", &[(false, true)], "0/1");
    }
}
