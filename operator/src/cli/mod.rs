//! The command line: what can be asked, and which exit code answers.
//!
//! A file per verb. Exit codes: 0 done, 1 something failed, 2 the command or the files are wrong.

mod arguments;
pub mod output;

pub use arguments::{Cli, OutputFormat, Verb};

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let _cli = Cli::parse();
    ExitCode::SUCCESS
}
