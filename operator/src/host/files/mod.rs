//! The host of one box: resources are plain files, secrets are files and variables.

pub mod converge;
pub mod daemon;
pub mod departed;
pub mod load;
pub mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_crds::{Destination, SecretSource};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

use crate::host::secrets::{SecretError, Secrets};
use crate::host::{Declared, Host, Name};
use crate::journal::{Journal, ObjectRecord, Run, RunQuery, Summary};
use crate::reconcile::hosting::Surroundings;
use crate::reconcile::memory;
use crate::run::RunError;
use crate::run::record::on_journal;

/// The host of one box.
#[derive(Debug)]
pub struct FilesHost {
    declared: RwLock<Arc<Declared>>,
    secrets: Secrets,
    journal: Journal,
    surroundings: Surroundings,
}

impl FilesHost {
    /// A host that declares `declared`, finds secrets below `secrets_dir`, and remembers in `journal`.
    #[must_use]
    pub fn new(declared: Declared, secrets_dir: Option<PathBuf>, journal: Journal) -> Self {
        Self {
            declared: RwLock::new(Arc::new(declared)),
            secrets: Secrets::new(secrets_dir),
            journal,
            surroundings: Surroundings::Machine,
        }
    }

    /// The same in the pod of a Job: what it declares was checked by the operator, and lies where
    /// the Job mounts it.
    #[must_use]
    pub fn in_pod(self) -> Self {
        Self {
            surroundings: Surroundings::Pod,
            ..self
        }
    }

    /// The directory that holds the secrets, where there is one.
    #[must_use]
    pub fn secrets_dir(&self) -> Option<PathBuf> {
        self.secrets.directory().map(std::path::Path::to_owned)
    }

    /// Puts what the files say now in the place of what they said.
    pub fn replace(&self, mut declared: Declared) {
        let mut current = self
            .declared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        declared.departing = current.departing.clone();
        *current = Arc::new(declared);
    }

    /// Names the destinations that went away and whose data is still to be deleted.
    pub fn set_departing(&self, departing: BTreeMap<Name, Arc<Destination>>) {
        let mut current = self
            .declared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.departing != departing {
            *current = Arc::new(Declared {
                departing,
                ..current.as_ref().clone()
            });
        }
    }
}

impl Host for FilesHost {
    async fn secret(
        &self,
        _namespace: &str,
        source: &SecretSource,
    ) -> Result<SecretString, SecretError> {
        // A few short reads of local files: not worth a thread of its own.
        self.secrets.resolve(source)
    }

    fn secret_version(&self, _namespace: &str, source: &SecretSource) -> Option<String> {
        self.secrets.version(source)
    }

    fn surroundings(&self) -> Surroundings {
        self.surroundings
    }

    fn declared(&self) -> Arc<Declared> {
        self.declared
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn observe_object(
        &self,
        kind: &'static str,
        name: &Name,
        spec: Value,
        now: Timestamp,
        remember: bool,
    ) -> Result<ObjectRecord, RunError> {
        let key = memory::key(kind, name);
        on_journal(&self.journal, move |journal| {
            if remember {
                return journal.observe_object(&key, &spec, now);
            }
            let known = journal
                .object(&key)?
                .filter(|record| record.deleted.is_none());
            Ok(match known {
                Some(record) if record.spec == spec => record,
                Some(record) => ObjectRecord {
                    generation: record.generation.saturating_add(1),
                    spec,
                    spec_seen: now,
                    ..record
                },
                None => ObjectRecord {
                    uid: String::new(),
                    first_seen: now,
                    generation: 1,
                    spec,
                    spec_seen: now,
                    status: Value::Null,
                    deleted: None,
                },
            })
        })
        .await
    }

    async fn write_status(
        &self,
        kind: &'static str,
        name: &Name,
        record: &ObjectRecord,
        status: Value,
    ) -> Result<bool, RunError> {
        let key = memory::key(kind, name);
        let uid = record.uid.clone();
        on_journal(&self.journal, move |journal| {
            journal.set_object_status(&key, &uid, &status)
        })
        .await
    }

    async fn runs(&self, query: RunQuery) -> Result<Vec<Run>, RunError> {
        on_journal(&self.journal, move |journal| {
            // A run whose process was killed is not in progress.
            for run in journal.recover(Timestamp::now())? {
                tracing::warn!(
                    run = run.id,
                    "A run's process was killed before it had ended."
                );
            }
            journal.runs(&query)
        })
        .await
    }

    async fn open_runs(&self) -> Result<Vec<Run>, RunError> {
        on_journal(&self.journal, Journal::open_runs).await
    }

    async fn policy_summary(&self, policy: &Name) -> Result<Summary, RunError> {
        let Name { namespace, name } = policy.clone();
        on_journal(&self.journal, move |journal| {
            journal.policy_summary(&namespace, &name)
        })
        .await
    }

    async fn destination_summary(&self, destination: &Name) -> Result<Summary, RunError> {
        let Name { namespace, name } = destination.clone();
        on_journal(&self.journal, move |journal| {
            journal.destination_summary(&namespace, &name)
        })
        .await
    }
}
