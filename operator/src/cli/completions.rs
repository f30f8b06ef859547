//! `holdfast completions SHELL`.

use clap::CommandFactory;

use super::arguments::{Cli, CompletionsArgs};
use super::failure::Failure;

/// Prints a completion script.
pub(super) fn completions(arguments: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Cli::command(),
        "holdfast",
        &mut script,
    );
    super::print::write(&script)?;
    Ok(())
}
