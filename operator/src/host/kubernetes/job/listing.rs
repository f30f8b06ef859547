//! What a repository holds, as the pod tells it: one marked line of JSON on standard output. For a
//! destination on a claim the operator has no other way to know.

use holdfast_engine::repository::Snapshot;
use serde::{Deserialize, Serialize};

/// How a line begins that is a listing.
pub const LISTING_MARK: &str = "holdfast-listing: ";

/// How many snapshots a listing tells, the newest: a line of the log must stay readable.
pub const LISTING_LIMIT: usize = 2_000;

/// What one destination holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkListing {
    /// The destination, by its name in the policy.
    pub destination: String,
    /// The id of the repository; absent where there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_id: Option<String>,
    /// How many backups of Holdfast there are, of whatever policy.
    pub backups: u64,
    /// How many snapshots of others there are.
    pub foreign: u64,
    /// How many bytes the repository takes up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// The backups of Holdfast, the oldest first; the newest [`LISTING_LIMIT`] where there are more.
    pub snapshots: Vec<Snapshot>,
}

impl WorkListing {
    /// The listing of a place without a repository.
    #[must_use]
    pub fn empty(destination: impl Into<String>) -> Self {
        Self {
            destination: destination.into(),
            repository_id: None,
            backups: 0,
            foreign: 0,
            stored_bytes: Some(0),
            snapshots: Vec::new(),
        }
    }

    /// The listing of a repository.
    #[must_use]
    pub fn of(
        destination: impl Into<String>,
        repository_id: String,
        stored_bytes: Option<u64>,
        snapshots: Vec<Snapshot>,
    ) -> Self {
        let all = snapshots.len();
        let mut ours: Vec<Snapshot> = snapshots.into_iter().filter(|one| !one.foreign).collect();
        ours.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
        let backups = ours.len();
        ours.drain(..backups.saturating_sub(LISTING_LIMIT));
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            destination: destination.into(),
            repository_id: Some(repository_id),
            backups: count(backups),
            foreign: count(all - backups),
            stored_bytes,
            snapshots: ours,
        }
    }

    /// The line, without a line break.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        Ok(format!("{LISTING_MARK}{}", serde_json::to_string(self)?))
    }

    /// The listings in a log, the last of each destination. Lines that are something else, or were
    /// cut off, are passed over.
    #[must_use]
    pub fn read(log: &str) -> Vec<Self> {
        let mut listings: Vec<Self> = Vec::new();
        for listing in log
            .lines()
            .filter_map(|line| serde_json::from_str::<Self>(line.strip_prefix(LISTING_MARK)?).ok())
        {
            listings.retain(|one| one.destination != listing.destination);
            listings.push(listing);
        }
        listings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_found_among_the_lines_of_a_log() {
        let first = WorkListing::empty("disk");
        let mut second = WorkListing::empty("disk");
        second.backups = 3;
        let other = WorkListing::empty("box");
        let log = format!(
            "{{\"level\":\"INFO\"}}\n{}\nnoise\n{}\n{}\n{}",
            first.line().unwrap(),
            other.line().unwrap(),
            second.line().unwrap(),
            &first.line().unwrap()[..30],
        );
        assert_eq!(WorkListing::read(&log), vec![other, second]);
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let id = "ab".repeat(32);
        let json = serde_json::json!({
            "destination": "disk", "repositoryId": id, "backups": 1, "foreign": 0,
            "storedBytes": 5, "snapshots": [{
                "id": id, "original_id": null, "time": "2026-03-01T10:15:00Z",
                "hostname": "default/shop", "tags": ["holdfast"], "paths": ["/mongodb"],
                "policy": "default/shop", "foreign": false,
                "facts": {"source": "mongodb", "size": 7, "run": "r"},
                "read_bytes": 1, "added_bytes": 2, "stored_bytes": 3,
                "start_time": null, "completion_time": null, "tree": id,
            }],
        });
        let listing: WorkListing = serde_json::from_value(json).unwrap();
        let read = WorkListing::read(&listing.line().unwrap());
        assert_eq!(read, vec![listing]);
    }
}
