//! Lock files in restic's format: written, refreshed and honoured, so that neither our prune nor
//! restic's takes away what the other is writing or reading.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::RepositoryError;
use super::id::ObjectId;
use super::inner::{Inner, locked};
use super::machine;
use crate::destination::StorageErrorKind;

/// A lock is written again this often.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// A refresh that failed is tried again this soon.
const RETRY: Duration = Duration::from_secs(30);
/// A lock that nobody refreshed for so long is taken as left over, by restic too.
const STALE: Duration = Duration::from_secs(30 * 60);
/// Whoever could not refresh for so long must stop: others may soon take the lock as left over.
const LOST: Duration = Duration::from_secs(20 * 60);
/// Between writing a lock and looking for others: two who come at once see each other.
const SETTLE: Duration = Duration::from_millis(200);
/// The longest pause between two looks at the locks of others.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The locks of this process, so that one left by an earlier process of the same number is told
/// from them.
static OWN: Mutex<BTreeSet<ObjectId>> = Mutex::new(BTreeSet::new());

/// Locks that were dropped and are being removed.
static REMOVING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// A lock that somebody holds on a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// Its id: 64 hex digits.
    pub id: String,
    /// When it was made or refreshed.
    pub time: Timestamp,
    /// Whether nobody else may work meanwhile (a prune).
    pub exclusive: bool,
    /// The host of the holder.
    pub hostname: String,
    /// The user of the holder.
    pub username: String,
    /// The process of the holder.
    pub pid: u32,
    /// Whether it is taken as left over.
    pub stale: bool,
}

/// A lock file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LockFile {
    time: Timestamp,
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uid: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    gid: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl LockFile {
    fn now(exclusive: bool) -> Self {
        Self {
            time: Timestamp::now(),
            exclusive,
            hostname: machine::hostname(),
            username: machine::username(),
            pid: std::process::id(),
            uid: machine::uid(),
            gid: machine::gid(),
        }
    }

    /// Whether the holder is gone: it did not refresh, or its process on this host has ended.
    fn is_stale(&self, own: bool, now: Timestamp) -> bool {
        if older_than(self.time, STALE, now) {
            return true;
        }
        !own && self.hostname == machine::hostname()
            && (self.pid == std::process::id() || !machine::is_alive(self.pid))
    }
}

fn older_than(time: Timestamp, age: Duration, now: Timestamp) -> bool {
    now.duration_since(time).unsigned_abs() > age && now > time
}

fn path(id: &ObjectId) -> String {
    format!("locks/{id}")
}

/// A lock file of somebody: readable, or not.
enum Found {
    Lock(ObjectId, LockFile),
    Unreadable(ObjectId),
}

async fn find(inner: &Inner) -> Result<Vec<Found>, RepositoryError> {
    let ids = inner.list_ids("locks").await?;
    futures::stream::iter(ids)
        .map(|(id, _)| async move {
            let sealed = match inner.storage.read(&path(&id)).await {
                // Ended or refreshed while we looked.
                Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            Ok::<_, RepositoryError>(Some(
                inner
                    .decode_json::<LockFile>(&path(&id), &sealed)
                    .map_or(Found::Unreadable(id), |lock| Found::Lock(id, lock)),
            ))
        })
        .buffer_unordered(8)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

/// The locks that are there and can be read.
pub(super) async fn list(inner: &Inner) -> Result<Vec<LockInfo>, RepositoryError> {
    let now = Timestamp::now();
    let mut locks: Vec<_> = find(inner)
        .await?
        .into_iter()
        .filter_map(|found| match found {
            Found::Lock(id, lock) => Some(LockInfo {
                id: id.to_string(),
                time: lock.time,
                exclusive: lock.exclusive,
                stale: lock.is_stale(locked(&OWN).contains(&id), now),
                hostname: lock.hostname,
                username: lock.username,
                pid: lock.pid,
            }),
            Found::Unreadable(_) => None,
        })
        .collect();
    locks.sort_by_key(|lock| lock.time);
    Ok(locks)
}

/// Removes the locks that are left over; how many.
pub(super) async fn break_stale(inner: &Inner) -> Result<usize, RepositoryError> {
    let stale: Vec<_> = list(inner)
        .await?
        .into_iter()
        .filter(|lock| lock.stale)
        .collect();
    for lock in &stale {
        tracing::warn!(
            location = inner.location,
            lock = lock.id,
            holder = holder(&lock.username, &lock.hostname, lock.pid),
            since = %lock.time,
            "A lock that was left over is removed."
        );
        inner.storage.remove(&format!("locks/{}", lock.id)).await?;
    }
    Ok(stale.len())
}

fn holder(username: &str, hostname: &str, pid: u32) -> String {
    format!("{username}@{hostname}, process {pid}")
}

/// A lock that we hold. It is refreshed while it lives and removed when it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    held: Arc<Held>,
    /// Ends the refreshing between two refreshes: one that is cut off could leave its file.
    ended: CancellationToken,
}

#[derive(Debug)]
struct Held {
    inner: Arc<Inner>,
    exclusive: bool,
    id: tokio::sync::Mutex<Option<ObjectId>>,
    /// Seconds since the epoch.
    refreshed: AtomicI64,
    removed: AtomicBool,
}

impl Lock {
    /// Takes a lock, waiting at most `wait` for the locks of others.
    pub(super) async fn take(
        inner: &Arc<Inner>,
        exclusive: bool,
        wait: Duration,
    ) -> Result<Self, RepositoryError> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut pause = SETTLE;
        loop {
            let conflict = match Self::attempt(inner, exclusive).await? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Conflict(conflict) => conflict,
            };
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Err(conflict);
            }
            tracing::info!(location = inner.location, cause = %conflict, "Waiting for a lock.");
            tokio::time::sleep_until((now + pause).min(deadline)).await;
            pause = (pause * 2).min(LOOK_AGAIN);
        }
    }

    async fn attempt(inner: &Arc<Inner>, exclusive: bool) -> Result<Attempt, RepositoryError> {
        if let Some(conflict) = conflict(inner, exclusive, None).await? {
            return Ok(Attempt::Conflict(conflict));
        }
        survive_hangup();
        // From here on it is removed whatever happens.
        let lock = Self {
            held: Arc::new(Held {
                inner: Arc::clone(inner),
                exclusive,
                id: tokio::sync::Mutex::default(),
                refreshed: AtomicI64::new(Timestamp::now().as_second()),
                removed: AtomicBool::new(false),
            }),
            ended: CancellationToken::new(),
        };
        // By itself: whoever stops us here does not stop the write, which would come about, or not,
        // with nobody left to remove the file. Its removal waits for it.
        let held = Arc::clone(&lock.held);
        tokio::spawn(async move { held.write().await })
            .await
            .map_err(|error| inner.engine("write a lock", error))??;
        tokio::time::sleep(SETTLE).await;
        let own = *lock.held.id.lock().await;
        if let Some(conflict) = conflict(inner, exclusive, own).await? {
            lock.release().await;
            return Ok(Attempt::Conflict(conflict));
        }
        tokio::spawn(refresh(Arc::clone(&lock.held), lock.ended.clone()));
        Ok(Attempt::Taken(lock))
    }

    /// Fails when the lock could not be refreshed for so long that others may take it away.
    pub(super) fn confirm_fresh(&self) -> Result<(), RepositoryError> {
        let refreshed = self.held.refreshed.load(Ordering::Relaxed);
        if is_lost(refreshed, Timestamp::now().as_second()) {
            return Err(RepositoryError::LockLost {
                location: self.held.inner.location.clone(),
                cause: "it could not be refreshed for 20 minutes".into(),
            });
        }
        Ok(())
    }

    /// The same, and whether the lock is still there: somebody may have removed it by force, or
    /// the whole repository with it.
    pub(super) async fn confirm(&self) -> Result<(), RepositoryError> {
        self.confirm_fresh()?;
        let id = self.held.id.lock().await;
        let there = async {
            Ok::<_, RepositoryError>(match &*id {
                Some(id) => self.held.inner.storage.size(&path(id)).await?.is_some(),
                None => false,
            })
        };
        let ((), there) = tokio::try_join!(self.held.inner.verify(), there)?;
        if there {
            return Ok(());
        }
        Err(RepositoryError::LockLost {
            location: self.held.inner.location.clone(),
            cause: "somebody removed it".into(),
        })
    }

    /// Removes the lock now.
    pub(super) async fn release(&self) {
        self.ended.cancel();
        self.held.remove().await;
    }
}

/// `restic unlock` asks whether the holder of a lock lives by sending it SIGHUP, which by default
/// ends a process. The handler stays when what is returned here is dropped; who wants to know of
/// the signal may listen beside it.
fn survive_hangup() {
    use tokio::signal::unix::{SignalKind, signal};
    if let Err(error) = signal(SignalKind::hangup()) {
        tracing::warn!(
            error = %error,
            "SIGHUP cannot be handled; a restic unlock on this host would end this process."
        );
    }
}

enum Attempt {
    Taken(Lock),
    Conflict(RepositoryError),
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.ended.is_cancelled() {
            return;
        }
        self.ended.cancel();
        // Without a runtime the lock becomes stale by itself: its process will have ended.
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            let held = Arc::clone(&self.held);
            let mut removing = locked(&REMOVING);
            removing.retain(|one| !one.is_finished());
            removing.push(handle.spawn(async move { held.remove().await }));
        }
    }
}

/// Waits until the locks that were dropped are removed.
pub(super) async fn removed() {
    let removing = std::mem::take(&mut *locked(&REMOVING));
    futures::future::join_all(removing).await;
}

fn is_lost(refreshed: i64, now: i64) -> bool {
    now.saturating_sub(refreshed).unsigned_abs() > LOST.as_secs()
}

/// The first lock of another that does not go with ours; left-over ones are removed.
async fn conflict(
    inner: &Inner,
    exclusive: bool,
    own: Option<ObjectId>,
) -> Result<Option<RepositoryError>, RepositoryError> {
    let now = Timestamp::now();
    for found in find(inner).await? {
        let (id, lock) = match found {
            Found::Lock(id, lock) => (id, lock),
            // Whoever wrote it may be reading or writing. Only an exclusive lock minds readers.
            Found::Unreadable(id) if exclusive => {
                return Ok(Some(RepositoryError::Locked {
                    location: inner.location.clone(),
                    kind: "by a lock file that cannot be read,",
                    holder: path(&id),
                    since: "an unknown time".into(),
                }));
            }
            Found::Unreadable(_) => continue,
        };
        if Some(id) == own || !(exclusive || lock.exclusive) {
            continue;
        }
        let holder = holder(&lock.username, &lock.hostname, lock.pid);
        if lock.is_stale(locked(&OWN).contains(&id), now) {
            tracing::warn!(
                location = inner.location,
                lock = %id,
                holder,
                since = %lock.time,
                "A lock that was left over is removed."
            );
            inner.storage.remove(&path(&id)).await?;
            continue;
        }
        return Ok(Some(RepositoryError::Locked {
            location: inner.location.clone(),
            kind: if lock.exclusive {
                "exclusively"
            } else {
                "for reading or writing"
            },
            holder,
            since: lock.time.to_string(),
        }));
    }
    Ok(None)
}

async fn refresh(held: Arc<Held>, ended: CancellationToken) {
    let mut pause = REFRESH;
    while ended
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        pause = match held.write().await {
            Ok(()) => REFRESH,
            Err(error) => {
                tracing::warn!(
                    location = held.inner.location,
                    error = %error,
                    "A lock could not be refreshed; it is tried again."
                );
                RETRY
            }
        };
    }
}

impl Held {
    /// Writes the lock anew and removes the one before.
    async fn write(&self) -> Result<(), RepositoryError> {
        let mut current = self.id.lock().await;
        if self.removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A lock in a place that was emptied would make it look as if something were there; and a
        // run that goes on for hours learns of it when its lock cannot be refreshed.
        self.inner.verify().await?;
        let file = LockFile::now(self.exclusive);
        let (id, sealed) = self.inner.encode_json("a lock", &file)?;
        locked(&OWN).insert(id);
        if let Err(error) = self.inner.storage.write(&path(&id), vec![sealed]).await {
            // It may be there all the same.
            let _ = self.inner.storage.remove(&path(&id)).await;
            locked(&OWN).remove(&id);
            return Err(error.into());
        }
        let before = current.replace(id);
        self.refreshed
            .store(file.time.as_second(), Ordering::Relaxed);
        if let Some(before) = before {
            self.forget(&before).await;
        }
        Ok(())
    }

    async fn remove(&self) {
        let mut current = self.id.lock().await;
        self.removed.store(true, Ordering::Relaxed);
        if let Some(id) = current.take() {
            self.forget(&id).await;
        }
    }

    async fn forget(&self, id: &ObjectId) {
        if let Err(error) = self.inner.storage.remove(&path(id)).await {
            tracing::warn!(
                location = self.inner.location,
                lock = %id,
                error = %error,
                "A lock of ours could not be removed; others take it as left over in 30 minutes."
            );
        }
        locked(&OWN).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::memory::{Call, Memory};
    use crate::support::repository;

    fn file(minutes: i64, hostname: &str, pid: u32) -> LockFile {
        LockFile {
            time: Timestamp::now() - jiff::SignedDuration::from_mins(minutes),
            hostname: hostname.to_owned(),
            pid,
            ..LockFile::now(true)
        }
    }

    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[test]
    fn a_lock_is_stale_when_nobody_refreshes_it_or_its_process_is_gone() {
        let here = machine::hostname();
        let own = std::process::id();
        let now = Timestamp::now();
        for (lock, ours, stale) in [
            (file(29, "elsewhere", 1), false, false),
            (file(31, "elsewhere", 1), false, true),
            // A clock that is ahead is no reason to break a lock.
            (file(-600, "elsewhere", 1), false, false),
            (file(0, &here, 1), false, false),
            (file(0, &here, dead()), false, true),
            (file(0, &here, own), true, false),
            // As after a restart in a container, where every process is number 1.
            (file(0, &here, own), false, true),
        ] {
            assert_eq!(lock.is_stale(ours, now), stale, "{lock:?}");
        }
    }

    #[test]
    fn a_lock_that_cannot_be_refreshed_is_lost_before_it_is_stale() {
        assert!(!is_lost(1000, 1000 + 19 * 60));
        assert!(is_lost(1000, 1000 + 21 * 60));
        // The clock was set back: how old it is, nobody knows.
        assert!(is_lost(1000 + 21 * 60, 1000));
        assert!(LOST + REFRESH < STALE);
    }

    #[test]
    fn the_file_is_what_restic_writes() {
        let json = r#"{"time":"2026-03-01T10:20:30.123456789+01:00","exclusive":false,
            "hostname":"h","username":"root","pid":12,"uid":3,"gid":4}"#;
        let lock: LockFile = serde_json::from_str(json).unwrap();
        assert_eq!(
            (lock.pid, lock.uid, lock.gid, lock.exclusive),
            (12, 3, 4, false)
        );
        let root: LockFile = serde_json::from_str(
            r#"{"time":"2026-03-01T10:20:30Z","exclusive":true,"hostname":"","username":"","pid":1}"#,
        )
        .unwrap();
        assert_eq!((root.uid, root.exclusive), (0, true));
        assert!(!serde_json::to_string(&root).unwrap().contains("uid"));
    }

    /// Trap: without locks a prune destroys what a running backup counts on.
    #[tokio::test(flavor = "multi_thread")]
    async fn locks_of_others_are_waited_for_honoured_and_broken_when_stale() {
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        let inner = &repository.inner;
        let take = |exclusive| Lock::take(inner, exclusive, Duration::ZERO);
        let one = take(false).await.unwrap();
        let two = take(false).await.unwrap();
        assert!(matches!(
            take(true).await,
            Err(RepositoryError::Locked { .. })
        ));
        assert_eq!(
            list(inner).await.unwrap().len(),
            2,
            "the refused one left nothing"
        );
        one.release().await;
        two.release().await;
        let alone = take(true).await.unwrap();
        for exclusive in [true, false] {
            let refused = take(exclusive).await;
            assert!(matches!(
                refused,
                Err(RepositoryError::Locked {
                    kind: "exclusively",
                    ..
                })
            ));
        }
        alone.release().await;

        for stale in [
            file(31, "elsewhere", 1),
            file(0, &machine::hostname(), dead()),
        ] {
            inner.write_json("locks", &stale).await.unwrap();
            assert!(list(inner).await.unwrap()[0].stale);
            take(true).await.unwrap().release().await;
            assert!(storage.paths("locks/").is_empty());
        }
        let live = inner
            .write_json("locks", &file(3, "elsewhere", 1))
            .await
            .unwrap();
        assert!(take(true).await.is_err() && take(false).await.is_err());
        assert_eq!(break_stale(inner).await.unwrap(), 0);
        storage.delete(&path(&live));

        // A file that nobody can read may be a lock: it stops a prune, and no reader.
        let junk = path(&ObjectId::of(b"junk"));
        storage.put(&junk, "junk");
        assert!(matches!(
            take(true).await,
            Err(RepositoryError::Locked { .. })
        ));
        take(false).await.unwrap().release().await;
        storage.delete(&junk);
        assert!(storage.paths("locks/").is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refreshing_replaces_the_file_and_a_removed_lock_stays_removed() {
        let storage = Memory::new();
        let repository = repository(Arc::<Memory>::clone(&storage)).await;
        let lock = Lock::take(&repository.inner, false, Duration::ZERO)
            .await
            .unwrap();
        let before = storage.paths("locks/");
        lock.held.write().await.unwrap();
        let after = storage.paths("locks/");
        assert!(before.len() == 1 && after.len() == 1 && before != after);
        lock.confirm().await.unwrap();

        // The old one stays until the new one is there.
        storage.fail_when(|call, path| {
            (call == Call::Write && path.starts_with("locks/"))
                .then_some(crate::destination::StorageErrorKind::Interrupted)
        });
        lock.held.write().await.unwrap_err();
        assert_eq!(storage.paths("locks/"), after);
        storage.heal();
        lock.held
            .refreshed
            .store(Timestamp::now().as_second() - 21 * 60, Ordering::Relaxed);
        assert!(matches!(
            lock.confirm().await,
            Err(RepositoryError::LockLost { .. })
        ));
        lock.release().await;
        lock.held.write().await.unwrap();
        assert!(storage.paths("locks/").is_empty());
    }
}
