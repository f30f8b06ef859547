//! What all runs of a policy or at a destination come to: kept with the journal and in the same
//! transactions, so that it outlives the trimming of runs and is right straight after a restart.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::run::{Figures, Outcome, Run, RunKind};

/// Upper bounds of the histogram of durations, in seconds: from a small policy to a day's work.
pub const DURATION_BUCKETS: [f64; 12] = [
    1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0, 86_400.0,
];

/// How long after a prune another one removes what that marked: the engine keeps it marked for 23
/// hours.
const MARKED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// What all runs of one policy, or at one destination, come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// How many runs ended, by kind and outcome.
    pub runs: BTreeMap<RunKind, BTreeMap<Outcome, u64>>,
    /// When a run of the kind last started.
    pub last_attempt: BTreeMap<RunKind, Timestamp>,
    /// When a run of the kind last ended well.
    pub last_success: BTreeMap<RunKind, Timestamp>,
    /// Failed runs of the kind since the last success.
    pub consecutive_failures: BTreeMap<RunKind, u64>,
    /// The last backup that ended well.
    pub last_backup: Option<LastBackup>,
    /// Bytes read by all backups that ended well.
    pub read_bytes: u64,
    /// Bytes they added.
    pub added_bytes: u64,
    /// Bytes those took.
    pub stored_bytes: u64,
    /// Backups that ended well by duration: one count for each bound of [`DURATION_BUCKETS`], not
    /// cumulative; what is longer is in none.
    pub durations: [u64; DURATION_BUCKETS.len()],
    /// How many durations there are.
    pub duration_count: u64,
    /// Their sum in seconds.
    pub duration_seconds: f64,
    /// At a destination: whether a prune has work left.
    pub prune_pending: bool,
    /// At a destination: from when on another prune removes what the last one only marked.
    pub prune_again: Option<Timestamp>,
}

/// The last backup that ended well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// The id of its snapshot.
    pub snapshot: Option<String>,
    /// When its run ended.
    pub ended: Timestamp,
    /// How long its run took, in seconds.
    pub duration_seconds: f64,
    /// What it did.
    pub figures: Figures,
}

impl Summary {
    /// Takes note of a start.
    pub(crate) fn start(&mut self, run: &Run) {
        self.last_attempt.insert(run.kind, run.started);
        if run.kind == RunKind::Prune {
            // Until it ends well there is work left, even if nobody is there to say that it failed.
            self.prune_pending = true;
        }
    }

    /// Takes note of an end.
    pub(crate) fn end(&mut self, run: &Run) {
        let Some(ending) = &run.ending else { return };
        let count = self
            .runs
            .entry(run.kind)
            .or_default()
            .entry(ending.outcome)
            .or_default();
        *count = count.saturating_add(1);
        match run.kind {
            RunKind::Prune => {
                self.prune_pending = ending.outcome != Outcome::Succeeded;
                let marked = ending.figures.marked_packs.is_some_and(|packs| packs > 0);
                self.prune_again = marked
                    .then(|| ending.at.checked_add(MARKED_FOR).ok())
                    .flatten();
            }
            // One that failed may have removed some.
            RunKind::Forget | RunKind::Delete => {
                let none =
                    ending.outcome == Outcome::Succeeded && ending.figures.backups == Some(0);
                self.prune_pending |= !none;
            }
            _ => {}
        }
        if ending.outcome != Outcome::Succeeded {
            let failures = self.consecutive_failures.entry(run.kind).or_default();
            *failures = failures.saturating_add(1);
            return;
        }
        self.consecutive_failures.remove(&run.kind);
        self.last_success.insert(run.kind, ending.at);
        if run.kind == RunKind::Backup {
            self.backup(run, ending.at, ending.snapshot.clone(), &ending.figures);
        }
    }

    fn backup(&mut self, run: &Run, at: Timestamp, snapshot: Option<String>, figures: &Figures) {
        // A clock that was set back in the middle does not make time negative.
        let seconds = at.duration_since(run.started).as_secs_f64().max(0.0);
        let add = |total: &mut u64, bytes: Option<u64>| {
            *total = total.saturating_add(bytes.unwrap_or(0));
        };
        add(&mut self.read_bytes, figures.read_bytes);
        add(&mut self.added_bytes, figures.added_bytes);
        add(&mut self.stored_bytes, figures.stored_bytes);
        let bucket = DURATION_BUCKETS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = bucket.and_then(|bucket| self.durations.get_mut(bucket)) {
            *count = count.saturating_add(1);
        }
        self.duration_count = self.duration_count.saturating_add(1);
        self.duration_seconds += seconds;
        self.last_backup = Some(LastBackup {
            snapshot,
            ended: at,
            duration_seconds: seconds,
            figures: figures.clone(),
        });
    }
}
