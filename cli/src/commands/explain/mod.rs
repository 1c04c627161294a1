//! `underpass explain`: the explanation of core, here or in the agent, printed. Nothing is decided here.

mod text;

use std::net::IpAddr;

use underpass_core::explain::Answer;

use crate::{
    args::Explain,
    error::CliError,
    output::{self, Output},
    show::Style,
    source::Source,
};

/// The answer. Problems of the manifests go to standard error.
pub(crate) fn run(args: &Explain) -> Result<Output, CliError> {
    let source = Source::open(&args.from)?;
    let from = match args.source.parse::<IpAddr>() {
        Err(_) if !args.source.contains('/') => {
            let namespace = args.namespace.as_deref().unwrap_or_else(|| source.default_namespace());
            format!("{namespace}/{}", args.source)
        }
        _ => args.source.clone(),
    };
    let answer = match args.request.asked() {
        Some(asked) => source.explain_request(&from, &args.destination, &asked)?,
        None => source.explain(&from, &args.destination, args.request.sni.as_deref())?,
    };
    let code = match answer.verdict {
        Answer::Allow => output::OK,
        Answer::Deny => output::NO,
    };
    Ok(Output { code, ..Style::new(args.output).render(&answer, |_, colour| text::write(&answer, colour))? })
}
