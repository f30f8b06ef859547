//! Writes a status by server-side apply, when it says something new.

use holdfast_crds::meta::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::events::CONTROLLER;
use super::host::KubernetesHost;
use super::objects::Objects;
use crate::host::Name;
use crate::journal::ObjectRecord;
use crate::run::RunError;

/// Fields that tell how much time has passed: they would make every pass a write.
const PASSING: [&str; 1] = ["recoveryPointAge"];

/// Writes the status of an object of ours; says whether that changed it.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub async fn write(
    host: &KubernetesHost,
    kind: &'static str,
    name: &Name,
    record: &ObjectRecord,
    status: Value,
) -> Result<bool, RunError> {
    match kind {
        "Destination" => apply(host, &host.destinations, kind, name, record, status).await,
        "BackupPolicy" => apply(host, &host.policies, kind, name, record, status).await,
        "Backup" => apply(host, &host.backups, kind, name, record, status).await,
        _ => apply(host, &host.restores, kind, name, record, status).await,
    }
}

async fn apply<K>(
    host: &KubernetesHost,
    objects: &Objects<K>,
    kind: &'static str,
    name: &Name,
    record: &ObjectRecord,
    status: Value,
) -> Result<bool, RunError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize
        + Send
        + Sync
        + 'static,
{
    let Some(object) = objects.get(name) else {
        return Ok(false);
    };
    if object.uid().unwrap_or_default() != record.uid {
        return Ok(false);
    }
    let known = serde_json::to_value(object.as_ref())
        .ok()
        .and_then(|mut value| value.get_mut("status").map(Value::take))
        .unwrap_or(Value::Null);
    let status = completed(host, kind, name, &known, status);
    if status == stripped(known.clone()) {
        return Ok(false);
    }
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": {"name": name.name, "namespace": name.namespace, "uid": record.uid},
        "status": status,
    });
    let api: Api<K> = Api::namespaced(host.client.clone(), &name.namespace);
    let parameters = PatchParams::apply(CONTROLLER).force();
    match api
        .patch_status(&name.name, &parameters, &Patch::Apply(&patch))
        .await
    {
        Ok(answer) => host.answered(objects, answer),
        // It went away, or another one of that name came in its place.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => return Ok(false),
        Err(error) => return Err(RunError::api("write the status of", kind, name, &error)),
    }
    host.events
        .changed(
            &object.object_ref(&()),
            &conditions(&known),
            &conditions(&status),
        )
        .await;
    Ok(true)
}

/// The status with what this host adds to it.
fn completed(
    host: &KubernetesHost,
    kind: &'static str,
    name: &Name,
    known: &Value,
    status: Value,
) -> Value {
    let mut status = stripped(status);
    let Some(fields) = status.as_object_mut() else {
        return status;
    };
    let handled = host
        .in_hand(kind, name)
        .map(Value::String)
        .or_else(|| known.get("lastHandledRequest").cloned());
    if let Some(handled) = handled {
        fields.insert("lastHandledRequest".to_owned(), handled);
    }
    if kind == "BackupPolicy" {
        let active = host
            .history
            .of_policy(name)
            .into_iter()
            .find(|job| job.is_open());
        match active {
            Some(job) => {
                fields.insert("activeJob".to_owned(), Value::String(job.name.name.clone()));
            }
            None => {
                fields.remove("activeJob");
            }
        }
    }
    status
}

/// A status without absent fields and without those that pass.
fn stripped(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, value| !value.is_null() && !PASSING.contains(&name.as_str()));
    }
    status
}

fn conditions(status: &Value) -> Vec<Condition> {
    status
        .get("conditions")
        .cloned()
        .and_then(|conditions| serde_json::from_value(conditions).ok())
        .unwrap_or_default()
}
