//! `underpass policies`: action, scope, selected pods, and fields that need a waypoint.

use underpass_telemetry::admin::view::Policy;

use crate::{
    args::Listing,
    error::CliError,
    output::{Colour, Output},
    show,
    source::{Found, Source},
    table::{Cell, Table, Tone},
};

pub(crate) fn run(args: &Listing) -> Result<Output, CliError> {
    let source = Source::open(&args.from)?;
    show::run(args.shown, |style| {
        let Found { mut all, silent } = source.policies()?;
        args.only.keep(&mut all, |p| &p.namespace);
        Ok(style.with_silent(style.render(&all, |wide, colour| text(&all, wide, colour))?, &silent))
    })
}

pub(super) fn text(all: &[Policy], wide: bool, colour: Colour) -> String {
    let head = ["NAMESPACE", "KIND", "NAME", "ACTION", "APPLIES TO", "SELECTS", "NEEDS WAYPOINT"];
    let mut table = Table::new(&[&head[..], if wide { &["RULES", "NOTES"] } else { &[] }].concat());
    for p in all {
        let dry_run = if p.dry_run { " (dry run)" } else { "" };
        let tone = if p.selects == 0 { Tone::Faint } else { Tone::Plain };
        let mut row = vec![
            Cell::from(&p.namespace),
            Cell::from(&p.kind),
            Cell::from(&p.name),
            Cell::from(format!("{}{dry_run}", p.action)),
            Cell::from(&p.scope),
            Cell::new(p.selects.to_string(), tone),
            Cell::new(p.needs_waypoint.join(", "), Tone::Bad),
        ];
        if wide {
            row.push(Cell::from(p.rules.to_string()));
            row.push(Cell::from(p.notes.join("; ")));
        }
        table.row(row);
    }
    table.text(colour, "no policies")
}
