//! Secrets on their way into a pod: each `secretKeyRef` becomes a mounted file. Those of a foreign
//! destination are copied into a Secret of the Job's namespace: a pod sees no other.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_crds::{DestinationSpec, Local, MongoConnection, SecretSource, Storage};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{KeyToPath, Secret, SecretVolumeSource, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::order::BuildError;
use super::{LABEL_MANAGED_BY, MANAGER, SECRETS_FOLDER, keys_entry, keys_name};

/// Only the pod's group may read what is mounted, which is the one that `fsGroup` names.
const MODE: i32 = 0o440;

/// The Secret with the keys of foreign destinations. It goes away with the object that the Job is
/// for, and serves all Jobs of that object: each writes into it what the keys are now.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSecret {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The object that it goes away with.
    pub owner: OwnerReference,
    /// What goes into it.
    pub entries: Vec<RunSecretEntry>,
}

/// One entry of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSecretEntry {
    /// Its key there.
    pub key: String,
    /// Where the value is: namespace, Secret and key.
    pub from: (String, String, String),
}

impl RunSecret {
    /// The Secret. `values` are by the keys of the entries.
    #[must_use]
    pub fn manifest(&self, mut values: BTreeMap<String, ByteString>) -> Secret {
        values.retain(|key, _| self.entries.iter().any(|entry| &entry.key == key));
        Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(BTreeMap::from([(
                    LABEL_MANAGED_BY.to_owned(),
                    MANAGER.to_owned(),
                )])),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            data: Some(values),
            ..Secret::default()
        }
    }
}

/// The secrets that a pod needs, as they are found in its specs.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The keys wanted of each Secret of the namespace, in the order of their folders.
    own: Vec<(String, BTreeSet<String>)>,
    /// What is copied: namespace, Secret and key, in the order of the keys of the copy.
    foreign: Vec<(String, String, String)>,
}

/// Whose secrets are rewritten.
pub(super) struct Owner<'a> {
    /// The object, for the words of errors: `Destination box`.
    pub(super) object: String,
    /// Its namespace, when it is not the Job's.
    pub(super) foreign_namespace: Option<&'a str>,
}

impl Secrets {
    /// What the pod reads instead.
    pub(super) fn rewrite(
        &mut self,
        owner: &Owner<'_>,
        field: &str,
        source: &SecretSource,
    ) -> Result<SecretSource, BuildError> {
        let SecretSource::SecretKeyRef(reference) = source else {
            return Err(BuildError::NotInCluster {
                field: format!("{field} of {}", owner.object),
                why: "a variable or a file would be the operator's own; put the value into a Secret and name that in secretKeyRef",
            });
        };
        let path = match owner.foreign_namespace {
            None => {
                let known = self
                    .own
                    .iter()
                    .position(|(name, _)| *name == reference.name);
                let index = known.unwrap_or_else(|| {
                    self.own.push((reference.name.clone(), BTreeSet::new()));
                    self.own.len() - 1
                });
                if let Some((_, keys)) = self.own.get_mut(index) {
                    keys.insert(reference.key.clone());
                }
                format!("{}/{}", own_folder(index), reference.key)
            }
            Some(namespace) => {
                let from = (
                    namespace.to_owned(),
                    reference.name.clone(),
                    reference.key.clone(),
                );
                let key = entry(&from);
                if !self.foreign.contains(&from) {
                    self.foreign.push(from);
                }
                format!("{}/{key}", foreign_folder())
            }
        };
        Ok(SecretSource::File(path))
    }

    fn rewrite_optional(
        &mut self,
        owner: &Owner<'_>,
        field: &str,
        source: &mut Option<SecretSource>,
    ) -> Result<(), BuildError> {
        if let Some(source) = source {
            *source = self.rewrite(owner, field, source)?;
        }
        Ok(())
    }

    /// A connection that the pod can use.
    pub(super) fn connection(
        &mut self,
        owner: &Owner<'_>,
        field: &str,
        connection: &MongoConnection,
    ) -> Result<MongoConnection, BuildError> {
        Ok(match connection {
            MongoConnection::Uri(uri) => MongoConnection::Uri(uri.clone()),
            MongoConnection::UriFrom(source) => {
                MongoConnection::UriFrom(self.rewrite(owner, field, source)?)
            }
        })
    }

    /// A destination that the pod can use.
    pub(super) fn destination(
        &mut self,
        owner: &Owner<'_>,
        spec: &DestinationSpec,
    ) -> Result<DestinationSpec, BuildError> {
        let mut spec = spec.clone();
        spec.allowed_namespaces.clear();
        spec.encryption.password =
            self.rewrite(owner, "spec.encryption.password", &spec.encryption.password)?;
        let refused = |field: &str, why: &'static str| BuildError::NotInCluster {
            field: format!("{field} of {}", owner.object),
            why,
        };
        match &mut spec.storage {
            Storage::Local(Local {
                path: _,
                persistent_volume_claim,
            }) => {
                if persistent_volume_claim.take().is_none() {
                    return Err(refused(
                        "spec.local.path",
                        "a pod has no disk of its own; name a claim in spec.local.persistentVolumeClaim",
                    ));
                }
                if owner.foreign_namespace.is_some() {
                    return Err(refused(
                        "spec.local",
                        "a claim is of one namespace and cannot be used from another; use a destination in this one",
                    ));
                }
            }
            Storage::S3(s3) => {
                for (field, source) in [
                    ("spec.s3.accessKeyId", &mut s3.access_key_id),
                    ("spec.s3.secretAccessKey", &mut s3.secret_access_key),
                    ("spec.s3.sessionToken", &mut s3.session_token),
                ] {
                    self.rewrite_optional(owner, field, source)?;
                }
            }
            Storage::Sftp(sftp) => {
                if sftp.agent {
                    return Err(refused(
                        "spec.sftp.agent",
                        "a pod has no SSH agent; put a key into a Secret and name that in privateKey",
                    ));
                }
                if sftp.known_hosts.is_some() {
                    return Err(refused(
                        "spec.sftp.knownHosts",
                        "it would be a file of the operator; write the host's key into hostKey",
                    ));
                }
                for (field, source) in [
                    ("spec.sftp.privateKey", &mut sftp.private_key),
                    ("spec.sftp.passphrase", &mut sftp.passphrase),
                    ("spec.sftp.password", &mut sftp.password),
                ] {
                    self.rewrite_optional(owner, field, source)?;
                }
            }
        }
        Ok(spec)
    }

    /// The names of the Secrets behind the folders, for the words of errors.
    pub(super) fn folders(&self, keys: &str) -> BTreeMap<String, String> {
        let own = self
            .own
            .iter()
            .enumerate()
            .map(|(index, (name, _))| (own_folder(index), name.clone()));
        let foreign = (!self.foreign.is_empty()).then(|| (foreign_folder(), keys.to_owned()));
        own.chain(foreign).collect()
    }

    /// The Secret with the foreign keys, when there are some.
    pub(super) fn run_secret(&self, namespace: &str, owner: &OwnerReference) -> Option<RunSecret> {
        let entries: Vec<RunSecretEntry> = self
            .foreign
            .iter()
            .map(|from| RunSecretEntry {
                key: entry(from),
                from: from.clone(),
            })
            .collect();
        (!entries.is_empty()).then(|| RunSecret {
            name: keys_name(&owner.name, &owner.uid),
            namespace: namespace.to_owned(),
            owner: owner.clone(),
            entries,
        })
    }

    /// The volumes and where they are mounted.
    pub(super) fn volumes(&self, keys: &str) -> Vec<(Volume, VolumeMount)> {
        let own = self.own.iter().enumerate().map(|(index, (name, keys))| {
            let items = keys.iter().map(|key| item(key)).collect();
            // A Secret or key that is missing is for the worker to report, at once; the kubelet
            // would wait for it without end.
            let source = source(name, items, true);
            mounted(
                &format!("holdfast-secret-{index}"),
                &own_folder(index),
                source,
            )
        });
        let foreign = (!self.foreign.is_empty()).then(|| {
            let items = self.foreign.iter().map(|from| item(&entry(from))).collect();
            mounted(
                "holdfast-secret-run",
                &foreign_folder(),
                source(keys, items, false),
            )
        });
        own.chain(foreign).collect()
    }
}

/// The key of a value in the copy.
fn entry((namespace, secret, key): &(String, String, String)) -> String {
    keys_entry(namespace, secret, key)
}

fn own_folder(index: usize) -> String {
    format!("{SECRETS_FOLDER}/{index}")
}

fn foreign_folder() -> String {
    format!("{SECRETS_FOLDER}/run")
}

fn item(key: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: key.to_owned(),
        mode: None,
        user: None,
    }
}

fn source(name: &str, items: Vec<KeyToPath>, optional: bool) -> SecretVolumeSource {
    SecretVolumeSource {
        secret_name: Some(name.to_owned()),
        items: Some(items),
        default_mode: Some(MODE),
        optional: optional.then_some(true),
        ..SecretVolumeSource::default()
    }
}

fn mounted(name: &str, folder: &str, source: SecretVolumeSource) -> (Volume, VolumeMount) {
    let volume = Volume {
        name: name.to_owned(),
        secret: Some(source),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: name.to_owned(),
        mount_path: folder.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}
