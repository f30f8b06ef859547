//! Does one thing for a policy or a destination, as a run of the journal.

use std::sync::Arc;

use holdfast_crds::{BackupPolicySpec, Source};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CheckReport, Copied, PruneReport, ReadData, Repository, RepositoryError, Snapshot,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, Name, View};
use crate::journal::{Figures, Journal, NewRun, RunKind};
use crate::reconcile::{dereference, hosting, known};
use crate::run::backup::{BackupRequest, DereferencedSource};
use crate::run::hooks::{self, HookEnvironment, HookPhase};
use crate::run::locate::Located;
use crate::run::record::{Account, Open, begin, caught};
use crate::run::{RunError, backup, check, copy, fingerprint, retain};

/// Does one thing at a time, as a run of the journal. Clones share what is opened.
#[derive(Debug)]
pub struct Runner<H> {
    /// What is declared, the secrets, and opened repositories.
    pub view: View<H>,
    /// The history.
    pub journal: Journal,
    /// Stops every run.
    pub cancel: CancellationToken,
}

impl<H> std::ops::Deref for Runner<H> {
    type Target = View<H>;

    fn deref(&self) -> &View<H> {
        &self.view
    }
}

impl<H> Clone for Runner<H> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            journal: self.journal.clone(),
            cancel: self.cancel.clone(),
        }
    }
}

/// What asks for a backup.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Tags beside those of the policy.
    pub tags: Vec<String>,
    /// The Backup object that asks for it.
    pub object: Option<String>,
    /// The time it was scheduled for.
    pub scheduled_for: Option<Timestamp>,
    /// What all attempts at this run have in common, where another process may have made one
    /// before: what that has stored is taken over instead of being made again.
    pub run: Option<String>,
}

impl<H: Host> Runner<H> {
    /// Makes a backup of a policy at its first destination, with its hooks.
    ///
    /// # Errors
    /// When anything of it failed; then there is no backup.
    pub async fn backup(
        &self,
        policy: &Name,
        asked: Asked,
        progress: &Progress,
    ) -> Result<Snapshot, RunError> {
        let object = self.policy(policy)?;
        let spec = &object.spec;
        let refusals = hosting::policy(
            self.host.surroundings(),
            &policy.namespace,
            spec,
            &self.host.declared().destinations_of(policy),
        );
        RunError::refused(format!("BackupPolicy {policy}"), &refusals)?;
        let destination = self.first_destination(policy, spec)?;
        let new = NewRun {
            kind: RunKind::Backup,
            namespace: policy.namespace.clone(),
            policy: Some(policy.name.clone()),
            destination: Some(destination.name.clone()),
            destination_namespace: Some(destination.namespace.clone()),
            object: asked.object.clone(),
            into_source: false,
            scheduled_for: asked.scheduled_for,
            fingerprint: Some(fingerprint::policy(self.host.as_ref(), policy, spec)),
        };
        let mut open = begin(&self.journal, new).await?;
        let Open { run, account, .. } = &mut open;
        let result = caught(async {
            let environment = HookEnvironment(vec![
                ("HOLDFAST_RUN", run.id.clone()),
                ("HOLDFAST_NAMESPACE", policy.namespace.clone()),
                ("HOLDFAST_POLICY", policy.name.clone()),
                ("HOLDFAST_DESTINATION", destination.name.clone()),
            ]);
            let hooks = spec.hooks.clone().unwrap_or_default();
            let worked = async {
                let made = self.made_before(policy, &destination, &asked).await?;
                let snapshot = if let Some(made) = made {
                    made
                } else {
                    progress.set_phase("running the hooks before");
                    hooks::run_all(
                        HookPhase::Before,
                        &hooks.before,
                        &environment,
                        &self.cancel,
                        &mut account.hooks,
                    )
                    .await?;
                    self.read_and_write(policy, spec, &destination, &asked, progress)
                        .await?
                };
                account.figures = figures(&snapshot);
                account.snapshot = Some(snapshot.id.clone());
                progress.set_phase("running the hooks after");
                hooks::run_all(
                    HookPhase::After,
                    &hooks.after,
                    &environment,
                    &self.cancel,
                    &mut account.hooks,
                )
                .await?;
                Ok::<_, RunError>(snapshot)
            }
            .await;
            if let Err(error) = &worked {
                self.on_failure(&hooks.on_failure, environment, error, account)
                    .await;
            }
            worked
        })
        .await;
        open.end(result).await
    }

    async fn on_failure(
        &self,
        on_failure: &[holdfast_crds::Hook],
        mut environment: HookEnvironment,
        error: &RunError,
        account: &mut Account,
    ) {
        environment.0.push(("HOLDFAST_ERROR", error.to_string()));
        // They run although the run is being stopped: that is a failure too.
        let result = hooks::run_all(
            HookPhase::OnFailure,
            on_failure,
            &environment,
            &CancellationToken::new(),
            &mut account.hooks,
        )
        .await;
        if let Err(hook) = result {
            tracing::error!(error = %hook, "A hook for failures failed itself.");
        }
    }

    /// What an attempt at the same run has stored whose process was killed before it could say so.
    async fn made_before(
        &self,
        policy: &Name,
        destination: &Name,
        asked: &Asked,
    ) -> Result<Option<Snapshot>, RunError> {
        let Some(run) = &asked.run else {
            return Ok(None);
        };
        let opened = self
            .repositories
            .open(self.host.as_ref(), destination)
            .await;
        let repository = match opened {
            Err(RunError::Repository(RepositoryError::NotARepository { .. })) => return Ok(None),
            opened => opened?,
        };
        let made = backup::made_before(&repository, policy, run).await?;
        if let Some(snapshot) = &made {
            tracing::info!(
                %policy,
                snapshot = snapshot.id,
                "An earlier attempt at this run has stored its backup; it is not made again."
            );
        }
        Ok(made)
    }

    async fn read_and_write(
        &self,
        policy: &Name,
        spec: &BackupPolicySpec,
        destination: &Name,
        asked: &Asked,
        progress: &Progress,
    ) -> Result<Snapshot, RunError> {
        progress.set_phase("opening the repository");
        let repository = self.open_to_write(destination, None).await?;
        let source = match &spec.source {
            Source::Mongodb(source) => DereferencedSource::Mongodb(
                dereference::mongodb(self.host.as_ref(), &policy.namespace, &policy.name, source)
                    .await?,
            ),
            Source::Files(source) => DereferencedSource::Files(dereference::files(source)),
        };
        let mut tags = spec.tags.clone();
        tags.extend(
            asked
                .tags
                .iter()
                .filter(|tag| !spec.tags.contains(tag))
                .cloned(),
        );
        let request = BackupRequest {
            policy: policy.clone(),
            tags,
            source,
            run: asked.run.clone(),
        };
        backup::backup(&repository, &request, progress, &self.cancel).await
    }

    /// Opens the repository that is to be written; makes one where none was seen before. Plans ask the
    /// same, and a run by hand has none.
    async fn open_to_write(
        &self,
        destination: &Name,
        chunker_of: Option<Repository>,
    ) -> Result<Repository, RunError> {
        let host = self.host.as_ref();
        let Some(known) = known::recall(&self.view, destination).await? else {
            let (repository, made) = self
                .repositories
                .open_or_init(host, destination, chunker_of)
                .await?;
            if made {
                tracing::info!(%destination, location = repository.location(), "A repository was made.");
            }
            known::remember(&self.view, destination, repository.id()).await?;
            return Ok(repository);
        };
        let repository = match self.repositories.open(host, destination).await {
            Err(RunError::Repository(RepositoryError::NotARepository { .. })) => {
                return Err(RunError::RepositoryMissing {
                    destination: destination.clone(),
                    known,
                });
            }
            opened => opened?,
        };
        if repository.id() != known {
            return Err(RunError::RepositoryChanged {
                destination: destination.clone(),
                found: repository.id(),
                known,
            });
        }
        Ok(repository)
    }

    /// Copies backups of a policy between two of its destinations.
    ///
    /// # Errors
    /// When anything of it failed. Backups copied until then are there.
    pub async fn copy(
        &self,
        policy: &Name,
        from: &Name,
        to: &Name,
        ids: &[String],
        progress: &Progress,
    ) -> Result<Vec<Copied>, RunError> {
        let new = self.new_run(RunKind::Copy, policy, to)?;
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            progress.set_phase("opening the repositories");
            let source = self.repositories.open(self.host.as_ref(), from).await?;
            let target = self.open_to_write(to, Some(source.clone())).await?;
            let copied = copy::copy(&source, &target, ids, progress, &self.cancel).await?;
            let new = copied.iter().filter(|one| !one.existed).count();
            account.figures.backups = u64::try_from(new).ok();
            Ok(copied)
        })
        .await;
        open.end(result).await
    }

    /// Forgets backups of a policy at a destination.
    ///
    /// # Errors
    /// When anything of it failed. Backups forgotten until then are gone.
    pub async fn forget(
        &self,
        policy: &Name,
        destination: &Name,
        ids: &[String],
    ) -> Result<(), RunError> {
        let new = self.new_run(RunKind::Forget, policy, destination)?;
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            let repository = self
                .repositories
                .open(self.host.as_ref(), destination)
                .await?;
            retain::forget(&repository, ids).await?;
            account.figures.backups = u64::try_from(ids.len()).ok();
            Ok(())
        })
        .await;
        open.end(result).await
    }

    /// Frees what no backup at a destination needs any more.
    ///
    /// # Errors
    /// When anything of it failed; what backups need is never removed.
    pub async fn prune(
        &self,
        policy: Option<&Name>,
        destination: &Name,
    ) -> Result<PruneReport, RunError> {
        let new = NewRun {
            namespace: policy.unwrap_or(destination).namespace.clone(),
            policy: policy.map(|policy| policy.name.clone()),
            ..self.at_destination(RunKind::Prune, destination)
        };
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            let repository = self
                .repositories
                .open(self.host.as_ref(), destination)
                .await?;
            let report = retain::prune(&repository, &self.cancel).await?;
            account.figures.stored_bytes = Some(report.plan.removed_bytes);
            account.figures.marked_packs = Some(report.plan.left_marked());
            Ok(report)
        })
        .await;
        open.end(result).await
    }

    /// Frees what no backup at a destination needs any more, without the day of grace: nobody comes
    /// back to it.
    ///
    /// # Errors
    /// As [`Self::prune`].
    pub async fn prune_at_once(&self, destination: &Name) -> Result<(), RunError> {
        let new = self.at_destination(RunKind::Prune, destination);
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            let repository = self
                .repositories
                .open(self.host.as_ref(), destination)
                .await?;
            account.figures.stored_bytes =
                Some(retain::prune_at_once(&repository, &self.cancel).await?);
            Ok(())
        })
        .await;
        open.end(result).await
    }

    /// Checks a destination. Damage is an error, and the report's findings are in its message.
    ///
    /// # Errors
    /// When the check could not be carried out, or found damage.
    pub async fn check(
        &self,
        destination: &Name,
        read_data: ReadData,
        progress: &Progress,
        found: &mut Option<CheckReport>,
    ) -> Result<(), RunError> {
        let new = self.at_destination(RunKind::Check, destination);
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            progress.set_phase("opening the repository");
            let repository = self
                .repositories
                .open(self.host.as_ref(), destination)
                .await?;
            let report = check::check(&repository, read_data, progress, &self.cancel).await?;
            account.figures.read_bytes = Some(report.bytes_read);
            account.figures.backups = Some(report.snapshots);
            let damage = report.errors.first().map(|first| RunError::Damaged {
                destination: destination.clone(),
                count: report.errors.len(),
                first: first.clone(),
            });
            *found = Some(report);
            damage.map_or(Ok(()), Err)
        })
        .await;
        open.end(result).await
    }

    /// Deletes one backup at one destination, on a person's word.
    ///
    /// # Errors
    /// When it was made by somebody else, or the storage fails.
    pub async fn delete(&self, located: &Located) -> Result<(), RunError> {
        let Located {
            destination,
            repository,
            snapshot,
        } = located;
        if snapshot.foreign {
            return Err(RunError::Foreign {
                id: snapshot.id.clone(),
            });
        }
        let policy = crate::catalogue::policy_of(snapshot);
        let new = NewRun {
            namespace: policy.as_ref().unwrap_or(destination).namespace.clone(),
            policy: policy.map(|policy| policy.name),
            ..self.at_destination(RunKind::Delete, destination)
        };
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async {
            retain::forget(repository, std::slice::from_ref(&snapshot.id)).await?;
            account.figures.backups = Some(1);
            account.snapshot = Some(snapshot.id.clone());
            Ok(())
        })
        .await;
        open.end(result).await
    }

    /// A run at a destination that is for no policy.
    pub(super) fn at_destination(&self, kind: RunKind, destination: &Name) -> NewRun {
        NewRun {
            kind,
            namespace: destination.namespace.clone(),
            policy: None,
            destination: Some(destination.name.clone()),
            destination_namespace: Some(destination.namespace.clone()),
            object: None,
            into_source: false,
            scheduled_for: None,
            fingerprint: None,
        }
    }

    fn new_run(
        &self,
        kind: RunKind,
        policy: &Name,
        destination: &Name,
    ) -> Result<NewRun, RunError> {
        let object = self.policy(policy)?;
        Ok(NewRun {
            namespace: policy.namespace.clone(),
            policy: Some(policy.name.clone()),
            fingerprint: Some(fingerprint::policy(
                self.host.as_ref(),
                policy,
                &object.spec,
            )),
            ..self.at_destination(kind, destination)
        })
    }

    fn policy(&self, name: &Name) -> Result<Arc<holdfast_crds::BackupPolicy>, RunError> {
        self.host
            .declared()
            .policies
            .get(name)
            .cloned()
            .ok_or_else(|| RunError::UnknownPolicy(name.clone()))
    }

    fn first_destination(&self, policy: &Name, spec: &BackupPolicySpec) -> Result<Name, RunError> {
        let name = spec.destinations.first().map_or_else(
            // The schema requires one.
            || Name::new(&policy.namespace, ""),
            |first| Name::new(first.namespace_for(&policy.namespace), &first.name),
        );
        match self
            .host
            .declared()
            .destination_for(&policy.namespace, &name)
        {
            Some(_) => Ok(name),
            None => Err(RunError::UnknownDestination(name)),
        }
    }
}

/// The figures of a snapshot, for the journal.
fn figures(snapshot: &Snapshot) -> Figures {
    let facts = snapshot.facts.as_ref();
    Figures {
        read_bytes: snapshot.read_bytes,
        added_bytes: snapshot.added_bytes,
        stored_bytes: snapshot.stored_bytes,
        documents: facts.and_then(|facts| facts.documents),
        files: facts.and_then(|facts| facts.files),
        skipped: facts.and_then(|facts| facts.skipped),
        backups: None,
        marked_packs: None,
    }
}
