//! The order of a restore, how much of it happens at once, and how far it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use super::extent::{Extent, State};
use super::insert::{Duplicates, Inserted, Inserter};
use super::metadata::CollectionMetadata;
use super::pieces::pieces;
use super::plan::{Action, NamespacePlan, RestorePlan, data_collection};
use super::report::{NamespaceReport, RestoreReport, Verification};
use super::target::Target;
use super::verify::{Lossy, verify};
use super::{RestoreRequest, create, indexes, users};
use crate::manifest::{CollectionManifest, MongodbManifest};
use crate::progress::Progress;
use crate::source::Content;
use crate::source::mongodb::namespace::Namespace;

/// So many collections are at work at once.
const COLLECTIONS: usize = 4;
/// So many batches are being written at once, over all collections: more do not make a server
/// faster.
const STREAMS: usize = 4;

/// Carries out a plan.
///
/// # Errors
/// When the plan has conflicts; when the backup cannot be read; when the server refuses or goes
/// away, and then the error says what had been done; when what is read back is not what was backed
/// up.
pub async fn restore(
    request: &RestoreRequest,
    plan: &RestorePlan,
    manifest: &MongodbManifest,
    content: Arc<dyn Content>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RestoreReport, RestoreError> {
    let conflicts = plan.conflicts();
    if !conflicts.is_empty() {
        return Err(RestoreError::Conflict {
            target: plan.target.clone(),
            conflicts,
        });
    }
    let jobs = jobs(plan, manifest, content.as_ref()).await?;
    let target = Target::connect(&request.target).await?;
    progress.set_total_bytes(plan.bytes());
    let run = Run {
        keeps_empty_timestamps: target.keeps_empty_timestamps().await,
        extent: Extent::new(jobs.len()),
        permits: Semaphore::new(STREAMS),
        target,
        content,
        progress,
        cancel,
    };
    let report = match run.all(request, plan, &jobs).await {
        Ok(report) => report,
        Err(cause) => return Err(run.interrupted(&jobs, cause)),
    };
    let mismatches: Vec<String> = report
        .namespaces
        .iter()
        .filter(|one| matches!(one.verification, Verification::Mismatched { .. }))
        .map(|one| format!("{} ({})", one.target, one.verification))
        .collect();
    if !mismatches.is_empty() {
        return Err(RestoreError::Mismatch {
            mismatches,
            report: Box::new(report),
        });
    }
    Ok(report)
}

/// One namespace of the plan, with all that the backup says of it.
struct Job<'p> {
    plan: &'p NamespacePlan,
    collection: &'p CollectionManifest,
    target: Namespace,
    metadata: CollectionMetadata,
    /// Whether the backup has a cluster time: capped collections are not read at it.
    at_one_time: bool,
}

impl Job<'_> {
    fn is_view(&self) -> bool {
        self.plan.kind == "view"
    }

    /// What a document means whose `_id` is there already.
    fn duplicates(&self) -> Duplicates {
        if self.plan.action == Action::Merge {
            Duplicates::Keep
        } else if self.at_one_time && !self.collection.capped {
            Duplicates::Refuse
        } else {
            Duplicates::Repeated
        }
    }

    /// Whether the server removes documents by itself as soon as they are there.
    fn expires(&self) -> bool {
        let index_expires = || {
            let indexes = &mut self.metadata.indexes.iter();
            indexes.any(|index| index.contains_key("expireAfterSeconds"))
        };
        self.metadata.options.contains_key("expireAfterSeconds")
            // Indexes are built after the comparison; but here they may be there before the data.
            || (matches!(self.plan.action, Action::Fill | Action::Merge) && index_expires())
    }
}

/// Finds everything the plan names, before anything is written.
async fn jobs<'p>(
    plan: &'p RestorePlan,
    manifest: &'p MongodbManifest,
    content: &dyn Content,
) -> Result<Vec<Job<'p>>, RestoreError> {
    let by_name: BTreeMap<Namespace, &CollectionManifest> = manifest
        .collections
        .iter()
        .map(|one| (Namespace::new(&one.db, &one.name), one))
        .collect();
    let mut jobs = Vec::with_capacity(plan.namespaces.len());
    for one in &plan.namespaces {
        let name = |text: &str| {
            text.parse::<Namespace>()
                .map_err(|error| RestoreError::request(error.to_string()))
        };
        let Some(collection) = by_name.get(&name(&one.source)?).copied() else {
            return Err(RestoreError::request(format!(
                "the plan names {}, which is not in this backup; plan again",
                one.source
            )));
        };
        let metadata = CollectionMetadata::read(content, collection).await?;
        if let Some(path) = &collection.data_path
            && content.node(path.as_bytes()).await?.is_none()
        {
            return Err(RestoreError::damaged(
                &one.source,
                format!("the backup has no file {path}"),
            ));
        }
        jobs.push(Job {
            plan: one,
            collection,
            target: name(&one.target)?,
            metadata,
            at_one_time: manifest.cluster_time.is_some(),
        });
    }
    Ok(jobs)
}

/// What became of the data of one namespace.
struct Loaded {
    inserted: Inserted,
    verification: Verification,
}

struct Run<'r> {
    target: Target,
    content: Arc<dyn Content>,
    keeps_empty_timestamps: bool,
    extent: Extent,
    permits: Semaphore,
    progress: &'r Progress,
    cancel: &'r CancellationToken,
}

impl Run<'_> {
    async fn all(
        &self,
        request: &RestoreRequest,
        plan: &RestorePlan,
        jobs: &[Job<'_>],
    ) -> Result<RestoreReport, RestoreError> {
        let mut loaded = self.until_cancelled(self.load_all(jobs)).await?;
        // Not stopped halfway: its temporary collections hold credentials.
        let (users, roles) = if request.users_and_roles && !self.cancel.is_cancelled() {
            self.progress.set_phase("merging users and roles");
            let content = self.content.as_ref();
            users::merge(&self.target, content, request.on_conflict).await?
        } else {
            Default::default()
        };
        let built = self
            .until_cancelled(async {
                self.create_views(jobs).await?;
                self.build_indexes(jobs).await
            })
            .await?;
        let namespaces = jobs
            .iter()
            .enumerate()
            .map(|(at, job)| {
                let loaded = loaded.remove(&at);
                let inserted = loaded.as_ref().map(|one| one.inserted).unwrap_or_default();
                NamespaceReport {
                    source: job.plan.source.clone(),
                    target: job.plan.target.clone(),
                    action: job.plan.action,
                    inserted: inserted.inserted,
                    skipped: inserted.skipped,
                    bytes: job.collection.bytes,
                    indexes: built.get(&at).copied().unwrap_or(0),
                    verification: loaded.map_or(Verification::NoData, |one| one.verification),
                }
            })
            .collect();
        let (kept_users, kept_roles) = (users.keep.len(), roles.keep.len());
        let kept = (kept_users + kept_roles > 0).then(|| {
            format!(
                "{kept_users} users and {kept_roles} roles were there already and stay as they are"
            )
        });
        Ok(RestoreReport {
            target: plan.target.clone(),
            namespaces,
            users: users.written(),
            roles: roles.written(),
            notes: plan.notes.iter().cloned().chain(kept).collect(),
        })
    }

    async fn until_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        self.cancel
            .run_until_cancelled(work)
            .await
            .unwrap_or(Err(RestoreError::Cancelled))
    }

    /// Everything that has documents; the largest first, so that none is left to the end alone.
    async fn load_all(&self, jobs: &[Job<'_>]) -> Result<BTreeMap<usize, Loaded>, RestoreError> {
        let mut order: Vec<usize> = (0..jobs.len()).filter(|at| !jobs[*at].is_view()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(jobs[*at].collection.bytes));
        stream::iter(order)
            .map(|at| async move { Ok((at, self.load(at, &jobs[at]).await?)) }.boxed())
            .buffer_unordered(COLLECTIONS)
            .try_collect()
            .await
    }

    async fn load(&self, at: usize, job: &Job<'_>) -> Result<Loaded, RestoreError> {
        self.progress.set_phase(format!("restoring {}", job.target));
        self.extent.reach(at, State::Begun(0));
        self.prepare(job).await?;
        let collection = data_collection(&job.target, &job.plan.kind);
        let inserter = Inserter {
            database: self.target.client.database(&job.target.db),
            bypass_validation: job.plan.kind != "timeseries",
            keeps_empty_timestamps: self.keeps_empty_timestamps,
            duplicates: job.duplicates(),
            collection: collection.clone(),
        };
        let inserted = self.insert_all(at, job, &inserter).await?;
        let done = inserted.inserted + inserted.skipped;
        if done != job.collection.documents {
            return Err(RestoreError::damaged(
                &job.plan.source,
                format!(
                    "it holds {done} documents and the manifest says {}",
                    job.collection.documents
                ),
            ));
        }
        let verification = if job.plan.comparable {
            self.progress.set_phase(format!("comparing {}", job.target));
            verify(
                &self.target,
                &job.target.db,
                &collection,
                job.collection,
                Lossy {
                    expires: job.expires(),
                    repeated: inserted.repeated,
                },
            )
            .await?
        } else {
            Verification::NotComparable {
                reason: "the target held documents before".to_owned(),
            }
        };
        if !matches!(verification, Verification::Verified { .. }) {
            tracing::warn!(namespace = %job.target, %verification, "A restored collection is not verified.");
        }
        self.extent.reach(at, State::Loaded);
        Ok(Loaded {
            inserted,
            verification,
        })
    }

    /// Makes the target namespace ready to take documents.
    async fn prepare(&self, job: &Job<'_>) -> Result<(), RestoreError> {
        match job.plan.action {
            Action::Create => create::create(&self.target, &job.target, &job.metadata).await,
            // The server does not let it be dropped.
            Action::Replace if job.target.collection == "system.js" => {
                create::empty(&self.target, &job.target).await
            }
            Action::Replace => {
                create::drop(&self.target, &job.target).await?;
                create::create(&self.target, &job.target, &job.metadata).await
            }
            Action::Fill | Action::Merge | Action::Keep | Action::Conflict => Ok(()),
        }
    }

    async fn insert_all(
        &self,
        at: usize,
        job: &Job<'_>,
        inserter: &Inserter,
    ) -> Result<Inserted, RestoreError> {
        // The order of a capped collection is its meaning.
        let streams = if job.collection.capped { 1 } else { STREAMS };
        let Some(path) = job.collection.data_path.clone() else {
            return Ok(Inserted::default());
        };
        let mut done = pieces(Arc::clone(&self.content), path, job.plan.source.clone())
            .map(|piece| {
                async move {
                    let piece = piece?;
                    // It is never closed; were it, nothing more should be done.
                    let permit = self.permits.acquire().await;
                    let _permit = permit.map_err(|_| RestoreError::Cancelled)?;
                    let inserted = inserter.insert(&piece).await?;
                    self.count(at, inserted, piece.len() as u64);
                    Ok::<_, RestoreError>(inserted)
                }
                .boxed()
            })
            .buffer_unordered(streams);
        let mut total = Inserted::default();
        while let Some(inserted) = done.try_next().await? {
            total += inserted;
        }
        Ok(total)
    }

    async fn create_views(&self, jobs: &[Job<'_>]) -> Result<(), RestoreError> {
        for (at, job) in jobs.iter().enumerate() {
            if !job.is_view() {
                continue;
            }
            self.progress.set_phase(format!("creating {}", job.target));
            self.prepare(job).await?;
            self.extent.reach(at, State::Complete);
        }
        Ok(())
    }

    async fn build_indexes(&self, jobs: &[Job<'_>]) -> Result<BTreeMap<usize, u64>, RestoreError> {
        let work: Vec<usize> = (0..jobs.len()).filter(|at| !jobs[*at].is_view()).collect();
        stream::iter(work)
            .map(|at| {
                async move {
                    let job = &jobs[at];
                    if !job.plan.indexes.is_empty() {
                        self.progress
                            .set_phase(format!("building the indexes of {}", job.target));
                    }
                    let built = indexes::build(&self.target, &job.target, &job.metadata).await?;
                    self.extent.reach(at, State::Complete);
                    Ok((at, built))
                }
                .boxed()
            })
            .buffer_unordered(COLLECTIONS)
            .try_collect()
            .await
    }

    fn count(&self, at: usize, inserted: Inserted, bytes: u64) {
        let documents = inserted.inserted + inserted.skipped;
        self.progress.add_bytes(bytes);
        self.progress.add_items(documents);
        self.extent.count(at, documents);
    }

    /// The error of a run that had begun to write: what failed, and how far it came.
    fn interrupted(&self, jobs: &[Job<'_>], cause: RestoreError) -> RestoreError {
        let names = jobs
            .iter()
            .map(|job| (&job.target, job.collection.documents));
        match self.extent.describe(names) {
            None => cause,
            Some(done) => RestoreError::Interrupted {
                target: self.target.address.clone(),
                cause: Box::new(cause),
                done,
            },
        }
    }
}
