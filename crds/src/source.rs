//! What is read: the sources of a policy.

use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FilesClaim, SecretSource, meta, patterns};

/// What is backed up: exactly one of `mongodb` and `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A MongoDB deployment.
    Mongodb(MongodbSource),
    /// Folders and files of the machine.
    Files(FilesSource),
}

impl Source {
    /// Which source it is.
    pub const fn kind(&self) -> SourceKind {
        match self {
            Self::Mongodb(_) => SourceKind::Mongodb,
            Self::Files(_) => SourceKind::Files,
        }
    }
}

/// The kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SourceKind {
    /// A MongoDB deployment.
    Mongodb,
    /// Folders and files.
    Files,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mongodb => "mongodb",
            Self::Files => "files",
        })
    }
}

/// The CEL rules of a struct that holds a [`MongoConnection`].
pub(crate) mod uri_rules {
    /// It is a MongoDB connection string.
    pub(crate) const SCHEME: &str = "!has(self.uri) || self.uri.startsWith('mongodb://') || self.uri.startsWith('mongodb+srv://')";
    /// What to do when it is not.
    pub(crate) const SCHEME_MESSAGE: &str = "uri must begin with mongodb:// or mongodb+srv://; write for example mongodb://db:27017/?replicaSet=rs0";
    /// It holds no password, neither that of the user nor one among the options.
    pub(crate) const SECRET: &str = r"!has(self.uri) || !(self.uri.matches('^[^?]*//[^/?@]*:[^?]*@|^[^/]*//[^/@,]*:[^/@]*[^0-9/@,?][^/@]*@') || self.uri.matches('(?i)[?&](tlsCertificateKeyFilePassword|sslPEMKeyPassword|proxyPassword)=') || self.uri.matches('(?i)AWS_SESSION_TOKEN'))";
    /// What to do when it does.
    pub(crate) const SECRET_MESSAGE: &str = "uri holds a password, and this file is no place for one: put the whole URI into a Secret, an environment variable or a file, and name that in uriFrom instead of uri";
}

/// How a MongoDB deployment is reached: exactly one of `uri` and `uriFrom`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MongoConnection {
    /// A connection string that holds no password.
    Uri(#[schemars(length(min = 1, max = 4096))] String),
    /// Where a connection string that holds a password is read from.
    UriFrom(SecretSource),
}

/// A MongoDB deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(uri_rules::SCHEME).message(uri_rules::SCHEME_MESSAGE).field_path(".uri"))]
#[x_kube(validation = Rule::new(uri_rules::SECRET).message(uri_rules::SECRET_MESSAGE).field_path(".uri"))]
pub struct MongodbSource {
    /// `uri` or `uriFrom`.
    #[serde(flatten)]
    pub connection: MongoConnection,
    /// The namespaces to read, as `database.collection`; `*` and `?` are
    /// wildcards. All when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("items" = meta::list_of(patterns::NAMESPACE, 512)))]
    pub include: Vec<String>,
    /// The namespaces to leave out, of those that `include` takes in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("items" = meta::list_of(patterns::NAMESPACE, 512)))]
    pub exclude: Vec<String>,
    /// Whether users and roles are backed up too.
    #[serde(default = "yes")]
    pub users_and_roles: bool,
}

pub(crate) const fn yes() -> bool {
    true
}

/// Folders and files of the machine, or of a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.persistentVolumeClaim) || self.paths.all(path, (path + '/').startsWith(self.persistentVolumeClaim.mountPath + '/') && !(path + '/').contains('/../'))").message("every path must lie in the claim: begin it with the mountPath of persistentVolumeClaim, and write no ..").field_path(".paths"))]
pub struct FilesSource {
    /// The folders and files to read, as absolute paths.
    #[schemars(length(min = 1, max = 1000), extend("items" = meta::list_of(patterns::ABSOLUTE_PATH, 4096)))]
    pub paths: Vec<String>,
    /// What to leave out: patterns as in `.gitignore`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("items" = {"type": "string", "minLength": 1, "maxLength": 4096}))]
    pub exclude: Vec<String>,
    /// Whether other file systems mounted below the paths are left out.
    #[serde(default)]
    pub one_file_system: bool,
    /// What a file does that cannot be read: it makes the run fail, or is
    /// skipped and reported.
    #[serde(default)]
    pub on_unreadable: OnUnreadable,
    /// The claim that holds the paths. In a cluster only, and needed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<FilesClaim>,
}

/// What happens to a run that meets a file it cannot read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnreadable {
    /// The run fails and names the file.
    #[default]
    Fail,
    /// The file is left out, and so is all that is in it where it is a
    /// directory: the log names it, and `status.skipped` of the backup counts.
    Skip,
}
