//! `underpass log`: what the agent's own log contains.

use serde::Deserialize;

use crate::{
    args::Log,
    error::CliError,
    output::{Output, one_line},
    source::Asked,
};

#[derive(Deserialize)]
struct Level {
    level: String,
}

pub(crate) fn run(args: &Log) -> Result<Output, CliError> {
    let agent = Asked::new(&args.agent)?;
    if let Some(level) = &args.level {
        agent.set_log_level(&level.to_string())?;
    }
    let Level { level } = agent.get("/logging")?;
    Ok(Output::ok(format!("{}\n", one_line(&level))))
}
