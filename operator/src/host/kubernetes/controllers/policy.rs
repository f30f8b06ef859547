//! A pass over a BackupPolicy: read what its Jobs came to, plan, start a Job where the plan holds
//! work, and show its restore points.

use std::sync::Arc;

use holdfast_crds::{BackupPolicy, MongoConnection, Source};
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use kube::Resource;

use super::super::job::TaskKind;
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::pods::{self, Trouble};
use super::super::record::JobRecord;
use super::super::start::StartError;
use super::super::{catalogue, harvest, start};
use crate::host::{Host, Name};
use crate::plan::backoff::LONGEST_DELAY;
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
        let next = [plan.next(), pods.again, begun.next()];
        let next = Next::at(next.into_iter().flatten().min());
        match begun {
            Begun::Failed(error) => Err(error.into()),
            Begun::Obstacle(obstacle) if obstacle.class != ErrorClass::Permanent => Ok(Next::Pause),
            // The Job's own events wake the policy again.
            _ => Ok(next),
        }
    }
}

/// What became of a plan.
enum Begun {
    /// A Job.
    Started,
    /// No Job: there is nothing to do, or not before a time.
    Nothing(Option<Timestamp>),
    /// No Job, although there is something to do.
    Obstacle(Obstacle),
    /// Nobody knows: the API server could not be asked.
    Failed(StartError),
}

impl Begun {
    fn next(&self) -> Option<Timestamp> {
        match self {
            Self::Nothing(next) => *next,
            Self::Started | Self::Obstacle(_) | Self::Failed(_) => None,
        }
    }
}

/// Starts a Job where the plan holds work, unless that would be in vain.
async fn begin(
    operator: &Operator,
    name: &Name,
    object: &Arc<BackupPolicy>,
    plan: &Plan,
    observed: &PolicyObservation,
    forced: bool,
    now: Timestamp,
) -> Begun {
    if plan.work().next().is_none() {
        return Begun::Nothing(None);
    }
    if let Some(obstacle) = obstacle(operator, name, object, plan, observed).await {
        return Begun::Obstacle(obstacle);
    }
    let jobs = operator.host.history.of_policy(name);
    if let Some(next) = done_already(&jobs, plan).filter(|next| *next > now && !forced) {
        return Begun::Nothing(Some(next));
    }
    match start::policy_job(operator, name, object, plan, observed).await {
        Ok(()) => Begun::Started,
        Err(error) if error.class() == ErrorClass::Transient => Begun::Failed(error),
        Err(error) => Begun::Obstacle(Obstacle {
            class: error.class(),
            verdict: Verdict::no(error.reason(), error.to_string()),
        }),
    }
}

/// Until when an upkeep is not repeated that has ended well and is planned again all the same: what a
/// pod sees is not what is seen from here, and another one would see no more.
fn done_already(jobs: &[Arc<JobRecord>], plan: &Plan) -> Option<Timestamp> {
    if backs_up(plan) {
        return None;
    }
    let (ended, last) = jobs
        .iter()
        .filter_map(|job| Some((job.kept.as_ref()?.ended, job)))
        .max_by_key(|(ended, _)| *ended)?;
    let well = !last.has_failed() && last.kind == TaskKind::Upkeep;
    let same = last.purpose.plan.as_deref() == Some(start::upkeep_key(plan).as_str());
    (well && same)
        .then(|| ended.checked_add(LONGEST_DELAY).ok())
        .flatten()
}

fn backs_up(plan: &Plan) -> bool {
    let mut actions = plan.actions.iter();
    actions.any(|action| matches!(action, Action::Backup { .. }))
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
    if !backs_up(plan) {
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
        let trouble = trouble.filter(|trouble| trouble.object.as_ref() == Some(&name.name));
        let pending = trouble.map_or_else(backup::pending, |trouble| {
            Verdict::unknown(trouble.reason, trouble.message.clone())
        });
        if let Err(error) = backup::reconcile_as(&operator.view, name, pending, now).await {
            tracing::error!(backup = %name, %error, "The status of a backup was not written.");
        }
    }
}
