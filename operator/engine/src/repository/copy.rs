//! Copying snapshots to another repository.

/// A snapshot that is in the other repository now, or was already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its id in the repository copied from.
    pub source_id: String,
    /// Its id in the repository copied to.
    pub id: String,
    /// Whether it was there already.
    pub existed: bool,
}
