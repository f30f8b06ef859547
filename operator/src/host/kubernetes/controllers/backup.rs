//! A pass over a Backup: the promise of `deletionPolicy: Delete`. Its run is its policy's.

use holdfast_crds::{Backup, DeletionPolicy};
use jiff::Timestamp;
use kube::Resource;

use super::super::host::asks_for_a_run;
use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::{finalizer, harvest};
use super::deletion;
use crate::host::{Host, Name};
use crate::run::RunError;

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
            answer(operator, name, &object).await?;
            return Ok(Next::Never);
        }
        for job in host.history.owned_by::<Self>(name) {
            if job.is_to_be_read() {
                harvest::harvest(operator, &job).await?;
            }
        }
        deletion::backup(operator, name, &object).await
    }
}

/// Answers a forced pass over a Backup of which nothing is left to be done.
async fn answer(operator: &Operator, name: &Name, object: &Backup) -> Result<(), PassError> {
    let Some(status) = object.status.as_ref().filter(|_| !asks_for_a_run(object)) else {
        return Ok(());
    };
    let now = Timestamp::now();
    let last_handled = status.last_handled_request.as_ref();
    let (_, forced) = super::patience(operator, Backup::KIND, name, object, last_handled, now);
    if !forced {
        return Ok(());
    }
    let host = &operator.host;
    let spec = serde_json::Value::Null;
    let record = host
        .observe_object(Backup::KIND, name, spec, now, true)
        .await?;
    let status =
        serde_json::to_value(status).map_err(|error| RunError::Panicked(error.to_string()))?;
    host.write_status(Backup::KIND, name, &record, status)
        .await?;
    Ok(())
}
