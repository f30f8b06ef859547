//! What a spec asks for that the host it is on cannot give. Files declare for any host, and
//! `validate` knows none: it is here that a pod's settings are refused on a machine that has no
//! pods, and a machine's files and environment in a cluster, where they would be the operator's own
//! and no tenant's business. Never is such a field accepted and ignored. Pure.

use std::sync::Arc;

use holdfast_crds::{
    BackupPolicySpec, Destination, DestinationSpec, MongoConnection, RestoreSpec, RestoreTarget,
    S3, SecretSource, Sftp, Source, Storage,
};

use crate::host::Name;
use crate::plan::Plan;

/// Where a reconciler or a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    /// On a machine: a run is a task of the process.
    Machine,
    /// In a cluster, where a run is a Job: what the specs name is that of their namespaces.
    Cluster,
    /// In a pod of a Job, with what the operator gave it after it had checked the specs.
    Pod,
}

/// One thing that a spec asks for and does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason for a condition.
    pub reason: &'static str,
    /// The field, as a path in the object.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    fn cluster_only(field: &'static str, message: &str) -> Self {
        Self {
            reason: CLUSTER_ONLY,
            field,
            message: format!("{field} is for a cluster: {message}"),
        }
    }

    fn machine_only(field: &'static str, message: &str) -> Self {
        Self {
            reason: MACHINE_ONLY,
            field,
            message: format!("{field}: {message}"),
        }
    }
}

/// The reason of what only a cluster has.
pub const CLUSTER_ONLY: &str = "ClusterOnly";
/// The reason of what only a machine has.
pub const MACHINE_ONLY: &str = "NotPossibleInCluster";

/// All refusals as one: the reason of the first, and every message.
#[must_use]
pub fn summary(refusals: &[Refusal]) -> Option<(&'static str, String)> {
    let messages: Vec<&str> = refusals.iter().map(|one| one.message.as_str()).collect();
    Some((refusals.first()?.reason, messages.join("; ")))
}

/// The plan, unless something was refused.
#[must_use]
pub fn unless_refused(plan: Plan, refusals: &[Refusal]) -> Plan {
    match summary(refusals) {
        Some((reason, message)) => plan.refused(reason, message),
        None => plan,
    }
}

/// What a destination asks for and does not get.
#[must_use]
pub fn destination(place: Surroundings, spec: &DestinationSpec) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    match place {
        Surroundings::Pod => {}
        Surroundings::Machine => {
            if let Storage::Local(local) = &spec.storage
                && local.persistent_volume_claim.is_some()
            {
                refusals.push(Refusal::cluster_only(
                    "spec.local.persistentVolumeClaim",
                    "there are no volumes on this machine; remove it, and path is a folder here",
                ));
            }
        }
        Surroundings::Cluster => {
            let password = Some(&spec.encryption.password);
            refusals.extend(tenants("spec.encryption.password", password));
            refusals.extend(match &spec.storage {
                Storage::S3(s3) => s3_in_cluster(s3),
                Storage::Sftp(sftp) => sftp_in_cluster(sftp),
                Storage::Local(local) if local.persistent_volume_claim.is_none() => {
                    vec![Refusal::machine_only(
                        "spec.local",
                        "in a cluster a folder lies in a volume; name its claim in spec.local.persistentVolumeClaim",
                    )]
                }
                Storage::Local(_) => Vec::new(),
            });
        }
    }
    refusals
}

fn s3_in_cluster(s3: &S3) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if s3.access_key_id.is_none() {
        refusals.push(Refusal::machine_only(
            "spec.s3.accessKeyId",
            "it is missing, and in a cluster the credentials of the environment are those of the operator, which are lent to nobody; name the keys of the bucket with secretKeyRef in accessKeyId and secretAccessKey",
        ));
    }
    let secrets = [
        ("spec.s3.accessKeyId", &s3.access_key_id),
        ("spec.s3.secretAccessKey", &s3.secret_access_key),
        ("spec.s3.sessionToken", &s3.session_token),
    ];
    for (field, source) in secrets {
        refusals.extend(tenants(field, source.as_ref()));
    }
    refusals
}

fn sftp_in_cluster(sftp: &Sftp) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let secrets = [
        ("spec.sftp.privateKey", &sftp.private_key),
        ("spec.sftp.passphrase", &sftp.passphrase),
        ("spec.sftp.password", &sftp.password),
    ];
    for (field, source) in secrets {
        refusals.extend(tenants(field, source.as_ref()));
    }
    if sftp.agent {
        refusals.push(Refusal::machine_only(
            "spec.sftp.agent",
            "there is no SSH agent in a cluster; name a key in privateKey with secretKeyRef, and remove agent",
        ));
    }
    if sftp.known_hosts.is_some() {
        refusals.push(Refusal::machine_only(
            "spec.sftp.knownHosts",
            "a file of the operator is no business of a declaration in a cluster; write the host's key into hostKey, and remove knownHosts",
        ));
    }
    refusals
}

/// In a cluster a secret is a Secret: the environment and the files would be those of the operator.
fn tenants(field: &'static str, source: Option<&SecretSource>) -> Option<Refusal> {
    let word = match source? {
        SecretSource::SecretKeyRef(_) => return None,
        SecretSource::Env(_) => "env",
        SecretSource::File(_) => "file",
    };
    Some(Refusal::machine_only(
        field,
        &format!(
            "{word} is for one machine, and in a cluster it would be the operator's own; put the value into a Secret of the object's namespace and name it with secretKeyRef"
        ),
    ))
}

/// What a policy of a namespace asks for and does not get. Of its destinations only what concerns
/// the two together: each has refusals of its own.
#[must_use]
pub fn policy(
    place: Surroundings,
    namespace: &str,
    spec: &BackupPolicySpec,
    destinations: &[(Name, Arc<Destination>)],
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    match place {
        Surroundings::Pod => {}
        Surroundings::Machine => {
            if spec.job.is_some() {
                refusals.push(Refusal::cluster_only(
                    "spec.job",
                    "on this machine a run is a task of this process and has no pod; remove it",
                ));
            }
            refusals.extend(source_claim(spec));
        }
        Surroundings::Cluster => {
            match &spec.source {
                Source::Mongodb(source) => refusals.extend(tenants(
                    "spec.source.mongodb.uriFrom",
                    uri_from(&source.connection),
                )),
                Source::Files(source) if source.persistent_volume_claim.is_none() => {
                    refusals.push(Refusal::machine_only(
                        "spec.source.files",
                        "in a cluster the paths lie in a volume; name its claim in spec.source.files.persistentVolumeClaim",
                    ));
                }
                Source::Files(_) => {}
            }
            let foreign_volume = destinations.iter().find(|(name, object)| {
                name.namespace != namespace && matches!(object.spec.storage, Storage::Local(_))
            });
            if let Some((name, _)) = foreign_volume {
                refusals.push(Refusal::machine_only(
                    "spec.destinations",
                    &format!(
                        "{name} lies in a volume, and a volume cannot be mounted in another namespace; name a destination of s3 or sftp, or one of this namespace"
                    ),
                ));
            }
        }
    }
    refusals
}

fn source_claim(spec: &BackupPolicySpec) -> Option<Refusal> {
    match &spec.source {
        Source::Files(source) if source.persistent_volume_claim.is_some() => {
            Some(Refusal::cluster_only(
                "spec.source.files.persistentVolumeClaim",
                "there are no volumes on this machine; remove it, and paths are folders here",
            ))
        }
        Source::Files(_) | Source::Mongodb(_) => None,
    }
}

/// What a Restore asks for and does not get. The policy is that which it restores from, if it is
/// declared: a restore to where that one reads needs the same as the policy does.
#[must_use]
pub fn restore(
    place: Surroundings,
    spec: &RestoreSpec,
    policy: Option<&BackupPolicySpec>,
) -> Vec<Refusal> {
    match (place, &spec.to) {
        (Surroundings::Pod, _) => Vec::new(),
        (Surroundings::Machine, RestoreTarget::Original(_)) => {
            policy.and_then(source_claim).into_iter().collect()
        }
        (Surroundings::Machine, RestoreTarget::Files(target)) => {
            let claim = target.persistent_volume_claim.as_ref().map(|_| {
                Refusal::cluster_only(
                    "spec.to.files.persistentVolumeClaim",
                    "there are no volumes on this machine; remove it, and path is a folder here (in another Restore: this one cannot be changed)",
                )
            });
            claim.into_iter().collect()
        }
        (Surroundings::Machine, RestoreTarget::Mongodb(_)) => Vec::new(),
        (Surroundings::Cluster, RestoreTarget::Original(_)) => policy
            .map(|policy| self::policy(place, "", policy, &[]))
            .unwrap_or_default(),
        (Surroundings::Cluster, RestoreTarget::Mongodb(target)) => {
            tenants("spec.to.mongodb.uriFrom", uri_from(&target.connection))
                .into_iter()
                .collect()
        }
        (Surroundings::Cluster, RestoreTarget::Files(target)) => {
            if target.persistent_volume_claim.is_some() {
                return Vec::new();
            }
            vec![Refusal::machine_only(
                "spec.to.files",
                "in a cluster a folder lies in a volume; create another Restore that names its claim in spec.to.files.persistentVolumeClaim",
            )]
        }
    }
}

fn uri_from(connection: &MongoConnection) -> Option<&SecretSource> {
    match connection {
        MongoConnection::Uri(_) => None,
        MongoConnection::UriFrom(source) => Some(source),
    }
}

#[cfg(test)]
mod tests;
