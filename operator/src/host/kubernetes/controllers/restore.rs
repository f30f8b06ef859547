//! A pass over a Restore: one Job, once.

use holdfast_crds::{Restore, RestoreTarget, Source};
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use kube::Resource;

use super::super::job::WorkResult;
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::record::JobRecord;
use super::super::start::StartError;
use super::super::{harvest, pods, start};
use crate::host::{Host, Name};
use crate::plan::{Action, Plan};
use crate::reconcile::conditions::Verdict;
use crate::reconcile::dereference::{self, DereferenceError};
use crate::reconcile::restore::{self, Report};
use crate::run::RunError;
use crate::run::restore::RestoreOutcome;

impl Controlled for Restore {
    const KIND: &'static str = "Restore";

    async fn pass(operator: &Operator, name: &Name) -> Result<Next, PassError> {
        let host = &operator.host;
        let Some(object) = host.restores.get(name) else {
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
        let (over, succeeded) = how_it_ended(&object);
        // One that succeeded is never done twice; one that failed only when somebody asks for it.
        if succeeded || (over && !forced) {
            harvest::release(operator, &host.history.owned_by(object.as_ref())).await?;
            if forced {
                answer(operator, name, &object, now).await?;
            }
            return Ok(Next::Never);
        }
        for job in host.history.owned_by(object.as_ref()) {
            if job.is_to_be_read() {
                harvest::harvest(operator, &job).await?;
            }
        }
        let jobs = host.history.owned_by(object.as_ref());
        if jobs.iter().any(|job| job.is_open()) {
            // A request that stayed open would have it done once more: this answers it, too.
            let pods = pods::trouble(operator, &jobs, now).await;
            let verdict = pods.trouble.map_or_else(restore::running, |trouble| {
                Verdict::unknown(trouble.reason, trouble.message)
            });
            restore::say(&operator.view, name, verdict, now).await?;
            return Ok(Next::at(pods.again));
        }
        // What was asked for before its Job was read concerns that Job; it is asked for again only
        // when it is known how that ended.
        if let Some(job) = jobs.last().filter(|_| !over) {
            report(operator, name, job).await?;
            harvest::release(operator, &jobs).await?;
            return Ok(Next::Never);
        }
        let planned = restore::plan(&operator.view, name, patience, now).await?;
        let begun = begin(operator, name, &object, &planned.plan).await;
        // One verdict a pass: two that take turns would be two writes and two events each time.
        let instead = match &begun {
            Err(error) if error.class() != ErrorClass::Transient => {
                Some(Verdict::no(error.reason(), error.to_string()))
            }
            Ok(_) | Err(_) => None,
        };
        restore::report_plan(&operator.view, name, &planned, instead, now).await?;
        match begun {
            Ok(true) => Ok(Next::Change),
            // What it waits for wakes it; a destination that cannot be used may tell nobody.
            Ok(false) => Ok(match planned.plan.refusal() {
                Some(("DestinationNotReady", _)) => Next::Pause,
                _ => Next::at(planned.plan.next()),
            }),
            Err(error) => match error.class() {
                ErrorClass::Permanent => Ok(Next::Change),
                ErrorClass::Waiting => Ok(Next::Pause),
                ErrorClass::Transient | ErrorClass::Damaged => Err(error.into()),
            },
        }
    }
}

/// Starts the Job of a plan that restores, once everything is there that its pod would ask for: a pod
/// that finds a Secret missing has failed, and a Restore is tried once.
async fn begin(
    operator: &Operator,
    name: &Name,
    object: &Restore,
    plan: &Plan,
) -> Result<bool, StartError> {
    let chosen = plan.actions.iter().find_map(|action| match action {
        Action::Restore {
            destination,
            snapshot,
            ..
        } => Some((destination, &snapshot.id)),
        _ => None,
    });
    let Some((destination, snapshot)) = chosen else {
        return Ok(false);
    };
    dereference_target(operator, name, object)
        .await
        .map_err(RunError::from)?;
    start::restore_job(operator, name, object, destination, snapshot).await?;
    Ok(true)
}

/// Whether what the target needs to be reached is there.
async fn dereference_target(
    operator: &Operator,
    name: &Name,
    object: &Restore,
) -> Result<(), DereferenceError> {
    let host = operator.host.as_ref();
    match &object.spec.to {
        RestoreTarget::Files(_) => {}
        RestoreTarget::Mongodb(to) => {
            let of = format!("Restore {name}");
            let field = "spec.to.mongodb.uriFrom";
            dereference::mongodb_uri(host, &name.namespace, of, field, &to.connection).await?;
        }
        RestoreTarget::Original(_) => {
            let policy = Name::new(&name.namespace, &object.spec.from.policy);
            let declared = host.declared();
            if let Some(policy) = declared.policies.get(&policy)
                && let Source::Mongodb(source) = &policy.spec.source
            {
                let policy = &object.spec.from.policy;
                dereference::mongodb(host, &name.namespace, policy, source).await?;
            }
        }
    }
    Ok(())
}

/// Answers a forced pass that has nothing to do.
async fn answer(
    operator: &Operator,
    name: &Name,
    object: &Restore,
    now: Timestamp,
) -> Result<(), PassError> {
    let status = object.status.clone().unwrap_or_default();
    super::answer(operator, Restore::KIND, name, &status, now).await
}

/// Whether it has ended, and whether well.
fn how_it_ended(object: &Restore) -> (bool, bool) {
    let Some(status) = &object.status else {
        return (false, false);
    };
    let says = |word: &str| {
        status.conditions.iter().any(|condition| {
            condition.type_ == crate::reconcile::conditions::SUCCEEDED && condition.status == word
        })
    };
    let succeeded = says("True");
    (
        succeeded || (says("False") && status.completion_time.is_some()),
        succeeded,
    )
}

async fn report(operator: &Operator, name: &Name, job: &JobRecord) -> Result<(), PassError> {
    let Some(kept) = &job.kept else {
        return Ok(());
    };
    let figures = kept.outcome.restore.clone().unwrap_or_default();
    let outcome = RestoreOutcome {
        plan: figures.plan,
        bytes: figures.bytes,
        documents: figures.documents,
        files: figures.files,
        verified: figures.verified,
        told: String::new(),
    };
    let unknown = crate::journal::RunError {
        message: "the pod ended badly and left no reason; look at its log".to_owned(),
        class: crate::journal::FailureClass::Transient,
        reason: "PodFailed".to_owned(),
    };
    let failure = match kept.outcome.result {
        WorkResult::Succeeded => None,
        WorkResult::Failed | WorkResult::Interrupted => {
            Some(kept.outcome.error.clone().unwrap_or(unknown))
        }
    };
    let destination = job.purpose.destinations.keys().next().cloned();
    let report = Report {
        backup: job.purpose.snapshot.clone(),
        destination,
        start: kept.started,
        end: kept.ended,
        outcome: failure.as_ref().map_or(Ok(&outcome), Err),
    };
    restore::report_outcome(&operator.view, name, report).await?;
    Ok(())
}
