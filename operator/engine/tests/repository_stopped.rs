//! What is stopped ends soon, wherever it is, leaves no lock and harms nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CheckOptions, PruneOptions, ReadData, Repository, RepositoryError, SEGMENT_TARGET, Snapshot,
};
use support::memory::{Call, Memory};
use support::{begin, check, new_snapshot, noise, prune, read, repository, request, write};
use tokio_util::sync::CancellationToken;

/// An hour, which no test waits for.
const FOR_EVER: Duration = Duration::from_secs(3600);

const ALL: CheckOptions = CheckOptions {
    read_data: ReadData::All,
};

fn large(seed: u64, mebibytes: u64) -> Vec<Bytes> {
    (0..mebibytes)
        .map(|n| noise(seed + n, SEGMENT_TARGET))
        .collect()
}

async fn with_one_snapshot() -> (Arc<Memory>, Repository, Snapshot) {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let kept = write(&repository, &[("/kept", large(1, 3))]).await.unwrap();
    (storage, repository, kept)
}

async fn assert_only(repository: &Repository, kept: &Snapshot) {
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(
        snapshots.iter().map(|one| &one.id).collect::<Vec<_>>(),
        [&kept.id]
    );
    assert!(read(repository, kept, "/kept").await == large(1, 3).concat());
    let report = check(repository, &ALL).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
}

/// Stops `work` once `reached` says that it is where it shall be stopped.
async fn stopped<T: std::fmt::Debug + Send + 'static>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, RepositoryError>> + Send + 'static,
    reached: impl Fn() -> bool,
) {
    let mut work = tokio::spawn(work);
    while !reached() {
        assert!(!work.is_finished(), "it ended: {:?}", (&mut work).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), work).await;
    let ended = ended.expect("it ends soon").unwrap();
    assert!(
        matches!(ended, Err(RepositoryError::Cancelled)),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_leaves_no_snapshot_and_no_lock() {
    let (_, repository, kept) = with_one_snapshot().await;
    let cancel = CancellationToken::new();
    let writer = repository
        .begin(new_snapshot(), Progress::new(), cancel.clone())
        .await
        .unwrap();
    let stage = writer.stage();
    stage.put(noise(1, 10)).await.unwrap();
    cancel.cancel();
    assert!(matches!(
        stage.put(noise(2, 10)).await,
        Err(RepositoryError::Cancelled)
    ));
    let committed = writer.commit(request(Vec::new())).await;
    assert!(
        matches!(committed, Err(RepositoryError::Cancelled)),
        "{committed:?}"
    );
    assert!(repository.locks().await.unwrap().is_empty());
    assert_only(&repository, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_in_the_middle_of_an_upload_ends() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let cancel = CancellationToken::new();
    let writer = repository
        .begin(new_snapshot(), Progress::new(), cancel.clone())
        .await
        .unwrap();
    storage.delay_writes("data/", FOR_EVER);
    let looked = Arc::clone(&storage);
    let work = async move { support::commit(writer, &[("/new", large(500, 20))]).await };
    stopped(&cancel, work, move || looked.writing() > 0).await;
    storage.delay_writes("", Duration::ZERO);
    assert_only(&repository, &kept).await;
}

/// A lock that arrives after nobody waits for it any more would keep others away for half an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_while_it_writes_its_lock_leaves_none() {
    let (storage, repository, kept) = with_one_snapshot().await;
    storage.delay_writes("locks/", Duration::from_millis(500));
    storage.forget_calls();
    let cancel = CancellationToken::new();
    let work = {
        let (repository, cancel) = (repository.clone(), cancel.clone());
        async move {
            repository
                .begin(new_snapshot(), Progress::new(), cancel)
                .await
        }
    };
    let looked = Arc::clone(&storage);
    stopped(&cancel, work, move || looked.writing() > 0).await;
    assert!(storage.writing() > 0, "the lock is still on its way");
    storage.delay_writes("", Duration::ZERO);
    holdfast_engine::repository::locks_removed().await;
    let locks = |(call, path): &(Call, String)| *call == Call::Write && path.starts_with("locks/");
    assert_eq!(
        storage.calls().iter().filter(|call| locks(call)).count(),
        1,
        "it arrived"
    );
    assert!(storage.paths("locks/").is_empty());
    assert_only(&repository, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_stopped_ends_and_leaves_no_lock() {
    let (storage, repository, kept) = with_one_snapshot().await;
    storage.delay_reads("data/", FOR_EVER);
    let cancel = CancellationToken::new();
    let work = {
        let (repository, cancel) = (repository.clone(), cancel.clone());
        async move { repository.check(&ALL, Progress::new(), cancel).await }
    };
    let looked = Arc::clone(&storage);
    stopped(&cancel, work, move || {
        looked.reading() > 0 && !looked.paths("locks/").is_empty()
    })
    .await;
    storage.delay_reads("", Duration::ZERO);
    assert!(storage.paths("locks/").is_empty());
    assert_only(&repository, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lock_is_stopped_too() {
    let (storage, repository, kept) = with_one_snapshot().await;
    let writer = begin(&repository).await;
    let patient = repository.clone().with_lock_wait(FOR_EVER);
    let cancel = CancellationToken::new();
    let work = {
        let (patient, cancel) = (patient.clone(), cancel.clone());
        async move { patient.prune(&PruneOptions::default(), cancel).await }
    };
    storage.forget_calls();
    let looked = Arc::clone(&storage);
    let looks = move || {
        looked
            .calls()
            .iter()
            .filter(|(call, _)| *call == Call::List)
            .count()
    };
    stopped(&cancel, work, move || looks() > 1).await;
    assert_eq!(storage.paths("locks/").len(), 1, "the other's lock stays");
    writer.abandon().await;
    assert_only(&repository, &kept).await;
}

/// Wherever it is stopped: while it plans, while it writes what is still needed again, while it
/// writes the index, while it removes.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_stopped_ends_between_two_steps_and_the_next_goes_on() {
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        max_unused_percent: 0,
        max_repack_percent: 100,
    };
    let (storage, repository, kept) = with_one_snapshot().await;
    let mut both = large(1, 3);
    both.extend(large(700, 40));
    let gone = write(&repository, &[("/gone", both)]).await.unwrap();
    repository.forget(&[gone.id]).await.unwrap();
    let before: Vec<(String, Bytes)> = storage
        .paths("")
        .into_iter()
        .map(|path| (path.clone(), storage.get(&path).unwrap()))
        .collect();
    let mut stops = 0;
    for nth in 0.. {
        for path in storage.paths("") {
            storage.delete(&path);
        }
        for (path, bytes) in &before {
            storage.put(path, bytes.clone());
        }
        let cancel = CancellationToken::new();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let stop = cancel.clone();
        storage.fail_when(move |_, path| {
            let own = path.starts_with("locks") || path == "config";
            if !own && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == nth {
                stop.cancel();
            }
            None
        });
        let pruned = repository.prune(&options, cancel.clone()).await;
        storage.heal();
        assert!(storage.paths("locks/").is_empty());
        match pruned {
            Err(RepositoryError::Cancelled) => stops += 1,
            Err(error) => panic!("stopped at request {nth}: {error}"),
            // Stopped at its last request, or not at all.
            Ok(_) if cancel.is_cancelled() => {}
            Ok(_) => break,
        }
        assert_only(&repository, &kept).await;
        for _ in 0..2 {
            prune(&repository, &options).await.unwrap();
        }
        assert_only(&repository, &kept).await;
        let stored = repository.stored_bytes().await.unwrap();
        assert!(stored < 4_000_000, "{stored} bytes are left after {nth}");
    }
    assert!(stops > 5, "it was stopped {stops} times");
}

/// A request that does not come back holds nobody up who wants to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_is_stopped_while_it_reads() {
    let (storage, repository, kept) = with_one_snapshot().await;
    storage.delay_reads("index/", FOR_EVER);
    let before = storage.paths("");
    let cancel = CancellationToken::new();
    let work = {
        let (repository, cancel) = (repository.clone(), cancel.clone());
        async move { repository.prune(&PruneOptions::default(), cancel).await }
    };
    let looked = Arc::clone(&storage);
    stopped(&cancel, work, move || {
        looked.reading() > 0 && !looked.paths("locks/").is_empty()
    })
    .await;
    storage.delay_reads("", Duration::ZERO);
    assert_eq!(storage.paths(""), before);
    assert_only(&repository, &kept).await;
}
