//! Where a secret value comes from. Never the value itself.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// Where a secret value is read from: exactly one of `secretKeyRef`, `env` and
/// `file`. A literal value is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecretSource {
    /// An entry of a Secret in the same namespace. On one machine it is read
    /// from `NAME/KEY` in the folder given with `--secrets-dir`.
    SecretKeyRef(SecretKeySelector),
    /// The name of an environment variable of the process.
    Env(#[schemars(regex(pattern = patterns::ENV), length(max = 256))] String),
    /// The path of a file. One newline at its end does not count.
    File(#[schemars(regex(pattern = patterns::ABSOLUTE_PATH), length(max = 4096))] String),
}

/// An entry of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// The name of the Secret.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub name: String,
    /// The key of the entry within the Secret.
    #[schemars(regex(pattern = patterns::SECRET_KEY), length(max = 253))]
    pub key: String,
}
