//! Secrets of the cluster: their versions from a watch of metadata, their values by a request when
//! one is needed, kept for as long as the version stays.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use holdfast_crds::{SecretKeySelector, SecretSource};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::host::Name;
use crate::host::secrets::SecretError;

/// Secrets of the cluster.
pub struct ClusterSecrets {
    client: Client,
    versions: Mutex<HashMap<Name, String>>,
    values: Mutex<HashMap<(Name, String), Cached>>,
}

impl std::fmt::Debug for ClusterSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterSecrets").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Cached {
    version: String,
    value: SecretString,
}

impl ClusterSecrets {
    /// Secrets as this client may see them.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            versions: Mutex::default(),
            values: Mutex::default(),
        }
    }

    /// Takes note of a version; says whether it is another one.
    pub fn set_version(&self, name: &Name, version: Option<String>) -> bool {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match version.clone() {
            Some(version) => versions.insert(name.clone(), version),
            None => versions.remove(name),
        };
        let changed = before != version;
        if changed {
            self.values
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(secret, _), _| secret != name);
        }
        changed
    }

    /// Drops what is not in a complete list of one namespace (of all when `None`), and returns it.
    pub fn retain(
        &self,
        namespace: Option<&str>,
        listed: &std::collections::HashSet<Name>,
    ) -> Vec<Name> {
        let gone: Vec<Name> = self
            .versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .filter(|name| namespace.is_none_or(|namespace| name.namespace == namespace))
            .filter(|name| !listed.contains(name))
            .cloned()
            .collect();
        for name in &gone {
            self.set_version(name, None);
        }
        gone
    }

    /// The version of the Secret behind a reference.
    pub fn version(&self, namespace: &str, source: &SecretSource) -> Option<String> {
        let SecretSource::SecretKeyRef(reference) = source else {
            return None;
        };
        self.versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&Name::new(namespace, &reference.name))
            .cloned()
    }

    /// The value of a reference.
    ///
    /// # Errors
    /// When it is not there, is empty or no text, or is of a kind that a cluster does not take.
    pub async fn value(
        &self,
        namespace: &str,
        source: &SecretSource,
    ) -> Result<SecretString, SecretError> {
        let reference = match source {
            SecretSource::SecretKeyRef(reference) => reference,
            SecretSource::Env(_) => return Err(SecretError::NotInCluster { what: "env" }),
            SecretSource::File(_) => return Err(SecretError::NotInCluster { what: "file" }),
        };
        let key = (Name::new(namespace, &reference.name), reference.key.clone());
        let version = self.version(namespace, source);
        let cached = self
            .values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let (Some(cached), Some(version)) = (cached, &version)
            && cached.version == *version
        {
            return Ok(cached.value);
        }
        let (value, version) = self.read(namespace, reference).await?;
        if let Some(version) = version {
            let cached = Cached {
                version,
                value: value.clone(),
            };
            self.values
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key, cached);
        }
        Ok(value)
    }

    async fn read(
        &self,
        namespace: &str,
        reference: &SecretKeySelector,
    ) -> Result<(SecretString, Option<String>), SecretError> {
        let SecretKeySelector { name, key } = reference;
        let place = format!("key {key} of Secret {namespace}/{name}");
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace)
            .get_opt(name)
            .await
            .map_err(|cause| SecretError::Api {
                place: place.clone(),
                cause: cause.to_string(),
            })?
            .ok_or_else(|| SecretError::NoSecret {
                namespace: namespace.to_owned(),
                name: name.clone(),
            })?;
        let version = secret.metadata.resource_version.clone();
        let bytes = secret
            .data
            .and_then(|mut data| data.remove(key))
            .ok_or_else(|| SecretError::NoKey {
                namespace: namespace.to_owned(),
                name: name.clone(),
                key: key.clone(),
            })?;
        let bytes = Zeroizing::new(bytes.0);
        let value = crate::host::secrets::text_of(&bytes, place)?;
        Ok((value, version))
    }
}
