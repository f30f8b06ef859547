//! The figures of runs in a cluster, for the metrics: added up from the Jobs while this process
//! lives, so that they do not go down when Jobs are cleaned up.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_crds::{BackupPolicyStatus, PolicyTask};
use jiff::Timestamp;
use prometheus::{IntGauge, Registry};

use super::history::Sums;
use super::host::KubernetesHost;
use crate::host::Name;
use crate::journal::{Figures, JournalError, LastBackup, RunKind, Summary};
use crate::metrics::{History, Source};

/// The gauge of who leads: 1 on the replica that reconciles, 0 on one that waits.
///
/// # Errors
/// When it is registered already.
pub fn leader_gauge(registry: &Registry) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(
        "holdfast_leader",
        "Whether this replica reconciles: 1, or 0 while it waits for its turn.",
    )?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Tells the metrics of the runs of a cluster.
#[derive(Debug, Clone)]
pub struct JobMetrics(pub Arc<KubernetesHost>);

impl Source for JobMetrics {
    fn history(&self) -> Result<History, JournalError> {
        let Sums {
            policies,
            destinations,
            running,
        } = self.0.history.sums();
        let named = |(name, sum): (Name, _)| (name.to_string(), sum);
        let mut policies: BTreeMap<Name, Summary> = policies.into_iter().collect();
        for policy in self.0.policies.all() {
            if let Some(status) = &policy.status {
                let summary = policies.entry(Name::of(policy.as_ref())).or_default();
                remember(summary, status);
            }
        }
        Ok(History {
            policies: policies.into_iter().map(named).collect(),
            destinations: destinations.into_iter().map(named).collect(),
            running: running
                .into_iter()
                .map(|(name, count)| (name.to_string(), count))
                .collect(),
        })
    }
}

/// Adds what the status of a policy remembers: Jobs are cleaned up, and another process did not see
/// them.
pub fn remember(summary: &mut Summary, status: &BackupPolicyStatus) {
    let later = |map: &mut BTreeMap<RunKind, Timestamp>, time: Option<Timestamp>| {
        if let Some(time) = time {
            let known = map.entry(RunKind::Backup).or_insert(time);
            *known = (*known).max(time);
        }
    };
    later(
        &mut summary.last_attempt,
        status.last_attempt_time.as_ref().map(|time| time.0),
    );
    later(
        &mut summary.last_success,
        status.last_success_time.as_ref().map(|time| time.0),
    );
    if summary.last_backup.is_none()
        && let Some(last) = &status.last_backup
    {
        summary.last_backup = Some(LastBackup {
            snapshot: Some(last.id.clone()),
            ended: last.time.0,
            duration_seconds: 0.0,
            figures: Figures {
                read_bytes: last.read_bytes,
                added_bytes: last.added_bytes,
                ..Figures::default()
            },
        });
    }
    for failure in &status.failures {
        let kind = match failure.task {
            PolicyTask::Backup => RunKind::Backup,
            PolicyTask::Copy => RunKind::Copy,
            PolicyTask::Forget => RunKind::Forget,
            PolicyTask::Prune => RunKind::Prune,
        };
        let since = summary.last_success.get(&kind);
        // What a success made good is not written out of the status at the same moment.
        if since.is_none_or(|success| *success < failure.time.0) {
            let known = summary.consecutive_failures.entry(kind).or_default();
            *known = (*known).max(u64::from(failure.attempts));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(attempt: &str, success: Option<&str>) -> BackupPolicyStatus {
        serde_json::from_value(json!({
            "lastAttemptTime": attempt, "lastSuccessTime": success,
            "failures": [{
                "task": "Backup", "attempts": 3, "class": "transient", "message": "the disk is full",
                "time": "2026-03-01T10:00:00Z", "interrupted": false,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn what_the_status_remembers_counts_after_the_jobs_are_gone() {
        let mut summary = Summary::default();
        remember(
            &mut summary,
            &status("2026-03-01T10:00:00Z", Some("2026-02-28T10:00:00Z")),
        );
        assert_eq!(summary.consecutive_failures[&RunKind::Backup], 3);
        assert_eq!(
            summary.last_attempt[&RunKind::Backup].to_string(),
            "2026-03-01T10:00:00Z"
        );
        assert!(summary.last_success.contains_key(&RunKind::Backup));
    }

    #[test]
    fn what_was_made_good_since_does_not() {
        let mut summary = Summary::default();
        let later = "2026-03-01T11:00:00Z".parse().unwrap();
        summary.last_success.insert(RunKind::Backup, later);
        remember(&mut summary, &status("2026-03-01T10:00:00Z", None));
        assert!(summary.consecutive_failures.is_empty());
        assert_eq!(summary.last_success[&RunKind::Backup], later);
    }
}
