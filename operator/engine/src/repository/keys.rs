//! The passwords that open a repository.

/// A key of a repository: one password that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id: 64 hex digits.
    pub id: String,
    /// Whether this repository was opened with it.
    pub current: bool,
    /// The user who made it, as `user@host`, where the key says so.
    pub made_by: Option<String>,
    /// When it was made, where the key says so.
    pub created: Option<String>,
}
