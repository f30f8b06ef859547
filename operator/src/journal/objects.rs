//! The memory of objects declared in plain files: when one was first seen, its generation, its
//! status, and of one that was deleted what is left to clean up.
//!
//! A cluster keeps all this for us; a folder of files does not.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::{DESTINATION_SUMMARIES, OBJECTS, POLICY_SUMMARIES};
use super::{Journal, JournalError};
use redb::ReadableTable;

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind, such as `BackupPolicy`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object.
    pub fn new(
        kind: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn as_tuple(&self) -> (&str, &str, &str) {
        (&self.kind, &self.namespace, &self.name)
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        write!(f, "{kind} {namespace}/{name}")
    }
}

/// What is remembered of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRecord {
    /// A UUID: one that was deleted and declared again is another object.
    pub uid: String,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// Counts the changes of its spec, from 1.
    pub generation: i64,
    /// The spec as it was last seen.
    pub spec: Value,
    /// When that spec was first seen.
    pub spec_seen: Timestamp,
    /// The status, as it would stand in the object.
    #[serde(default)]
    pub status: Value,
    /// When its declaration went away; its clean-up is not done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
}

impl Journal {
    /// Takes note that an object is declared, and returns what is known of it. One that was deleted
    /// and is declared again before its clean-up was done is a new object, and the clean-up of the
    /// old one is dropped: data that is not deleted can still be.
    ///
    /// # Errors
    /// When the database fails.
    pub fn observe_object(
        &self,
        key: &ObjectKey,
        spec: &Value,
        now: Timestamp,
    ) -> Result<ObjectRecord, JournalError> {
        // Nearly always nothing has changed, and a read waits for nobody.
        if let Some(record) = self.object(key)?
            && record.deleted.is_none()
            && record.spec == *spec
        {
            return Ok(record);
        }
        self.change_object("remember an object", key, |record| {
            let record = match record.filter(|record| record.deleted.is_none()) {
                Some(mut record) => {
                    if record.spec != *spec {
                        record.generation = record.generation.saturating_add(1);
                        record.spec = spec.clone();
                        record.spec_seen = now;
                    }
                    record
                }
                None => ObjectRecord {
                    uid: uuid::Uuid::new_v4().to_string(),
                    first_seen: now,
                    generation: 1,
                    spec: spec.clone(),
                    spec_seen: now,
                    status: Value::Null,
                    deleted: None,
                },
            };
            (Some(record.clone()), record)
        })
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// When the database fails.
    pub fn object(&self, key: &ObjectKey) -> Result<Option<ObjectRecord>, JournalError> {
        let store = self.store();
        store.read("read an object", |transaction| {
            let table = store.read_table(transaction, OBJECTS)?;
            let value = store.done(table.get(key.as_tuple()))?;
            value.map(|value| store.decode(value.value())).transpose()
        })
    }

    /// All objects of a kind, those too whose clean-up is not done.
    ///
    /// # Errors
    /// When the database fails.
    pub fn objects(&self, kind: &str) -> Result<Vec<(ObjectKey, ObjectRecord)>, JournalError> {
        let store = self.store();
        store.read("list objects", |transaction| {
            let table = store.read_table(transaction, OBJECTS)?;
            let mut found = Vec::new();
            for entry in store.done(table.range((kind, "", "")..))? {
                let (key, value) = store.done(entry)?;
                let (found_kind, namespace, name) = key.value();
                if found_kind != kind {
                    break;
                }
                found.push((
                    ObjectKey::new(kind, namespace, name),
                    store.decode(value.value())?,
                ));
            }
            Ok(found)
        })
    }

    /// Writes the status of an object; says whether it changed. Of an object that is not known, or
    /// is another one by now, nothing is written.
    ///
    /// # Errors
    /// When the database fails.
    pub fn set_object_status(
        &self,
        key: &ObjectKey,
        uid: &str,
        status: &Value,
    ) -> Result<bool, JournalError> {
        let unchanged = |record: &ObjectRecord| record.uid != uid || record.status == *status;
        if self.object(key)?.as_ref().is_none_or(unchanged) {
            return Ok(false);
        }
        self.change_object("write a status", key, |record| match record {
            Some(mut record) if !unchanged(&record) => {
                record.status = status.clone();
                (Some(record), true)
            }
            record => (record, false),
        })
    }

    /// Takes note that an object is declared no more; its clean-up is to be done.
    ///
    /// # Errors
    /// When the database fails.
    pub fn mark_object_deleted(&self, key: &ObjectKey, now: Timestamp) -> Result<(), JournalError> {
        self.change_object("mark an object as deleted", key, |record| {
            let record = record.map(|mut record| {
                record.deleted.get_or_insert(now);
                record
            });
            (record, ())
        })
    }

    /// Forgets an object whose clean-up is done, and what the runs of a policy or at a destination
    /// of that name came to. Its runs stay in the history.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_object(&self, key: &ObjectKey) -> Result<(), JournalError> {
        self.change_object("forget an object", key, |_| (None, ()))?;
        let table = match key.kind.as_str() {
            "BackupPolicy" => POLICY_SUMMARIES,
            "Destination" => DESTINATION_SUMMARIES,
            _ => return Ok(()),
        };
        let store = self.store();
        store.write("forget what runs came to", |transaction| {
            let mut table = store.table(transaction, table)?;
            let subject = format!("{}/{}", key.namespace, key.name);
            store.done(table.remove(subject.as_str()))?;
            Ok(())
        })
    }

    fn change_object<T>(
        &self,
        action: &'static str,
        key: &ObjectKey,
        change: impl FnOnce(Option<ObjectRecord>) -> (Option<ObjectRecord>, T),
    ) -> Result<T, JournalError> {
        let store = self.store();
        store.write(action, |transaction| {
            let mut table = store.table(transaction, OBJECTS)?;
            let before = match store.done(table.get(key.as_tuple()))? {
                Some(value) => Some(store.decode(value.value())?),
                None => None,
            };
            let (after, result) = change(before);
            match after {
                Some(record) => {
                    store.done(table.insert(key.as_tuple(), store.encode(&record)?.as_slice()))?;
                }
                None => {
                    store.done(table.remove(key.as_tuple()))?;
                }
            }
            Ok(result)
        })
    }
}
