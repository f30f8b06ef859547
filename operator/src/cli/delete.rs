//! `holdfast delete BACKUP`: asks first.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::json;

use super::arguments::{DeleteArgs, GlobalArgs};
use super::failure::Failure;
use super::session::Session;
use super::{cluster, print};
use crate::host::Host;
use crate::run::locate::{Located, names};

/// Deletes one backup wherever it is, or at one destination.
pub(super) async fn delete(global: &GlobalArgs, arguments: DeleteArgs) -> Result<(), Failure> {
    if arguments.backup == holdfast_crds::LATEST {
        return Err(Failure::Usage(
            "latest is no id; `holdfast backups` lists the ids, and delete takes one".to_owned(),
        ));
    }
    if arguments.files.kubernetes {
        let session = cluster::session(global, &arguments.files).await?;
        return delete_from(&session, &arguments).await;
    }
    let session = Session::open(global, &arguments.files)?;
    delete_from(&session, &arguments).await
}

async fn delete_from<H: Host>(session: &Session<H>, arguments: &DeleteArgs) -> Result<(), Failure> {
    let located = session
        .locate(&arguments.backup, None, arguments.destination.as_deref())
        .await?;
    let Some(first) = located.first() else {
        return Err(Failure::Failed("the backup was found nowhere".to_owned()));
    };
    let places = names(
        &located
            .iter()
            .map(|one| one.destination.clone())
            .collect::<Vec<_>>(),
    );
    let question = format!(
        "Delete backup {} of {} ({}) at {places}?",
        first.snapshot.identity(),
        first.snapshot.policy.as_deref().unwrap_or("nobody"),
        first.snapshot.time,
    );
    if !arguments.yes && !confirmed(&question)? {
        return Err(Failure::Failed("nothing was deleted".to_owned()));
    }
    // An answer that came after Ctrl-C is none.
    if session.runner.cancel.is_cancelled() {
        return Err(Failure::Failed(
            "it was stopped by a signal; nothing was deleted".to_owned(),
        ));
    }
    let id = first.snapshot.identity().to_owned();
    for one in &located {
        session
            .runner
            .delete(one)
            .await
            .map_err(|error| session.failed(error))?;
    }
    let report = json!({"deleted": id, "destinations": destinations(&located)});
    print::one(arguments.output.output, &report, || {
        format!("Backup {id} was deleted at {places}. The next prune frees what it alone needed.\n")
    })
}

fn destinations(located: &[Located]) -> Vec<&str> {
    located
        .iter()
        .map(|one| one.destination.name.as_str())
        .collect()
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "there is no terminal to ask on; add --yes to delete without being asked".to_owned(),
        ));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}
