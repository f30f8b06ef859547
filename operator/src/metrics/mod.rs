//! What Prometheus is told: one collector on a registry that is passed in.
//!
//! Nothing is counted here. At each scrape the figures of runs are read from the journal, which
//! every process that makes runs writes, and the rest from what the reconcilers last saw. So the
//! numbers are right straight after a restart, counters go on where they were, runs of the command
//! line are in them, and the series of an object that is no more are gone.

mod facts;
mod families;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

pub use facts::{DestinationFacts, PolicyFacts};

use crate::journal::{Journal, JournalError, RunKind, Summary};
use families::Families;

/// `(namespace, name)`.
pub type ObjectName = (String, String);

/// A handle on the metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Box<dyn Source>,
    facts: Mutex<Facts>,
    descriptions: Vec<Desc>,
}

/// What the reconcilers last saw of the objects that are declared.
#[derive(Debug, Clone, Default)]
struct Facts {
    policies: BTreeMap<ObjectName, PolicyFacts>,
    destinations: BTreeMap<ObjectName, DestinationFacts>,
}

/// What is known of runs at the moment of a scrape, by `namespace/name`.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What the runs of each policy come to.
    pub policies: BTreeMap<String, Summary>,
    /// What the runs at each destination come to.
    pub destinations: BTreeMap<String, Summary>,
    /// How many runs of each policy go on.
    pub running: BTreeMap<String, u64>,
}

/// Where the figures of runs come from: on one box the journal, in a cluster the Jobs.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// What is known now.
    ///
    /// # Errors
    /// When it cannot be read.
    fn history(&self) -> Result<History, JournalError>;
}

impl Source for Journal {
    fn history(&self) -> Result<History, JournalError> {
        let mut running = BTreeMap::new();
        for run in self.open_runs()? {
            if let Some(policy) = run.policy_key() {
                *running.entry(policy).or_insert(0) += 1;
            }
        }
        Ok(History {
            policies: self.policy_summaries()?.into_iter().collect(),
            destinations: self.destination_summaries()?.into_iter().collect(),
            running,
        })
    }
}

impl Metrics {
    /// Registers the metrics on `registry`. Until the first pass they say what was last known of
    /// the objects that the journal remembers.
    ///
    /// # Errors
    /// When the journal cannot be read, or the registry has metrics of these names already.
    pub fn register(registry: &Registry, journal: Journal) -> Result<Self, MetricsError> {
        let mut facts = Facts::default();
        for (key, record) in journal.objects("BackupPolicy")? {
            if record.deleted.is_none() {
                let name = format!("{}/{}", key.namespace, key.name);
                let remembered = PolicyFacts::remembered(&name, &record, Timestamp::now());
                facts.policies.insert((key.namespace, key.name), remembered);
            }
        }
        for (key, record) in journal.objects("Destination")? {
            if record.deleted.is_none() {
                let remembered = DestinationFacts::remembered(&record);
                facts
                    .destinations
                    .insert((key.namespace, key.name), remembered);
            }
        }
        Self::with(registry, Box::new(journal), facts)
    }

    /// Registers the metrics of runs that are told by `source`.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register_source(
        registry: &Registry,
        source: impl Source + 'static,
    ) -> Result<Self, MetricsError> {
        Self::with(registry, Box::new(source), Facts::default())
    }

    fn with(
        registry: &Registry,
        source: Box<dyn Source>,
        facts: Facts,
    ) -> Result<Self, MetricsError> {
        let metrics = Self {
            shared: Arc::new(Shared {
                source,
                facts: Mutex::new(facts),
                descriptions: families::descriptions()?,
            }),
        };
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// Says what was seen of a policy.
    pub fn set_policy(&self, namespace: &str, name: &str, facts: PolicyFacts) {
        self.change(|all| {
            all.policies
                .insert((namespace.to_owned(), name.to_owned()), facts);
        });
    }

    /// Says what was seen of a destination.
    pub fn set_destination(&self, namespace: &str, name: &str, facts: DestinationFacts) {
        self.change(|all| {
            all.destinations
                .insert((namespace.to_owned(), name.to_owned()), facts);
        });
    }

    /// Drops the series of every object that is not declared.
    pub fn retain(&self, policies: &BTreeSet<ObjectName>, destinations: &BTreeSet<ObjectName>) {
        self.change(|all| {
            all.policies.retain(|name, _| policies.contains(name));
            all.destinations
                .retain(|name, _| destinations.contains(name));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self
            .shared
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut facts);
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.shared.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let facts = self
            .shared
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let history = self.shared.source.history().map_err(|error| {
            tracing::error!(%error, "The history of runs cannot be read for the metrics.");
        });
        render(&facts, history.as_ref().ok(), Timestamp::now())
    }
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The registry does not take them.
    #[error("cannot register the metrics: {0}; each registry takes them once")]
    Registry(#[from] prometheus::Error),
}

/// The families from what is known. Without the history the series of runs are absent, which is
/// honest, instead of zero, which is not.
fn render(facts: &Facts, history: Option<&History>, now: Timestamp) -> Vec<MetricFamily> {
    let mut families = Families::default();
    families.gauge(
        "holdfast_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    families.truth("holdfast_state_up", &[], history.is_some());
    for ((namespace, name), facts) in &facts.policies {
        let labels = [("namespace", namespace.as_str()), ("policy", name.as_str())];
        families.truth("holdfast_policy_suspended", &labels, facts.suspended);
        if let Some(ready) = facts.ready {
            families.truth("holdfast_policy_ready", &labels, ready);
        }
        families.time(
            "holdfast_next_run_timestamp_seconds",
            &labels,
            facts.next_run,
        );
        families.time(
            "holdfast_last_backup_timestamp_seconds",
            &labels,
            facts.newest_backup,
        );
        let Some(history) = history else { continue };
        let key = format!("{namespace}/{name}");
        let unknown = Summary::default();
        let summary = history.policies.get(&key).unwrap_or(&unknown);
        let running = history.running.get(&key).copied().unwrap_or(0);
        families.count("holdfast_runs_in_progress", &labels, running);
        render_runs(&mut families, &labels, facts, summary, now);
    }
    for ((namespace, name), facts) in &facts.destinations {
        let labels = [
            ("namespace", namespace.as_str()),
            ("destination", name.as_str()),
        ];
        if let Some(up) = facts.up {
            families.truth("holdfast_destination_up", &labels, up);
        }
        families.some("holdfast_destination_backups", &labels, facts.backups);
        families.some(
            "holdfast_destination_stored_bytes",
            &labels,
            facts.stored_bytes,
        );
        let checked = history
            .and_then(|history| history.destinations.get(&format!("{namespace}/{name}")))
            .and_then(|summary| summary.last_success.get(&RunKind::Check).copied());
        families.time(
            "holdfast_last_check_timestamp_seconds",
            &labels,
            checked.max(facts.last_check),
        );
    }
    families.finish()
}

/// The series of one policy that come from its runs.
fn render_runs(
    families: &mut Families,
    labels: &[(&str, &str); 2],
    facts: &PolicyFacts,
    summary: &Summary,
    now: Timestamp,
) {
    let backup = RunKind::Backup;
    // When the journal is lost, the backups that are there still tell of the last success.
    let success = summary.last_success.get(&backup).copied();
    let success = success.max(facts.newest_backup);
    families.time("holdfast_last_success_timestamp_seconds", labels, success);
    families.count(
        "holdfast_scheduled_runs_without_success",
        labels,
        facts.without_success(success, now),
    );
    let attempt = summary.last_attempt.get(&backup).copied();
    families.time("holdfast_last_attempt_timestamp_seconds", labels, attempt);
    let failures = summary.consecutive_failures.get(&backup).copied();
    families.count(
        "holdfast_consecutive_failures",
        labels,
        failures.unwrap_or(0),
    );
    families.runs(labels, summary);
    families.durations(labels, summary);
    for (name, bytes) in [
        ("holdfast_backup_read_bytes_total", summary.read_bytes),
        ("holdfast_backup_added_bytes_total", summary.added_bytes),
        ("holdfast_backup_stored_bytes_total", summary.stored_bytes),
    ] {
        families.total(name, labels, bytes);
    }
    let Some(last) = &summary.last_backup else {
        return;
    };
    families.gauge(
        "holdfast_last_backup_duration_seconds",
        labels,
        last.duration_seconds,
    );
    let figures = &last.figures;
    for (name, figure) in [
        ("holdfast_last_backup_read_bytes", figures.read_bytes),
        ("holdfast_last_backup_added_bytes", figures.added_bytes),
        ("holdfast_last_backup_stored_bytes", figures.stored_bytes),
        ("holdfast_last_backup_documents", figures.documents),
        ("holdfast_last_backup_files", figures.files),
        (
            "holdfast_last_backup_skipped_files",
            // Of files a zero is worth saying: an alert wants to see it come and go.
            figures.files.map(|_| figures.skipped.unwrap_or(0)),
        ),
    ] {
        families.some(name, labels, figure);
    }
}
