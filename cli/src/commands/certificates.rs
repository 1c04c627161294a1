//! `underpass certificates`: the certificates of this node's pods, with identity and expiry.

use underpass_telemetry::admin::view::Certificate;

use crate::{
    args::Certificates,
    error::CliError,
    measure,
    output::{Colour, Output},
    show,
    source::Asked,
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Certificates) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    show::run(args.shown, |style| {
        let all: Vec<Certificate> = agent.get("/certificates")?;
        let now = show::unix_s();
        style.render(&all, |wide, colour| text(&all, now, wide, colour))
    })
}

pub(super) fn text(all: &[Certificate], now: u64, wide: bool, colour: Colour) -> String {
    let head = ["IDENTITY", "STATE", "EXPIRES"];
    let mut table =
        Table::new(&[&head[..], if wide { &["ISSUED", "SERIAL", "ISSUER", "PROBLEM"] } else { &[] }].concat());
    for c in all {
        let tone = match c.state.as_str() {
            "valid" => Tone::Good,
            "pending" => Tone::Plain,
            _ => Tone::Bad,
        };
        let mut row =
            vec![Cell::from(&c.identity), Cell::new(&c.state, tone), Cell::from(when(c.not_after_unix_s, now))];
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
