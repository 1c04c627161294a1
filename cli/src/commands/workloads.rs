//! `underpass workloads`: pods, their enrolment, and the label that decides it.

use underpass_telemetry::admin::view::Workload;

use crate::{
    args::{Listing, Only},
    error::CliError,
    output::{Colour, Output},
    show,
    source::{Found, Source},
    table::{Cell, Table, Tone, list, yes},
};

pub(crate) fn run(args: &Listing) -> Result<Output, CliError> {
    let source = Source::open(&args.from)?;
    show::run(args.shown, |style| {
        let Found { mut all, silent } = source.workloads()?;
        args.only.keep(&mut all, |w| &w.namespace);
        Ok(style.with_silent(style.render(&all, |wide, colour| text(&all, wide, colour))?, &silent))
    })
}

pub(super) fn text(all: &[Workload], wide: bool, colour: Colour) -> String {
    let head = ["NAMESPACE", "NAME", "NODE", "ADDRESSES", "READY", "MESH", "STATE"];
    let mut table = Table::new(&[&head[..], if wide { &["BECAUSE", "IDENTITY", "PROBLEM"] } else { &[] }].concat());
    for w in all {
        let (state, problem) = match &w.state {
            Some(state) => (state.state.as_str(), state.problem.as_deref()),
            None => ("", None),
        };
        let tone = if problem.is_some() { Tone::Bad } else { Tone::Plain };
        let mut row = vec![
            Cell::from(&w.namespace),
            Cell::from(&w.name),
            Cell::from(w.node.as_deref().unwrap_or_default()),
            Cell::from(list(&w.addresses)),
            yes(w.ready),
            yes(w.in_mesh),
            Cell::new(state, tone),
        ];
        if wide {
            row.push(Cell::from(&w.because));
            row.push(Cell::from(w.identity.as_deref().unwrap_or_default()));
            row.push(Cell::new(problem.unwrap_or_default(), Tone::Bad));
        }
        table.row(row);
    }
    table.text(colour, "no pods")
}

impl Only {
    /// Keeps the rows that were asked for.
    pub(crate) fn keep<T>(&self, all: &mut Vec<T>, namespace: impl Fn(&T) -> &str) {
        if let Some(only) = &self.namespace {
            all.retain(|item| namespace(item) == only);
        }
    }
}
