//! A pass over a BackupPolicy: read what its Jobs came to, plan, start a Job where the plan holds
//! work, and show its restore points.

use std::sync::Arc;

use holdfast_crds::{BackupPolicy, MongoConnection, Source};
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use kube::Resource;

use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::pods::{self, Trouble};
use super::super::record::JobRecord;
use super::super::start::StartError;
use super::super::{catalogue, harvest, start};
use crate::host::{Host, Name};
use crate::plan::observed::{DestinationState, PolicyObservation};
use crate::plan::{Action, Plan};
use crate::reconcile::conditions::Verdict;
use crate::reconcile::{backup, dereference, policy};

impl Controlled for BackupPolicy {
    const KIND: &'static str = "BackupPolicy";
    const IS_MEASURED: bool = true;

    async fn pass(operator: &Operator, name: &Name) -> Result<Next, PassError> {
        let host = &operator.host;
        let Some(object) = host.policies.get(name) else {
            return Ok(Next::Never);
        };
        if object.meta().deletion_timestamp.is_some() {
            return Ok(Next::Never);
        }
        let now = Timestamp::now();
        let last_handled = object
            .status
            .as_ref()
            .and_then(|status| status.last_handled_request.as_ref());
        let (patience, forced) = super::patience(
            operator,
            Self::KIND,
            name,
            object.as_ref(),
            last_handled,
            now,
        );
        if forced {
            for (destination, _) in host.declared().destinations_of(name) {
                host.looks.expire(&destination);
            }
        }
        for job in host.history.of_policy(name) {
            if job.is_to_be_read() {
                harvest::harvest(operator, &job).await?;
            }
        }
        let (plan, observed) = policy::plan(&operator.view, name, patience, now).await?;
        let begun = begin(operator, name, &object, &plan, &observed, forced, now).await;
        let jobs = host.history.of_policy(name);
        let pods = pods::trouble(operator, &jobs, now).await;
        // One verdict a pass: two that take turns would be two writes and two events each time.
        let instead = match &begun {
            Begun::Obstacle(obstacle) => Some(obstacle.verdict.clone()),
            Begun::Started | Begun::Nothing(_) | Begun::Failed(_) => pods
                .trouble
                .as_ref()
                .map(|trouble| Verdict::no(trouble.reason, trouble.message.clone())),
        };
        policy::report(&operator.view, name, &plan, &observed, instead, now).await?;
        report_requests(operator, name, pods.trouble.as_ref(), now).await;
        operator.observer.policy(&operator.view, name).await;
        catalogue::sync(operator, name).await?;
        harvest::release(operator, &host.history.of_policy(name)).await?;
        let next = Next::at(plan.next());
        if plan.work().next().is_none() {
            return Ok(next);
        }
        if let Some(obstacle) = obstacle(operator, name, &object, &plan, &observed).await {
            policy::refuse(&operator.view, name, obstacle.verdict, now).await?;
            return Ok(match obstacle.class {
                ErrorClass::Permanent => next,
                _ => Next::Pause,
            });
        }
        match start::policy_job(operator, name, &object, &plan, &observed).await {
            // The Job's own events wake the policy again.
            Ok(()) => Ok(next),
            Err(error) if error.class() == ErrorClass::Permanent => {
                let verdict = Verdict::no(error.reason(), error.to_string());
                policy::refuse(&operator.view, name, verdict, now).await?;
                Ok(next)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Why no Job is started although the plan holds work.
struct Obstacle {
    class: ErrorClass,
    verdict: Verdict,
}

/// What a pod would fail at for certain, or wait for in vain: a destination that is wrong, a Secret
/// that is not there.
async fn obstacle(
    operator: &Operator,
    name: &Name,
    object: &Arc<BackupPolicy>,
    plan: &Plan,
    observed: &PolicyObservation,
) -> Option<Obstacle> {
    let backs_up = plan
        .actions
        .iter()
        .any(|action| matches!(action, Action::Backup { .. }));
    if !backs_up {
        return None;
    }
    if let Some(destination) = object.spec.destinations.first() {
        let state = observed
            .destinations
            .get(&destination.name)
            .map(|one| &one.state);
        if let Some(DestinationState::Unusable {
            class,
            reason,
            message,
        }) = state
            && *class != ErrorClass::Transient
        {
            return Some(Obstacle {
                class: *class,
                verdict: Verdict::no(
                    reason,
                    format!("destination {}: {message}", destination.name),
                ),
            });
        }
    }
    let Source::Mongodb(source) = &object.spec.source else {
        return None;
    };
    if matches!(source.connection, MongoConnection::Uri(_)) {
        return None;
    }
    let resolved =
        dereference::mongodb(operator.host.as_ref(), &name.namespace, &name.name, source).await;
    let error = resolved.err()?;
    Some(Obstacle {
        class: error.class(),
        verdict: Verdict::no(error.reason(), error.to_string()),
    })
}

/// Writes how the Backups stand that ask for runs of a policy.
async fn report_requests(
    operator: &Operator,
    policy: &Name,
    trouble: Option<&Trouble>,
    now: Timestamp,
) {
    let declared = operator.host.declared();
    for (name, object) in &declared.backups {
        if name.namespace != policy.namespace || object.spec.policy != policy.name {
            continue;
        }
        let last_handled = object
            .status
            .as_ref()
            .and_then(|status| status.last_handled_request.as_ref());
        super::patience(operator, "Backup", name, object.as_ref(), last_handled, now);
        if let Err(error) = backup::reconcile(&operator.view, name, now).await {
            tracing::error!(backup = %name, %error, "The status of a backup was not written.");
        }
    }
}
