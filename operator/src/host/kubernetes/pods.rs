//! Pods that do not get to work: an image that cannot be pulled, no node that takes them, a claim that
//! is not there, or one after another that fails. A Job says nothing of it before its deadline, which
//! may be days away.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::harvest;
use super::job::WorkOutcome;
use super::operator::Operator;
use super::record::JobRecord;

/// How long a Job may have no pod at work before anybody is told: images are pulled, nodes started.
const GRACE: SignedDuration = SignedDuration::from_mins(2);

/// The reason where no pod of a Job starts.
pub const POD_PENDING: &str = "PodPending";

/// The reason where a pod failed and its Job makes another.
pub const RETRYING: &str = "Retrying";

/// What keeps the pods of a Job from their work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The reason for a condition.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
    /// The Backup that asked for the Job.
    pub object: Option<String>,
}

/// What was seen of the pods of Jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What is wrong.
    pub trouble: Option<Trouble>,
    /// When to look again: nothing tells of pods.
    pub again: Option<Timestamp>,
}

/// Looks at the pods of the Job that goes on, if it has had time enough to start one, or one failed.
pub async fn trouble(operator: &Operator, jobs: &[Arc<JobRecord>], now: Timestamp) -> Seen {
    let open = |job: &&Arc<JobRecord>| job.is_open() && job.ended.is_none();
    let Some(job) = jobs.iter().find(open) else {
        return Seen::default();
    };
    let due = job.created.checked_add(GRACE).unwrap_or(Timestamp::MAX);
    let idle = !job.running;
    if !(idle && due <= now) && job.failed_pods == 0 {
        return Seen {
            trouble: None,
            again: idle.then_some(due),
        };
    }
    let pods: Api<Pod> = Api::namespaced(operator.host.client.clone(), &job.name.namespace);
    let selector = format!("{}={}", harvest::JOB_NAME, job.name.name);
    let found = match pods.list(&ListParams::default().labels(&selector)).await {
        Ok(found) => found.items,
        Err(error) => {
            tracing::warn!(job = %job.name, %error, "The pods of a Job cannot be listed.");
            Vec::new()
        }
    };
    let again = idle.then(|| now.checked_add(GRACE).unwrap_or(Timestamp::MAX));
    let told = if idle && is_stuck(job, &found, now) {
        Some((POD_PENDING, pending(job, &found)))
    } else {
        failed(&found).map(|why| {
            let message = format!(
                "{} pods of Job {} failed, and another follows; the last: {why}",
                job.failed_pods, job.name.name
            );
            (RETRYING, message)
        })
    };
    Seen {
        trouble: told.map(|(reason, message)| Trouble {
            reason,
            message,
            object: job.purpose.object.clone(),
        }),
        again,
    }
}

/// Whether a pod had time enough to start, or its Job to make one.
fn is_stuck(job: &JobRecord, pods: &[Pod], now: Timestamp) -> bool {
    let had_time = |since: Timestamp| since.checked_add(GRACE).is_ok_and(|due| due <= now);
    let mut waiting = pods
        .iter()
        .filter(|pod| harvest::phase(pod) == Some("Pending"))
        .peekable();
    if waiting.peek().is_none() {
        // After one that failed the Job takes its time.
        return job.failed_pods == 0 && had_time(job.created);
    }
    waiting.any(|pod| {
        pod.creation_timestamp()
            .is_some_and(|time| had_time(time.0))
    })
}

/// Why no pod of a Job runs.
fn pending(job: &JobRecord, pods: &[Pod]) -> String {
    let waiting = pods
        .iter()
        .filter(|pod| harvest::phase(pod) == Some("Pending"))
        .max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let name = &job.name.name;
    let since = job.created;
    match waiting {
        Some(pod) => format!(
            "pod {} of Job {name}, made {since}, does not start: {}",
            pod.name_any(),
            obstacle(pod).unwrap_or_else(|| {
                format!("kubectl describe pod {} tells why", pod.name_any())
            })
        ),
        None => {
            format!("Job {name}, made {since}, has no pod: kubectl describe job {name} tells why")
        }
    }
}

/// What a pod waits for, in the words of Kubernetes.
fn obstacle(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let words = |reason: Option<&String>, message: Option<&String>| {
        let words: Vec<&str> = reason
            .into_iter()
            .chain(message)
            .map(String::as_str)
            .collect();
        (!words.is_empty()).then(|| words.join(": "))
    };
    let waiting = containers
        .filter_map(|container| container.state.as_ref())
        .filter_map(|state: &ContainerState| state.waiting.as_ref())
        .find_map(|waiting| {
            let usual = ["ContainerCreating", "PodInitializing"];
            let known = waiting
                .reason
                .as_deref()
                .is_some_and(|it| usual.contains(&it));
            let told = !known || waiting.message.is_some();
            told.then(|| words(waiting.reason.as_ref(), waiting.message.as_ref()))?
        });
    let refused = || {
        status
            .conditions
            .iter()
            .flatten()
            .find(|one| one.status == "False" && one.type_ == "PodScheduled")
            .and_then(|one| words(one.reason.as_ref(), one.message.as_ref()))
    };
    waiting
        .or_else(refused)
        .or_else(|| words(status.reason.as_ref(), status.message.as_ref()))
}

/// What the last pod failed at that did: what it says itself, or else Kubernetes.
fn failed(pods: &[Pod]) -> Option<String> {
    let last = pods
        .iter()
        .filter(|pod| harvest::phase(pod) == Some("Failed"))
        .max_by_key(|pod| {
            (
                harvest::finished(pod),
                pod.creation_timestamp().map(|time| time.0),
            )
        })?;
    let said = harvest::terminated(last)
        .and_then(|state| state.message.as_deref())
        .and_then(|message| WorkOutcome::from_message(message.trim()).ok())
        .filter(|outcome| outcome.result == super::job::WorkResult::Failed)
        .and_then(|outcome| outcome.error)
        .map(|error| error.message);
    Some(said.unwrap_or_else(|| harvest::words_of(last).join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "shop-1-abcde", "namespace": "default"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_waits_says_what_for() {
        let image = pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "worker", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling x"}},
        }]}));
        assert_eq!(
            obstacle(&image).as_deref(),
            Some("ImagePullBackOff: Back-off pulling x")
        );
        let node = pod(json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "persistentvolumeclaim \"shop\" not found",
        }]}));
        assert!(
            obstacle(&node)
                .unwrap()
                .contains("claim \"shop\" not found")
        );
        let starts = pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "worker", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        }]}));
        assert_eq!(obstacle(&starts), None);
    }

    #[test]
    fn a_pod_that_failed_says_it_in_its_own_words_or_in_those_of_kubernetes() {
        let ended = |message: &str| {
            pod(json!({"phase": "Failed", "containerStatuses": [{
                "name": "worker", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": message}},
            }]}))
        };
        let outcome = json!({"result": "Failed", "error": {
            "message": "the disk is full", "class": "transient", "reason": "StorageFull",
        }});
        let told = failed(&[ended(&outcome.to_string())]);
        assert_eq!(told.as_deref(), Some("the disk is full"));
        assert!(failed(&[ended("")]).unwrap().contains("OOMKilled"));
        assert_eq!(failed(&[pod(json!({"phase": "Running"}))]), None);
    }
}
