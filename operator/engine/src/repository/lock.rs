//! Lock files in restic's format: written, refreshed and honoured.

/// A lock that somebody holds on a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// Its id: 64 hex digits.
    pub id: String,
    /// When it was made or refreshed.
    pub time: jiff::Timestamp,
    /// Whether nobody else may work meanwhile (a prune).
    pub exclusive: bool,
    /// The host of the holder.
    pub hostname: String,
    /// The user of the holder.
    pub username: String,
    /// The process of the holder.
    pub pid: u32,
    /// Whether it is taken as left over.
    pub stale: bool,
}
