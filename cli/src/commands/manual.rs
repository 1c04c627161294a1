//! `underpass completion` and `underpass man`: what clap knows about the commands, for shells and for readers.

use std::{fs, io, path::Path};

use clap::CommandFactory as _;
use clap_mangen::Man as Page;

use crate::{
    args::{Args, Completion, Man},
    error::CliError,
    output::{Output, one_line},
};

pub(crate) fn completion(args: &Completion) -> Output {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "underpass", &mut script);
    Output::ok(String::from_utf8_lossy(&script).into_owned())
}

/// One page for the command and one for each of its subcommands.
pub(crate) fn man(args: &Man) -> Result<Output, CliError> {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        Page::new(Args::command()).render(&mut page).map_err(|source| CliError::Write { source })?;
        return Ok(Output::ok(String::from_utf8_lossy(&page).into_owned()));
    };
    write_pages(directory)
        .map_err(|source| CliError::Page { path: directory.clone(), source })
        .map(|pages| Output::ok(format!("{pages} pages in {}\n", one_line(&directory.to_string_lossy()))))
}

fn write_pages(directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Args::command(), directory)?;
    let is_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("underpass");
    Ok(fs::read_dir(directory)?.filter_map(Result::ok).filter(is_ours).count())
}
