//! Carries out the actions of a plan on this machine, one after another.

use holdfast_engine::progress::Progress;

use crate::host::{Host, Name};
use crate::plan::{Action, BackupReason};
use crate::run::restore::{RestoreOrder, Target};
use crate::run::{Asked, RunError, Runner, locate};

/// What became of a plan's actions.
#[derive(Debug, Default)]
pub struct CarriedOut {
    /// How many were done.
    pub done: usize,
    /// Those that failed, and why.
    pub failed: Vec<RunError>,
}

/// Carries out the actions that change something, in their order. `subject` is the policy that they
/// are for. When one fails, those after it at
/// other destinations are still right, and those at the same are left to the next plan.
pub async fn carry_out<H: Host>(
    runner: &Runner<H>,
    namespace: &str,
    subject: Option<&Name>,
    actions: &[Action],
    progress: &Progress,
) -> CarriedOut {
    let mut outcome = CarriedOut::default();
    let mut broken: Vec<&str> = Vec::new();
    for action in actions.iter().filter(|action| action.is_work()) {
        let destination = destination_of(action);
        if broken.contains(&destination) || runner.cancel.is_cancelled() {
            continue;
        }
        match one(runner, namespace, subject, action, progress).await {
            Ok(()) => outcome.done += 1,
            Err(error) => {
                broken.push(destination);
                outcome.failed.push(error);
            }
        }
    }
    outcome
}

fn destination_of(action: &Action) -> &str {
    match action {
        Action::InitRepository { destination, .. }
        | Action::Backup { destination, .. }
        | Action::Forget { destination, .. }
        | Action::Prune { destination }
        | Action::Delete { destination, .. }
        | Action::Restore { destination, .. } => destination,
        Action::Copy { to, .. } => to,
        Action::WaitUntil { .. } | Action::Refuse { .. } => "",
    }
}

async fn one<H: Host>(
    runner: &Runner<H>,
    namespace: &str,
    subject: Option<&Name>,
    action: &Action,
    progress: &Progress,
) -> Result<(), RunError> {
    let policy = |text: &str| Name::parse(text, namespace);
    // What the policy means by the name.
    let at = |of: &str, name: &str| {
        let declared = runner.host.declared();
        declared.destination_name(&policy(of), name)
    };
    match action {
        // The run that writes first makes it, and records it if that fails.
        Action::InitRepository { .. } | Action::WaitUntil { .. } | Action::Refuse { .. } => Ok(()),
        Action::Backup {
            policy: name,
            reason,
            scheduled_for,
            tags,
            ..
        } => {
            let object = match reason {
                BackupReason::Requested { backup } => Some(backup.clone()),
                BackupReason::Due { .. } | BackupReason::Retry { .. } => None,
            };
            let asked = Asked {
                tags: tags.clone(),
                object,
                scheduled_for: *scheduled_for,
                run: None,
            };
            runner
                .backup(&policy(name), asked, progress)
                .await
                .map(drop)
        }
        Action::Copy {
            policy: name,
            from,
            to,
            snapshots,
        } => {
            let ids: Vec<String> = snapshots.iter().map(|one| one.id.clone()).collect();
            runner
                .copy(
                    &policy(name),
                    &at(name, from),
                    &at(name, to),
                    &ids,
                    progress,
                )
                .await
                .map(drop)
        }
        Action::Forget {
            policy: name,
            destination,
            snapshots,
            ..
        } => {
            let ids: Vec<String> = snapshots.iter().map(|one| one.id.clone()).collect();
            runner
                .forget(&policy(name), &at(name, destination), &ids)
                .await
        }
        Action::Prune { destination } => {
            let destination = subject.map_or_else(
                || Name::new(namespace, destination),
                |policy| runner.host.declared().destination_name(policy, destination),
            );
            runner.prune(subject, &destination).await.map(drop)
        }
        Action::Delete {
            destination,
            snapshots,
            ..
        } => {
            for snapshot in snapshots {
                let wanted = locate::Wanted {
                    backup: &snapshot.id,
                    policy: None,
                    destinations: vec![Name::parse(destination, namespace)],
                };
                let found =
                    locate::locate(&runner.repositories, runner.host.as_ref(), &wanted).await?;
                for one in found {
                    runner.delete(&one).await?;
                }
            }
            Ok(())
        }
        Action::Restore {
            restore,
            policy: from,
            destination,
            snapshot,
        } => declared_restore(
            runner,
            &policy(restore),
            &at(from, destination),
            &snapshot.id,
            progress,
        )
        .await
        .map(drop),
    }
}

/// Does what a Restore object asks for.
///
/// # Errors
/// When anything of it failed.
pub async fn declared_restore<H: Host>(
    runner: &Runner<H>,
    name: &Name,
    destination: &Name,
    snapshot: &str,
    progress: &Progress,
) -> Result<crate::run::restore::RestoreOutcome, RunError> {
    let declared = runner.host.declared();
    let restore = declared
        .restores
        .get(name)
        .ok_or_else(|| RunError::UnknownRestore(name.clone()))?;
    let wanted = locate::Wanted {
        backup: snapshot,
        policy: None,
        destinations: vec![destination.clone()],
    };
    let located = locate::locate(&runner.repositories, runner.host.as_ref(), &wanted)
        .await?
        .into_iter()
        .next()
        .ok_or_else(|| RunError::UnknownBackup {
            id: snapshot.to_owned(),
            destinations: destination.to_string(),
        })?;
    let order = RestoreOrder {
        located,
        target: Target::Declared(restore.spec.to.clone()),
        on_conflict: restore.spec.to.on_conflict(),
        include: restore.spec.include.clone(),
        dry_run: restore.spec.dry_run,
        object: Some(name.name.clone()),
    };
    runner.restore(&order, progress).await
}
