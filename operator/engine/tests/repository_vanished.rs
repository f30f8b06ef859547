//! A repository that vanishes while it is open: nothing may be said to be backed up into a place
//! that has neither config nor keys, and nothing may be written there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use holdfast_engine::destination::{LocalConfig, Storage, StorageConfig, connect};
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{CheckOptions, PruneOptions, Repository, RepositoryError};
use support::memory::Memory;
use support::{begin, check, new_snapshot, noise, prune, repository, request, write};
use tokio_util::sync::CancellationToken;

async fn local(path: &Path) -> Arc<dyn Storage> {
    connect(&StorageConfig::Local(LocalConfig {
        path: path.to_owned(),
    }))
    .await
    .unwrap()
}

/// As by a person with `rm -r`, or when the disk under the directory is no longer mounted.
fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn gone<T: std::fmt::Debug>(what: &str, result: Result<T, RepositoryError>) {
    assert!(
        matches!(result, Err(RepositoryError::NotARepository { .. })),
        "{what}: {result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_emptied_takes_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(local(directory.path()).await).await;
    let before = write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();
    // Two that have begun: one has something on the stage, one is about to put it there.
    let one = begin(&repository).await;
    let part = one.stage().put(noise(2, 1000)).await.unwrap();
    let other = begin(&repository).await;
    repository.verify().await.unwrap();
    empty(directory.path());

    gone("verify", repository.verify().await);
    gone("list", repository.snapshots().await);
    gone("find", repository.snapshot(&before.id[..8]).await);
    let begun = repository
        .begin(new_snapshot(), Progress::new(), CancellationToken::new())
        .await;
    gone("begin", begun);
    let file = holdfast_engine::source::ComposedFile {
        path: "/g".into(),
        parts: vec![part],
    };
    gone("commit", one.commit(request(vec![file])).await);
    gone("commit", other.commit(request(Vec::new())).await);
    gone("content", repository.content(&before).await.map(drop));
    gone("forget", repository.forget(&[before.id]).await);
    gone("prune", prune(&repository, &PruneOptions::default()).await);
    let checked = check(&repository, &CheckOptions::default()).await;
    gone("check", checked);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "something was written: {left:?}");
}

/// The config alone is what makes the rest readable.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_config_it_is_no_repository() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let kept = write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();
    let writer = begin(&repository).await;
    let config = storage.get("config").unwrap();
    storage.delete("config");
    gone("list", repository.snapshots().await);
    gone("commit", writer.commit(request(Vec::new())).await);
    storage.put("config", config);
    assert_eq!(repository.snapshots().await.unwrap(), [kept]);
}

/// Copying counts on the repository that it copies to.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_copied_to_a_place_that_was_emptied() {
    let from = repository(Memory::new()).await;
    let snapshot = write(&from, &[("/f", vec![noise(1, 10)])]).await.unwrap();
    let storage = Memory::new();
    let to = repository(Arc::<Memory>::clone(&storage)).await;
    for path in storage.paths("") {
        storage.delete(&path);
    }
    let copied = from
        .copy(&[snapshot], &to, Progress::new(), CancellationToken::new())
        .await;
    gone("copy", copied);
    assert_eq!(storage.paths(""), [""; 0]);
}

/// Another repository in its place has another key: what is written for the first cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn another_repository_in_its_place_is_not_taken_for_it() {
    let storage = Memory::new();
    let first = repository(Arc::<Memory>::clone(&storage)).await;
    let writer = begin(&first).await;
    for path in storage.paths("") {
        storage.delete(&path);
    }
    let second: Repository = repository(Arc::<Memory>::clone(&storage)).await;
    let before = storage.paths("");
    for error in [
        first.verify().await.unwrap_err(),
        first.snapshots().await.unwrap_err(),
        write(&first, &[("/f", vec![noise(1, 10)])])
            .await
            .unwrap_err(),
        writer.commit(request(Vec::new())).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::Replaced { .. }), "{error}");
    }
    assert_eq!(storage.paths(""), before);
    second.verify().await.unwrap();
}
