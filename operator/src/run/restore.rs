//! Puts one backup back: plans what would be done, and does it.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_crds::{
    MongoConnection, OnConflict, RestorePlan as PlannedStep, RestoreTarget, Source,
};
use holdfast_engine::manifest::{FilesManifest, Manifest, MongodbManifest, SourceManifest};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::{Content, files, mongodb::restore as mongodb};
use secrecy::SecretString;

use crate::host::{Host, Name};
use crate::journal::{NewRun, RunKind};
use crate::reconcile::dereference;
use crate::run::locate::Located;
use crate::run::record::{Account, Open, begin, caught};
use crate::run::{RunError, Runner, verified};

/// Where a backup is put, its secrets not resolved yet.
#[derive(Debug, Clone)]
pub enum Target {
    /// As a Restore declares it.
    Declared(RestoreTarget),
    /// A MongoDB whose URI was given by hand.
    MongodbUri {
        /// The URI.
        uri: SecretString,
        /// Rules that give namespaces other names.
        rename: Vec<(String, String)>,
    },
    /// Where it was read, namespaces under other names.
    OriginalRenamed(Vec<(String, String)>),
    /// A directory.
    Path(PathBuf),
}

impl Target {
    /// Whether it is what the policy reads. Namespaces under other names are in the same server, and
    /// are read too.
    fn is_the_original(&self) -> bool {
        match self {
            Self::Declared(target) => matches!(target, RestoreTarget::Original(_)),
            Self::OriginalRenamed(_) => true,
            Self::MongodbUri { .. } | Self::Path(_) => false,
        }
    }
}

/// One restore to be done.
#[derive(Debug, Clone)]
pub struct RestoreOrder {
    /// The backup, and where it is read from.
    pub located: Located,
    /// Where it is put.
    pub target: Target,
    /// What happens to what is there already.
    pub on_conflict: OnConflict,
    /// Only these namespaces or paths; everything when empty.
    pub include: Vec<String>,
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// The Restore object that asks for it.
    pub object: Option<String>,
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default)]
pub struct RestoreOutcome {
    /// What is done, a step each.
    pub plan: Vec<PlannedStep>,
    /// Bytes that are brought back.
    pub bytes: u64,
    /// Documents written.
    pub documents: Option<u64>,
    /// Files written.
    pub files: Option<u64>,
    /// `Verified`, or why it could not be compared.
    pub verified: Option<String>,
    /// The same in words, for a person.
    pub told: String,
}

/// A target with everything it takes to write to it.
enum Resolved {
    Mongodb(mongodb::RestoreRequest),
    Files(files::RestoreFilesRequest),
}

impl<H: Host> Runner<H> {
    /// Puts one backup back. A dry run leaves no trace in the journal: nothing was done.
    ///
    /// # Errors
    /// When the target is of another kind than the backup, something is in the way, anything could
    /// not be read or written, or what was written is not what was backed up.
    pub async fn restore(
        &self,
        order: &RestoreOrder,
        progress: &Progress,
    ) -> Result<RestoreOutcome, RunError> {
        let located = &order.located;
        if located.snapshot.foreign {
            return Err(RunError::Foreign {
                id: located.snapshot.id.clone(),
            });
        }
        if order.dry_run {
            return self
                .put_back(order, progress, &mut Account::default())
                .await;
        }
        let policy = crate::catalogue::policy_of(&located.snapshot);
        let new = NewRun {
            namespace: policy.as_ref().map_or_else(
                || located.destination.namespace.clone(),
                |policy| policy.namespace.clone(),
            ),
            policy: policy.map(|policy| policy.name),
            object: order.object.clone(),
            into_source: order.target.is_the_original(),
            ..self.at_destination(RunKind::Restore, &located.destination)
        };
        let mut open = begin(&self.journal, new).await?;
        let Open { account, .. } = &mut open;
        let result = caught(async { self.put_back(order, progress, account).await }).await;
        open.end(result).await
    }

    async fn put_back(
        &self,
        order: &RestoreOrder,
        progress: &Progress,
        account: &mut Account,
    ) -> Result<RestoreOutcome, RunError> {
        let Located {
            repository,
            snapshot,
            ..
        } = &order.located;
        progress.set_phase("reading the backup's manifest");
        account.snapshot = Some(snapshot.id.clone());
        let manifest = repository
            .manifest(snapshot)
            .await?
            .ok_or_else(|| RunError::Foreign {
                id: snapshot.id.clone(),
            })?;
        let request = self.resolve(order, &manifest).await?;
        let content = repository.content(snapshot).await?;
        let outcome = match (request, &manifest.source) {
            (Resolved::Mongodb(request), SourceManifest::Mongodb(manifest)) => {
                self.mongodb(order, &request, manifest, content, progress)
                    .await?
            }
            (Resolved::Files(request), SourceManifest::Files(manifest)) => {
                self.files(order, &request, manifest, content.as_ref(), progress)
                    .await?
            }
            (Resolved::Mongodb(_), SourceManifest::Files(_)) => {
                return Err(wrong(order, "files", "a MongoDB"));
            }
            (Resolved::Files(_), SourceManifest::Mongodb(_)) => {
                return Err(wrong(order, "a MongoDB", "a directory"));
            }
        };
        account.figures.read_bytes = Some(outcome.bytes);
        account.figures.documents = outcome.documents;
        account.figures.files = outcome.files;
        Ok(outcome)
    }

    async fn mongodb(
        &self,
        order: &RestoreOrder,
        request: &mongodb::RestoreRequest,
        manifest: &MongodbManifest,
        content: Arc<dyn Content>,
        progress: &Progress,
    ) -> Result<RestoreOutcome, RunError> {
        let failed = |error: mongodb::RestoreError| RunError::source(&error);
        progress.set_phase("looking at the target");
        let plan = mongodb::plan_restore(request, manifest, content.as_ref())
            .await
            .map_err(failed)?;
        let steps = plan
            .namespaces
            .iter()
            .map(|one| PlannedStep {
                from: one.source.clone(),
                to: one.target.clone(),
                action: if one.reason.is_empty() {
                    one.action.to_string()
                } else {
                    format!("{}: {}", one.action, one.reason)
                },
                bytes: Some(one.bytes),
                documents: Some(one.documents),
            })
            .chain(plan.accounts().map(|(collection, accounts)| PlannedStep {
                from: collection.clone(),
                to: collection,
                action: accounts.to_string(),
                bytes: None,
                documents: Some(accounts.count()),
            }))
            .collect();
        let bytes = plan.bytes();
        if order.dry_run {
            return Ok(RestoreOutcome {
                plan: steps,
                bytes,
                documents: Some(plan.documents()),
                told: plan.to_string(),
                ..RestoreOutcome::default()
            });
        }
        let report = mongodb::restore(request, &plan, manifest, content, progress, &self.cancel)
            .await
            .map_err(failed)?;
        Ok(RestoreOutcome {
            plan: steps,
            bytes,
            documents: Some(report.documents()),
            files: None,
            verified: Some(verified::mongodb(&report)),
            told: report.to_string(),
        })
    }

    async fn files(
        &self,
        order: &RestoreOrder,
        request: &files::RestoreFilesRequest,
        manifest: &FilesManifest,
        content: &dyn Content,
        progress: &Progress,
    ) -> Result<RestoreOutcome, RunError> {
        let failed = |error: files::FilesError| RunError::source(&error);
        let to = match &request.target {
            files::RestoreTarget::Original => "where they were".to_owned(),
            files::RestoreTarget::Path(path) => path.display().to_string(),
        };
        if order.dry_run {
            let plan = files::plan_restore_files(content, manifest, request, &self.cancel)
                .await
                .map_err(failed)?;
            let action = if plan.different.is_empty() {
                "write".to_owned()
            } else {
                format!("{}: {}", conflict_word(order.on_conflict), plan.different)
            };
            let told = format!(
                "{} files, {} directories and {} others would be written to {to}; {} are there and \
                 the same; {} are there and differ\n",
                plan.files, plan.directories, plan.others, plan.identical, plan.different.count
            );
            return Ok(RestoreOutcome {
                plan: vec![PlannedStep {
                    from: manifest.paths.join(", "),
                    to,
                    action,
                    bytes: Some(plan.bytes),
                    documents: None,
                }],
                bytes: plan.bytes,
                files: Some(plan.files),
                told,
                ..RestoreOutcome::default()
            });
        }
        let report = files::restore_files(content, manifest, request, progress, &self.cancel)
            .await
            .map_err(failed)?;
        let mut told = format!(
            "{} files, {} directories and {} others were written to {to}; {} were kept\n",
            report.files, report.directories, report.others, report.kept
        );
        for (what, list) in [
            ("not made", &report.skipped),
            ("metadata not set", &report.warnings),
        ] {
            if !list.is_empty() {
                told.push_str(&format!("{what}: {list}\n"));
            }
        }
        Ok(RestoreOutcome {
            plan: vec![PlannedStep {
                from: manifest.paths.join(", "),
                to,
                action: "write".to_owned(),
                bytes: Some(report.bytes),
                documents: None,
            }],
            bytes: report.bytes,
            documents: None,
            files: Some(report.files),
            verified: Some(verified::files(&report, order.on_conflict)),
            told,
        })
    }

    async fn resolve(
        &self,
        order: &RestoreOrder,
        manifest: &Manifest,
    ) -> Result<Resolved, RunError> {
        let is_files = matches!(manifest.source, SourceManifest::Files(_));
        match &order.target {
            Target::MongodbUri { uri, rename } => {
                Ok(mongodb_request(order, uri.clone(), rename.clone()))
            }
            Target::Path(path) => Ok(files_request(
                order,
                files::RestoreTarget::Path(path.clone()),
            )),
            Target::OriginalRenamed(_) | Target::Declared(RestoreTarget::Original(_))
                if is_files =>
            {
                Ok(files_request(order, files::RestoreTarget::Original))
            }
            Target::OriginalRenamed(rename) => Ok(mongodb_request(
                order,
                self.original_uri(order).await?,
                rename.clone(),
            )),
            Target::Declared(RestoreTarget::Original(_)) => Ok(mongodb_request(
                order,
                self.original_uri(order).await?,
                Vec::new(),
            )),
            Target::Declared(RestoreTarget::Mongodb(to)) => {
                let namespace = &order.located.destination.namespace;
                let object = format!(
                    "Restore {namespace}/{}",
                    order.object.as_deref().unwrap_or_default()
                );
                let uri = self
                    .uri(namespace, object, "spec.to.mongodb.uriFrom", &to.connection)
                    .await?;
                let rename = to
                    .rename
                    .iter()
                    .map(|(from, to)| (from.clone(), to.clone()))
                    .collect();
                Ok(mongodb_request(order, uri, rename))
            }
            Target::Declared(RestoreTarget::Files(to)) => Ok(files_request(
                order,
                files::RestoreTarget::Path((&to.path).into()),
            )),
        }
    }

    /// The URI that the backup's policy reads from.
    async fn original_uri(&self, order: &RestoreOrder) -> Result<SecretString, RunError> {
        let snapshot = &order.located.snapshot;
        let name = crate::catalogue::policy_of(snapshot).ok_or_else(|| RunError::Foreign {
            id: snapshot.id.clone(),
        })?;
        let declared = self.host.declared();
        let policy = declared
            .policies
            .get(&name)
            .ok_or_else(|| RunError::UnknownPolicy(name.clone()))?;
        let Source::Mongodb(source) = &policy.spec.source else {
            return Err(wrong(order, "a MongoDB", "the policy's directories"));
        };
        let Name { namespace, name } = name;
        self.uri(
            &namespace,
            format!("BackupPolicy {namespace}/{name}"),
            "spec.source.mongodb.uriFrom",
            &source.connection,
        )
        .await
    }

    async fn uri(
        &self,
        namespace: &str,
        object: String,
        field: &'static str,
        connection: &MongoConnection,
    ) -> Result<SecretString, RunError> {
        Ok(
            dereference::mongodb_uri(self.host.as_ref(), namespace, object, field, connection)
                .await?,
        )
    }
}

fn mongodb_request(
    order: &RestoreOrder,
    target: SecretString,
    rename: Vec<(String, String)>,
) -> Resolved {
    // Users belong to the server as a whole: they come back with the whole of it.
    let users_and_roles = order.include.is_empty() && rename.is_empty();
    Resolved::Mongodb(mongodb::RestoreRequest {
        target,
        include: order.include.clone(),
        rename,
        on_conflict: match order.on_conflict {
            OnConflict::Fail => mongodb::OnConflict::Fail,
            OnConflict::Drop => mongodb::OnConflict::Drop,
            OnConflict::Merge => mongodb::OnConflict::Merge,
        },
        users_and_roles,
    })
}

fn files_request(order: &RestoreOrder, target: files::RestoreTarget) -> Resolved {
    Resolved::Files(files::RestoreFilesRequest {
        target,
        include: order.include.clone(),
        on_conflict: match order.on_conflict {
            OnConflict::Fail => files::OnConflict::Fail,
            OnConflict::Drop => files::OnConflict::Drop,
            OnConflict::Merge => files::OnConflict::Merge,
        },
    })
}

fn conflict_word(on_conflict: OnConflict) -> &'static str {
    match on_conflict {
        OnConflict::Fail => "CONFLICT",
        OnConflict::Drop => "replace",
        OnConflict::Merge => "keep",
    }
}

fn wrong(order: &RestoreOrder, source_kind: &'static str, target: &'static str) -> RunError {
    RunError::WrongTarget {
        id: order.located.snapshot.id.clone(),
        source_kind,
        target,
    }
}
