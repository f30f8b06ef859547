//! What a worker does for each kind of task.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_engine::progress::Progress;
use holdfast_engine::repository::RepositoryError;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{Report, failure, look};
use crate::cli::progress::Shown;
use crate::host::files::FilesHost;
use crate::host::files::converge::Converger;
use crate::host::kubernetes::job::{
    BackupTask, DeleteTask, RestoreFigures, RestoreTask, RunRecord, Task, Work, WorkOutcome,
    WorkResult,
};
use crate::host::{Host, Name};
use crate::journal::{Outcome, RunError as Failed, RunKind, RunQuery};
use crate::plan::{Action, Plan, writable_place};
use crate::reconcile::policy::{self, Patience};
use crate::reconcile::{carry_out, memory, observe};
use crate::run::locate::Located;
use crate::run::record::on_journal;
use crate::run::restore::RestoreOutcome;
use crate::run::{Asked, RunError, Runner};

/// One work, being done.
pub(super) struct Pass<'a> {
    pub(super) work: &'a Work,
    pub(super) runner: Runner<FilesHost>,
    pub(super) report: &'a Report,
    pub(super) started: Timestamp,
}

/// What a task came to.
#[derive(Default)]
struct Done {
    /// What of that which follows failed.
    error: Option<Failed>,
    made_before: bool,
    restore: Option<RestoreFigures>,
}

impl Pass<'_> {
    /// Does the work.
    pub(super) async fn run(&self) -> WorkOutcome {
        let done = match self.remember().await {
            Ok(()) => self.task().await,
            Err(error) => Err(failure(&error)),
        };
        let cancelled = self.runner.cancel.is_cancelled();
        let mut outcome = match done {
            Ok(_) | Err(_) if cancelled => {
                WorkOutcome::interrupted("it was asked to stop, by a signal")
            }
            Ok(done) => WorkOutcome {
                made_before: done.made_before,
                restore: done.restore,
                ..WorkOutcome::new(WorkResult::Succeeded, done.error)
            },
            Err(error) => WorkOutcome::new(WorkResult::Failed, Some(error)),
        };
        outcome.runs = self.records().await;
        // What is listed tells the operator what there is; a pod that must go has no time for it.
        if !cancelled {
            outcome.destinations = look::figures(self.work, &self.runner).await;
        }
        outcome.reword(|words| self.work.tell_secrets(words));
        outcome
    }

    async fn task(&self) -> Result<Done, Failed> {
        match &self.work.task {
            Task::Backup(task) => self.backup(task).await,
            Task::Upkeep {} => match self.upkeep().await? {
                None => Ok(Done::default()),
                Some(error) => Err(error),
            },
            Task::Restore(task) => self.restore(task).await,
            Task::Look {} => self.look().await,
            Task::Delete(task) => self.delete(task).await,
        }
    }

    /// Takes over what the operator knows of the repositories.
    async fn remember(&self) -> Result<(), RunError> {
        for (name, destination) in &self.work.destinations {
            let Some(id) = &destination.known_repository_id else {
                continue;
            };
            let name = self.work.name(name);
            let record = memory::observe(
                &self.runner,
                "Destination",
                &name,
                &destination.spec,
                self.started,
            )
            .await?;
            let status = holdfast_crds::DestinationStatus {
                repository_id: Some(id.clone()),
                observed_generation: Some(record.generation),
                ..holdfast_crds::DestinationStatus::default()
            };
            memory::write_status(&self.runner, "Destination", &name, &record, &status).await?;
        }
        Ok(())
    }

    /// The runs so far, in their order.
    async fn records(&self) -> Vec<RunRecord> {
        let runs = on_journal(&self.runner.journal, |journal| {
            journal.runs(&RunQuery::default())
        })
        .await;
        match runs {
            Ok(runs) => runs.iter().rev().map(RunRecord::from).collect(),
            Err(error) => {
                tracing::error!(%error, "The runs of this work could not be read.");
                Vec::new()
            }
        }
    }

    fn policy(&self) -> Result<Name, Failed> {
        self.work.policy_name().ok_or_else(|| {
            failure(&RunError::InvalidSpec {
                object: format!("the work {}", self.work.run),
                message: "it names no policy".to_owned(),
            })
        })
    }

    async fn backup(&self, task: &BackupTask) -> Result<Done, Failed> {
        let policy = self.policy()?;
        self.check_first_place(&policy).await?;
        let asked = Asked {
            tags: task.tags.clone(),
            object: task.object.clone(),
            scheduled_for: task.scheduled_for,
            run: Some(self.work.run.clone()),
        };
        let progress = Progress::new();
        let shown = Shown::new(format!("backup {policy}"), progress.clone());
        let made = self.runner.backup(&policy, asked, &progress).await;
        drop(shown);
        let snapshot = made.map_err(|error| failure(&error))?;
        // Whatever happens from here on, the backup is there.
        self.report.write(&WorkOutcome {
            runs: self.records().await,
            ..WorkOutcome::interrupted("it was killed after the backup was made")
        });
        Ok(Done {
            error: self.upkeep().await.unwrap_or_else(Some),
            made_before: snapshot.time < self.started,
            restore: None,
        })
    }

    /// Refuses to put an empty repository in the place of one that is not there any more. Whatever
    /// else may be wrong with the place, the run will say.
    async fn check_first_place(&self, policy: &Name) -> Result<(), Failed> {
        let declared = self.runner.host.declared();
        let destinations = declared.destinations_of(policy);
        let Some((name, _)) = destinations.first() else {
            return Ok(());
        };
        let known = self
            .work
            .destinations
            .get(&name.name)
            .and_then(|destination| destination.known_repository_id.as_deref());
        if known.is_none() {
            return Ok(());
        }
        let state = observe::destination_state(&self.runner, name, policy).await;
        match writable_place(&name.name, &state, known) {
            Err(Action::Refuse {
                reason,
                class,
                message,
            }) => Err(Failed {
                message,
                class,
                reason,
            }),
            _ => Ok(()),
        }
    }

    /// Copies, forgets and prunes. What failed is in the journal; the first of it is returned.
    async fn upkeep(&self) -> Result<Option<Failed>, Failed> {
        let policy = self.policy()?;
        let converger = Converger {
            runner: self.runner.clone(),
            slots: Arc::new(Semaphore::new(1)),
            patience: Patience::Backoff,
            on_start: |what, progress| Box::new(Shown::new(what, progress)),
        };
        let passed = converger.upkeep(&policy).await;
        let spec = self.work.policy.as_ref().map(|policy| &policy.spec);
        if !spec.is_some_and(|spec| spec.suspend) {
            self.left_prunes(&policy).await;
        }
        let failed = self
            .records()
            .await
            .into_iter()
            .find(|run| run.kind != RunKind::Backup && run.outcome != Outcome::Succeeded)
            .and_then(|run| run.error);
        if failed.is_some() || self.runner.cancel.is_cancelled() {
            return Ok(failed);
        }
        let now = Timestamp::now();
        let plan = policy::upkeep(&self.runner, &policy, Patience::Backoff, now)
            .await
            .map_err(|error| failure(&error))?;
        Ok(refused(&plan).or_else(|| {
            passed
                .failures
                .first()
                .map(|message| failure(&RunError::Panicked(message.clone())))
        }))
    }

    /// Prunes that were left from earlier runs, where this pass has not pruned.
    async fn left_prunes(&self, policy: &Name) {
        let records = self.records().await;
        for (name, destination) in &self.work.destinations {
            let tried = records
                .iter()
                .any(|run| run.destination.as_ref() == Some(name) && run.kind == RunKind::Prune);
            if !destination.prune_pending || tried || self.runner.cancel.is_cancelled() {
                continue;
            }
            let pruned = self.runner.prune(Some(policy), &self.work.name(name)).await;
            if let Err(error) = pruned {
                tracing::error!(destination = name, %error, "A prune that was left failed again.");
            }
        }
    }

    async fn restore(&self, task: &RestoreTask) -> Result<Done, Failed> {
        let progress = Progress::new();
        let shown = Shown::new(format!("restore {}", task.name), progress.clone());
        let restored = carry_out::declared_restore(
            &self.runner,
            &self.work.name(&task.name),
            &self.work.name(&task.destination),
            &task.snapshot,
            &progress,
        )
        .await;
        drop(shown);
        let RestoreOutcome {
            plan,
            bytes,
            documents,
            files,
            verified,
            told,
        } = restored.map_err(|error| failure(&error))?;
        for line in told.lines() {
            tracing::info!(restore = task.name, "{line}");
        }
        Ok(Done {
            restore: Some(RestoreFigures {
                bytes,
                documents,
                files,
                verified,
                plan,
                plan_left_out: 0,
            }),
            ..Done::default()
        })
    }

    async fn look(&self) -> Result<Done, Failed> {
        let mut first = None;
        for name in self.work.destinations.keys() {
            if let Err(error) = look::look(&self.runner, &self.work.name(name)).await {
                tracing::error!(destination = name, %error, "A destination cannot be used.");
                first.get_or_insert(failure(&error));
            }
        }
        first.map_or_else(|| Ok(Done::default()), Err)
    }

    async fn delete(&self, task: &DeleteTask) -> Result<Done, Failed> {
        let mut first = None;
        let none = BTreeMap::new();
        tracing::info!(
            object = task.object,
            "What was promised to be deleted is deleted."
        );
        let snapshots = if self.runner.cancel.is_cancelled() {
            &none
        } else {
            &task.snapshots
        };
        for (destination, ids) in snapshots {
            if let Err(error) = self.delete_at(&self.work.name(destination), ids).await {
                tracing::error!(destination, %error, "What was to be deleted is still there.");
                first.get_or_insert(failure(&error));
            }
        }
        first.map_or_else(|| Ok(Done::default()), Err)
    }

    /// Deletes what is there of it, and frees the space. What an attempt before has deleted is gone.
    async fn delete_at(&self, destination: &Name, ids: &[String]) -> Result<(), RunError> {
        let host = self.runner.host.as_ref();
        let repository = match self.runner.repositories.open(host, destination).await {
            Err(RunError::Repository(RepositoryError::NotARepository { .. })) => return Ok(()),
            opened => opened?,
        };
        for snapshot in repository.snapshots().await? {
            if ids.contains(&snapshot.id) && !self.runner.cancel.is_cancelled() {
                let located = Located {
                    destination: destination.clone(),
                    repository: repository.clone(),
                    snapshot,
                };
                self.runner.delete(&located).await?;
            }
        }
        if self.runner.cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        self.runner.prune(None, destination).await.map(drop)
    }
}

fn refused(plan: &Plan) -> Option<Failed> {
    plan.actions.iter().find_map(|action| match action {
        Action::Refuse {
            reason,
            class,
            message,
        } => Some(Failed {
            message: message.clone(),
            class: *class,
            reason: reason.clone(),
        }),
        _ => None,
    })
}
