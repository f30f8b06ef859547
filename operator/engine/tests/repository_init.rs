//! Making and opening repositories, and the passwords that open them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as the test does"
)]

mod support;

use std::sync::Arc;

use holdfast_engine::destination::{Storage, StorageErrorKind};
use holdfast_engine::repository::{InitOptions, Repository, RepositoryError};
use secrecy::SecretString;
use support::memory::{Call, Memory};
use support::{noise, password, read, repository, restic_ok, write};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_repository_says_so() {
    let storage = Memory::new();
    let opened = Repository::open(Arc::<Memory>::clone(&storage) as _, &password()).await;
    assert!(
        matches!(opened, Err(RepositoryError::NotARepository { .. })),
        "{opened:?}"
    );
    let made = repository(Arc::<Memory>::clone(&storage)).await;
    let wrong = SecretString::from("wrong");
    let opened = Repository::open(Arc::<Memory>::clone(&storage) as _, &wrong).await;
    let Err(error @ RepositoryError::WrongPassword { .. }) = opened else {
        panic!("opened with a wrong password");
    };
    assert!(!error.to_string().contains("wrong"), "{error}");
    let options = InitOptions::default();
    let again = Repository::init(Arc::<Memory>::clone(&storage) as _, &password(), &options).await;
    assert!(
        matches!(again, Err(RepositoryError::AlreadyExists { .. })),
        "{again:?}"
    );
    let (opened, made_now) = Repository::open_or_init(storage, &password(), &options)
        .await
        .unwrap();
    assert!(!made_now && opened.id() == made.id());
    assert_eq!(made.id().len(), 64);
    let shown = format!("{opened:?}");
    assert!(
        !shown.contains("correct horse") && !shown.contains("encrypt"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_holds_other_files_is_refused() {
    for other in ["photos/a.jpg", "notes.txt", "data/00/00", "snapshots/abc"] {
        let storage = Memory::new();
        storage.put(other, "mine");
        let before = storage.paths("");
        let options = InitOptions::default();
        let made =
            Repository::init(Arc::<Memory>::clone(&storage) as _, &password(), &options).await;
        let Err(RepositoryError::NotEmpty { found, .. }) = made else {
            panic!("{other} was mixed with backups: {made:?}");
        };
        assert_eq!(found, other);
        assert_eq!(storage.paths(""), before);
        let looked = Repository::vacant(&(Arc::<Memory>::clone(&storage) as _)).await;
        assert!(
            matches!(looked, Err(RepositoryError::NotEmpty { .. })),
            "{looked:?}"
        );
    }
}

/// The operator looks every few minutes, and the place may be somebody's bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_not_listed_whole_to_see_that_it_is_not_empty() {
    let storage = Memory::new();
    for number in 0..5000 {
        storage.put(&format!("photos/{number}.jpg"), "mine");
    }
    let place: Arc<dyn Storage> = Arc::<Memory>::clone(&storage) as _;
    let looked = Repository::vacant(&place).await;
    let made = Repository::init(place, &password(), &InitOptions::default()).await;
    for refused in [looked, made.map(drop)] {
        assert!(
            matches!(refused, Err(RepositoryError::NotEmpty { .. })),
            "{refused:?}"
        );
    }
    let lists: Vec<_> = storage
        .calls()
        .into_iter()
        .filter(|(call, _)| *call == Call::List)
        .collect();
    assert!(lists.is_empty(), "{lists:?}");

    // What would look like left-overs for as far as one looks is looked at whole.
    let storage = Memory::new();
    for number in 0..1500 {
        storage.put(&format!("keys/{number:064x}"), "key");
    }
    let place: Arc<dyn Storage> = Arc::<Memory>::clone(&storage) as _;
    Repository::vacant(&place).await.unwrap();
    storage.put("photos/1.jpg", "mine");
    let looked = Repository::vacant(&place).await;
    assert!(
        matches!(looked, Err(RepositoryError::NotEmpty { .. })),
        "{looked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_died_before_its_config_is_begun_again() {
    let storage = Memory::new();
    storage.fail_when(|call, path| {
        (call == Call::Remove || (call == Call::Write && path == "config"))
            .then_some(StorageErrorKind::Unreachable)
    });
    let options = InitOptions::default();
    let secret = password();
    let init = || Repository::init(Arc::<Memory>::clone(&storage) as _, &secret, &options);
    init().await.unwrap_err();
    Repository::vacant(&(Arc::<Memory>::clone(&storage) as _))
        .await
        .unwrap();
    storage.heal();
    assert_eq!(storage.paths("").len(), 1, "a key is left");
    let made = init().await.unwrap();
    // The left-over key has the same password and another secret: it must not be taken for ours.
    for _ in 0..3 {
        let opened = Repository::open(Arc::<Memory>::clone(&storage) as _, &password())
            .await
            .unwrap();
        assert_eq!(opened.id(), made.id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inits_that_race_end_with_one_repository_that_all_use() {
    let storage = Memory::new();
    let begin = || {
        let storage = Arc::<Memory>::clone(&storage);
        tokio::spawn(async move {
            Repository::open_or_init(storage, &password(), &InitOptions::default()).await
        })
    };
    let racers: Vec<_> = (0..4).map(|_| begin()).collect();
    let mut opened = Vec::new();
    for racer in racers {
        opened.push(racer.await.unwrap().unwrap());
    }
    assert_eq!(opened.iter().filter(|(_, made)| *made).count(), 1);
    for (n, (repository, _)) in opened.iter().enumerate() {
        assert_eq!(repository.id(), opened[0].0.id());
        let written = write(repository, &[("/f", vec![noise(n as u64, 100)])])
            .await
            .unwrap();
        let (other, _) = &opened[(n + 1) % opened.len()];
        assert_eq!(read(other, &written, "/f").await, noise(n as u64, 100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_added_and_removed_and_the_one_in_use_stays() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Memory::new();
    let first = repository(Arc::<Memory>::clone(&storage)).await;
    let other = SecretString::from("another");
    let added = first.add_key(&other).await.unwrap();
    let keys = first.keys().await.unwrap();
    assert_eq!(keys.len(), 2);
    let current: Vec<_> = keys.iter().filter(|key| key.current).collect();
    assert_eq!(current.len(), 1);
    assert!(current[0].created.is_some() && current[0].made_by.is_some());
    let in_use = first.remove_key(&current[0].id).await;
    assert!(
        matches!(in_use, Err(RepositoryError::KeyInUse { .. })),
        "{in_use:?}"
    );
    let unknown = first.remove_key(&"0".repeat(64)).await;
    assert!(
        matches!(unknown, Err(RepositoryError::UnknownKey { .. })),
        "{unknown:?}"
    );

    storage.export(directory.path());
    restic_ok(directory.path(), &["key", "list"]);

    let second = Repository::open(Arc::<Memory>::clone(&storage) as _, &other)
        .await
        .unwrap();
    assert_eq!(second.id(), first.id());
    assert!(
        second
            .keys()
            .await
            .unwrap()
            .iter()
            .any(|key| key.current && key.id == added)
    );
    second.remove_key(&current[0].id).await.unwrap();
    let opened = Repository::open(storage, &password()).await;
    assert!(
        matches!(opened, Err(RepositoryError::WrongPassword { .. })),
        "{opened:?}"
    );
}
