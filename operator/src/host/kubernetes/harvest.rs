//! Reads what a Job came to: the message that its last pod left, or what Kubernetes says of a pod
//! that left none. It is read once and kept with the Job, since pods go away before their Job does.

use std::sync::Arc;

use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::job::{TaskKind, WorkListing, WorkOutcome, WorkResult};
use super::operator::{Operator, PassError};
use super::record::{Ended, JobRecord, Kept, OUTCOME_ANNOTATION};
use crate::reconcile::look::Looked;
use crate::run::RunError;

/// The label by which the pods of a Job are found.
pub(super) const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// How many bytes of a pod's log are looked through for listings.
const LOG_LIMIT: i64 = 16 * 1024 * 1024;

/// Reads what came of a Job that has ended, and keeps it with the Job.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub async fn harvest(operator: &Operator, record: &Arc<JobRecord>) -> Result<(), PassError> {
    let Some(ended) = &record.ended else {
        return Ok(());
    };
    let client = operator.host.client.clone();
    let namespace = &record.name.namespace;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{JOB_NAME}={}", record.name.name);
    let found = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| RunError::api("list the pods of", "Job", &record.name, &error))?;
    let last = found
        .items
        .into_iter()
        .filter(|pod| phase(pod) != Some("Pending") && phase(pod) != Some("Running"))
        .max_by_key(|pod| (finished(pod), pod.creation_timestamp().map(|time| time.0)));
    let kept = kept(record, ended, last.as_ref());
    if let Some(pod) = &last {
        listings(operator, record, &pods, pod).await;
    }
    keep(operator, record, &kept).await?;
    tell(record, &kept);
    for alias in record.purpose.destinations.keys() {
        let destination = record.destination(alias);
        operator.host.looks.expire(&destination);
        operator.wakes.destination(&destination);
    }
    Ok(())
}

/// What is kept of a Job.
fn kept(record: &JobRecord, ended: &Ended, pod: Option<&Pod>) -> Kept {
    let state = pod.and_then(terminated);
    let message = state
        .and_then(|state| state.message.as_deref())
        .and_then(|message| WorkOutcome::from_message(message.trim()).ok());
    let time = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.map(|time| time.0)
    };
    let outcome = message.map(|outcome| explained(record.kind, outcome, ended, pod));
    let outcome = outcome.unwrap_or_else(|| {
        if ended.complete {
            // Its pod is gone and it ended well: the repository tells the rest.
            WorkOutcome::new(WorkResult::Succeeded, None)
        } else {
            cut_off(record.kind, &why(ended, pod))
        }
    });
    Kept {
        holder: pod
            .and_then(ResourceExt::uid)
            .unwrap_or_else(|| record.uid.clone()),
        started: state
            .and_then(|state| time(state.started_at.as_ref()))
            .unwrap_or(record.created),
        ended: state
            .and_then(|state| time(state.finished_at.as_ref()))
            .unwrap_or(ended.at),
        outcome,
    }
}

/// A pod that was killed could leave the account of its runs, and not why it was killed.
fn explained(
    kind: TaskKind,
    mut outcome: WorkOutcome,
    ended: &Ended,
    pod: Option<&Pod>,
) -> WorkOutcome {
    if outcome.result == WorkResult::Interrupted {
        outcome.error = cut_off(kind, &why(ended, pod)).error;
        // The run that it was cut off in knows no more than that.
        for run in &mut outcome.runs {
            let stopped = run
                .error
                .as_ref()
                .is_some_and(|error| error.reason == "Cancelled");
            if stopped {
                run.error.clone_from(&outcome.error);
            }
        }
    }
    outcome
}

/// The outcome of a pod that did not end its work, and after which there is none.
fn cut_off(kind: TaskKind, why: &str) -> WorkOutcome {
    let mut outcome = WorkOutcome::interrupted(why);
    if kind == TaskKind::Restore
        && let Some(error) = &mut outcome.error
    {
        error.message = format!(
            "the restore was cut off, and part of it may have been written: {why}. Look at the target, then create another Restore, with onConflict Drop or Merge if it is to write over that part"
        );
    }
    outcome
}

/// Why a pod left no word, as Kubernetes tells it.
fn why(ended: &Ended, pod: Option<&Pod>) -> String {
    let mut words = pod.map(words_of).unwrap_or_default();
    if pod.is_none() {
        words.push("no pod of it is there any more".to_owned());
    }
    if !ended.reason.is_empty() {
        words.push(format!("{}: {}", ended.reason, ended.message));
    }
    words.dedup();
    let mut why = words.join("; ");
    why.truncate(why.floor_char_boundary(1500));
    why
}

/// What Kubernetes says of a pod that has ended.
pub(super) fn words_of(pod: &Pod) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if let Some(status) = &pod.status {
        words.extend(status.reason.clone());
        words.extend(status.message.clone());
    }
    if let Some(state) = terminated(pod) {
        let reason = state.reason.clone().unwrap_or_else(|| "Error".to_owned());
        words.push(format!(
            "its container ended with {reason}, exit code {}",
            state.exit_code
        ));
        words.extend(
            state
                .message
                .as_deref()
                .map(str::trim)
                .filter(|message| !message.is_empty())
                .filter(|message| WorkOutcome::from_message(message).is_err())
                .map(ToOwned::to_owned),
        );
    }
    words.dedup();
    words
}

pub(super) fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    pod.status
        .as_ref()?
        .container_statuses
        .as_ref()?
        .iter()
        .find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

pub(super) fn finished(pod: &Pod) -> Option<Timestamp> {
    terminated(pod)?.finished_at.as_ref().map(|time| time.0)
}

async fn keep(operator: &Operator, record: &JobRecord, kept: &Kept) -> Result<(), PassError> {
    let text =
        serde_json::to_string(kept).map_err(|error| RunError::Panicked(error.to_string()))?;
    let jobs: Api<Job> = Api::namespaced(operator.host.client.clone(), &record.name.namespace);
    let patch = json!({"metadata": {"uid": record.uid, "annotations": {OUTCOME_ANNOTATION: text}}});
    changed(operator, record, jobs, patch, "keep the outcome of").await
}

/// Lets Jobs go after their time, now that all they came to is told in a status: before that, one
/// that is to go at once would leave no trace, and be started again.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub async fn release(operator: &Operator, records: &[Arc<JobRecord>]) -> Result<(), PassError> {
    for record in records {
        let Some(seconds) = record.purpose.ttl_seconds else {
            continue;
        };
        if record.kept.is_none() || record.released || record.leaving {
            continue;
        }
        let client = operator.host.client.clone();
        let jobs: Api<Job> = Api::namespaced(client, &record.name.namespace);
        let patch = json!({
            "metadata": {"uid": record.uid}, "spec": {"ttlSecondsAfterFinished": seconds},
        });
        changed(operator, record, jobs, patch, "set the time to live of").await?;
    }
    Ok(())
}

async fn changed(
    operator: &Operator,
    record: &JobRecord,
    jobs: Api<Job>,
    patch: serde_json::Value,
    what: &'static str,
) -> Result<(), PassError> {
    match jobs
        .patch(
            &record.name.name,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(job) => {
            if let Some(record) = JobRecord::of(&job) {
                operator.host.history.put(record);
            }
            Ok(())
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {
            operator.host.history.remove(&record.name);
            Ok(())
        }
        Err(error) => Err(RunError::api(what, "Job", &record.name, &error).into()),
    }
}

/// Takes over what the pod saw in destinations that only pods can look into.
async fn listings(operator: &Operator, record: &JobRecord, pods: &Api<Pod>, pod: &Pod) {
    let on_claims = record.purpose.destinations.keys().any(|alias| {
        operator
            .host
            .destinations
            .get(&record.destination(alias))
            .is_some_and(|one| matches!(one.spec.storage, holdfast_crds::Storage::Local(_)))
    });
    if !on_claims {
        return;
    }
    let parameters = LogParams {
        limit_bytes: Some(LOG_LIMIT),
        ..LogParams::default()
    };
    let log = match pods.logs(&pod.name_any(), &parameters).await {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!(job = %record.name, %error, "The log of a pod cannot be read; what it saw is not known.");
            return;
        }
    };
    for listing in WorkListing::read(&log) {
        let name = record.destination(&listing.destination);
        let key = operator.host.destination_key(&name);
        let looked = match listing.repository_id {
            _ if !listing.is_whole() => {
                let (told, all) = (listing.snapshots.len(), listing.backups);
                tracing::warn!(job = %record.name, destination = %name, told, all, "A listing is not whole.");
                Looked::Unusable {
                    class: ErrorClass::Transient,
                    reason: "ListingIncomplete".to_owned(),
                    message: format!(
                        "the log of pod {} tells of {told} of {all} backups in {name}: the node keeps too little of it, and what is not told must not be taken for missing; raise the kubelet's containerLogMaxSize, or shorten the retention",
                        pod.name_any()
                    ),
                }
            }
            Some(repository_id) => Looked::Open {
                repository_id,
                snapshots: listing.snapshots,
                stored_bytes: listing.stored_bytes,
            },
            None => Looked::Empty,
        };
        operator.host.looks.put(&name, key, looked).await;
    }
}

fn tell(record: &JobRecord, kept: &Kept) {
    let kind = record.kind.as_str();
    let error = kept.outcome.error.as_ref().map(|error| &error.message);
    match kept.outcome.result {
        WorkResult::Succeeded => {
            tracing::info!(job = %record.name, kind, policy = record.purpose.policy, "A Job succeeded.");
        }
        WorkResult::Failed | WorkResult::Interrupted => {
            tracing::warn!(job = %record.name, kind, policy = record.purpose.policy, error, "A Job failed.");
        }
    }
}
