//! Where resources come from, where their status goes, and how a secret is resolved.
//!
//! A reconciler sees a [`Host`] and not whether a cluster or a directory of files is behind it.

pub mod declared;
pub mod files;
pub mod kubernetes;
pub mod observer;
pub mod secrets;

use std::future::Future;
use std::sync::Arc;

use holdfast_crds::SecretSource;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

pub use declared::{Declared, Name};
use secrets::SecretError;

use crate::journal::{ObjectRecord, Run, RunQuery, Summary};
use crate::reconcile::hosting::Surroundings;
use crate::reconcile::look::{self, Depth, Looked};
use crate::run::RunError;
use crate::run::repositories::Repositories;

/// What a reconciler needs of its surroundings: what is declared, the memory of objects, the history
/// of runs, and the destinations as they are seen from here.
pub trait Host: Send + Sync + 'static {
    /// The value of a secret, as seen from a namespace.
    ///
    /// # Errors
    /// When it has no value.
    fn secret(
        &self,
        namespace: &str,
        source: &SecretSource,
    ) -> impl Future<Output = Result<SecretString, SecretError>> + Send;

    /// Something that changes when the secret does, and tells nothing of its value: what a
    /// `resourceVersion` is in a cluster. `None` when it is not there.
    fn secret_version(&self, namespace: &str, source: &SecretSource) -> Option<String>;

    /// Where this is: what of a spec can be had here.
    fn surroundings(&self) -> Surroundings;

    /// Everything that is declared now.
    fn declared(&self) -> Arc<Declared>;

    /// Takes note that an object is declared, and returns what is known of it. Who only looks
    /// (`remember` is false) leaves no trace.
    ///
    /// # Errors
    /// When the memory fails.
    fn observe_object(
        &self,
        kind: &'static str,
        name: &Name,
        spec: Value,
        now: Timestamp,
        remember: bool,
    ) -> impl Future<Output = Result<ObjectRecord, RunError>> + Send;

    /// Writes the status of an object; says whether it changed. Of an object that went away, or is
    /// another one by now, nothing is written.
    ///
    /// # Errors
    /// When the memory fails.
    fn write_status(
        &self,
        kind: &'static str,
        name: &Name,
        record: &ObjectRecord,
        status: Value,
    ) -> impl Future<Output = Result<bool, RunError>> + Send;

    /// Runs, newest first. One whose process is gone is not in progress.
    ///
    /// # Errors
    /// When the history fails.
    fn runs(&self, query: RunQuery) -> impl Future<Output = Result<Vec<Run>, RunError>> + Send;

    /// The runs in progress, oldest first.
    ///
    /// # Errors
    /// When the history fails.
    fn open_runs(&self) -> impl Future<Output = Result<Vec<Run>, RunError>> + Send;

    /// What the runs of a policy come to.
    ///
    /// # Errors
    /// When the history fails.
    fn policy_summary(
        &self,
        policy: &Name,
    ) -> impl Future<Output = Result<Summary, RunError>> + Send;

    /// What the runs at a destination come to.
    ///
    /// # Errors
    /// When the history fails.
    fn destination_summary(
        &self,
        destination: &Name,
    ) -> impl Future<Output = Result<Summary, RunError>> + Send;

    /// What a destination holds, as far as it can be seen from here.
    fn look(
        &self,
        repositories: &Repositories,
        destination: &Name,
        depth: Depth,
    ) -> impl Future<Output = Arc<Looked>>
    where
        Self: Sized,
    {
        async move { Arc::new(look::look(self, repositories, destination, depth).await) }
    }
}

/// What a reconciler looks through. Clones share what is opened.
#[derive(Debug)]
pub struct View<H> {
    /// What is declared, what is remembered, and the secrets.
    pub host: Arc<H>,
    /// Opened repositories.
    pub repositories: Arc<Repositories>,
    /// Whether it only looks: what it sees for the first time is not remembered.
    pub only_looks: bool,
}

impl<H> View<H> {
    /// A view on a host, with no repository opened yet.
    pub fn new(host: Arc<H>) -> Self {
        Self {
            host,
            repositories: Arc::default(),
            only_looks: false,
        }
    }
}

impl<H> Clone for View<H> {
    fn clone(&self) -> Self {
        Self {
            host: self.host.clone(),
            repositories: self.repositories.clone(),
            only_looks: self.only_looks,
        }
    }
}
