//! Objects that are being deleted and promised to take their data with them: a Job deletes it, and
//! the object goes when nothing of it is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::{Backup, BackupPolicy, Destination};
use holdfast_engine::class::Classified;
use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use super::super::job::{DeleteTask, TaskKind};
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::record::JobRecord;
use super::super::{finalizer, harvest, start};
use crate::host::{Host, Name};
use crate::plan::backoff::delay;
use crate::plan::deletion::{Deleted, DeletionSite, plan_deletion};
use crate::plan::{Action, Plan};
use crate::reconcile::conditions::{READY, Verdict};
use crate::reconcile::look::Depth;
use crate::run::RunError;

/// The condition of a Backup that is being deleted. That its run once succeeded stays true.
const DELETED: &str = "Deleted";

/// A Backup that is being deleted.
pub(super) async fn backup(
    operator: &Operator,
    name: &Name,
    object: &Arc<Backup>,
) -> Result<Next, PassError> {
    if !finalizer::has(object.as_ref()) {
        return Ok(Next::Never);
    }
    let host = &operator.host;
    let identity = object.status.as_ref().and_then(|status| status.id.clone());
    let Some(identity) = identity else {
        // One that asked for a run that never ended well has nothing to delete.
        finalizer::keep(operator, &host.backups, object.as_ref(), false).await?;
        return Ok(Next::Never);
    };
    let declared = host.declared();
    let policy = Name::new(&name.namespace, &object.spec.policy);
    // Where it is known to be, and where its policy puts it; what else the namespace declares must
    // not hold the deletion up. What the namespace may not use any more is somebody else's.
    let mut sites: BTreeMap<String, Name> = object
        .status
        .iter()
        .flat_map(|status| &status.copies)
        .map(|copy| declared.destination_name(&policy, &copy.destination))
        .filter(|destination| {
            let allowed = declared.destination_for(&name.namespace, destination);
            allowed.is_some()
        })
        .map(|destination| (destination.name.clone(), destination))
        .collect();
    for (destination, _) in declared.destinations_of(&policy) {
        sites.insert(destination.name.clone(), destination);
    }
    let deleted = Deleted::Backup {
        namespace: &name.namespace,
        name: &name.name,
        identity: &identity,
    };
    let plan = plan(operator, deleted, &sites).await;
    let next = delete(operator, object.as_ref(), name, &plan, &sites, DELETED).await?;
    if let Some(next) = next {
        return Ok(next);
    }
    finalizer::keep(operator, &host.backups, object.as_ref(), false).await?;
    Ok(Next::Never)
}

/// A Destination that is being deleted.
pub(super) async fn destination(
    operator: &Operator,
    name: &Name,
    object: &Arc<Destination>,
) -> Result<Next, PassError> {
    if !finalizer::has(object.as_ref()) {
        return Ok(Next::Never);
    }
    let host = &operator.host;
    let mut policies = host.declared().policies.clone();
    // One that was declared a moment before may not have been told yet, and what is deleted stays so.
    let own: Api<BackupPolicy> = Api::namespaced(host.client.clone(), &name.namespace);
    let listed = own
        .list(&ListParams::default())
        .await
        .map_err(|error| RunError::api("list the policies beside", "Destination", name, &error))?;
    for policy in listed {
        policies.insert(Name::of(&policy), Arc::new(policy));
    }
    let used_by: Vec<String> = policies
        .iter()
        .filter(|(policy, user)| {
            // One that names what it may not use must not hold it up, nor be told of.
            object.spec.allows(&name.namespace, &policy.namespace)
                && user.spec.destinations.iter().any(|one| {
                    one.name == name.name && one.namespace_for(&policy.namespace) == name.namespace
                })
        })
        .map(|(policy, _)| policy.to_string())
        .collect();
    let deleted = Deleted::Destination {
        namespace: &name.namespace,
        name: &name.name,
        used_by: &used_by,
    };
    let sites = BTreeMap::from([(name.name.clone(), name.clone())]);
    let plan = plan(operator, deleted, &sites).await;
    if let Some(next) = delete(operator, object.as_ref(), name, &plan, &sites, READY).await? {
        return Ok(next);
    }
    finalizer::keep(operator, &host.destinations, object.as_ref(), false).await?;
    Ok(Next::Never)
}

async fn plan(operator: &Operator, deleted: Deleted<'_>, sites: &BTreeMap<String, Name>) -> Plan {
    let mut observed = Vec::new();
    for (alias, name) in sites {
        let looked = operator
            .host
            .look(&operator.view.repositories, name, Depth::Snapshots)
            .await;
        observed.push(DeletionSite {
            destination: alias.clone(),
            state: looked.state_of_all(),
            busy: false,
        });
    }
    plan_deletion(deleted, &observed)
}

/// Has a plan carried out; `None` when nothing of it is left to do. Why something is left is in a
/// condition.
async fn delete<K: Controlled>(
    operator: &Operator,
    object: &K,
    name: &Name,
    plan: &Plan,
    sites: &BTreeMap<String, Name>,
    condition: &str,
) -> Result<Option<Next>, PassError> {
    let now = Timestamp::now();
    let say = async |reason: &str, message: &str| {
        let verdict = Verdict::no(reason, message);
        super::say(operator, K::KIND, name, condition, verdict, now).await
    };
    if let Some((reason, message)) = plan.refusal() {
        say(reason, message).await?;
        return Ok(Some(Next::Pause));
    }
    let mut jobs = operator.host.history.owned_by(object);
    jobs.retain(|job| job.kind == TaskKind::Delete);
    if jobs.iter().any(|job| job.is_open()) {
        return Ok(Some(Next::Change));
    }
    let snapshots = snapshots(plan);
    if snapshots.is_empty() {
        return Ok(None);
    }
    if let Some(next) = held_back(&jobs, now) {
        let failure = jobs.last().and_then(|job| job.failure());
        let why = failure.map_or("it is there again, or still", |error| &error.message);
        say(
            "DeletionFailed",
            &format!(
                "{} attempts to delete what was promised to be deleted with it did not do so, the last: {why}",
                jobs.len()
            ),
        )
        .await?;
        harvest::release(operator, &jobs).await?;
        return Ok(Some(Next::At(next)));
    }
    let task = DeleteTask {
        object: format!("{} {name}", K::KIND),
        snapshots,
    };
    match start::delete_job(operator, name, object, task, sites).await {
        Ok(()) => Ok(Some(Next::Change)),
        Err(error) => {
            say(error.reason(), &error.to_string()).await?;
            Ok(Some(Next::Pause))
        }
    }
}

/// What a plan deletes, by destination.
fn snapshots(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    let mut snapshots: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for action in &plan.actions {
        if let Action::Delete {
            destination,
            snapshots: wanted,
            ..
        } = action
        {
            snapshots
                .entry(destination.clone())
                .or_default()
                .extend(wanted.iter().map(|one| one.id.clone()));
        }
    }
    snapshots
}

/// Until when no other Job is made, after those that did not delete what they were to.
fn held_back(jobs: &[Arc<JobRecord>], now: Timestamp) -> Option<Timestamp> {
    let ended = jobs
        .iter()
        .filter_map(|job| Some(job.kept.as_ref()?.ended))
        .max()?;
    let failures = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let at = ended.checked_add(delay(failures)).ok()?;
    (at > now).then_some(at)
}
