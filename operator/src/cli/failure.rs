//! How a verb fails: with exit code 1 when something failed, 2 when the command or the files are
//! wrong.

use std::process::ExitCode;

use holdfast_crds::manifest::Problem;

use crate::run::RunError;

/// How a verb fails.
#[derive(Debug)]
pub enum Failure {
    /// The command is wrong.
    Usage(String),
    /// The files are wrong: every problem.
    Files(Vec<Problem>),
    /// Something failed.
    Failed(String),
    /// It was told already; the exit code is left.
    Told(u8),
}

impl Failure {
    /// Tells a person on standard error and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                eprintln!("error: {message}");
                ExitCode::from(2)
            }
            Self::Files(problems) => {
                for problem in &problems {
                    eprintln!("{problem}");
                }
                let count = problems.len();
                let noun = if count == 1 { "problem" } else { "problems" };
                eprintln!("error: {count} {noun} in the files; nothing was done");
                ExitCode::from(2)
            }
            Self::Failed(message) => {
                eprintln!("error: {message}");
                ExitCode::from(1)
            }
            Self::Told(code) => ExitCode::from(code),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            // What was typed names nothing that is declared.
            RunError::UnknownDestination(_) | RunError::UnknownPolicy(_) => {
                Self::Usage(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("cannot write the result: {error}"))
    }
}
