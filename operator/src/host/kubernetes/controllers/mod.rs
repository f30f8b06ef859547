//! A controller a kind: what of an object's pass is of the cluster. The rest is the reconcilers'.

pub mod backup;
pub mod destination;
pub mod policy;
pub mod restore;

mod claim;
mod deletion;

use holdfast_crds::meta::Condition;
use jiff::Timestamp;
use kube::Resource;

use super::host::KubernetesHost;
use super::operator::{Operator, PassError};
use crate::host::{Host, Name};
use crate::reconcile::conditions::{self, Verdict};
use crate::reconcile::policy::Patience;
use crate::run::RunError;

/// Takes a forced pass in hand, if one is asked for, and says how failures are looked at then.
fn patience(
    operator: &Operator,
    kind: &'static str,
    name: &Name,
    object: &impl Resource,
    last_handled: Option<&String>,
    now: Timestamp,
) -> (Patience, bool) {
    let request = KubernetesHost::request_of(object, last_handled);
    let forced = request.is_some();
    operator.host.take_in_hand(kind, name, request);
    let patience = if forced {
        tracing::info!(kind, %name, "A pass was asked for.");
        Patience::RetryWhatFailedBefore(now)
    } else {
        Patience::Backoff
    };
    (patience, forced)
}

/// Answers a forced pass that found nothing to do: the status stays as it is but for the answer.
async fn answer<S: serde::Serialize>(
    operator: &Operator,
    kind: &'static str,
    name: &Name,
    status: &S,
    now: Timestamp,
) -> Result<(), PassError> {
    let host = &operator.host;
    let spec = serde_json::Value::Null;
    let record = host.observe_object(kind, name, spec, now, true).await?;
    let status =
        serde_json::to_value(status).map_err(|error| RunError::Panicked(error.to_string()))?;
    host.write_status(kind, name, &record, status).await?;
    Ok(())
}

/// Writes one condition of an object, whatever else its status says.
async fn say(
    operator: &Operator,
    kind: &'static str,
    name: &Name,
    condition: &str,
    verdict: Verdict,
    now: Timestamp,
) -> Result<(), PassError> {
    let host = &operator.host;
    let spec = serde_json::Value::Null;
    let record = host.observe_object(kind, name, spec, now, true).await?;
    let mut status = match &record.status {
        serde_json::Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    let previous: Vec<Condition> = status
        .get("conditions")
        .and_then(|known| serde_json::from_value(known.clone()).ok())
        .unwrap_or_default();
    let generation = Some(record.generation);
    let conditions = conditions::set(&previous, condition, verdict, generation, now);
    let conditions =
        serde_json::to_value(conditions).map_err(|error| RunError::Panicked(error.to_string()))?;
    status.insert("conditions".to_owned(), conditions);
    host.write_status(kind, name, &record, status.into())
        .await?;
    Ok(())
}
