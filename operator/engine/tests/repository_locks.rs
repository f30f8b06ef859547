//! Locks: ours are honoured by stock restic, and restic's by us.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::destination::{
    LocalConfig, Storage, StorageConfig, StorageErrorKind, connect,
};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{PruneOptions, RepositoryError};
use support::memory::{Call, Memory};
use support::{
    PASSWORD, begin, commit, new_snapshot, noise, prune, read, repository, restic, restic_ok, write,
};
use tokio_util::sync::CancellationToken;

async fn local(path: &Path) -> Arc<dyn Storage> {
    connect(&StorageConfig::Local(LocalConfig {
        path: path.to_owned(),
    }))
    .await
    .unwrap()
}

/// Waits for something that another process brings about, and fails when it does not.
async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "it did not come about within 30 seconds"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn locks(path: &Path) -> Vec<String> {
    // The first lock makes the directory.
    let Ok(entries) = std::fs::read_dir(path.join("locks")) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 64)
        .collect()
}

/// A `restic backup` that holds its lock until it is told to end.
fn restic_that_waits(path: &Path) -> Child {
    Command::new("restic")
        .arg("--repo")
        .arg(path)
        .args(["--no-cache", "backup", "--stdin"])
        .env("RESTIC_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("restic is installed (Debian package restic)")
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_does_not_prune_while_we_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let repository = repository(local(path).await).await;
    let writer = begin(&repository).await;
    let listed = restic_ok(path, &["list", "locks", "--no-lock"]);
    assert_eq!(listed.trim(), locks(path)[0], "restic can read our lock");
    let (pruned, said) = restic(path, &["prune"]);
    assert!(!pruned && said.contains("already locked"), "{said}");
    assert!(
        said.contains(&format!("PID {}", std::process::id())),
        "{said}"
    );
    // Our process lives, also after restic has asked it by SIGHUP: the clean-up leaves the lock.
    restic_ok(path, &["unlock"]);
    assert_eq!(locks(path).len(), 1);
    // Others may read and write beside us.
    let source = path.join("config");
    restic_ok(path, &["backup", source.to_str().unwrap()]);
    commit(writer, &[("/f", vec![noise(1, 10)])]).await.unwrap();
    assert!(locks(path).is_empty());
    restic_ok(path, &["prune"]);
    let said = restic_ok(path, &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_neither_writes_nor_prunes_while_we_prune() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let gone = write(&repository, &[("/f", vec![noise(1, 1000)])])
        .await
        .unwrap();
    repository.forget(&[gone.id]).await.unwrap();
    // The prune stands still in the middle: its index waits to be written.
    storage.delay_writes("index/", Duration::from_secs(5));
    let pruning = tokio::spawn({
        let repository = repository.clone();
        async move { prune(&repository, &PruneOptions::default()).await }
    });
    until(|| !storage.paths("locks/").is_empty()).await;
    let ours = repository
        .begin(new_snapshot(), Progress::new(), CancellationToken::new())
        .await;
    assert!(
        matches!(
            ours,
            Err(RepositoryError::Locked {
                kind: "exclusively",
                ..
            })
        ),
        "{ours:?}"
    );
    storage.export(directory.path());
    for command in [&["backup", "/etc/hostname"][..], &["prune"]] {
        let (ok, said) = restic(directory.path(), command);
        assert!(!ok && said.contains("locked exclusively"), "{said}");
    }
    pruning.await.unwrap().unwrap();
    storage.delay_writes("", Duration::ZERO);
    assert!(repository.locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_restic_keeps_us_from_pruning_and_not_from_writing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let repository = repository(local(path).await).await;
    let mut other = restic_that_waits(path);
    until(|| !locks(path).is_empty()).await;
    let pruned = prune(&repository, &PruneOptions::default()).await;
    let Err(RepositoryError::Locked { holder, .. }) = &pruned else {
        panic!("{pruned:?}")
    };
    assert!(
        holder.contains(&format!("process {}", other.id())),
        "{holder}"
    );
    write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();

    // With patience it is waited for.
    let patient = repository.clone().with_lock_wait(Duration::from_secs(60));
    let pruning = tokio::spawn(async move { prune(&patient, &PruneOptions::default()).await });
    let mut input = other.stdin.take().unwrap();
    input.write_all(b"hello").unwrap();
    drop(input);
    assert!(other.wait().unwrap().success());
    pruning.await.unwrap().unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(
        snapshots.len(),
        2,
        "restic's snapshot is there and foreign: {snapshots:?}"
    );
    assert!(locks(path).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_dead_restic_is_broken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let repository = repository(local(path).await).await;
    let mut other = restic_that_waits(path);
    until(|| !locks(path).is_empty()).await;
    let seen = repository.locks().await.unwrap();
    assert!(
        seen.len() == 1 && !seen[0].stale && !seen[0].exclusive,
        "{seen:?}"
    );
    assert_eq!(seen[0].pid, other.id());
    assert_eq!(repository.break_stale_locks().await.unwrap(), 0);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(repository.locks().await.unwrap()[0].stale);
    prune(&repository, &PruneOptions::default()).await.unwrap();
    assert!(locks(path).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lock_was_taken_away_writes_no_snapshot() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let writer = begin(&repository).await;
    for lock in storage.paths("locks/") {
        storage.delete(&lock);
    }
    let committed = commit(writer, &[("/f", vec![noise(1, 10)])]).await;
    assert!(
        matches!(committed, Err(RepositoryError::LockLost { .. })),
        "{committed:?}"
    );
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_only_be_read_is_read_without_a_lock_and_not_written() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let snapshot = write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();
    storage.fail_when(|call, _| {
        matches!(call, Call::Write | Call::Remove).then_some(StorageErrorKind::PermissionDenied)
    });
    assert_eq!(read(&repository, &snapshot, "/f").await, noise(1, 10));
    let written = write(&repository, &[("/f", vec![noise(2, 10)])]).await;
    assert!(
        matches!(written, Err(RepositoryError::Storage(_))),
        "{written:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_writer_and_a_dropped_reader_remove_their_locks() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let snapshot = write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();
    let writer = begin(&repository).await;
    let stage = writer.stage();
    drop(writer);
    until(|| storage.paths("locks/").is_empty()).await;
    assert!(matches!(
        stage.put(noise(1, 10)).await,
        Err(RepositoryError::Cancelled)
    ));
    let content = repository.content(&snapshot).await.unwrap();
    assert_eq!(storage.paths("locks/").len(), 1);
    drop(content);
    until(|| storage.paths("locks/").is_empty()).await;
}

/// Whoever removes our lock by force may write meanwhile, and count on what a prune is about to mark
/// or to remove. Wherever the prune is: each step that takes something away asks first.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_whose_lock_was_taken_away_takes_nothing_away() {
    let options = PruneOptions {
        keep_delete: Duration::ZERO,
        max_unused_percent: 0,
        max_repack_percent: 100,
    };
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let gone = write(&repository, &[("/f", vec![noise(1, 3_000_000)])])
        .await
        .unwrap();
    repository.forget(&[gone.id]).await.unwrap();
    storage.put(
        "data/00/00000000000000000000000000000000000000000000000000000000000000ff",
        noise(1, 5000),
    );
    // Once while it marks what is not needed, once while it removes what was marked.
    for phase in ["mark", "remove"] {
        let before = storage.paths("");
        let unlock = Arc::clone(&storage);
        storage.fail_when(move |call, path| {
            if call == Call::List && path == "data" {
                for lock in unlock.paths("locks/") {
                    unlock.delete(&lock);
                }
            }
            None
        });
        let pruned = prune(&repository, &options).await;
        assert!(
            matches!(pruned, Err(RepositoryError::LockLost { .. })),
            "{phase}: {pruned:?}"
        );
        storage.heal();
        assert_eq!(storage.paths(""), before, "{phase}");
        if phase == "mark" {
            prune(&repository, &options).await.unwrap();
        }
    }
    prune(&repository, &options).await.unwrap();
    assert!(storage.paths("data/").is_empty());
}
