//! `underpass profile`: the chart's profiles, and the values that each leads to.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    args::Format,
    chart::profiles::{self, DEFAULT},
    error::CliError,
    output::Output,
    show::Style,
    table::{Cell, Table},
};

/// The profiles: values that an installation begins with.
#[derive(Debug, clap::Args)]
pub(crate) struct Profile {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The names of the profiles, and what each is for.
    #[command(visible_alias = "ls")]
    List {
        /// Format of the answer.
        #[arg(short = 'o', long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// The values of the chart with those of a profile.
    #[command(after_help = "Example:\n  underpass profile dump demo > values.yaml")]
    Dump {
        /// The profile.
        #[arg(default_value = DEFAULT)]
        name: String,
        /// Format of the answer.
        #[arg(short = 'o', long, value_enum, default_value_t = Dumped::Yaml)]
        output: Dumped,
    },
}

/// A format of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dumped {
    /// As files of values are.
    Yaml,
    /// For programs.
    Json,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    purpose: String,
}

pub(crate) fn run(args: &Profile) -> Result<Output, CliError> {
    match &args.action {
        Action::List { output } => {
            let all: Vec<_> =
                profiles::all().map(|profile| Listed { name: profile.name, purpose: profile.purpose() }).collect();
            Style::new(*output).render(&all, |_, colour| {
                let mut table = Table::new(&["PROFILE", "FOR"]);
                for one in &all {
                    table.row(vec![Cell::from(one.name), Cell::from(one.purpose.as_str())]);
                }
                table.text(colour, "")
            })
        }
        Action::Dump { name, output } => {
            let values = profiles::named("profile dump", name)?.values()?;
            let format = match output {
                Dumped::Yaml => Format::Yaml,
                Dumped::Json => Format::Json,
            };
            Style::new(format).render(&values, |_, _| String::new())
        }
    }
}
