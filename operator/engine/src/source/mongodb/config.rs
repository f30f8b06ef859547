//! What to read and from where: plain types, secrets already resolved.

use secrecy::SecretString;

/// A MongoDB deployment, and what of it is wanted.
#[derive(Debug, Clone)]
pub struct MongodbConfig {
    /// Connection string, with its credentials.
    pub uri: SecretString,
    /// Namespace patterns (`*` and `?`) of what is wanted; everything when empty.
    pub include: Vec<String>,
    /// Namespace patterns of what is not wanted; they win over `include`.
    pub exclude: Vec<String>,
    /// Whether users and roles are wanted: those of the whole server, whatever `include` says.
    pub users_and_roles: bool,
}
