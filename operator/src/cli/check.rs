//! `holdfast check DESTINATION`.

use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{CheckReport, ReadData};
use serde_json::json;

use super::arguments::{CheckArgs, GlobalArgs};
use super::failure::Failure;
use super::progress::Shown;
use super::session::Session;
use super::{cluster, print};
use crate::host::Host;
use crate::run::RunError;
use crate::run::check::parse_part;

/// Checks a destination's repository, and prints every finding.
pub(super) async fn check(global: &GlobalArgs, arguments: CheckArgs) -> Result<(), Failure> {
    let read_data = arguments
        .read_data
        .as_deref()
        .map(parse_part)
        .transpose()
        .map_err(|error| Failure::Usage(format!("--read-data: {error}")))?
        .unwrap_or(ReadData::None);
    if arguments.files.kubernetes {
        let session = cluster::session(global, &arguments.files).await?;
        return look(&session, &arguments, read_data).await;
    }
    let session = Session::open(global, &arguments.files)?;
    look(&session, &arguments, read_data).await
}

async fn look<H: Host>(
    session: &Session<H>,
    arguments: &CheckArgs,
    read_data: ReadData,
) -> Result<(), Failure> {
    let destination = session.destination(&arguments.destination)?;
    let progress = Progress::new();
    let shown = Shown::new("check", progress.clone());
    let mut found = None;
    let result = session
        .runner
        .check(&destination, read_data, &progress, &mut found)
        .await;
    drop(shown);
    if let Some(report) = &found {
        let printed = json!({
            "destination": destination.to_string(),
            "sound": report.is_sound(),
            "report": report,
        });
        print::one(arguments.output.output, &printed, || {
            table(&destination.to_string(), report)
        })?;
    }
    match result {
        Ok(()) => Ok(()),
        // Every finding was printed.
        Err(RunError::Damaged { .. }) if found.is_some() => Err(Failure::Told(1)),
        Err(error) => Err(session.failed(error)),
    }
}

fn table(destination: &str, report: &CheckReport) -> String {
    let mut text = String::new();
    for error in &report.errors {
        text.push_str(&format!("error: {error}\n"));
    }
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    let verdict = if report.is_sound() {
        "is sound"
    } else {
        "IS DAMAGED; nothing was changed"
    };
    text.push_str(&format!(
        "{destination} {verdict}: {} backups, {} packs, {} packs ({} bytes) read back\n",
        report.snapshots, report.packs, report.packs_read, report.bytes_read
    ));
    text
}
