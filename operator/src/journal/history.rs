//! Reading the history: runs, and what they come to.

use redb::ReadableTable;

use super::Journal;
use super::error::JournalError;
use super::run::{Outcome, Run, RunKind};
use super::store::{
    self, DESTINATION_SUMMARIES, OPEN_RUNS, POLICY_SUMMARIES, RUNS, RUNS_BY_POLICY, SummaryTable,
};
use super::summary::Summary;

/// Which runs are asked for; an empty query asks for all.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    /// Those of this policy, as `namespace/name`.
    pub policy: Option<String>,
    /// Those at this destination, as `namespace/name`.
    pub destination: Option<String>,
    /// Those of this kind.
    pub kind: Option<RunKind>,
    /// Those that ended so.
    pub outcome: Option<Outcome>,
    /// At most so many, the newest.
    pub limit: Option<usize>,
}

impl RunQuery {
    /// All runs of a policy.
    #[must_use]
    pub fn of_policy(namespace: &str, name: &str) -> Self {
        Self {
            policy: Some(format!("{namespace}/{name}")),
            ..Self::default()
        }
    }

    /// Whether a run is among those asked for.
    #[must_use]
    pub fn wants(&self, run: &Run) -> bool {
        self.policy
            .as_ref()
            .is_none_or(|policy| run.policy_key().as_ref() == Some(policy))
            && self
                .destination
                .as_ref()
                .is_none_or(|destination| run.destination_key().as_ref() == Some(destination))
            && self.kind.is_none_or(|kind| run.kind == kind)
            && self.outcome.is_none_or(|outcome| {
                run.ending
                    .as_ref()
                    .is_some_and(|ending| ending.outcome == outcome)
            })
    }
}

impl Journal {
    /// Runs, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn runs(&self, query: &RunQuery) -> Result<Vec<Run>, JournalError> {
        let limit = query.limit.unwrap_or(usize::MAX);
        let store = self.store();
        store.read("list runs", |transaction| {
            let runs = store.read_table(transaction, RUNS)?;
            let mut found = Vec::new();
            let mut take = |run: Run| {
                if query.wants(&run) {
                    found.push(run);
                }
                found.len() < limit
            };
            if let Some(policy) = &query.policy {
                let index = store.read_table(transaction, RUNS_BY_POLICY)?;
                let range = store::keys_of(policy);
                for entry in store.done(index.range(range))?.rev() {
                    let (key, _) = store.done(entry)?;
                    if let Some(value) = store.done(runs.get(key.value().1))?
                        && !take(store.decode(value.value())?)
                    {
                        break;
                    }
                }
            } else {
                for entry in store.done(runs.iter())?.rev() {
                    let (_, value) = store.done(entry)?;
                    if !take(store.decode(value.value())?) {
                        break;
                    }
                }
            }
            Ok(found)
        })
    }

    /// One run by its id, or by the beginning of it when no other begins so.
    ///
    /// # Errors
    /// When the database fails.
    pub fn run(&self, id: &str) -> Result<Option<Run>, JournalError> {
        let store = self.store();
        store.read("read a run", |transaction| {
            let runs = store.read_table(transaction, RUNS)?;
            let mut begins = store.done(runs.range(id..))?.take(2);
            let mut found = None;
            for entry in begins.by_ref() {
                let (key, value) = store.done(entry)?;
                if !key.value().starts_with(id) {
                    break;
                }
                if found.is_some() {
                    return Ok(None);
                }
                found = Some(store.decode(value.value())?);
            }
            Ok(found)
        })
    }

    /// The runs in progress, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn open_runs(&self) -> Result<Vec<Run>, JournalError> {
        let store = self.store();
        store.read("list the runs in progress", |transaction| {
            let open = store.read_table(transaction, OPEN_RUNS)?;
            let runs = store.read_table(transaction, RUNS)?;
            let mut found = Vec::new();
            for entry in store.done(open.iter())? {
                let (id, _) = store.done(entry)?;
                if let Some(value) = store.done(runs.get(id.value()))? {
                    found.push(store.decode(value.value())?);
                }
            }
            Ok(found)
        })
    }

    /// What the runs of each policy come to, by `namespace/name`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn policy_summaries(&self) -> Result<Vec<(String, Summary)>, JournalError> {
        self.summaries(POLICY_SUMMARIES)
    }

    /// What the runs at each destination come to, by `namespace/name`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn destination_summaries(&self) -> Result<Vec<(String, Summary)>, JournalError> {
        self.summaries(DESTINATION_SUMMARIES)
    }

    fn summaries(&self, table: SummaryTable) -> Result<Vec<(String, Summary)>, JournalError> {
        let store = self.store();
        store.read("read what runs come to", |transaction| {
            let table = store.read_table(transaction, table)?;
            let mut found = Vec::new();
            for entry in store.done(table.iter())? {
                let (key, value) = store.done(entry)?;
                found.push((key.value().to_owned(), store.decode(value.value())?));
            }
            Ok(found)
        })
    }

    /// What the runs of a policy come to.
    ///
    /// # Errors
    /// When the database fails.
    pub fn policy_summary(&self, namespace: &str, name: &str) -> Result<Summary, JournalError> {
        self.summary(POLICY_SUMMARIES, namespace, name)
    }

    /// What the runs at a destination come to.
    ///
    /// # Errors
    /// When the database fails.
    pub fn destination_summary(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Summary, JournalError> {
        self.summary(DESTINATION_SUMMARIES, namespace, name)
    }

    fn summary(
        &self,
        table: SummaryTable,
        namespace: &str,
        name: &str,
    ) -> Result<Summary, JournalError> {
        let store = self.store();
        store.read("read what runs come to", |transaction| {
            let table = store.read_table(transaction, table)?;
            match store.done(table.get(format!("{namespace}/{name}").as_str()))? {
                Some(value) => store.decode(value.value()),
                None => Ok(Summary::default()),
            }
        })
    }
}
