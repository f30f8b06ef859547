//! Forgetting and pruning.

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
use holdfast_engine::repository::{
    CheckOptions, PruneOptions, ReadData, RepositoryError, SEGMENT_TARGET,
};
use support::memory::Memory;
use support::{check, noise, prune, read, repository, restic_ok, write};

fn large(seed: u64, mebibytes: u64) -> Vec<Bytes> {
    (0..mebibytes)
        .map(|n| noise(seed + n, SEGMENT_TARGET))
        .collect()
}

fn at_once() -> PruneOptions {
    PruneOptions {
        keep_delete: Duration::ZERO,
        max_unused_percent: 0,
        max_repack_percent: 100,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_has_two_phases_and_keeps_what_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let shared = large(1, 10);
    let mut both = shared.clone();
    both.extend(large(1000, 30));
    let gone = write(&repository, &[("/f", both)]).await.unwrap();
    let kept = write(&repository, &[("/f", shared.clone())]).await.unwrap();

    assert_eq!(
        repository
            .prune_plan(&at_once())
            .await
            .unwrap()
            .unused_bytes,
        0
    );
    repository
        .forget(std::slice::from_ref(&gone.id))
        .await
        .unwrap();
    let before = repository.stored_bytes().await.unwrap();
    let plan = repository.prune_plan(&at_once()).await.unwrap();
    assert!(plan.unused_bytes > 30_000_000, "{plan:?}");
    assert_eq!(
        repository.stored_bytes().await.unwrap(),
        before,
        "a plan changes nothing"
    );

    let marked = prune(&repository, &PruneOptions::default()).await.unwrap();
    assert_eq!(marked.plan.removed_packs, 0);
    assert!(
        marked.plan.unused_packs + marked.plan.repacked_packs > 0,
        "{marked:?}"
    );
    let later = prune(&repository, &PruneOptions::default()).await.unwrap();
    assert_eq!(later.plan.removed_packs, 0, "23 hours have not passed");
    assert!(later.plan.kept_marked_packs > 0);
    let removed = prune(&repository, &at_once()).await.unwrap();
    assert!(removed.plan.removed_packs > 0, "{removed:?}");
    prune(&repository, &at_once()).await.unwrap();
    let after = repository.stored_bytes().await.unwrap();
    assert!(after < before / 2, "{before} bytes became {after}");

    assert!(read(&repository, &kept, "/f").await == shared.concat());
    let all = CheckOptions {
        read_data: ReadData::All,
    };
    let report = check(&repository, &all).await.unwrap();
    assert!(
        report.is_sound() && report.warnings.is_empty(),
        "{report:?}"
    );
    storage.export(directory.path());
    let said = restic_ok(directory.path(), &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_marked_and_is_needed_again_is_recovered() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let one = write(&repository, &[("/f", large(1, 20))]).await.unwrap();
    let file = storage.get(&format!("snapshots/{}", one.id)).unwrap();
    repository
        .forget(std::slice::from_ref(&one.id))
        .await
        .unwrap();
    prune(&repository, &at_once()).await.unwrap();
    // Somebody who began before the mark ends after it.
    storage.put(&format!("snapshots/{}", one.id), file);
    let plan = prune(&repository, &at_once()).await.unwrap().plan;
    assert!(
        plan.recovered_packs > 0 && plan.removed_packs == 0,
        "{plan:?}"
    );
    assert!(read(&repository, &one, "/f").await == large(1, 20).concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn forgetting_takes_full_ids_and_what_is_gone_stays_gone() {
    let repository = repository(Memory::new()).await;
    let one = write(&repository, &[("/f", vec![noise(1, 10)])])
        .await
        .unwrap();
    let two = write(&repository, &[("/f", vec![noise(2, 10)])])
        .await
        .unwrap();
    let short = repository.forget(&[one.id[..12].to_owned()]).await;
    assert!(
        matches!(short, Err(RepositoryError::UnknownSnapshot { .. })),
        "{short:?}"
    );
    assert_eq!(repository.snapshots().await.unwrap().len(), 2);
    repository
        .forget(std::slice::from_ref(&one.id))
        .await
        .unwrap();
    repository.forget(&[one.id]).await.unwrap();
    let left: Vec<_> = repository.snapshots().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, two.id);
}
