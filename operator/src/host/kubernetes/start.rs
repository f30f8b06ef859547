//! Starts Jobs: what a plan asks for becomes one, and is known to this process before the API
//! server's watch tells of it.

use std::collections::BTreeMap;

use holdfast_crds::{BackupPolicy, BackupPolicySpec, Destination, DestinationSpec, Restore};
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use secrecy::ExposeSecret;

use super::events::CONTROLLER;
use super::job::{
    self, BackupTask, BuildError, DeleteTask, JobOrder, OrderDestination, PlannedTask, RestoreTask,
    RunSecret, Task, TaskKind, asked_job_name, delete_job_name, next_attempt, run_key,
    scheduled_job_name, work_job_name,
};
use super::operator::Operator;
use super::record::{JobRecord, PURPOSE_ANNOTATION, Purpose};
use crate::host::{Host, Name};
use crate::journal::RunKind;
use crate::plan::observed::PolicyObservation;
use crate::plan::{Action, BackupReason, Plan};
use crate::run::{RunError, fingerprint};

/// Why no Job was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The API server refused it for what it is.
    #[error(
        "the API server refused the Job {name}: {cause}; correct spec.job, or what admits Jobs"
    )]
    Refused {
        /// Its name.
        name: Name,
        /// What came back.
        cause: String,
    },
    /// The API server does not admit it now: a quota that is full, an admission policy, a namespace
    /// that goes away. None of that is a matter of its declaration.
    #[error(
        "the API server does not admit the Job {name} now: {cause}; it is tried again. Enlarge the quota, or change what admits Jobs"
    )]
    NotAdmitted {
        /// Its name.
        name: Name,
        /// What came back.
        cause: String,
    },
    /// Something else has its name.
    #[error(
        "there is a Job {name} that {whose}, and the one to be started would have that name; delete or rename it, and this one follows"
    )]
    NameTaken {
        /// The name.
        name: Name,
        /// Whose it is.
        whose: &'static str,
    },
    /// A secret of another namespace could not be read or copied.
    #[error("the keys of a destination of another namespace cannot be copied: {0}")]
    Copy(String),
    /// The API server could not be asked, or something is not declared any more.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Classified for StartError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Build(error) => error.class(),
            Self::Refused { .. } => ErrorClass::Permanent,
            Self::NotAdmitted { .. } | Self::NameTaken { .. } | Self::Copy(_) => {
                ErrorClass::Waiting
            }
            Self::Run(error) => error.class(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Build(error) => error.reason(),
            Self::Refused { .. } => "JobRefused",
            Self::NotAdmitted { .. } => "JobNotAdmitted",
            Self::NameTaken { .. } => "JobNameTaken",
            Self::Copy(_) => "SecretNotCopied",
            Self::Run(error) => error.reason(),
        }
    }
}

impl From<StartError> for super::operator::PassError {
    fn from(error: StartError) -> Self {
        Self::new(&error)
    }
}

/// One Job to be started.
struct Start<'a> {
    name: String,
    namespace: &'a str,
    owner: OwnerReference,
    run: String,
    policy: Option<(&'a str, &'a BackupPolicySpec)>,
    sites: Vec<Site>,
    task: Task,
    purpose: Purpose,
}

/// A destination of a Job: its name in the policy, and what is declared.
struct Site {
    alias: String,
    name: Name,
    spec: DestinationSpec,
    known_repository_id: Option<String>,
    prune_pending: bool,
}

/// Starts the Job of a policy's plan: a backup and what follows it, or only that.
///
/// # Errors
/// When it cannot be built, or the API server does not take it.
pub async fn policy_job(
    operator: &Operator,
    name: &Name,
    policy: &BackupPolicy,
    plan: &Plan,
    observed: &PolicyObservation,
) -> Result<(), StartError> {
    let host = &operator.host;
    let fingerprint = fingerprint::policy(host.as_ref(), name, &policy.spec);
    let sites = sites_of_policy(operator, name, observed);
    let mut purpose = Purpose {
        policy: Some(name.name.clone()),
        fingerprint: Some(fingerprint),
        destinations: destinations(&sites),
        planned: planned(plan),
        ..Purpose::default()
    };
    let jobs = host.history.of_policy(name);
    let backup = plan.actions.iter().find_map(|action| match action {
        Action::Backup {
            reason,
            scheduled_for,
            tags,
            ..
        } => Some((reason, *scheduled_for, tags.clone())),
        _ => None,
    });
    let (job, run, owner, task) = match backup {
        Some((BackupReason::Requested { backup }, _, tags)) => {
            let asking = Name::new(&name.namespace, backup);
            let Some(object) = host.backups.get(&asking) else {
                return Ok(());
            };
            let uid = object.uid().unwrap_or_default();
            let before = jobs.iter().filter(|job| job.belongs_to(object.as_ref()));
            let attempt = next_attempt(before.map(|job| job.name.name.as_str()));
            purpose.object = Some(backup.clone());
            (
                asked_job_name(backup, &uid, attempt),
                run_key(name, &uid),
                owner(object.as_ref()),
                Task::Backup(BackupTask {
                    object: Some(backup.clone()),
                    tags,
                    scheduled_for: None,
                }),
            )
        }
        Some((_, Some(scheduled_for), tags)) => {
            let before = jobs
                .iter()
                .filter(|job| job.purpose.scheduled_for == Some(scheduled_for));
            let attempt = next_attempt(before.map(|job| job.name.name.as_str()));
            purpose.scheduled_for = Some(scheduled_for);
            (
                scheduled_job_name(&name.name, scheduled_for, attempt),
                run_key(name, &scheduled_for.to_string()),
                owner(policy),
                Task::Backup(BackupTask {
                    object: None,
                    tags,
                    scheduled_for: Some(scheduled_for),
                }),
            )
        }
        _ => {
            let now = Timestamp::now().to_string();
            purpose.plan = Some(upkeep_key(plan));
            (
                work_job_name(&name.name, "upkeep", &now),
                run_key(name, &now),
                owner(policy),
                Task::Upkeep {},
            )
        }
    };
    let start = Start {
        name: job,
        namespace: &name.namespace,
        owner,
        run,
        policy: Some((&name.name, &policy.spec)),
        sites,
        task,
        purpose,
    };
    create(operator, start).await
}

/// Starts the Job of a Restore.
///
/// # Errors
/// As [`policy_job`].
pub async fn restore_job(
    operator: &Operator,
    name: &Name,
    restore: &Restore,
    destination: &str,
    snapshot: &str,
) -> Result<(), StartError> {
    let host = &operator.host;
    let declared = host.declared();
    let policy_name = Name::new(&name.namespace, &restore.spec.from.policy);
    let policy = declared.policies.get(&policy_name);
    let site = declared.destination_name(&policy_name, destination);
    let sites: Vec<Site> = site_of(operator, &name.namespace, destination, &site, false)
        .into_iter()
        .collect();
    if sites.is_empty() {
        return Err(RunError::UnknownDestination(site).into());
    }
    let uid = restore.uid().unwrap_or_default();
    let before = host.history.owned_by(restore);
    let attempt = next_attempt(before.iter().map(|job| job.name.name.as_str()));
    let start = Start {
        name: asked_job_name(&name.name, &uid, attempt),
        namespace: &name.namespace,
        owner: owner(restore),
        run: run_key(&policy_name, &uid),
        policy: policy.map(|policy| (policy_name.name.as_str(), &policy.spec)),
        purpose: Purpose {
            // A restore into another target stands in no backup's way, and is told of under its
            // policy all the same.
            from_policy: Some(restore.spec.from.policy.clone()),
            object: Some(name.name.clone()),
            destinations: destinations(&sites),
            snapshot: Some(snapshot.to_owned()),
            ..Purpose::default()
        },
        sites,
        task: Task::Restore(RestoreTask {
            name: name.name.clone(),
            spec: restore.spec.clone(),
            destination: destination.to_owned(),
            snapshot: snapshot.to_owned(),
        }),
    };
    create(operator, start).await
}

/// Starts a Job that looks into a destination that only pods can reach; one at a time. `key` stands
/// for what is declared of it.
///
/// # Errors
/// As [`policy_job`].
pub async fn look_job(
    operator: &Operator,
    name: &Name,
    destination: &Destination,
    key: String,
) -> Result<(), StartError> {
    let now = Timestamp::now().to_string();
    let sites: Vec<Site> = site_of(operator, &name.namespace, &name.name, name, false)
        .into_iter()
        .collect();
    let start = Start {
        name: work_job_name(&name.name, "look", &now),
        namespace: &name.namespace,
        owner: owner(destination),
        run: run_key(name, &now),
        policy: None,
        purpose: Purpose {
            fingerprint: Some(key),
            destinations: destinations(&sites),
            ..Purpose::default()
        },
        sites,
        task: Task::Look {},
    };
    create(operator, start).await
}

/// Starts a Job that deletes what an object promised to take with it.
///
/// # Errors
/// As [`policy_job`].
pub async fn delete_job<K: Resource<DynamicType = ()>>(
    operator: &Operator,
    name: &Name,
    object: &K,
    mut task: DeleteTask,
    wanted: &BTreeMap<String, Name>,
) -> Result<(), StartError> {
    let sites: Vec<Site> = wanted
        .iter()
        .filter(|(alias, _)| task.snapshots.contains_key(*alias))
        .filter_map(|(alias, site)| site_of(operator, &name.namespace, alias, site, false))
        .collect();
    task.snapshots
        .retain(|alias, _| sites.iter().any(|site| site.alias == *alias));
    if let (true, Some(site)) = (sites.is_empty(), wanted.values().next()) {
        return Err(RunError::UnknownDestination(site.clone()).into());
    }
    let uid = object.uid().unwrap_or_default();
    let before = operator.host.history.owned_by(object);
    let before = before.iter().filter(|job| job.kind == TaskKind::Delete);
    let attempt = next_attempt(before.map(|job| job.name.name.as_str()));
    let start = Start {
        name: delete_job_name(&name.name, &uid, attempt),
        namespace: &name.namespace,
        owner: owner(object),
        run: run_key(name, &format!("{uid}-{attempt}")),
        policy: None,
        purpose: Purpose {
            object: Some(name.name.clone()),
            destinations: destinations(&sites),
            ..Purpose::default()
        },
        sites,
        task: Task::Delete(task),
    };
    create(operator, start).await
}

/// What is to be done besides a backup, or after it.
fn planned(plan: &Plan) -> Vec<PlannedTask> {
    plan.work()
        .chain(&plan.forecast)
        .filter_map(|action| {
            let (kind, destination) = match action {
                Action::Copy { to, .. } => (RunKind::Copy, to),
                Action::Forget { destination, .. } => (RunKind::Forget, destination),
                Action::Prune { destination } => (RunKind::Prune, destination),
                _ => return None,
            };
            Some(PlannedTask {
                kind,
                destination: destination.clone(),
            })
        })
        .collect()
}

/// Stands for all that an upkeep is to do: every snapshot that it copies or forgets.
pub fn upkeep_key(plan: &Plan) -> String {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for action in plan.work() {
        if let Ok(text) = serde_json::to_string(action) {
            hasher.update(text.as_bytes());
        }
    }
    format!("{:016x}", hasher.digest())
}

fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        // A policy that is deleted does not wait for its Jobs.
        block_owner_deletion: Some(false),
    }
}

fn destinations(sites: &[Site]) -> BTreeMap<String, String> {
    sites
        .iter()
        .map(|site| (site.alias.clone(), site.name.to_string()))
        .collect()
}

fn sites_of_policy(operator: &Operator, policy: &Name, observed: &PolicyObservation) -> Vec<Site> {
    operator
        .host
        .declared()
        .destinations_of(policy)
        .into_iter()
        .filter_map(|(name, _)| {
            let pending = observed
                .destinations
                .get(&name.name)
                .is_some_and(|one| one.prune_pending);
            site_of(operator, &policy.namespace, &name.name, &name, pending)
        })
        .collect()
}

/// A destination for a Job of the namespace `guest`, if that may use it: whoever decided that there
/// is to be a Job may have done so before that was taken back. One that is being deleted counts.
fn site_of(
    operator: &Operator,
    guest: &str,
    alias: &str,
    name: &Name,
    prune_pending: bool,
) -> Option<Site> {
    let object = operator.host.destinations.get(name)?;
    if !object.spec.allows(&name.namespace, guest) {
        return None;
    }
    let known_repository_id = object
        .status
        .as_ref()
        .filter(|status| status.observed_generation == object.metadata.generation)
        .and_then(|status| status.repository_id.clone());
    Some(Site {
        alias: alias.to_owned(),
        name: name.clone(),
        spec: object.spec.clone(),
        known_repository_id,
        prune_pending,
    })
}

async fn create(operator: &Operator, mut start: Start<'_>) -> Result<(), StartError> {
    let order = JobOrder {
        name: &start.name,
        namespace: start.namespace,
        owner: start.owner.clone(),
        run: start.run.clone(),
        policy: start.policy,
        destinations: start
            .sites
            .iter()
            .map(|site| OrderDestination {
                name: &site.alias,
                spec: &site.spec,
                foreign_namespace: (site.name.namespace != start.namespace)
                    .then_some(site.name.namespace.as_str()),
                known_repository_id: site.known_repository_id.clone(),
                prune_pending: site.prune_pending,
            })
            .collect(),
        task: start.task.clone(),
        fingerprint: start.purpose.fingerprint.as_deref(),
        settings: &operator.jobs,
    };
    let built = job::build(&order)?;
    // Before the Job: its pods would wait for it without end.
    if let Some(secret) = &built.secret {
        copy(operator, secret).await?;
    }
    let mut wanted = built.job;
    // It counts from when what the Job came to is kept: an operator that was away finds it all.
    start.purpose.ttl_seconds = wanted
        .spec
        .as_mut()
        .and_then(|spec| spec.ttl_seconds_after_finished.take());
    let purpose = serde_json::to_string(&start.purpose)
        .map_err(|error| RunError::Panicked(error.to_string()))?;
    wanted
        .annotations_mut()
        .insert(PURPOSE_ANNOTATION.to_owned(), purpose);
    let name = Name::new(start.namespace, &start.name);
    let jobs: Api<Job> = Api::namespaced(operator.host.client.clone(), start.namespace);
    let created = match jobs.create(&PostParams::default(), &wanted).await {
        Ok(job) => {
            tracing::info!(job = %name, kind = start.task.kind().as_str(), policy = start.purpose.policy, "A Job was started.");
            job
        }
        // It was created before: by a pass whose answer was lost, or by the leader before this one.
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            return adopt(operator, &jobs, name, &start.owner.uid).await;
        }
        Err(kube::Error::Api(answer)) if answer.code == 403 => {
            return Err(StartError::NotAdmitted {
                name,
                cause: answer.message.clone(),
            });
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 400 | 422) => {
            return Err(StartError::Refused {
                name,
                cause: answer.message.clone(),
            });
        }
        Err(error) => return Err(RunError::api("create", "Job", &name, &error).into()),
    };
    if let Some(record) = JobRecord::of(&created) {
        operator.host.history.put(record);
    }
    Ok(())
}

/// Takes over the Job that has the name already, if it is the one that was to be created.
async fn adopt(
    operator: &Operator,
    jobs: &Api<Job>,
    name: Name,
    owner: &str,
) -> Result<(), StartError> {
    let job = jobs
        .get(&name.name)
        .await
        .map_err(|error| RunError::api("read", "Job", &name, &error))?;
    let record = may_adopt(&job, owner).map_err(|whose| StartError::NameTaken { name, whose })?;
    let concerns = record.concerns();
    operator.host.history.put(record);
    // It may have ended, of which nothing was known when it was decided to start it.
    super::watch::concern(&operator.wakes, concerns);
    Ok(())
}

/// What a Job says of itself, if it is ours and of this owner; or else whose it is.
fn may_adopt(job: &Job, owner: &str) -> Result<JobRecord, &'static str> {
    let record = JobRecord::of(job).ok_or("is not Holdfast's")?;
    match &record.owner {
        Some(known) if known.uid == owner => Ok(record),
        _ => Err("belongs to another object, maybe to one that is gone and had the same name"),
    }
}

/// Copies the keys of destinations of other namespaces to where the pod can mount them.
async fn copy(operator: &Operator, secret: &RunSecret) -> Result<(), StartError> {
    let client = &operator.host.client;
    let mut values = BTreeMap::new();
    for entry in &secret.entries {
        let (namespace, name, key) = &entry.from;
        let source = holdfast_crds::SecretSource::SecretKeyRef(holdfast_crds::SecretKeySelector {
            name: name.clone(),
            key: key.clone(),
        });
        let value = operator
            .host
            .secret(namespace, &source)
            .await
            .map_err(|error| StartError::Copy(error.to_string()))?;
        values.insert(
            entry.key.clone(),
            ByteString(value.expose_secret().as_bytes().to_vec()),
        );
    }
    let manifest = secret.manifest(values);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &secret.namespace);
    // What is not applied any more goes: a key that was changed must not stay behind.
    let parameters = PatchParams::apply(CONTROLLER).force();
    match secrets
        .patch(&secret.name, &parameters, &Patch::Apply(&manifest))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 403 => Err(StartError::Copy(format!(
            "{}; allow it by the chart's value sharedDestinations",
            answer.message
        ))),
        Err(error) => Err(StartError::Copy(error.to_string())),
    }
}
