//! What a cluster does not take: what would read the operator's own files, variables or keys, and
//! what no pod could reach.

use holdfast_crds::{
    BackupPolicySpec, DestinationSpec, MongoConnection, RestoreSpec, RestoreTarget, SecretSource,
    Source, Storage,
};
use holdfast_engine::class::ErrorClass;

use crate::plan::observed::DestinationState;
use crate::reconcile::look::Looked;
use crate::run::fingerprint;

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For a condition.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Option<Self> {
        Some(Self {
            reason: "NotPossibleInCluster",
            message: message.into(),
        })
    }

    /// As what was seen of a destination.
    #[must_use]
    pub fn into_looked(self) -> Looked {
        Looked::Unusable {
            class: ErrorClass::Permanent,
            reason: self.reason.to_owned(),
            message: self.message,
        }
    }
}

/// What is known of a destination on a claim before any pod has looked.
#[must_use]
pub fn not_looked_at() -> Looked {
    Looked::Unusable {
        class: ErrorClass::Transient,
        reason: NOT_LOOKED_AT.to_owned(),
        message: "no pod has looked into the claim yet; the next one tells what is there"
            .to_owned(),
    }
}

/// The reason of [`not_looked_at`].
pub const NOT_LOOKED_AT: &str = "NotLookedAt";

/// Whether a plan was made without knowing what is in a destination on a claim.
#[must_use]
pub fn is_not_looked_at(state: &DestinationState) -> bool {
    matches!(state, DestinationState::Unusable { reason, .. } if reason == NOT_LOOKED_AT)
}

/// Why a cluster does not take a destination.
#[must_use]
pub fn destination(spec: &DestinationSpec) -> Option<Refusal> {
    if let Some(refusal) = fingerprint::secrets(spec).into_iter().find_map(secret) {
        return Some(refusal);
    }
    match &spec.storage {
        Storage::Local(local) if local.persistent_volume_claim.is_none() => Refusal::new(
            "a local destination of a cluster needs local.persistentVolumeClaim: the folder of a pod goes away with it",
        ),
        Storage::Sftp(sftp) if sftp.agent => Refusal::new(
            "sftp.agent is of one box, and a pod has no SSH agent: set sftp.privateKey",
        ),
        Storage::Sftp(sftp) if sftp.known_hosts.is_some() => Refusal::new(
            "sftp.knownHosts is a file of one box, and a pod has no such file: set sftp.hostKey",
        ),
        Storage::S3(s3) if s3.access_key_id.is_none() => Refusal::new(
            "a destination of a cluster needs s3.accessKeyId and s3.secretAccessKey: without them the operator's own identity would be used",
        ),
        Storage::S3(_) | Storage::Sftp(_) | Storage::Local(_) => None,
    }
}

/// Why a cluster does not take a policy.
#[must_use]
pub fn policy(spec: &BackupPolicySpec) -> Option<Refusal> {
    match &spec.source {
        Source::Mongodb(source) => match &source.connection {
            MongoConnection::UriFrom(source) => secret(source),
            MongoConnection::Uri(_) => None,
        },
        Source::Files(source) if source.persistent_volume_claim.is_none() => Refusal::new(
            "files of a cluster need source.files.persistentVolumeClaim: a pod has no files of its own",
        ),
        Source::Files(_) => None,
    }
}

/// Why a cluster does not take a Restore.
#[must_use]
pub fn restore(spec: &RestoreSpec) -> Option<Refusal> {
    match &spec.to {
        RestoreTarget::Original(_) => None,
        RestoreTarget::Mongodb(target) => match &target.connection {
            MongoConnection::UriFrom(source) => secret(source),
            MongoConnection::Uri(_) => None,
        },
        RestoreTarget::Files(target) if target.persistent_volume_claim.is_none() => Refusal::new(
            "files of a cluster are restored to a claim: set to.files.persistentVolumeClaim",
        ),
        RestoreTarget::Files(_) => None,
    }
}

fn secret(source: &SecretSource) -> Option<Refusal> {
    match source {
        SecretSource::SecretKeyRef(_) => None,
        SecretSource::Env(_) => Refusal::new(
            "the secret source env is a variable of one box: use secretKeyRef in a cluster",
        ),
        SecretSource::File(_) => Refusal::new(
            "the secret source file is a file of one box: use secretKeyRef in a cluster",
        ),
    }
}
