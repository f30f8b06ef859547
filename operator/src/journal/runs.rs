//! Writing the history: runs are opened, closed, closed for those who cannot any more, and trimmed.

use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::error::JournalError;
use super::run::{Ending, NewRun, Run, RunKind};
use super::store::{
    self, DESTINATION_SUMMARIES, OPEN_RUNS, POLICY_SUMMARIES, RUNS, RUNS_BY_POLICY,
};
use super::summary::Summary;
use super::{Journal, holder};

impl Journal {
    /// Opens a run.
    ///
    /// # Errors
    /// [`JournalError::InProgress`] when a run that does not go with it is open, in whatever
    /// process: two that change the backups of one policy, a backup beside a restore into what it
    /// reads, or two prunes of one destination.
    pub fn start(&self, new: NewRun, now: Timestamp) -> Result<Run, JournalError> {
        let NewRun {
            kind,
            namespace,
            policy,
            destination,
            destination_namespace,
            object,
            into_source,
            scheduled_for,
            fingerprint,
        } = new;
        let run = Run {
            id: run_id(now),
            kind,
            destination_namespace: destination_namespace.filter(|other| *other != namespace),
            namespace,
            policy,
            destination,
            object,
            into_source,
            scheduled_for,
            fingerprint,
            started: now,
            holder: self.inner.lock.holder().clone(),
            ending: None,
        };
        self.store().write("start a run", |transaction| {
            // The process that left a run open may have died since anyone last looked.
            self.close_orphans(transaction, now)?;
            for other in self.open_runs_in(transaction)? {
                if let Some(subject) = conflict(&run, &other) {
                    return Err(JournalError::InProgress {
                        kind: other.kind,
                        subject,
                        run: other.id,
                        pid: other.holder.pid,
                        since: other.started,
                    });
                }
            }
            self.put_run(transaction, &run)?;
            let mut open = self.store().table(transaction, OPEN_RUNS)?;
            self.store().done(open.insert(run.id.as_str(), ()))?;
            drop(open);
            self.summarise(transaction, &run, Summary::start)
        })?;
        Ok(run)
    }

    /// Closes a run.
    ///
    /// # Errors
    /// [`JournalError::NotOpen`] when it has ended already.
    pub fn finish(&self, id: &str, ending: Ending) -> Result<Run, JournalError> {
        self.store().write("close a run", |transaction| {
            let mut run = self
                .run_in(transaction, id)?
                .filter(|run| run.ending.is_none())
                .ok_or_else(|| self.not_open(id))?;
            run.ending = Some(ending);
            self.close(transaction, &run)?;
            Ok(run)
        })
    }

    /// Closes the runs whose process is gone as [`Outcome::Interrupted`], and returns them.
    ///
    /// # Errors
    /// When the database fails.
    pub fn recover(&self, now: Timestamp) -> Result<Vec<Run>, JournalError> {
        let orphans = self.orphans(self.open_runs()?);
        if orphans.is_empty() {
            return Ok(orphans);
        }
        self.store()
            .write("close the runs of processes that are gone", |transaction| {
                self.close_orphans(transaction, now)
            })
    }

    fn orphans(&self, open: Vec<Run>) -> Vec<Run> {
        open.into_iter()
            .filter(|run| {
                run.holder.id != self.inner.lock.holder().id
                    && !holder::is_alive(&self.inner.holders, &run.holder.id)
            })
            .collect()
    }

    fn close_orphans(
        &self,
        transaction: &WriteTransaction,
        now: Timestamp,
    ) -> Result<Vec<Run>, JournalError> {
        let mut orphans = self.orphans(self.open_runs_in(transaction)?);
        for run in &mut orphans {
            run.ending = Some(Ending::interrupted(now, &run.holder));
            self.close(transaction, run)?;
        }
        Ok(orphans)
    }

    fn close(&self, transaction: &WriteTransaction, run: &Run) -> Result<(), JournalError> {
        self.put_run(transaction, run)?;
        let mut open = self.store().table(transaction, OPEN_RUNS)?;
        self.store().done(open.remove(run.id.as_str()))?;
        drop(open);
        self.summarise(transaction, run, Summary::end)?;
        self.trim(transaction, run)
    }

    fn put_run(&self, transaction: &WriteTransaction, run: &Run) -> Result<(), JournalError> {
        let store = self.store();
        let mut runs = store.table(transaction, RUNS)?;
        store.done(runs.insert(run.id.as_str(), store.encode(run)?.as_slice()))?;
        if let Some(policy) = run.policy_key() {
            let mut index = store.table(transaction, RUNS_BY_POLICY)?;
            store.done(index.insert((policy.as_str(), run.id.as_str()), ()))?;
        }
        Ok(())
    }

    fn run_in(
        &self,
        transaction: &WriteTransaction,
        id: &str,
    ) -> Result<Option<Run>, JournalError> {
        let store = self.store();
        let runs = store.table(transaction, RUNS)?;
        let value = store.done(runs.get(id))?;
        value.map(|value| store.decode(value.value())).transpose()
    }

    fn open_runs_in(&self, transaction: &WriteTransaction) -> Result<Vec<Run>, JournalError> {
        let store = self.store();
        let open = store.table(transaction, OPEN_RUNS)?;
        let mut found = Vec::new();
        for entry in store.done(open.iter())? {
            let (id, _) = store.done(entry)?;
            found.extend(self.run_in(transaction, id.value())?);
        }
        Ok(found)
    }

    fn summarise(
        &self,
        transaction: &WriteTransaction,
        run: &Run,
        note: fn(&mut Summary, &Run),
    ) -> Result<(), JournalError> {
        let store = self.store();
        let subjects = [
            (POLICY_SUMMARIES, run.policy_key()),
            (DESTINATION_SUMMARIES, run.destination_key()),
        ];
        for (table, key) in subjects {
            let Some(key) = key else { continue };
            let mut table = store.table(transaction, table)?;
            let mut summary: Summary = match store.done(table.get(key.as_str()))? {
                Some(value) => store.decode(value.value())?,
                None => Summary::default(),
            };
            note(&mut summary, run);
            store.done(table.insert(key.as_str(), store.encode(&summary)?.as_slice()))?;
        }
        Ok(())
    }

    /// Removes the oldest runs beyond the limits; those in progress stay.
    fn trim(&self, transaction: &WriteTransaction, run: &Run) -> Result<(), JournalError> {
        let store = self.store();
        let limits = self.inner.limits;
        let mut runs = store.table(transaction, RUNS)?;
        let mut index = store.table(transaction, RUNS_BY_POLICY)?;
        let open = store.table(transaction, OPEN_RUNS)?;
        if let Some(policy) = run.policy_key() {
            let mut excess = Vec::new();
            for entry in store
                .done(index.range(store::keys_of(&policy)))?
                .rev()
                .skip(limits.runs_per_policy)
            {
                let (key, ()) = store.done(entry).map(|(key, value)| (key, value.value()))?;
                let id = key.value().1;
                if store.done(open.get(id))?.is_none() {
                    excess.push(id.to_owned());
                }
            }
            for id in excess {
                store.done(index.remove((policy.as_str(), id.as_str())))?;
                store.done(runs.remove(id.as_str()))?;
            }
        }
        let total = usize::try_from(store.done(runs.len())?).unwrap_or(usize::MAX);
        let mut surplus = total.saturating_sub(limits.runs);
        let mut excess = Vec::new();
        for entry in store.done(runs.iter())? {
            if surplus == 0 {
                break;
            }
            let (key, value) = store.done(entry)?;
            if store.done(open.get(key.value()))?.is_none() {
                surplus -= 1;
                excess.push(store.decode::<Run>(value.value())?);
            }
        }
        for run in excess {
            if let Some(policy) = run.policy_key() {
                store.done(index.remove((policy.as_str(), run.id.as_str())))?;
            }
            store.done(runs.remove(run.id.as_str()))?;
        }
        Ok(())
    }
}

/// A version 7 UUID: sorts by time as text does.
fn run_id(now: Timestamp) -> String {
    let random = uuid::Uuid::new_v4();
    let mut tail = [0; 10];
    for (to, from) in tail.iter_mut().zip(random.as_bytes().iter().rev()) {
        *to = *from;
    }
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail)
        .into_uuid()
        .to_string()
}

/// What two runs would fight over, if they would.
fn conflict(new: &Run, open: &Run) -> Option<String> {
    let same_policy = new
        .policy_key()
        .filter(|key| open.policy_key().as_ref() == Some(key));
    let reads_what_is_written =
        |one: &Run, other: &Run| one.kind == RunKind::Backup && other.into_source;
    if let Some(policy) = same_policy
        && (new.kind.changes_backups() && open.kind.changes_backups()
            || reads_what_is_written(new, open)
            || reads_what_is_written(open, new))
    {
        return Some(policy);
    }
    new.destination_key()
        .filter(|key| open.destination_key().as_ref() == Some(key))
        .filter(|_| new.kind == RunKind::Prune && open.kind == RunKind::Prune)
}
