//! `holdfast validate PATH…`: every error at once, with its place. Nothing is contacted.

use holdfast_crds::manifest::Problem;
use serde::Serialize;

use super::arguments::{OutputFormat, ValidateArgs};
use super::failure::Failure;
use crate::host::files::load::{self, References};

/// A problem, for programs.
#[derive(Debug, Serialize)]
struct PrintedProblem {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

/// What was found, for programs.
#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    objects: usize,
    problems: Vec<PrintedProblem>,
}

/// Prints what is wrong with the files; exit code 2 when anything is.
pub(super) fn validate(arguments: &ValidateArgs) -> Result<(), Failure> {
    let loaded = load::load(&arguments.paths, References::Checked);
    let report = Report {
        valid: loaded.problems.is_empty(),
        objects: loaded.resources.len(),
        problems: loaded.problems.iter().map(printed).collect(),
    };
    match arguments.output.output {
        OutputFormat::Json => super::print::one(OutputFormat::Json, &report, String::new)?,
        OutputFormat::Yaml => super::print::one(OutputFormat::Yaml, &report, String::new)?,
        OutputFormat::Table if report.valid => {
            let noun = if report.objects == 1 {
                "object is"
            } else {
                "objects are"
            };
            super::print::write(format!("{} {noun} valid\n", report.objects).as_bytes())?;
            if report.objects == 0 {
                eprintln!("warning: no Holdfast object was found in the files given");
            }
        }
        // The problems are the result here, so they go to standard output.
        OutputFormat::Table => {
            let mut text = String::new();
            for problem in &loaded.problems {
                text.push_str(&format!("{problem}\n"));
            }
            super::print::write(text.as_bytes())?;
            let count = loaded.problems.len();
            eprintln!(
                "error: {count} {} found",
                if count == 1 { "problem" } else { "problems" }
            );
        }
    }
    if report.valid {
        Ok(())
    } else {
        Err(Failure::Told(2))
    }
}

fn printed(problem: &Problem) -> PrintedProblem {
    PrintedProblem {
        file: problem.location.file.display().to_string(),
        line: problem.location.line,
        column: problem.location.column,
        message: problem.message.clone(),
    }
}
