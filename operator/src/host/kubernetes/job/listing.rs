//! What a repository holds, as the pod tells it: marked lines of JSON on standard output. For a
//! destination on a claim the operator has no other way to know, and a snapshot that is not told would
//! be taken for one that is not there: a listing is whole, or it is none.

use holdfast_engine::repository::Snapshot;
use serde::{Deserialize, Serialize};

/// How a line begins that is a listing.
pub const LISTING_MARK: &str = "holdfast-listing: ";

/// How many snapshots one line tells: a line of the log must stay readable.
const LINE_LIMIT: usize = 500;

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
    /// The backups of Holdfast, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// The place of this line among those of the listing, from zero.
    #[serde(default, skip_serializing_if = "is_zero")]
    part: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
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
            part: 0,
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
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            destination: destination.into(),
            repository_id: Some(repository_id),
            backups: count(backups),
            foreign: count(all - backups),
            stored_bytes,
            snapshots: ours,
            part: 0,
        }
    }

    /// The lines, each with its line break.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn lines(&self) -> Result<String, serde_json::Error> {
        let mut parts: Vec<&[Snapshot]> = self.snapshots.chunks(LINE_LIMIT).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let mut lines = String::new();
        for (part, snapshots) in parts.into_iter().enumerate() {
            let line = Self {
                destination: self.destination.clone(),
                repository_id: self.repository_id.clone(),
                snapshots: snapshots.to_vec(),
                part,
                ..*self
            };
            lines.push_str(LISTING_MARK);
            lines.push_str(&serde_json::to_string(&line)?);
            lines.push('\n');
        }
        Ok(lines)
    }

    /// The listings in a log, the last of each destination. Lines that are something else, or were
    /// cut off, are passed over; whether a listing is whole, [`Self::is_whole`] says.
    #[must_use]
    pub fn read(log: &str) -> Vec<Self> {
        let mut listings: Vec<Self> = Vec::new();
        for mut line in log
            .lines()
            .filter_map(|line| serde_json::from_str::<Self>(line.strip_prefix(LISTING_MARK)?).ok())
        {
            let known = listings
                .iter()
                .position(|one| one.destination == line.destination);
            match known.and_then(|at| listings.get_mut(at)) {
                Some(listing) if line.part == listing.part + 1 => {
                    listing.snapshots.append(&mut line.snapshots);
                    listing.part = line.part;
                }
                // Its beginning, or what comes after a gap: then it is not whole.
                Some(listing) => *listing = line,
                None => listings.push(line),
            }
        }
        listings
    }

    /// Whether every backup that it counts is in it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        u64::try_from(self.snapshots.len()) == Ok(self.backups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_found_among_the_lines_of_a_log() {
        let first = WorkListing::empty("disk");
        let mut second = WorkListing::empty("disk");
        second.foreign = 3;
        let other = WorkListing::empty("box");
        let log = format!(
            "{{\"level\":\"INFO\"}}\n{}noise\n{}{}{}",
            first.lines().unwrap(),
            other.lines().unwrap(),
            second.lines().unwrap(),
            &first.lines().unwrap()[..30],
        );
        assert_eq!(WorkListing::read(&log), vec![second, other]);
    }

    fn snapshot(number: usize) -> Snapshot {
        let id = format!("{number:064x}");
        serde_json::from_value(serde_json::json!({
            "id": id, "original_id": null, "time": "2026-03-01T10:15:00Z",
            "hostname": "default/shop", "tags": ["holdfast"], "paths": ["/mongodb"],
            "policy": "default/shop", "foreign": false,
            "facts": {"source": "mongodb", "size": 7, "run": "r"},
            "read_bytes": 1, "added_bytes": 2, "stored_bytes": 3,
            "start_time": null, "completion_time": null, "tree": id,
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let listing = WorkListing::of("disk", "ab".to_owned(), Some(5), vec![snapshot(1)]);
        let read = WorkListing::read(&listing.lines().unwrap());
        assert_eq!(read, vec![listing]);
    }

    /// What is not told would be copied again, and its objects deleted.
    #[test]
    fn there_is_no_number_of_snapshots_from_which_on_some_are_missing() {
        let all: Vec<Snapshot> = (0..5_001).map(snapshot).collect();
        let listing = WorkListing::of("disk", "ab".to_owned(), None, all);
        let lines = listing.lines().unwrap();
        let read = WorkListing::read(&lines).remove(0);
        assert!(read.is_whole());
        assert_eq!(read.snapshots, listing.snapshots);
        // A log that begins, or ends, in the middle.
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 11);
        for part in [
            &lines[1..],
            &lines[..10],
            &[&lines[..3], &lines[4..]].concat(),
        ] {
            assert!(!WorkListing::read(&part.join("\n"))[0].is_whole());
        }
    }
}
