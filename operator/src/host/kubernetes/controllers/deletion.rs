//! Objects that are being deleted and promised to take their data with them: a Job deletes it, and
//! the object goes when nothing of it is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::{Backup, Destination};
use holdfast_engine::class::Classified;
use kube::ResourceExt;

use super::super::job::DeleteTask;
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::{finalizer, start};
use crate::host::{Host, Name};
use crate::plan::deletion::{Deleted, DeletionSite, plan_deletion};
use crate::plan::{Action, Plan};
use crate::reconcile::look::Depth;

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
    let next = delete(operator, object.as_ref(), name, &plan, &sites).await?;
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
    let used_by: Vec<String> = host
        .declared()
        .policies
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
    if let Some(next) = delete(operator, object.as_ref(), name, &plan, &sites).await? {
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

/// Has a plan carried out; `None` when nothing of it is left to do.
async fn delete<K: Controlled>(
    operator: &Operator,
    object: &K,
    name: &Name,
    plan: &Plan,
    sites: &BTreeMap<String, Name>,
) -> Result<Option<Next>, PassError> {
    if let Some((reason, message)) = plan.refusal() {
        operator
            .host
            .events
            .publish(
                &object.object_ref(&()),
                kube::runtime::events::EventType::Warning,
                reason,
                message,
            )
            .await;
        return Ok(Some(Next::Pause));
    }
    let jobs = operator.host.history.owned_by::<K>(name);
    if jobs.iter().any(|job| job.is_open()) {
        return Ok(Some(Next::Change));
    }
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
    if snapshots.is_empty() {
        return Ok(None);
    }
    let task = DeleteTask {
        object: format!("{} {name}", K::KIND),
        snapshots,
    };
    let attempt = jobs.len();
    let uid = object.uid().unwrap_or_default();
    match start::delete_job(
        operator,
        name,
        object,
        task,
        sites,
        &format!("{uid}-{attempt}"),
    )
    .await
    {
        Ok(()) if attempt == 0 => Ok(Some(Next::Change)),
        Ok(()) => Ok(Some(Next::Pause)),
        Err(error) => {
            tracing::warn!(object = %name, %error, class = ?error.class(), "What was to be deleted with an object is still there.");
            Ok(Some(Next::Pause))
        }
    }
}
