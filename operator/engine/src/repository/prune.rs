//! Forgetting snapshots, and freeing in two phases what no snapshot needs.

use std::time::Duration;

use serde::Serialize;

/// How a prune goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneOptions {
    /// How long packs that are not needed stay, marked, before they are removed. A backup that
    /// takes longer than this is refused at its end.
    pub keep_delete: Duration,
    /// How much of the repository may be unused bytes inside packs that are still needed.
    pub max_unused_percent: u8,
    /// How much of the repository may be written again in one prune.
    pub max_repack_percent: u8,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            keep_delete: Duration::from_secs(23 * 60 * 60),
            max_unused_percent: 5,
            max_repack_percent: 10,
        }
    }
}

/// What a prune would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunePlan {
    /// Packs of which everything is needed.
    pub used_packs: u64,
    /// Packs of which a part is needed.
    pub partly_used_packs: u64,
    /// Packs of which nothing is needed: they get marked.
    pub unused_packs: u64,
    /// Packs whose needed part is written again; they get marked.
    pub repacked_packs: u64,
    /// Packs marked long enough ago: they are removed.
    pub removed_packs: u64,
    /// Packs that stay marked for now.
    pub kept_marked_packs: u64,
    /// Packs that were marked and are needed again.
    pub recovered_packs: u64,
    /// Packs that no index knows, left by runs that died: they get marked.
    pub unreferenced_packs: u64,
    /// Bytes that snapshots need.
    pub used_bytes: u64,
    /// Bytes that no snapshot needs, in packs that are not marked yet.
    pub unused_bytes: u64,
    /// Bytes of packs that get marked because nothing in them is needed.
    pub marked_bytes: u64,
    /// Bytes written again.
    pub repacked_bytes: u64,
    /// Bytes removed now.
    pub removed_bytes: u64,
    /// Bytes of packs that no index knows.
    pub unreferenced_bytes: u64,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// The plan that was carried out.
    pub plan: PrunePlan,
    /// Bytes of the packs that are there afterwards.
    pub stored_bytes: u64,
}
