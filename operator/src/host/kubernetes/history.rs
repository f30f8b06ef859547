//! The history of runs in a cluster: read from the Jobs that are there, and added up for as long as
//! this process lives.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::job::TaskKind;
use super::record::JobRecord;
use crate::host::Name;
use crate::journal::{Run, RunKind, RunQuery, Summary};

/// The Jobs, and what they came to.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<Name, Arc<JobRecord>>,
    by_policy: BTreeMap<Name, BTreeSet<Name>>,
    /// Jobs that are counted already, by uid.
    counted: HashSet<String>,
    /// Whether all Jobs that are there have been told: sums are made in the order of time.
    complete: bool,
    policies: BTreeMap<Name, Summary>,
    destinations: BTreeMap<Name, Summary>,
}

impl History {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a Job, unless a newer version of it is known.
    pub fn put(&self, record: JobRecord) {
        let mut inner = self.lock();
        if let Some(known) = inner.jobs.get(&record.name)
            && known.uid == record.uid
            && known.version.is_some()
            && record
                .version
                .is_some_and(|version| Some(version) <= known.version)
        {
            return;
        }
        let record = Arc::new(record);
        if let Some(policy) = record.policy() {
            inner
                .by_policy
                .entry(policy)
                .or_default()
                .insert(record.name.clone());
        }
        inner.jobs.insert(record.name.clone(), record.clone());
        if inner.complete {
            inner.count(&record);
        }
    }

    /// Takes note that a Job is gone. What it came to stays counted.
    pub fn remove(&self, name: &Name) {
        let mut inner = self.lock();
        let Some(record) = inner.jobs.remove(name) else {
            return;
        };
        inner.counted.remove(&record.uid);
        if let Some(policy) = record.policy()
            && let Some(names) = inner.by_policy.get_mut(&policy)
        {
            names.remove(name);
            if names.is_empty() {
                inner.by_policy.remove(&policy);
            }
        }
    }

    /// All Jobs that are there have been told.
    pub fn complete(&self) {
        let mut inner = self.lock();
        if inner.complete {
            return;
        }
        inner.complete = true;
        let mut ended: Vec<Arc<JobRecord>> = inner
            .jobs
            .values()
            .filter(|record| record.kept.is_some())
            .cloned()
            .collect();
        ended.sort_by_key(|record| record.kept.as_ref().map(|kept| kept.ended));
        for record in ended {
            inner.count(&record);
        }
    }

    /// The names of all Jobs in a namespace, or in all.
    #[must_use]
    pub fn names(&self, namespace: Option<&str>) -> Vec<Name> {
        self.lock()
            .jobs
            .keys()
            .filter(|name| namespace.is_none_or(|namespace| name.namespace == namespace))
            .cloned()
            .collect()
    }

    /// One Job.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Arc<JobRecord>> {
        self.lock().jobs.get(name).cloned()
    }

    /// The Jobs of a policy, the oldest first.
    #[must_use]
    pub fn of_policy(&self, policy: &Name) -> Vec<Arc<JobRecord>> {
        let inner = self.lock();
        let mut jobs: Vec<Arc<JobRecord>> = inner
            .by_policy
            .get(policy)
            .into_iter()
            .flatten()
            .filter_map(|name| inner.jobs.get(name).cloned())
            .collect();
        jobs.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        jobs
    }

    /// The Jobs that this object owns, the oldest first. Those of one before it that had its name,
    /// and that the garbage collector has not come to yet, are not its own.
    #[must_use]
    pub fn owned_by<K: kube::Resource<DynamicType = ()>>(&self, owner: &K) -> Vec<Arc<JobRecord>> {
        let namespace = Name::of(owner).namespace;
        let inner = self.lock();
        let mut jobs: Vec<Arc<JobRecord>> = inner
            .jobs
            .range(Name::new(&namespace, "")..)
            .take_while(|(name, _)| name.namespace == namespace)
            .map(|(_, record)| record)
            .filter(|record| record.belongs_to(owner))
            .cloned()
            .collect();
        jobs.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        jobs
    }

    /// Runs, newest first.
    #[must_use]
    pub fn runs(&self, query: &RunQuery) -> Vec<Run> {
        self.runs_of(query, |_| true)
    }

    /// Runs, newest first, of the Jobs that are wanted.
    #[must_use]
    pub fn runs_of(&self, query: &RunQuery, wanted: impl Fn(&JobRecord) -> bool) -> Vec<Run> {
        let jobs: Vec<Arc<JobRecord>> = match &query.policy {
            Some(policy) => self.of_policy(&Name::parse(policy, "")),
            None => self.lock().jobs.values().cloned().collect(),
        };
        let mut runs: Vec<Run> = jobs
            .iter()
            .filter(|record| wanted(record))
            .flat_map(|record| record.runs())
            .filter(|run| query.wants(run))
            .collect();
        runs.sort_by(|one, other| (other.started, &other.id).cmp(&(one.started, &one.id)));
        runs.truncate(query.limit.unwrap_or(usize::MAX));
        runs
    }

    /// What the runs of a policy come to.
    #[must_use]
    pub fn policy_summary(&self, policy: &Name) -> Summary {
        self.lock()
            .policies
            .get(policy)
            .cloned()
            .unwrap_or_default()
    }

    /// What the runs at a destination come to.
    #[must_use]
    pub fn destination_summary(&self, destination: &Name) -> Summary {
        self.lock()
            .destinations
            .get(destination)
            .cloned()
            .unwrap_or_default()
    }

    /// Everything, for the metrics.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let inner = self.lock();
        let mut running = BTreeMap::new();
        let mut policies = inner.policies.clone();
        for record in inner.jobs.values().filter(|record| record.is_open()) {
            let Some(policy) = record.counts_for() else {
                continue;
            };
            // It is counted when it has ended, and has been tried as soon as it is made.
            if record.kind == TaskKind::Backup {
                let attempts = &mut policies.entry(policy.clone()).or_default().last_attempt;
                let last = attempts.entry(RunKind::Backup).or_insert(record.created);
                *last = (*last).max(record.created);
            }
            *running.entry(policy).or_insert(0) += 1;
        }
        let pairs = |map: &BTreeMap<Name, Summary>| {
            map.iter()
                .map(|(name, summary)| (name.clone(), summary.clone()))
                .collect()
        };
        Sums {
            policies: policies.into_iter().collect(),
            destinations: pairs(&inner.destinations),
            running,
        }
    }

    /// Forgets what the runs of a policy came to, when it is gone.
    pub fn forget_policy(&self, policy: &Name) {
        self.lock().policies.remove(policy);
    }
}

/// What the runs of all Jobs come to.
#[derive(Debug, Clone)]
pub struct Sums {
    /// By policy.
    pub policies: Vec<(Name, Summary)>,
    /// By destination.
    pub destinations: Vec<(Name, Summary)>,
    /// How many Jobs of each policy go on.
    pub running: BTreeMap<Name, u64>,
}

impl Inner {
    fn count(&mut self, record: &JobRecord) {
        if record.kept.is_none() || !self.counted.insert(record.uid.clone()) {
            return;
        }
        let mut runs = record.runs();
        runs.sort_by_key(|run| run.started);
        for run in &runs {
            if let Some(policy) = record.counts_for() {
                let summary = self.policies.entry(policy).or_default();
                summary.start(run);
                summary.end(run);
            }
            if let Some(alias) = &run.destination {
                let summary = self
                    .destinations
                    .entry(record.destination(alias))
                    .or_default();
                summary.start(run);
                summary.end(run);
            }
        }
    }
}

#[cfg(test)]
mod tests;
