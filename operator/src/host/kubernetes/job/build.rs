//! The Job of a work. Nothing is read and nothing is asked: the same order is the same Job.

use std::collections::BTreeMap;

use holdfast_crds::{
    BackupPolicySpec, JobTemplate, MongoConnection, OnConflict, RestoreTarget, SecretSource,
    Source, Storage,
};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::claims::{self, Claims};
use super::order::{BuildError, JobOrder};
use super::pod::{self, PodParts};
use super::secrets::{Owner, RunSecret, Secrets};
use super::{
    ANNOTATION_FINGERPRINT, ANNOTATION_OBJECT, ANNOTATION_POLICY, ANNOTATION_SCHEDULED_FOR,
    CONTAINER, EXIT_PERMANENT, LABEL_MANAGED_BY, LABEL_POLICY, LABEL_RUN, MANAGER, SECRETS_FOLDER,
    Task, TaskKind, Work, WorkDestination, WorkPolicy, keys_name, label_value,
};

/// How long a look may take: nothing is written, and another one follows.
const LOOK_SECONDS: i64 = 3_600;

/// A Job, ready to be created, and the Secret that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The Job.
    pub job: Job,
    /// The Secret with the keys of foreign destinations, to be applied before the Job is created.
    pub secret: Option<RunSecret>,
}

/// Builds the Job of an order.
///
/// # Errors
/// When something declared is not possible in a cluster, or the work is too large for a pod.
pub fn build(order: &JobOrder<'_>) -> Result<Built, BuildError> {
    let mut parts = Parts {
        secrets: Secrets::default(),
        claims: Claims::default(),
    };
    let work = parts.work(order)?;
    let default = JobTemplate::default();
    let template = order
        .policy
        .and_then(|(_, spec)| spec.job.as_ref())
        .unwrap_or(&default);
    let json = work.to_json()?;
    let keys = keys_name(&order.owner.name, &order.owner.uid);
    let (mut volumes, mut mounts): (Vec<_>, Vec<_>) =
        parts.secrets.volumes(&keys).into_iter().unzip();
    volumes.extend(parts.claims.volumes());
    mounts.extend(parts.claims.mounts());
    let pod = pod::spec(
        PodParts {
            work: json,
            volumes,
            mounts,
            root_capabilities: root_capabilities(order),
        },
        template,
        order.settings,
    );
    for container in &pod.containers {
        claims::check(container.volume_mounts.as_deref().unwrap_or_default())?;
    }
    let labels = labels(order);
    let job = Job {
        metadata: ObjectMeta {
            name: Some(order.name.to_owned()),
            namespace: Some(order.namespace.to_owned()),
            labels: Some(labels.clone()),
            annotations: Some(annotations(order)),
            owner_references: Some(vec![order.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            parallelism: Some(1),
            completions: Some(1),
            backoff_limit: Some(backoff_limit(&order.task, template)),
            active_deadline_seconds: Some(deadline(order, template)),
            ttl_seconds_after_finished: Some(template.ttl_seconds_after_finished),
            pod_failure_policy: Some(pod_failure_policy(&order.task)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    };
    Ok(Built {
        job,
        secret: parts.secrets.run_secret(order.namespace, &order.owner),
    })
}

struct Parts {
    secrets: Secrets,
    claims: Claims,
}

impl Parts {
    fn work(&mut self, order: &JobOrder<'_>) -> Result<Work, BuildError> {
        let task = self.task(order)?;
        let mut work = Work::new(order.run.clone(), order.namespace, task);
        for destination in &order.destinations {
            let owner = Owner {
                object: format!("Destination {}", destination.name),
                foreign_namespace: destination.foreign_namespace,
            };
            let spec = self.secrets.destination(&owner, destination.spec)?;
            if let Storage::Local(local) = &destination.spec.storage
                && let Some(claim) = &local.persistent_volume_claim
            {
                self.claims.mount(&claim.claim_name, &local.path, false);
            }
            work.destinations.insert(
                destination.name.to_owned(),
                WorkDestination {
                    spec,
                    known_repository_id: destination.known_repository_id.clone(),
                    prune_pending: destination.prune_pending,
                },
            );
        }
        if let Some((name, spec)) = order.policy
            && needs_policy(&order.task)
        {
            work.policy = Some(WorkPolicy {
                name: name.to_owned(),
                spec: self.policy(order, name, spec)?,
            });
        }
        let keys = keys_name(&order.owner.name, &order.owner.uid);
        work.secrets = self.secrets.folders(&keys);
        Ok(work)
    }

    fn task(&mut self, order: &JobOrder<'_>) -> Result<Task, BuildError> {
        let mut task = order.task.clone();
        let Task::Restore(restore) = &mut task else {
            return Ok(task);
        };
        let owner = Owner {
            object: format!("Restore {}", restore.name),
            foreign_namespace: None,
        };
        match &mut restore.spec.to {
            RestoreTarget::Original(_) => {}
            RestoreTarget::Mongodb(to) => {
                to.connection =
                    self.secrets
                        .connection(&owner, "spec.to.mongodb.uriFrom", &to.connection)?;
            }
            RestoreTarget::Files(to) => {
                let claim = to.persistent_volume_claim.take();
                let claim = claim.ok_or_else(|| BuildError::NotInCluster {
                    field: format!("spec.to.files.path of {}", owner.object),
                    why: "a pod has no disk of its own; name a claim in spec.to.files.persistentVolumeClaim",
                })?;
                self.claims.mount(&claim.claim_name, &to.path, false);
            }
        }
        Ok(task)
    }

    fn policy(
        &mut self,
        order: &JobOrder<'_>,
        name: &str,
        spec: &BackupPolicySpec,
    ) -> Result<BackupPolicySpec, BuildError> {
        let owner = Owner {
            object: format!("BackupPolicy {name}"),
            foreign_namespace: None,
        };
        let mut spec = spec.clone();
        spec.job = None;
        for destination in &mut spec.destinations {
            destination.namespace = None;
        }
        let reads = !matches!(order.task, Task::Upkeep {});
        match &mut spec.source {
            Source::Mongodb(source) => {
                source.connection = if reads {
                    let field = "spec.source.mongodb.uriFrom";
                    self.secrets.connection(&owner, field, &source.connection)?
                } else {
                    not_read(&source.connection)
                };
            }
            Source::Files(source) => {
                let claim = source.persistent_volume_claim.take();
                let claim = claim.ok_or_else(|| BuildError::NotInCluster {
                    field: format!("spec.source.files.paths of {}", owner.object),
                    why: "a pod has no disk of its own; name a claim in spec.source.files.persistentVolumeClaim",
                })?;
                if reads {
                    let restores = matches!(order.task, Task::Restore(_));
                    self.claims
                        .mount(&claim.claim_name, &claim.mount_path, !restores);
                }
            }
        }
        Ok(spec)
    }
}

/// A connection that is not made: its secret stays where it is.
fn not_read(connection: &MongoConnection) -> MongoConnection {
    match connection {
        MongoConnection::Uri(uri) => MongoConnection::Uri(uri.clone()),
        MongoConnection::UriFrom(_) => {
            MongoConnection::UriFrom(SecretSource::File(format!("{SECRETS_FOLDER}/not-mounted")))
        }
    }
}

/// A restore elsewhere has no use for the policy's secrets.
fn needs_policy(task: &Task) -> bool {
    match task {
        Task::Backup(_) | Task::Upkeep {} => true,
        Task::Restore(restore) => matches!(restore.spec.to, RestoreTarget::Original(_)),
        Task::Look {} | Task::Delete(_) => false,
    }
}

fn root_capabilities(order: &JobOrder<'_>) -> &'static [&'static str] {
    match &order.task {
        Task::Restore(_) => &["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"],
        _ => &["DAC_OVERRIDE"],
    }
}

fn labels(order: &JobOrder<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (
            "app.kubernetes.io/name".to_owned(),
            "holdfast-worker".to_owned(),
        ),
        (LABEL_MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (LABEL_RUN.to_owned(), order.task.kind().as_str().to_owned()),
    ]);
    if let Some((policy, _)) = order.policy {
        labels.insert(LABEL_POLICY.to_owned(), label_value(policy));
    }
    labels
}

fn annotations(order: &JobOrder<'_>) -> BTreeMap<String, String> {
    let (object, scheduled_for) = match &order.task {
        Task::Backup(task) => (task.object.clone(), task.scheduled_for),
        Task::Restore(task) => (Some(task.name.clone()), None),
        Task::Upkeep {} | Task::Look {} | Task::Delete(_) => (None, None),
    };
    [
        (
            ANNOTATION_POLICY,
            order.policy.map(|(name, _)| name.to_owned()),
        ),
        (ANNOTATION_OBJECT, object),
        (
            ANNOTATION_SCHEDULED_FOR,
            scheduled_for.map(|time| time.to_string()),
        ),
        (ANNOTATION_FINGERPRINT, order.fingerprint.map(str::to_owned)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

fn backoff_limit(task: &Task, template: &JobTemplate) -> i32 {
    match task {
        _ if is_tried_once(task) => 0,
        Task::Restore(_) => template.backoff_limit.min(2),
        _ => template.backoff_limit,
    }
}

/// A restore that found nothing in its way finds its own half the second time, unless it may
/// replace that.
fn is_tried_once(task: &Task) -> bool {
    matches!(
        task,
        Task::Restore(restore)
            if !restore.spec.dry_run && restore.spec.to.on_conflict() == OnConflict::Fail
    )
}

fn deadline(order: &JobOrder<'_>, template: &JobTemplate) -> i64 {
    let general = template
        .active_deadline_seconds
        .unwrap_or(order.settings.active_deadline_seconds);
    if order.task.kind() == TaskKind::Look {
        general.min(LOOK_SECONDS)
    } else {
        general
    }
}

/// What fails again until something else has changed is not repeated by the Job; a pod that was
/// driven off its node does not count, unless what it left behind stands in the next one's way.
fn pod_failure_policy(task: &Task) -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "FailJob".to_owned(),
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: Some(CONTAINER.to_owned()),
                    operator: "In".to_owned(),
                    // 2: the image does not know the command.
                    values: vec![2, i32::from(EXIT_PERMANENT)],
                }),
                on_pod_conditions: None,
            },
            PodFailurePolicyRule {
                action: if is_tried_once(task) {
                    "FailJob".to_owned()
                } else {
                    "Ignore".to_owned()
                },
                on_exit_codes: None,
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: Some("True".to_owned()),
                }]),
            },
        ],
    }
}
