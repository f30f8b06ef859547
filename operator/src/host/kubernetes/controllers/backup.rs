//! A pass over a Backup: the promise of `deletionPolicy: Delete`. Its run is its policy's; one whose
//! policy is not declared is told so here, or taken away when it shows what nobody can reach.

use std::sync::Arc;

use holdfast_crds::{Backup, DeletionPolicy};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::super::host::{asks_for_a_run, is_mirror};
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::{catalogue, finalizer, harvest};
use super::deletion;
use crate::host::{Declared, Host, Name};
use crate::reconcile::backup;

impl Controlled for Backup {
    const KIND: &'static str = "Backup";

    async fn pass(operator: &Operator, name: &Name) -> Result<Next, PassError> {
        let host = &operator.host;
        let Some(object) = host.backups.get(name) else {
            return Ok(Next::Never);
        };
        let promised = object.spec.deletion_policy == DeletionPolicy::Delete;
        if object.meta().deletion_timestamp.is_none() {
            finalizer::keep(operator, &host.backups, object.as_ref(), promised).await?;
            let policy = Name::new(&name.namespace, &object.spec.policy);
            let declared = host.declared();
            let orphaned = !declared.policies.contains_key(&policy);
            if orphaned && shows_nothing(&object, &declared) {
                catalogue::take_away(operator, name).await?;
            } else if asks_for_a_run(&object) {
                if orphaned {
                    report(operator, name, &object).await?;
                }
            } else {
                answer(operator, name, &object).await?;
            }
            return Ok(Next::Never);
        }
        for job in host.history.owned_by(object.as_ref()) {
            if job.is_to_be_read() {
                harvest::harvest(operator, &job).await?;
            }
        }
        deletion::backup(operator, name, &object).await
    }
}

/// Whether it mirrors a restore point in no destination of its namespace that is declared: what
/// nobody can list or restore.
fn shows_nothing(object: &Backup, declared: &Declared) -> bool {
    let there = |name: &str| {
        let name = Name::new(object.namespace().unwrap_or_default(), name);
        declared.destinations.contains_key(&name) || declared.departing.contains_key(&name)
    };
    let copies = object.status.as_ref().map(|status| &status.copies);
    is_mirror(object)
        && !finalizer::has(object)
        && copies.is_some_and(|copies| !copies.iter().any(|copy| there(&copy.destination)))
}

/// Says how one stands that asks for a run of a policy that nobody declares: no pass over a policy
/// does.
async fn report(operator: &Operator, name: &Name, object: &Arc<Backup>) -> Result<(), PassError> {
    for job in operator.host.history.owned_by(object.as_ref()) {
        if job.is_to_be_read() {
            harvest::harvest(operator, &job).await?;
        }
    }
    let now = Timestamp::now();
    let last_handled = object
        .status
        .as_ref()
        .and_then(|status| status.last_handled_request.as_ref());
    super::patience(
        operator,
        Backup::KIND,
        name,
        object.as_ref(),
        last_handled,
        now,
    );
    backup::reconcile(&operator.view, name, now).await?;
    Ok(())
}

/// Answers a forced pass over a Backup of which nothing is left to be done.
async fn answer(operator: &Operator, name: &Name, object: &Backup) -> Result<(), PassError> {
    let Some(status) = &object.status else {
        return Ok(());
    };
    let now = Timestamp::now();
    let last_handled = status.last_handled_request.as_ref();
    let (_, forced) = super::patience(operator, Backup::KIND, name, object, last_handled, now);
    if forced {
        super::answer(operator, Backup::KIND, name, status, now).await?;
    }
    Ok(())
}
