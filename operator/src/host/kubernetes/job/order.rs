//! What a Job is built from, and why it cannot be.

use std::collections::BTreeMap;

use holdfast_crds::{BackupPolicySpec, DestinationSpec};
use holdfast_engine::class::{Classified, ErrorClass};
use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Task, WorkError};

/// What the operator says of every Job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSettings {
    /// The image, which is the operator's own.
    pub image: String,
    /// When it is pulled; Kubernetes' default when absent.
    pub image_pull_policy: Option<String>,
    /// The service account of pods whose policy names none. Its token is not mounted.
    pub service_account: Option<String>,
    /// The Secrets with which the image is pulled by pods whose policy names none.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The labels that a node must have for pods whose policy names none.
    pub node_selector: BTreeMap<String, String>,
    /// The taints that do not matter to pods whose policy names none.
    pub tolerations: Vec<Toleration>,
    /// How long a Job may take whose policy does not say, its retries included: a pod that never
    /// gets a node must not hold up a policy for ever.
    pub active_deadline_seconds: i64,
}

impl JobSettings {
    /// Settings with an image, and a week for each Job.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_pull_policy: None,
            service_account: None,
            image_pull_secrets: Vec::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            active_deadline_seconds: 7 * 24 * 3_600,
        }
    }
}

/// What a Job is built from.
#[derive(Debug, Clone)]
pub struct JobOrder<'a> {
    /// The name of the Job: one of those in [`super::names`].
    pub name: &'a str,
    /// Its namespace, which is that of its policy.
    pub namespace: &'a str,
    /// The object that it goes away with.
    pub owner: OwnerReference,
    /// What all attempts at this run have in common: see [`super::run_key`].
    pub run: String,
    /// The policy by its name, as it is declared.
    pub policy: Option<(&'a str, &'a BackupPolicySpec)>,
    /// The destinations that the pod touches.
    pub destinations: Vec<OrderDestination<'a>>,
    /// What to do; the spec of a Restore as it is declared.
    pub task: Task,
    /// What the operator recognises the declaration by.
    pub fingerprint: Option<&'a str>,
    /// What it says of every Job.
    pub settings: &'a JobSettings,
}

/// A destination of a Job.
#[derive(Debug, Clone)]
pub struct OrderDestination<'a> {
    /// Its name in the policy.
    pub name: &'a str,
    /// Its spec, as it is declared.
    pub spec: &'a DestinationSpec,
    /// The namespace it lies in, when that is not the Job's. Its secrets are copied.
    pub foreign_namespace: Option<&'a str>,
    /// The id of the repository that was seen there before.
    pub known_repository_id: Option<String>,
    /// Whether a prune is left from an earlier run.
    pub prune_pending: bool,
}

impl<'a> OrderDestination<'a> {
    /// A destination of the Job's own namespace, of which nothing is known.
    #[must_use]
    pub fn own(name: &'a str, spec: &'a DestinationSpec) -> Self {
        Self {
            name,
            spec,
            foreign_namespace: None,
            known_repository_id: None,
            prune_pending: false,
        }
    }
}

/// Why no Job can be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something that is possible on one machine only.
    #[error("{field} is not possible in a cluster: {why}")]
    NotInCluster {
        /// The field, with its object.
        field: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// Two things are to be mounted at one path.
    #[error("two volumes would be mounted at {path} of the pod; give each a path of its own")]
    MountConflict {
        /// The path.
        path: String,
    },
    /// The work cannot be handed over.
    #[error(transparent)]
    Work(#[from] WorkError),
}

impl Classified for BuildError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotInCluster { .. } => "NotPossibleInCluster",
            Self::MountConflict { .. } => "MountConflict",
            Self::Work(error) => error.reason(),
        }
    }
}
