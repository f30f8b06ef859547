//! `holdfast backup POLICY`: a run now, whatever the schedule says.

use holdfast_engine::progress::Progress;

use super::arguments::{BackupArgs, GlobalArgs};
use super::failure::Failure;
use super::progress::Shown;
use super::session::Session;
use super::{cluster, output, print};
use crate::catalogue::{self, Listing};
use crate::host::Name;
use crate::host::files::converge::Converger;
use crate::reconcile::policy::Patience;
use crate::run::Asked;

/// Backs a policy up now; then copies, forgets and prunes as after a scheduled run.
pub(super) async fn backup(global: &GlobalArgs, arguments: BackupArgs) -> Result<(), Failure> {
    if let Some(tag) = arguments.tag.iter().find(|tag| !is_tag(tag)) {
        return Err(Failure::Usage(format!(
            "--tag {tag}: a tag is not empty, holds no comma, and is neither `holdfast` nor begins \
             with `policy=`"
        )));
    }
    if arguments.files.kubernetes {
        return cluster::backup(arguments).await;
    }
    let session = Session::open(global, &arguments.files)?;
    let policy = session.policy(&arguments.policy)?;
    let started = jiff::Timestamp::now();
    let progress = Progress::new();
    let shown = Shown::new(format!("backup {policy}"), progress.clone());
    let asked = Asked {
        tags: arguments.tag.clone(),
        ..Asked::default()
    };
    let result = session.runner.backup(&policy, asked, &progress).await;
    drop(shown);
    let snapshot = result.map_err(|error| session.failed(error))?;

    let failures = follow_up(&session, &policy, started).await;
    let backups = printed(&session, &policy, snapshot.identity()).await?;
    if let Some(backup) = backups.first() {
        print::one(arguments.output.output, backup, || {
            output::backups(&backups).to_string()
        })?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "the backup was made, and what follows it failed: {}",
        failures.join("; ")
    )))
}

/// Copies, forgets and prunes what the new backup leads to.
async fn follow_up(session: &Session, policy: &Name, started: jiff::Timestamp) -> Vec<String> {
    let converger = Converger {
        runner: session.runner.clone(),
        slots: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
        patience: Patience::RetryWhatFailedBefore(started),
        on_start: |what, progress| Box::new(Shown::new(what, progress)),
    };
    let mut failures = converger.upkeep(policy).await.failures;
    // The status tells of the new backup, whatever became of the rest.
    let now = jiff::Timestamp::now();
    let reported =
        crate::reconcile::policy::reconcile(&session.runner, policy, converger.patience, now);
    if let Err(error) = reported.await {
        failures.push(error.to_string());
    }
    failures
}

async fn printed(
    session: &Session,
    policy: &Name,
    identity: &str,
) -> Result<Vec<holdfast_crds::Backup>, Failure> {
    let located = session
        .locate(identity, Some(&policy.to_string()), None)
        .await?;
    let listings: Vec<Listing> = located
        .into_iter()
        .map(|one| Listing {
            destination: one.destination,
            snapshots: vec![one.snapshot],
        })
        .collect();
    Ok(catalogue::backups(&listings))
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && !tag.contains(',')
        && tag != holdfast_crds::RESERVED_TAG
        && !tag.starts_with(holdfast_crds::RESERVED_TAG_PREFIX)
}
