//! The command line: what can be asked, and which exit code answers.
//!
//! A file per verb. Exit codes: 0 done, 1 something failed, 2 the command or the files are wrong.

mod arguments;
mod backup;
mod backups;
mod check;
mod cluster;
mod completions;
mod delete;
mod export;
mod failure;
mod history;
mod logging;
pub mod operator;
pub mod output;
mod plan;
mod print;
mod progress;
mod restore;
mod run;
mod schema;
mod session;
mod tables;
mod validate;
mod worker;

pub use arguments::{Cli, OutputFormat, Verb};
pub use failure::Failure;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(&cli.global);
    // Two providers of cryptography are linked; rustls must be told which one is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the threads of the program: {error}");
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        let result = dispatch(cli).await;
        // A storage that does not answer must not keep the process.
        let removed = holdfast_engine::repository::locks_removed();
        let _ = tokio::time::timeout(std::time::Duration::from_secs(10), removed).await;
        result
    });
    // A reader that waits on standard input must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let Cli { verb, global } = cli;
    match verb {
        Verb::Run(arguments) => run::run(&global, arguments).await,
        Verb::Operator(arguments) => operator::operator(arguments).await,
        Verb::Plan(arguments) => plan::plan(&global, arguments).await,
        Verb::Validate(arguments) => validate::validate(&arguments),
        Verb::Backup(arguments) => backup::backup(&global, arguments).await,
        Verb::Backups(arguments) => backups::backups(&global, arguments).await,
        Verb::Restore(arguments) => restore::restore(&global, arguments).await,
        Verb::Delete(arguments) => delete::delete(&global, arguments).await,
        Verb::Export(arguments) => export::export(&global, arguments).await,
        Verb::Check(arguments) => check::check(&global, arguments).await,
        Verb::History(arguments) => history::history(&global, &arguments).await,
        Verb::Worker => worker::worker().await,
        Verb::Schema(arguments) => schema::schema(&arguments),
        Verb::Completions(arguments) => completions::completions(&arguments),
    }
}
