//! What we write, stock restic checks and restores; what it writes, we read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_engine::destination::{LocalConfig, StorageConfig, connect};
use holdfast_engine::manifest::MANIFEST_PATH;
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::{
    CheckOptions, InitOptions, ReadData, Repository, RepositoryError, SEGMENT_TARGET,
};
use holdfast_engine::source::NodeKind;
use support::memory::Memory;
use support::{begin, check, commit, noise, password, read, repository, restic_ok, write};
use tokio_util::sync::CancellationToken;

/// Files made to hurt: many segments, one far too large, none, equal ones, awkward names.
fn awkward_files() -> Vec<(&'static str, Vec<Bytes>)> {
    vec![
        (
            "/mongodb/dump/shop/orders.bson",
            (0..40).map(|n| noise(n, SEGMENT_TARGET)).collect(),
        ),
        (
            "/mongodb/dump/shop/orders.metadata.json",
            vec![Bytes::from_static(b"{}")],
        ),
        ("/mongodb/dump/shop/large.bson", vec![noise(99, 17 << 20)]),
        ("/mongodb/dump/shop/empty.bson", vec![]),
        (
            "/mongodb/dump/shop/same.bson",
            vec![noise(0, SEGMENT_TARGET), noise(0, SEGMENT_TARGET)],
        ),
        (
            "/mongodb/dump/shöp/a b\"c\\d\n%2F.bson",
            vec![Bytes::from(vec![7; 3_000_000])],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_restic_checks_and_restores_what_we_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let storage = connect(&StorageConfig::Local(LocalConfig { path: path.clone() }))
        .await
        .unwrap();
    let repository = repository(storage).await;
    let files = awkward_files();
    let first = write(&repository, &files).await.unwrap();
    let mut changed = files.clone();
    changed[0].1[3] = noise(1000, 12345);
    let second = write(&repository, &changed).await.unwrap();
    assert!(
        second.stored_bytes.unwrap() < 100_000,
        "only what changed is stored: {second:?}"
    );

    let said = restic_ok(&path, &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
    assert!(!said.contains("additional files"), "{said}");
    for (snapshot, files) in [(&first, &files), (&second, &changed)] {
        let target = directory.path().join(&snapshot.id);
        restic_ok(
            &path,
            &[
                "restore",
                &snapshot.id,
                "--target",
                target.to_str().unwrap(),
            ],
        );
        for (name, segments) in files {
            let restored = std::fs::read(target.join(&name[1..])).unwrap();
            assert!(restored == segments.concat(), "{name} differs");
            assert!(
                read(&repository, snapshot, name).await == segments.concat(),
                "{name} differs"
            );
        }
        let manifest = std::fs::read(target.join(&MANIFEST_PATH[1..])).unwrap();
        let ours = repository.manifest(snapshot).await.unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<holdfast_engine::manifest::Manifest>(&manifest).unwrap(),
            ours
        );
    }
    let listed = restic_ok(&path, &["snapshots", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["hostname"], "default/shop");
    assert_eq!(
        listed[0]["tags"],
        serde_json::json!(["holdfast", "policy=default/shop", "prod"])
    );

    let options = CheckOptions {
        read_data: ReadData::All,
    };
    let report = check(&repository, &options).await.unwrap();
    assert_eq!(
        (report.errors.len(), report.warnings.len(), report.snapshots),
        (0, 0, 2),
        "{report:?}"
    );
    assert_eq!(report.packs_read, report.packs);
}

#[tokio::test(flavor = "multi_thread")]
async fn we_read_check_and_add_to_what_stock_restic_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("repository");
    let source = directory.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    let large = noise(5, 9 << 20);
    std::fs::write(source.join("large"), &large).unwrap();
    std::fs::write(source.join("sub/small"), "hello").unwrap();
    std::os::unix::fs::symlink("sub/small", source.join("link")).unwrap();
    restic_ok(&path, &["init"]);
    restic_ok(
        &path,
        &[
            "backup",
            source.to_str().unwrap(),
            "--tag",
            "theirs",
            "--host",
            "elsewhere",
        ],
    );

    let storage = connect(&StorageConfig::Local(LocalConfig { path: path.clone() }))
        .await
        .unwrap();
    let opened = Repository::open(storage, &password()).await.unwrap();
    let snapshots = opened.snapshots().await.unwrap();
    let [theirs] = &snapshots[..] else {
        panic!("one snapshot is there: {snapshots:?}")
    };
    assert!(theirs.foreign && theirs.policy.is_none() && theirs.facts.is_none());
    assert_eq!(
        (theirs.hostname.as_str(), theirs.tags.as_slice()),
        ("elsewhere", &["theirs".to_owned()][..])
    );
    assert_eq!(theirs.identity(), theirs.id);
    assert!(opened.manifest(theirs).await.unwrap().is_none());
    let inside = source.to_str().unwrap();
    assert!(read(&opened, theirs, &format!("{inside}/large")).await == large);
    assert_eq!(
        read(&opened, theirs, &format!("{inside}/sub/small")).await,
        "hello"
    );
    let content = opened.content(theirs).await.unwrap();
    let link = content
        .node(format!("{inside}/link").as_bytes())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(link.kind, NodeKind::Symlink(b"sub/small".to_vec()));
    let names: Vec<_> = content
        .children(inside.as_bytes())
        .await
        .unwrap()
        .into_iter()
        .map(|node| node.name)
        .collect();
    assert_eq!(names, [&b"large"[..], b"link", b"sub"]);
    assert!(content.node(b"/nowhere/at/all").await.unwrap().is_none());
    assert!(content.children(b"/nowhere").await.is_err());
    drop(content);

    let options = CheckOptions {
        read_data: ReadData::All,
    };
    let report = check(&opened, &options).await.unwrap();
    assert!(report.is_sound() && report.packs_read > 0, "{report:?}");
    let ours = write(&opened, &awkward_files()).await.unwrap();
    let said = restic_ok(&path, &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
    let listed: Vec<_> = opened.snapshots().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|snapshot| snapshot.foreign)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(listed[1], ours);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_up_to_the_target_is_one_blob_and_a_larger_one_is_whole() {
    let repository = repository(Memory::new()).await;
    let writer = begin(&repository).await;
    let stage = writer.stage();
    let sizes = [1, SEGMENT_TARGET - 1, SEGMENT_TARGET, (8 << 20) + 1, 0];
    let mut numbers = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        numbers.push(stage.put(noise(seed as u64, size)).await.unwrap());
    }
    let staged = writer.finish_stage().await.unwrap();
    let blobs: Vec<_> = numbers
        .iter()
        .map(|number| staged.segment(*number).unwrap().blobs.len())
        .collect();
    assert_eq!(blobs, [1, 1, 1, 2, 0]);
    let more = stage.put(noise(77, 10)).await.unwrap();
    let staged = writer.finish_stage().await.unwrap();
    assert_eq!((staged.len(), staged.segment(more).unwrap().bytes), (6, 10));
    writer.abandon().await;
    assert!(repository.snapshots().await.unwrap().is_empty());
    assert!(repository.locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_found_by_the_beginning_of_its_id() {
    let repository = repository(Memory::new()).await;
    let mut ids = Vec::new();
    // 17 ids: at least two of them begin with the same digit.
    for n in 0..17_u64 {
        ids.push(
            write(&repository, &[("/f", vec![noise(n, 10)])])
                .await
                .unwrap()
                .id,
        );
    }
    assert_eq!(repository.snapshot(&ids[3]).await.unwrap().id, ids[3]);
    assert_eq!(repository.snapshot(&ids[3][..40]).await.unwrap().id, ids[3]);
    let ambiguous = ids
        .iter()
        .map(|id| &id[..1])
        .find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1)
        .unwrap();
    assert!(matches!(
        repository.snapshot(ambiguous).await,
        Err(RepositoryError::AmbiguousSnapshot { count: 2.., .. })
    ));
    for unknown in ["", "zz", "0123456789abcdef0123456789abcdef"] {
        let found = repository.snapshot(unknown).await;
        assert!(
            matches!(found, Err(RepositoryError::UnknownSnapshot { .. })),
            "{found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_know_what_they_are_copies_of_and_are_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = repository(Memory::new()).await;
    let target = Memory::new();
    let options = InitOptions {
        chunker_of: Some(first.clone()),
        ..InitOptions::default()
    };
    let (second, made) =
        Repository::open_or_init(Arc::<Memory>::clone(&target), &password(), &options)
            .await
            .unwrap();
    assert!(made && first.id() != second.id());
    let files = awkward_files();
    write(&first, &files).await.unwrap();
    write(&first, &[("/other", vec![noise(321, 5)])])
        .await
        .unwrap();
    let snapshots = first.snapshots().await.unwrap();

    let copy = || {
        first.copy(
            &snapshots,
            &second,
            Progress::new(),
            CancellationToken::new(),
        )
    };
    let copied = copy().await.unwrap();
    assert_eq!(copied.len(), 2);
    assert!(copied.iter().all(|copy| !copy.existed));
    let again = copy().await.unwrap();
    assert!(again.iter().all(|copy| copy.existed));
    let mut there = second.snapshots().await.unwrap();
    assert_eq!(there.len(), 2);
    for (copy, original) in there.iter_mut().zip(&snapshots) {
        assert_eq!(copy.identity(), original.id);
        assert_eq!(copy.facts, original.facts);
        assert_eq!(
            (&copy.tags, &copy.hostname, copy.time),
            (&original.tags, &original.hostname, original.time)
        );
        assert_ne!(copy.id, original.id);
    }
    for (name, segments) in &files {
        assert!(
            read(&second, &there[0], name).await == segments.concat(),
            "{name} differs"
        );
    }
    // A copy of a copy is a copy of the first.
    let third = repository(Memory::new()).await;
    second
        .copy(&there, &third, Progress::new(), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(
        third.snapshots().await.unwrap()[0].identity(),
        snapshots[0].id
    );

    target.export(directory.path());
    let said = restic_ok(directory.path(), &["check", "--read-data"]);
    assert!(said.contains("no errors were found"), "{said}");
    assert!(first.locks().await.unwrap().is_empty() && second.locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_is_not_whole_is_refused() {
    let source = Memory::new();
    let first = repository(Arc::<Memory>::clone(&source)).await;
    let second = repository(Memory::new()).await;
    write(&first, &awkward_files()).await.unwrap();
    source.delete(&source.paths("data/")[0]);
    let snapshots = first.snapshots().await.unwrap();
    let copied = first
        .copy(
            &snapshots,
            &second,
            Progress::new(),
            CancellationToken::new(),
        )
        .await;
    assert!(
        matches!(copied, Err(RepositoryError::Damaged { .. })),
        "{copied:?}"
    );
    assert!(second.snapshots().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbouring_blobs_are_read_with_few_requests() {
    let storage = Memory::new();
    let repository = repository(Arc::<Memory>::clone(&storage)).await;
    let segments: Vec<_> = (0..200).map(|n| noise(n, 100_000)).collect();
    let writer = begin(&repository).await;
    let snapshot = commit(writer, &[("/f", segments.clone())]).await.unwrap();
    storage.forget_calls();
    assert!(read(&repository, &snapshot, "/f").await == segments.concat());
    let reads = storage
        .calls()
        .into_iter()
        .filter(|(_, path)| path.starts_with("data/"))
        .count();
    assert!(reads < 20, "20 MB took {reads} requests");
}
