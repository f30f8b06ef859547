//! The families of metrics: their names, help and types, and how values get into them.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::journal::{DURATION_BUCKETS, Outcome, RunKind, Summary};
use MetricType::{COUNTER, GAUGE, HISTOGRAM};

/// A family: name, type, labels, help.
type Definition = (
    &'static str,
    MetricType,
    &'static [&'static str],
    &'static str,
);

const NONE: &[&str] = &[];
const BUILD: &[&str] = &["version"];
const POLICY: &[&str] = &["namespace", "policy"];
const RUNS: &[&str] = &["namespace", "policy", "kind", "result"];
const DESTINATION: &[&str] = &["namespace", "destination"];

/// Every family there is.
#[rustfmt::skip]
const DEFINITIONS: &[Definition] = &[
    ("holdfast_build_info", GAUGE, BUILD, "The version that runs; always 1."),
    ("holdfast_state_up", GAUGE, NONE, "Whether the state database can be read."),
    ("holdfast_policy_suspended", GAUGE, POLICY, "Whether the policy is suspended."),
    ("holdfast_policy_ready", GAUGE, POLICY, "Whether the condition Ready of the policy is True."),
    ("holdfast_scheduled_runs_without_success", GAUGE, POLICY, "Scheduled times that have passed since a backup last ended well, or since the policy was declared; counted up to 10."),
    ("holdfast_next_run_timestamp_seconds", GAUGE, POLICY, "When the next backup is due."),
    ("holdfast_last_backup_timestamp_seconds", GAUGE, POLICY, "The moment that the newest backup shows."),
    ("holdfast_last_success_timestamp_seconds", GAUGE, POLICY, "When a backup last ended well."),
    ("holdfast_last_attempt_timestamp_seconds", GAUGE, POLICY, "When a backup last started, whatever became of it."),
    ("holdfast_consecutive_failures", GAUGE, POLICY, "Backups that failed since the last one that ended well."),
    ("holdfast_runs_in_progress", GAUGE, POLICY, "Runs in progress."),
    ("holdfast_runs_total", COUNTER, RUNS, "Runs that ended, by kind and result."),
    ("holdfast_backup_duration_seconds", HISTOGRAM, POLICY, "How long backups took that ended well."),
    ("holdfast_backup_read_bytes_total", COUNTER, POLICY, "Bytes that backups read from the source."),
    ("holdfast_backup_added_bytes_total", COUNTER, POLICY, "Bytes of them that the repository did not have."),
    ("holdfast_backup_stored_bytes_total", COUNTER, POLICY, "Bytes that those took, compressed and encrypted."),
    ("holdfast_last_backup_duration_seconds", GAUGE, POLICY, "How long the last backup took that ended well."),
    ("holdfast_last_backup_read_bytes", GAUGE, POLICY, "Bytes that the last backup read from the source."),
    ("holdfast_last_backup_added_bytes", GAUGE, POLICY, "Bytes of them that the repository did not have."),
    ("holdfast_last_backup_stored_bytes", GAUGE, POLICY, "Bytes that those took, compressed and encrypted."),
    ("holdfast_last_backup_documents", GAUGE, POLICY, "Documents in the last backup."),
    ("holdfast_last_backup_files", GAUGE, POLICY, "Files in the last backup."),
    ("holdfast_last_backup_skipped_files", GAUGE, POLICY, "Files and directories that could not be read and are not in the last backup."),
    ("holdfast_destination_up", GAUGE, DESTINATION, "Whether the repository of the destination can be used."),
    ("holdfast_destination_backups", GAUGE, DESTINATION, "Backups in the destination."),
    ("holdfast_destination_stored_bytes", GAUGE, DESTINATION, "Bytes that the repository takes."),
    ("holdfast_last_check_timestamp_seconds", GAUGE, DESTINATION, "When the repository was last checked without finding damage."),
];

/// The kinds of runs whose series exist from the start, so that the first failure is an increase.
const COUNTED: [RunKind; 5] = [
    RunKind::Backup,
    RunKind::Restore,
    RunKind::Copy,
    RunKind::Forget,
    RunKind::Prune,
];

/// Descriptions for the registry.
pub(super) fn descriptions() -> prometheus::Result<Vec<Desc>> {
    DEFINITIONS
        .iter()
        .map(|(name, _, labels, help)| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(
                (*name).to_owned(),
                (*help).to_owned(),
                labels,
                HashMap::new(),
            )
        })
        .collect()
}

/// Families that are being filled.
#[derive(Debug, Default)]
pub(super) struct Families {
    metrics: BTreeMap<&'static str, Vec<Metric>>,
}

impl Families {
    pub(super) fn gauge(&mut self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_gauge(gauge);
        metric.set_label(pairs(labels));
        self.push(name, metric);
    }

    /// A gauge that is 1 or 0.
    pub(super) fn truth(&mut self, name: &'static str, labels: &[(&str, &str)], value: bool) {
        self.gauge(name, labels, if value { 1.0 } else { 0.0 });
    }

    /// A gauge of a number of things.
    pub(super) fn count(&mut self, name: &'static str, labels: &[(&str, &str)], value: u64) {
        self.gauge(name, labels, float(value));
    }

    /// A gauge of a number that may not be known.
    pub(super) fn some(&mut self, name: &'static str, labels: &[(&str, &str)], value: Option<u64>) {
        if let Some(value) = value {
            self.count(name, labels, value);
        }
    }

    /// A gauge of a time that may not be known.
    pub(super) fn time(
        &mut self,
        name: &'static str,
        labels: &[(&str, &str)],
        time: Option<Timestamp>,
    ) {
        if let Some(time) = time {
            let since = time.duration_since(Timestamp::UNIX_EPOCH);
            self.gauge(name, labels, since.as_secs_f64());
        }
    }

    pub(super) fn total(&mut self, name: &'static str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(float(value));
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.push(name, metric);
    }

    /// The runs of a policy by kind and result.
    pub(super) fn runs(&mut self, labels: &[(&str, &str); 2], summary: &Summary) {
        let [namespace, policy] = *labels;
        for kind in RunKind::ALL {
            let by_outcome = summary.runs.get(&kind);
            for outcome in Outcome::ALL {
                let count = by_outcome.and_then(|outcomes| outcomes.get(&outcome));
                if count.is_none() && !COUNTED.contains(&kind) {
                    continue;
                }
                let kind = ("kind", kind.as_str());
                let result = ("result", outcome.as_str());
                self.total(
                    "holdfast_runs_total",
                    &[namespace, policy, kind, result],
                    count.copied().unwrap_or(0),
                );
            }
        }
    }

    /// The durations of a policy's backups.
    pub(super) fn durations(&mut self, labels: &[(&str, &str)], summary: &Summary) {
        let mut cumulative = 0;
        let buckets = DURATION_BUCKETS
            .iter()
            .zip(summary.durations)
            .map(|(bound, count)| {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(summary.duration_count);
        histogram.set_sample_sum(summary.duration_seconds);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.push("holdfast_backup_duration_seconds", metric);
    }

    fn push(&mut self, name: &'static str, metric: Metric) {
        self.metrics.entry(name).or_default().push(metric);
    }

    /// The families that have a value.
    pub(super) fn finish(mut self) -> Vec<MetricFamily> {
        DEFINITIONS
            .iter()
            .filter_map(|(name, kind, _, help)| {
                let mut family = MetricFamily::default();
                family.set_name((*name).to_owned());
                family.set_help((*help).to_owned());
                family.set_field_type(*kind);
                family.set_metric(self.metrics.remove(name)?);
                Some(family)
            })
            .collect()
    }
}

/// Prometheus knows floating point only; beyond 2^53 the last digits go.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}
