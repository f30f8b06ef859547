//! The host of a cluster: resources are objects of the API server, so is everything remembered.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_crds::{Backup, BackupPolicy, Destination, Restore, SecretSource, Storage};
use jiff::Timestamp;
use kube::{Client, Resource, ResourceExt};
use secrecy::SecretString;
use serde_json::Value;

use super::events::Events;
use super::history::History;
use super::looks::{Looks, not_looked_at};
use super::objects::{Change, Objects};
use super::record::{JobRecord, MANAGED_BY, MANAGER};
use super::secrets::ClusterSecrets;
use super::status;
use crate::host::secrets::SecretError;
use crate::host::{Declared, Host, Name};
use crate::journal::{ObjectRecord, Run, RunQuery, Summary};
use crate::reconcile::hosting::{self, Surroundings};
use crate::reconcile::look::{self, Depth, Looked};
use crate::run::repositories::Repositories;
use crate::run::{RunError, fingerprint};

/// The annotation that asks for a pass: any new value of it.
pub const REQUESTED_AT: &str = "holdfast.dev/requestedAt";

/// The label of a Backup whose restore point was made: the beginning of its id.
pub const BACKUP_ID_LABEL: &str = "holdfast.dev/backup-id";

/// The host of a cluster.
pub struct KubernetesHost {
    /// The API server.
    pub client: Client,
    /// Destinations.
    pub destinations: Objects<Destination>,
    /// Policies.
    pub policies: Objects<BackupPolicy>,
    /// Backups, those too that mirror restore points.
    pub backups: Objects<Backup>,
    /// Restores.
    pub restores: Objects<Restore>,
    /// Runs.
    pub history: History,
    /// Secrets.
    pub secrets: ClusterSecrets,
    /// Listings.
    pub looks: Looks,
    /// Events.
    pub events: Events,
    declarations: AtomicU64,
    declared: Mutex<(u64, Arc<Declared>)>,
    /// The requests for a pass that are being answered, by kind and name.
    in_hand: Mutex<HashMap<(&'static str, Name), String>>,
}

impl std::fmt::Debug for KubernetesHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesHost").finish_non_exhaustive()
    }
}

impl KubernetesHost {
    /// A host that knows nothing yet.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>, sync_interval: Duration) -> Self {
        Self {
            destinations: Objects::default(),
            policies: Objects::default(),
            backups: Objects::default(),
            restores: Objects::default(),
            history: History::default(),
            secrets: ClusterSecrets::new(client.clone()),
            looks: Looks::new(sync_interval),
            events: Events::new(client.clone(), instance),
            declarations: AtomicU64::new(1),
            declared: Mutex::new((0, Arc::default())),
            in_hand: Mutex::default(),
            client,
        }
    }

    /// Something is declared otherwise now.
    pub fn declaration_changed(&self) {
        self.declarations.fetch_add(1, Ordering::AcqRel);
    }

    /// The forced pass that an object asks for and has not had.
    #[must_use]
    pub fn request_of(object: &impl Resource, last_handled: Option<&String>) -> Option<String> {
        object
            .annotations()
            .get(REQUESTED_AT)
            .filter(|asked| Some(*asked) != last_handled)
            .cloned()
    }

    /// The next status of the object answers this request.
    pub fn take_in_hand(&self, kind: &'static str, name: &Name, request: Option<String>) {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        match request {
            Some(request) => in_hand.insert((kind, name.clone()), request),
            None => in_hand.remove(&(kind, name.clone())),
        };
    }

    pub(super) fn in_hand(&self, kind: &'static str, name: &Name) -> Option<String> {
        self.in_hand
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(kind, name.clone()))
            .cloned()
    }

    /// Takes over an object that the API server answered with.
    pub fn answered<K>(&self, objects: &Objects<K>, object: K)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    {
        if let Some(Change::Declared(_)) = objects.put_answer(object) {
            self.declaration_changed();
        }
    }

    /// Stands for the declaration of a destination and the versions of its secrets.
    #[must_use]
    pub fn destination_key(&self, name: &Name) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Some(object) = self.destinations.get(name) {
            object.uid().hash(&mut hasher);
            object.metadata.generation.hash(&mut hasher);
            for secret in fingerprint::secrets(&object.spec) {
                self.secrets
                    .version(&name.namespace, secret)
                    .hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    fn collect(&self) -> Declared {
        fn sorted<K: Resource>(objects: Vec<Arc<K>>) -> impl Iterator<Item = (Name, Arc<K>)> {
            objects
                .into_iter()
                .map(|object| (Name::of(object.as_ref()), object))
        }
        let mut declared = Declared::default();
        for (name, object) in sorted(self.destinations.all()) {
            // One that is being deleted is there for its own deletion only.
            if object.meta().deletion_timestamp.is_some() {
                declared.departing.insert(name, object);
            } else {
                declared.destinations.insert(name, object);
            }
        }
        declared.policies = sorted(self.policies.all())
            .filter(|(_, object)| object.meta().deletion_timestamp.is_none())
            .collect();
        declared.backups = sorted(self.backups.all())
            .filter(|(_, object)| asks_for_a_run(object))
            .collect();
        declared.restores = sorted(self.restores.all())
            .filter(|(_, object)| object.meta().deletion_timestamp.is_none())
            .collect();
        declared
    }

    /// Whether a Job that has ended was for an object that is gone, and another one has its name now: what came of it must not be taken for that one's.
    fn was_for_one_before(&self, job: &JobRecord) -> bool {
        fn differs<K>(objects: &Objects<K>, job: &JobRecord) -> bool
        where
            K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
        {
            job.owner_of::<K>()
                .and_then(|owner| objects.get(&owner.name))
                .is_some_and(|object| !job.belongs_to(object.as_ref()))
        }
        !job.is_open()
            && (differs(&self.backups, job)
                || differs(&self.restores, job)
                || differs(&self.policies, job))
    }

    fn record<K: Resource, S: serde::Serialize>(
        object: &K,
        status: Option<&S>,
        spec: Value,
        now: Timestamp,
    ) -> ObjectRecord {
        let created = object.creation_timestamp().map_or(now, |time| time.0);
        ObjectRecord {
            uid: object.uid().unwrap_or_default(),
            first_seen: created,
            generation: object.meta().generation.unwrap_or(1),
            spec,
            spec_seen: created,
            status: status
                .and_then(|status| serde_json::to_value(status).ok())
                .unwrap_or(Value::Null),
            deleted: None,
        }
    }
}

/// Whether a Backup mirrors a restore point: we made it, and not a person who asked for a run.
#[must_use]
pub fn is_mirror(backup: &Backup) -> bool {
    let labels = backup.labels();
    labels.contains_key(BACKUP_ID_LABEL)
        && labels
            .get(MANAGED_BY)
            .is_some_and(|manager| manager == MANAGER)
}

/// Whether a Backup asks for a run that it has not had: it was written by hand, and nothing came of
/// it yet.
#[must_use]
pub fn asks_for_a_run(backup: &Backup) -> bool {
    if backup.meta().deletion_timestamp.is_some() || is_mirror(backup) {
        return false;
    }
    let Some(status) = &backup.status else {
        return true;
    };
    let over = status.conditions.iter().any(|condition| {
        condition.type_ == crate::reconcile::conditions::SUCCEEDED
            && (condition.status == "True"
                || (condition.status == "False" && status.completion_time.is_some()))
    });
    status.id.is_none() && !over
}

impl Host for KubernetesHost {
    async fn secret(
        &self,
        namespace: &str,
        source: &SecretSource,
    ) -> Result<SecretString, SecretError> {
        self.secrets.value(namespace, source).await
    }

    fn secret_version(&self, namespace: &str, source: &SecretSource) -> Option<String> {
        self.secrets.version(namespace, source)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings::Cluster
    }

    fn declared(&self) -> Arc<Declared> {
        let current = self.declarations.load(Ordering::Acquire);
        let mut cached = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != current {
            *cached = (current, Arc::new(self.collect()));
        }
        cached.1.clone()
    }

    async fn observe_object(
        &self,
        kind: &'static str,
        name: &Name,
        spec: Value,
        now: Timestamp,
        _remember: bool,
    ) -> Result<ObjectRecord, RunError> {
        let record = match kind {
            "Destination" => self
                .destinations
                .get(name)
                .map(|object| Self::record(object.as_ref(), object.status.as_ref(), spec, now)),
            "BackupPolicy" => self
                .policies
                .get(name)
                .map(|object| Self::record(object.as_ref(), object.status.as_ref(), spec, now)),
            "Backup" => self
                .backups
                .get(name)
                .map(|object| Self::record(object.as_ref(), object.status.as_ref(), spec, now)),
            _ => self
                .restores
                .get(name)
                .map(|object| Self::record(object.as_ref(), object.status.as_ref(), spec, now)),
        };
        record.ok_or_else(|| RunError::Gone {
            kind,
            name: name.clone(),
        })
    }

    async fn write_status(
        &self,
        kind: &'static str,
        name: &Name,
        record: &ObjectRecord,
        status: Value,
    ) -> Result<bool, RunError> {
        let written = status::write(self, kind, name, record, status).await?;
        if written && kind == "Backup" {
            // Whether it still asks for a run hangs on its status.
            self.declaration_changed();
        }
        Ok(written)
    }

    async fn runs(&self, query: RunQuery) -> Result<Vec<Run>, RunError> {
        Ok(self
            .history
            .runs_of(&query, |job| !self.was_for_one_before(job)))
    }

    async fn open_runs(&self) -> Result<Vec<Run>, RunError> {
        // Whether a repository is in use, its own locks tell: a pod waits for them, and a pass over
        // one policy must not hang on the pods of all others.
        Ok(Vec::new())
    }

    async fn policy_summary(&self, policy: &Name) -> Result<Summary, RunError> {
        let mut summary = self.history.policy_summary(policy);
        let object = self.policies.get(policy);
        let Some(status) = object.as_ref().and_then(|object| object.status.as_ref()) else {
            return Ok(summary);
        };
        super::metrics::remember(&mut summary, status);
        Ok(summary)
    }

    async fn destination_summary(&self, destination: &Name) -> Result<Summary, RunError> {
        Ok(self.history.destination_summary(destination))
    }

    async fn look(
        &self,
        repositories: &Repositories,
        destination: &Name,
        _depth: Depth,
    ) -> Arc<Looked> {
        let key = self.destination_key(destination);
        let object = self.destinations.get(destination);
        if let Some(object) = &object {
            let refusals = hosting::destination(self.surroundings(), &object.spec);
            if refusals.is_empty() && matches!(object.spec.storage, Storage::Local(_)) {
                // It lies on a claim, which only a pod can mount: what the last one saw is known.
                return match self.looks.last(destination, key).await {
                    Some(looked) => looked,
                    None => Arc::new(not_looked_at()),
                };
            }
        }
        self.looks
            .get(
                destination,
                key,
                look::look(self, repositories, destination, Depth::Everything),
            )
            .await
    }
}
