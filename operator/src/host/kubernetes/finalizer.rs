//! The finalizer that keeps an object until the data outside the cluster is gone that it promised to
//! take with it. Objects that promise nothing have none.

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::objects::Objects;
use super::operator::{Operator, PassError};
use crate::host::Name;
use crate::run::RunError;

/// The finalizer.
pub const FINALIZER: &str = "holdfast.dev/delete-data";

/// Puts the finalizer on an object that promised to take its data with it, and takes it off one that
/// does not any more.
///
/// # Errors
/// When the API server refuses, or cannot be reached.
pub async fn keep<K>(
    operator: &Operator,
    objects: &Objects<K>,
    object: &K,
    promised: bool,
) -> Result<(), PassError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let mut finalizers = object.finalizers().to_vec();
    let there = finalizers.iter().any(|one| one == FINALIZER);
    if there == promised {
        return Ok(());
    }
    if promised {
        finalizers.push(FINALIZER.to_owned());
    } else {
        finalizers.retain(|one| one != FINALIZER);
    }
    set(operator, objects, object, &finalizers).await
}

/// Whether an object has it.
pub fn has(object: &impl Resource) -> bool {
    object.finalizers().iter().any(|one| one == FINALIZER)
}

async fn set<K>(
    operator: &Operator,
    objects: &Objects<K>,
    object: &K,
    finalizers: &[String],
) -> Result<(), PassError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let name = Name::of(object);
    let api: Api<K> = Api::namespaced(operator.host.client.clone(), &name.namespace);
    // The version makes sure that nobody else's finalizer is lost.
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.resource_version(),
        "uid": object.uid(),
    }});
    match api
        .patch(&name.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(answer) => {
            operator.host.answered(objects, answer);
            Ok(())
        }
        // It is gone, as it was to be.
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        Err(error) => {
            Err(RunError::api("change the finalizers of", K::kind(&()), &name, &error).into())
        }
    }
}
