//! A question at the terminal, before something that is not easily undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::{error::CliError, output::one_line};

/// The answer to a question, asked behind `question` on standard error. `without` says how to do without it.
///
/// # Errors
/// Where standard input is no terminal.
pub(crate) fn confirm(question: &str, without: &'static str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::NotConfirmed { without });
    }
    let _ = write!(io::stderr(), "{} [y/N] ", one_line(question)); // standard error is closed
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
