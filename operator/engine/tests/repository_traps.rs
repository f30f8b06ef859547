//! The traps of the repository engine, one by one: each test is named after one of them. Those
//! about sources (read errors, declared sizes, panics) are beside the archiver, in
//! `src/repository/archive.rs`; that of a run that takes too long is in `src/repository/writer.rs`;
//! those about locks are in `repository_locks.rs`; what is stopped is in
//! `repository_stopped.rs`; syncing to disk is the storages' own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::StorageErrorKind;
use holdfast_engine::repository::{
    CheckOptions, PruneOptions, ReadData, Repository, RepositoryError, SEGMENT_TARGET,
};
use support::memory::{Call, Memory};
use support::{
    begin, check, commit, noise, password, prune, read, repository, restic_ok, until_unlocked,
    write,
};

fn large(seed: u64, mebibytes: u64) -> Vec<Bytes> {
    (0..mebibytes)
        .map(|n| noise(seed + n, SEGMENT_TARGET))
        .collect()
}

/// A repository with one good snapshot of `/kept`.
async fn with_one_snapshot() -> (
    Arc<Memory>,
    Repository,
    holdfast_engine::repository::Snapshot,
) {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let kept = write(&repository, &[("/kept", large(1, 3))]).await.unwrap();
    (storage, repository, kept)
}

async fn assert_only(repository: &Repository, kept: &holdfast_engine::repository::Snapshot) {
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(
        snapshots.iter().map(|one| &one.id).collect::<Vec<_>>(),
        [&kept.id]
    );
    assert!(read(repository, kept, "/kept").await == large(1, 3).concat());
    let options = CheckOptions {
        read_data: ReadData::All,
    };
    let report = check(repository, &options).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Trap: after a failed PUT there is no snapshot, the packs before it are in no index, and what was
/// there stays as it was. Whichever write fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_put_leaves_no_snapshot_and_harms_none() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let mut failed = 0;
    for nth in 0.. {
        let count = AtomicUsize::new(0);
        storage.fail_when(move |call, path| {
            let concerned = call == Call::Write && !path.starts_with("locks/");
            (concerned && count.fetch_add(1, Ordering::SeqCst) == nth)
                .then_some(StorageErrorKind::Full)
        });
        let written = write(&repository, &[("/new", large(100 * (nth as u64 + 1), 40))]).await;
        storage.heal();
        match written {
            Err(error) => {
                // The storage's own words, class and reason come through.
                assert_eq!(error.reason(), "StorageFull", "{error}");
                assert_eq!(error.class(), ErrorClass::Waiting);
                assert!(error.to_string().contains("told to fail"), "{error}");
                assert_only(&repository, &kept).await;
                failed += 1;
            }
            Ok(new) => {
                assert!(!read(&repository, &new, "/new").await.is_empty());
                break;
            }
        }
    }
    // Three data packs, one tree pack, an index, the snapshot.
    assert!(failed >= 5, "only {failed} writes were there to fail");
    until_unlocked(&repository).await;
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        ..PruneOptions::default()
    };
    let plan = prune(&repository, &options).await.unwrap().plan;
    assert!(plan.unreferenced_packs > 0, "{plan:?}");
    prune(&repository, &options).await.unwrap();
    let report = check(&repository, &CheckOptions::default()).await.unwrap();
    assert!(
        report.is_sound() && report.warnings.is_empty(),
        "{report:?}"
    );
}

/// A task that dies says nothing, and silence is not success: neither of an upload nor of a segment.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_on_the_way_to_the_storage_is_an_error_and_no_snapshot() {
    let (storage, repository, kept) = with_one_snapshot().await;
    storage.fail_when(|call, path| {
        assert!(
            call != Call::Write || !path.starts_with("data/"),
            "the storage is broken"
        );
        None
    });
    // One pack that goes up at the end, and many that go up on the way.
    for mebibytes in [1, 100] {
        let written = write(&repository, &[("/new", large(5000, mebibytes))]).await;
        assert!(
            matches!(written, Err(RepositoryError::Engine { .. })),
            "{mebibytes}: {written:?}"
        );
    }
    storage.heal();
    assert_only(&repository, &kept).await;
}

/// Packs go up several at a time; nothing that refers to them is written before they are there.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_overlap_and_references_wait_for_them() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    storage.delay_writes("data/", Duration::from_secs(2));
    storage.forget_calls();
    write(&repository, &[("/f", large(1, 100))]).await.unwrap();
    assert!(
        storage.most_writing() >= 3,
        "at most {} at a time",
        storage.most_writing()
    );
    let writes: Vec<_> = storage
        .calls()
        .into_iter()
        .filter(|(call, path)| *call == Call::Write && !path.starts_with("locks/"))
        .map(|(_, path)| path.split('/').next().unwrap().to_owned())
        .collect();
    let first_reference = writes.iter().position(|place| place != "data").unwrap();
    assert!(writes[..first_reference].len() >= 6, "{writes:?}");
    assert_eq!(&writes[first_reference..], ["index", "snapshots"]);
}

/// Trap: the index is read anew for each backup, or blobs that another process wrote meanwhile are
/// stored again, and blobs that a prune took away are counted on.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_reopened_for_each_backup() {
    let storage = Memory::new();
    let one = repository(Arc::<Memory>::clone(&storage)).await;
    let other = Repository::open(storage, &password()).await.unwrap();
    let files = [("/f", large(1, 5))];
    // Both have an index in memory from before.
    let holding = one
        .content(&write(&one, &[("/x", large(50, 1))]).await.unwrap())
        .await
        .unwrap();
    let theirs = write(&other, &files).await.unwrap();
    let ours = write(&one, &files).await.unwrap();
    assert!(
        ours.stored_bytes.unwrap() < 20_000,
        "what {} stored is stored again",
        theirs.id
    );
    drop(holding);

    let all: Vec<_> = one
        .snapshots()
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.id)
        .collect();
    one.forget(&all).await.unwrap();
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        ..PruneOptions::default()
    };
    until_unlocked(&one).await;
    prune(&one, &options).await.unwrap();
    prune(&one, &options).await.unwrap();
    let again = write(&other, &files).await.unwrap();
    assert!(
        again.stored_bytes.unwrap() > 4_000_000,
        "pruned blobs were counted on"
    );
    assert!(read(&other, &again, "/f").await == files[0].1.concat());
}

/// Dropped on the way, as by kill -9, a run leaves what was there, and prune frees its left-overs.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_dies_on_the_way_harms_nothing() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let before = storage.paths("data/").len();
    // The process is gone: nothing is cleaned up, not even its lock.
    storage.fail_when(|call, path| {
        (call == Call::Remove || (call == Call::Write && path.starts_with("snapshots/")))
            .then_some(StorageErrorKind::Unreachable)
    });
    let writer = begin(&repository).await;
    commit(writer, &[("/new", large(500, 40))])
        .await
        .unwrap_err();
    storage.heal();
    assert_eq!(storage.paths("locks/").len(), 1);
    assert!(storage.paths("data/").len() > before);
    assert_only(&repository, &kept).await;

    // The lock names a process of this host that holds it no more: it is in nobody's way.
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        max_unused_percent: 0,
        max_repack_percent: 100,
    };
    prune(&repository, &options).await.unwrap();
    prune(&repository, &options).await.unwrap();
    assert_only(&repository, &kept).await;
    assert_eq!(storage.paths("data/").len(), before);

    let directory = tempfile::tempdir().unwrap();
    storage.export(directory.path());
    let said = restic_ok(directory.path(), &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
}

/// The same with packs that no index knows and nothing else to prune: the library leaves them.
#[tokio::test(flavor = "multi_thread")]
async fn packs_in_no_index_are_freed_even_when_nothing_else_is() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let stray = "data/00/00000000000000000000000000000000000000000000000000000000000000ff";
    storage.put(stray, noise(1, 5000));
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        ..PruneOptions::default()
    };
    let report = check(&repository, &CheckOptions::default()).await.unwrap();
    assert_eq!(
        (report.errors.len(), report.warnings.len()),
        (0, 1),
        "{report:?}"
    );
    prune(&repository, &options).await.unwrap();
    assert!(
        storage.get(stray).is_some(),
        "it may belong to a run that is not seen: marked first"
    );
    prune(&repository, &options).await.unwrap();
    assert!(storage.get(stray).is_none());
    assert_only(&repository, &kept).await;
}

/// A listing that cannot be complete stops a prune: what it did not see would be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_fails_prunes_nothing() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let other = write(&repository, &[("/other", large(900, 20))])
        .await
        .unwrap();
    repository.forget(&[other.id]).await.unwrap();
    let before = storage.paths("");
    for place in ["snapshots", "index", "data", "locks"] {
        storage.fail_when(move |call, path| {
            (call == Call::List && path == place).then_some(StorageErrorKind::Interrupted)
        });
        let options = PruneOptions {
            keep_delete: Duration::ZERO,
            ..PruneOptions::default()
        };
        let error = prune(&repository, &options).await.unwrap_err();
        assert_eq!(error.reason(), "Interrupted", "{error}");
        storage.heal();
        assert_eq!(
            storage.paths(""),
            before,
            "after {place} could not be listed"
        );
    }
    assert_only(&repository, &kept).await;
}

/// Of more parts than there are, some would be empty, and sound whatever happened to the data.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_there_cannot_be_are_refused() {
    let (_, repository, _) = with_one_snapshot().await;
    let part = |n, of| CheckOptions {
        read_data: ReadData::Subset { n, of },
    };
    for (n, of) in [(257, 257), (1, 257), (300, 1000), (0, 5), (6, 5), (0, 0)] {
        let refused = check(&repository, &part(n, of)).await;
        assert!(
            matches!(refused, Err(RepositoryError::NoSuchPart { .. })),
            "{n}/{of}: {refused:?}"
        );
    }
    let mut read = 0;
    for n in 1..=256 {
        let report = check(&repository, &part(n, 256)).await.unwrap();
        read += report.packs_read;
    }
    let all = check(&repository, &part(1, 1)).await.unwrap();
    assert_eq!((read, all.packs_read), (all.packs, all.packs));
}

/// What is missing or changed is damage: it is listed, nothing is pruned, and reads say so.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_named_and_stops_a_prune() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, repository, kept) = with_one_snapshot().await;
    storage.export(directory.path());
    let all = CheckOptions {
        read_data: ReadData::All,
    };
    for path in storage.paths("") {
        let whole = storage.get(&path).unwrap();
        let name = path.rsplit('/').next().unwrap();
        let opens = !path.starts_with("keys/") && path != "config";

        let mut changed = whole.to_vec();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        storage.put(&path, changed);
        let opened = Repository::open(Arc::<Memory>::clone(&storage) as _, &password()).await;
        if opens {
            let fresh = opened.unwrap();
            let report = check(&fresh, &all).await.unwrap();
            assert!(
                report.errors.iter().any(|error| error.contains(name)),
                "{path}: {report:?}"
            );
            if !path.starts_with("snapshots/") {
                storage.delete(&path);
                let report = check(&fresh, &CheckOptions::default()).await.unwrap();
                assert!(!report.is_sound(), "{path} is missing: {report:?}");
                let pruned = prune(&fresh, &PruneOptions::default()).await.unwrap_err();
                assert_eq!(pruned.class(), ErrorClass::Damaged, "{path}: {pruned}");
            }
        } else {
            // Neither something that passes by itself nor a matter of the password.
            let error = opened.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Damaged, "{path}: {error}");
        }
        storage.put(&path, whole);
    }
    for key in storage.paths("keys/") {
        let whole = storage.get(&key).unwrap();
        storage.delete(&key);
        let opened = Repository::open(Arc::<Memory>::clone(&storage) as _, &password()).await;
        let error = opened.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Damaged, "{error}");
        assert!(error.to_string().contains("no key"), "{error}");
        storage.put(&key, whole);
    }
    let content = repository.content(&kept).await.unwrap();
    drop(content);
    assert_only(&repository, &kept).await;
}
