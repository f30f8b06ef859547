//! Kind `Destination`: one repository, where it lies and how it is opened.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ClaimRef, SecretSource,
    job::{CLAIM_PATH_MESSAGE, CLAIM_PATH_RULE},
    meta::{self, Condition, Time},
    patterns,
};

/// Where snapshots live: one repository, on exactly one of `s3`, `sftp` and
/// `local`, and the password that encrypts it.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Destination",
    namespaced,
    status = "DestinationStatus",
    derive = "PartialEq",
    doc = "Where snapshots live: one encrypted repository on S3, SFTP or a local path.",
    shortname = "hfd",
    shortname = "dest",
    category = "holdfast",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Backups", type_ = "integer", json_path = ".status.backups"),
    printcolumn(
        name = "Size",
        type_ = "integer",
        json_path = ".status.storedBytes",
        description = "Bytes stored"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct DestinationSpec {
    /// `s3`, `sftp` or `local`.
    #[serde(flatten)]
    pub storage: Storage,
    /// How the repository is encrypted. There is no unencrypted one.
    pub encryption: Encryption,
    /// What becomes of the data when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The other namespaces whose policies may use this destination, and with
    /// it its keys: each by its name, or `*` for all of them. None when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("items" = meta::list_of(patterns::NAMESPACE_OR_ALL, 63)))]
    pub allowed_namespaces: Vec<String>,
}

impl DestinationSpec {
    /// Whether policies of the namespace `guest` may use it, when it lies in
    /// the namespace `home`.
    pub fn allows(&self, home: &str, guest: &str) -> bool {
        home == guest
            || self
                .allowed_namespaces
                .iter()
                .any(|allowed| allowed == "*" || allowed == guest)
    }
}

/// The storage of a repository: exactly one of `s3`, `sftp` and `local`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// A bucket of an S3 service.
    S3(S3),
    /// A folder of a machine that is reached over SSH.
    Sftp(Sftp),
    /// A folder of this machine.
    Local(Local),
}

/// A bucket of an S3 service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.accessKeyId) == has(self.secretAccessKey)").message("accessKeyId and secretAccessKey go together: set both, or neither to use the credentials of the environment"))]
#[x_kube(validation = Rule::new("!has(self.sessionToken) || has(self.accessKeyId)").message("sessionToken needs accessKeyId and secretAccessKey: set them too, or remove it").field_path(".sessionToken"))]
pub struct S3 {
    /// The name of the bucket. It must exist.
    #[schemars(regex(pattern = patterns::BUCKET), length(min = 3, max = 255))]
    pub bucket: String,
    /// A folder in the bucket, so that several repositories can share it.
    /// Slashes at its ends do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 900))]
    pub prefix: Option<String>,
    /// The URL of the service. AWS when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::ENDPOINT), length(max = 1024))]
    pub endpoint: Option<String>,
    /// The region of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// How the bucket is put into URLs. `Path` when `endpoint` is set, else
    /// `Virtual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<S3Addressing>,
    /// The access key. When absent, the credentials of the environment are
    /// used, as every AWS tool does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<SecretSource>,
    /// The secret of the access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<SecretSource>,
    /// The session token that belongs to a temporary access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretSource>,
    /// The storage class of new objects. The bucket's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub storage_class: Option<String>,
}

impl S3 {
    /// The folder in the bucket without slashes at its ends; empty when there is none.
    pub fn normalized_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default().trim_matches('/')
    }

    /// How the bucket is put into URLs, the default worked out.
    pub fn effective_addressing(&self) -> S3Addressing {
        self.addressing.unwrap_or(if self.endpoint.is_some() {
            S3Addressing::Path
        } else {
            S3Addressing::Virtual
        })
    }
}

/// How a bucket is put into URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum S3Addressing {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Virtual,
}

/// A folder of a machine that is reached over SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.privateKey) || has(self.password) || (has(self.agent) && self.agent)").message("no way to log in: set privateKey, password or agent: true"))]
#[x_kube(validation = Rule::new("has(self.hostKey) || has(self.knownHosts)").message("the host's key must be known, or anyone could pose as the host: set hostKey (ssh-keyscan HOST prints it; compare it with the host's own) or knownHosts"))]
#[x_kube(validation = Rule::new("!(has(self.hostKey) && has(self.knownHosts))").message("the host's key is checked against one of hostKey and knownHosts, and both are set: remove one"))]
#[x_kube(validation = Rule::new("!has(self.passphrase) || has(self.privateKey)").message("passphrase belongs to privateKey: set that too, or remove it").field_path(".passphrase"))]
pub struct Sftp {
    /// The machine's name or address.
    #[schemars(regex(pattern = patterns::HOST), length(max = 253))]
    pub host: String,
    /// The port of the SSH server.
    #[serde(default = "ssh_port")]
    #[schemars(range(min = 1, max = 65_535), extend("format" = "int32"))]
    pub port: u16,
    /// The user to log in as.
    #[schemars(length(min = 1, max = 256))]
    pub user: String,
    /// The folder of the repository. One that does not begin with `/` lies in
    /// the user's home.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// A private key in OpenSSH or PEM format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretSource>,
    /// The passphrase of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretSource>,
    /// The password of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
    /// Whether the keys of the SSH agent are tried.
    #[serde(default)]
    pub agent: bool,
    /// The public key of the host, as `ssh-ed25519 AAAA…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::HOST_KEY), length(max = 4096))]
    pub host_key: Option<String>,
    /// The path of a `known_hosts` file that has the host's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::ABSOLUTE_PATH), length(max = 4096))]
    pub known_hosts: Option<String>,
}

const fn ssh_port() -> u16 {
    22
}

/// A folder of this machine, or of a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(CLAIM_PATH_RULE).message(CLAIM_PATH_MESSAGE).field_path(".path"))]
pub struct Local {
    /// The folder of the repository, as an absolute path.
    #[schemars(regex(pattern = patterns::ABSOLUTE_PATH), length(max = 4096))]
    pub path: String,
    /// The claim that is mounted at `path`. In a cluster only, and needed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimRef>,
}

/// How a repository is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// The password of the repository. Whoever loses it loses the backups.
    pub password: SecretSource,
}

/// What becomes of the data when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted too.
    Delete,
}

/// What is known of a destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// `Ready`, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The id of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// How many backups of Holdfast the repository holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub backups: Option<u64>,
    /// How many snapshots of others the repository holds. They are never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub foreign_snapshots: Option<u64>,
    /// How many bytes the repository takes up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int64"))]
    pub stored_bytes: Option<u64>,
    /// When the repository was last checked without finding damage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<Time>,
    /// The `holdfast.dev/requestedAt` that was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_request: Option<String>,
}
