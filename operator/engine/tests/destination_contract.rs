//! The contract of `Storage`, proved against each kind on a real server.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod destination_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use destination_support::{local, noise, open, s3, s3_config, sftp, sftp_config};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_e2e::proxy::{Mood, Proxy};
use holdfast_e2e::sshd::{Options, Sshd};
use holdfast_e2e::{Workdir, shared};
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::{
    Entry, RetryPolicy, SftpConfig, Storage, StorageConfig, StorageError, StorageErrorKind,
    connect_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_local_directory_keeps_the_contract() -> Result<()> {
    let dir = Workdir::new()?;
    contract(&local(&dir.join("repository"))).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract() -> Result<()> {
    let server = shared::s3().await?;
    server.create_bucket("contract").await?;
    contract(&s3(server, "contract", "")).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_of_a_bucket_keeps_the_contract_and_sees_nothing_else() -> Result<()> {
    let server = shared::s3().await?;
    server.create_bucket("prefixes").await?;
    let neighbour = open(&s3(server, "prefixes", "shop-2")).await;
    neighbour
        .write("config", vec![Bytes::from_static(b"neighbour")])
        .await?;
    contract(&s3(server, "prefixes", "shop")).await;
    assert_eq!(neighbour.list("").await?, [entry("config", 9)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_object_lock_and_versions_keeps_the_contract() -> Result<()> {
    let server = shared::s3().await?;
    server.create_locked_bucket("locked").await?;
    contract(&s3(server, "locked", "deep/prefix")).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sftp_server_keeps_the_contract() -> Result<()> {
    let server = shared::sshd().await?;
    contract(&sftp(server, &server.files().join("contract"))).await;
    Ok(())
}

fn entry(path: &str, size: u64) -> Entry {
    Entry {
        path: path.to_owned(),
        size,
    }
}

async fn sorted(storage: &dyn Storage, directory: &str) -> Vec<Entry> {
    let mut entries = storage.list(directory).await.expect("listed");
    entries.sort();
    entries
}

fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>) -> StorageErrorKind {
    result.expect_err("an error").kind
}

async fn contract(config: &StorageConfig) {
    let storage = open(config).await;
    let storage = storage.as_ref();
    a_new_place_is_empty(storage).await;
    small_objects(storage).await;
    names_stay_inside(storage).await;
    a_large_object(storage).await;
    a_deep_listing_of_more_than_a_page(storage).await;
    many_writers_of_one_name(storage).await;
}

async fn a_new_place_is_empty(storage: &dyn Storage) {
    storage.probe().await.expect("a place that can be made");
    storage.create().await.expect("made");
    storage.create().await.expect("made again");
    storage.probe().await.expect("there");
    assert_eq!(storage.list("").await.expect("listed"), []);
    assert_eq!(storage.list("data").await.expect("listed"), []);
    assert_eq!(storage.size("config").await.expect("answered"), None);
    assert_eq!(storage.size("data/ab/abcd").await.expect("answered"), None);
    assert_eq!(
        kind(storage.read("config").await),
        StorageErrorKind::NotFound
    );
    assert_eq!(
        kind(storage.read("data/ab/abcd").await),
        StorageErrorKind::NotFound
    );
    assert_eq!(
        kind(storage.read_range("config", 0, 1).await),
        StorageErrorKind::NotFound
    );
    storage.remove("config").await.expect("nothing to remove");
    storage
        .remove("data/ab/abcd")
        .await
        .expect("nothing to remove");
}

async fn small_objects(storage: &dyn Storage) {
    let parts = ["one ", "", "two ", "three"].map(|part| Bytes::from_static(part.as_bytes()));
    storage
        .write("config", parts.to_vec())
        .await
        .expect("written");
    assert_eq!(storage.read("config").await.expect("read"), "one two three");
    assert_eq!(storage.size("config").await.expect("answered"), Some(13));

    assert_eq!(
        storage.read_range("config", 4, 3).await.expect("read"),
        "two"
    );
    assert_eq!(
        storage.read_range("config", 0, 13).await.expect("read"),
        "one two three"
    );
    assert_eq!(
        storage.read_range("config", 12, 1).await.expect("read"),
        "e"
    );
    assert_eq!(storage.read_range("config", 3, 0).await.expect("read"), "");
    for (offset, length) in [(10, 4), (13, 1), (500, 1)] {
        let short = storage.read_range("config", offset, length).await;
        assert_eq!(
            kind(short),
            StorageErrorKind::Corrupt,
            "{length} from {offset}"
        );
    }

    storage
        .write("config", vec![Bytes::from_static(b"less")])
        .await
        .expect("overwritten");
    assert_eq!(storage.read("config").await.expect("read"), "less");

    storage
        .write("locks/0123", vec![])
        .await
        .expect("an empty object");
    assert_eq!(storage.size("locks/0123").await.expect("answered"), Some(0));
    assert_eq!(storage.read("locks/0123").await.expect("read"), "");
    assert_eq!(
        storage.list("locks").await.expect("listed"),
        [entry("locks/0123", 0)]
    );
    assert_eq!(
        sorted(storage, "").await,
        [entry("config", 4), entry("locks/0123", 0)]
    );
    assert_eq!(storage.list("lock").await.expect("listed"), []);

    storage.remove("locks/0123").await.expect("removed");
    storage.remove("locks/0123").await.expect("removed already");
    assert_eq!(storage.size("locks/0123").await.expect("answered"), None);
    assert_eq!(storage.list("locks").await.expect("listed"), []);
}

async fn names_stay_inside(storage: &dyn Storage) {
    for name in [
        "../outside",
        "/etc/hostname",
        "data/../../outside",
        "",
        "data//x",
        "a-tmp-1",
    ] {
        let invalid = StorageErrorKind::InvalidConfig;
        assert_eq!(kind(storage.write(name, vec![]).await), invalid, "{name}");
        assert_eq!(kind(storage.read(name).await), invalid, "{name}");
        assert_eq!(kind(storage.size(name).await), invalid, "{name}");
        assert_eq!(kind(storage.remove(name).await), invalid, "{name}");
    }
    assert_eq!(
        kind(storage.list("..").await),
        StorageErrorKind::InvalidConfig
    );
}

/// Larger than what goes as one request or one window, in parts of awkward sizes.
async fn a_large_object(storage: &dyn Storage) {
    const SIZE: usize = 70 * 1024 * 1024 + 17;
    let whole = noise(SIZE, 1);
    let mut rest = whole.clone();
    let mut parts = Vec::new();
    for size in [1, 65 * 1024 * 1024, 65_537, 3] {
        parts.push(rest.split_to(size));
    }
    parts.push(rest);
    storage
        .write("data/00/00large", parts)
        .await
        .expect("written");
    assert_eq!(
        storage.size("data/00/00large").await.expect("answered"),
        Some(SIZE as u64)
    );
    assert!(
        storage.read("data/00/00large").await.expect("read") == whole,
        "content differs"
    );
    let (from, to) = (64 * 1024 * 1024 - 100, 65 * 1024 * 1024 + 5);
    let range = storage
        .read_range("data/00/00large", from as u64, (to - from) as u64)
        .await
        .expect("read");
    assert!(range == whole.slice(from..to), "the range differs");
    storage.remove("data/00/00large").await.expect("removed");
}

/// S3 lists a thousand at a time.
async fn a_deep_listing_of_more_than_a_page(storage: &dyn Storage) {
    let expected: Vec<Entry> = (0..1050_u32)
        .map(|n| entry(&format!("data/{:02x}/{n:08x}", n % 256), u64::from(n % 7)))
        .collect();
    let written: Result<Vec<()>, StorageError> = stream::iter(&expected)
        .map(|entry| {
            let size = usize::try_from(entry.size).expect("small");
            storage.write(&entry.path, vec![noise(size, 3)])
        })
        .buffer_unordered(24)
        .try_collect()
        .await;
    written.expect("written");
    storage
        .write("snapshots/00", vec![Bytes::from_static(b"s")])
        .await
        .expect("written");
    let mut expected = expected;
    expected.sort();
    let listed = sorted(storage, "data").await;
    assert_eq!(listed.len(), expected.len());
    assert!(listed == expected, "the listing differs");
    for (directory, limit, first) in [
        ("data", 1, 1),
        ("data", 1020, 1020),
        ("data", 9999, expected.len()),
        ("", 9999, expected.len() + 2),
        ("index", 9, 0),
        ("locks", 9, 0),
    ] {
        let some = storage.list_some(directory, limit).await.expect("listed");
        let distinct: BTreeSet<_> = some.iter().map(|entry| &entry.path).collect();
        assert_eq!(
            (some.len(), distinct.len()),
            (first, first),
            "{limit} of {directory:?}"
        );
        let known = |entry: &Entry| !entry.path.starts_with("data/") || expected.contains(entry);
        assert!(some.iter().all(known), "{limit} of {directory:?}");
    }
    let distinct: BTreeSet<_> = sorted(storage, "").await.into_iter().collect();
    assert_eq!(
        distinct.len(),
        expected.len() + 2,
        "config, the snapshot and the data"
    );
    let removed: Result<Vec<()>, StorageError> = stream::iter(&expected)
        .map(|entry| storage.remove(&entry.path))
        .buffer_unordered(24)
        .try_collect()
        .await;
    removed.expect("removed");
    assert_eq!(storage.list("data").await.expect("listed"), []);
}

/// Whoever comes last, the object is one of those written, whole.
async fn many_writers_of_one_name(storage: &dyn Storage) {
    let contents: Vec<Bytes> = (1..9).map(|n| noise(100_000 * n, n as u64)).collect();
    let written: Result<Vec<()>, StorageError> = stream::iter(&contents)
        .map(|content| storage.write("index/contended", vec![content.clone()]))
        .buffer_unordered(8)
        .try_collect()
        .await;
    written.expect("written");
    let read = storage.read("index/contended").await.expect("read");
    assert!(contents.contains(&read), "{} bytes of nobody", read.len());
    let size = read.len() as u64;
    assert_eq!(
        storage.list("index").await.expect("listed"),
        [entry("index/contended", size)]
    );
}

/// Writes and reads while the server is killed and comes back.
async fn survives(storage: Arc<dyn Storage>, kill: impl AsyncFnOnce()) {
    const OBJECTS: usize = 60;
    let (progress, mut reached) = tokio::sync::watch::channel(0_usize);
    let path = |n: usize| format!("data/{n:02x}/{n:08x}");
    let worker = async {
        let done: Result<Vec<()>, StorageError> = stream::iter(0..OBJECTS)
            .map(|n| {
                let (storage, progress) = (&storage, &progress);
                async move {
                    let content = noise(1_000_000, n as u64);
                    storage.write(&path(n), vec![content.clone()]).await?;
                    assert!(storage.read(&path(n)).await? == content, "{n} differs");
                    progress.send_modify(|done| *done += 1);
                    Ok(())
                }
            })
            .buffer_unordered(6)
            .try_collect()
            .await;
        done.expect("each write and read works in the end");
    };
    let killer = async {
        reached
            .wait_for(|done| *done >= 10)
            .await
            .expect("work is done");
        kill().await;
    };
    tokio::join!(worker, killer);
    let listed = sorted(storage.as_ref(), "data").await;
    let expected: Vec<Entry> = (0..OBJECTS).map(|n| entry(&path(n), 1_000_000)).collect();
    assert_eq!(listed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_killed_sftp_server() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = Sshd::start(&dir).await?;
    let storage = open(&sftp(&server, &server.files().join("repository"))).await;
    storage.create().await?;
    survives(storage, async || server.restart().await.expect("restarted")).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_killed_s3_server() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = holdfast_e2e::s3::S3::start(&dir).await?;
    server.create_bucket("repository").await?;
    let storage = open(&s3(&server, "repository", "")).await;
    survives(storage, async || server.restart().await.expect("restarted")).await;
    Ok(())
}

/// The network between cuts every connection in the middle of what is under way.
async fn survives_a_cut(storage: Arc<dyn Storage>, proxy: &Proxy) {
    let bystander = Arc::clone(&storage);
    survives(storage, async || {
        proxy.set(Mood::Cut);
        // A probe is not tried again: it fails once the cut has come through.
        while bystander.probe().await.is_ok() {
            tokio::task::yield_now().await;
        }
        proxy.set(Mood::Fine);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_cut_on_the_way_to_an_sftp_server() -> Result<()> {
    let server = shared::sshd().await?;
    let proxy = Proxy::start(server.port()).await?;
    let path = server.files().join("cut");
    let config = SftpConfig {
        port: proxy.port(),
        ..sftp_config(server, &path)
    };
    let storage = open(&StorageConfig::Sftp(config)).await;
    storage.create().await?;
    survives_a_cut(storage, &proxy).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_cut_on_the_way_to_a_bucket() -> Result<()> {
    let server = shared::s3().await?;
    server.create_bucket("cut").await?;
    let port = server
        .endpoint()
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .parse()?;
    let proxy = Proxy::start(port).await?;
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let storage = open(&StorageConfig::S3(s3_config(&endpoint, "cut", ""))).await;
    survives_a_cut(storage, &proxy).await;
    Ok(())
}

/// Long transfers change their keys on the way, with requests of many operations in flight.
#[tokio::test(flavor = "multi_thread")]
async fn an_sftp_server_that_changes_keys_all_the_time_keeps_the_contract() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        extra: vec!["RekeyLimit 3M".to_owned()],
        ..Options::default()
    };
    let server = Sshd::start_with(&dir, options).await?;
    contract(&sftp(&server, &server.files().join("repository"))).await;
    Ok(())
}

/// A connection that says nothing more is given up by its keepalives, and the work goes on. It takes
/// the keepalives' patience, beside the other tests, and next to no processor time.
#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_a_silent_network() -> Result<()> {
    let server = shared::sshd().await?;
    let proxy = Proxy::start(server.port()).await?;
    let config = SftpConfig {
        port: proxy.port(),
        ..sftp_config(server, &server.files().join("silent"))
    };
    let storage = open(&StorageConfig::Sftp(config)).await;
    storage.create().await?;
    proxy.set(Mood::Stalled);
    let error = storage.probe().await.expect_err("nobody answers");
    assert_eq!(error.kind, StorageErrorKind::Interrupted, "{error}");
    proxy.set(Mood::Fine);
    storage
        .write("config", vec![Bytes::from_static(b"x")])
        .await?;
    Ok(())
}

/// A server that stays away is tried again as often as was said, and given up with what came back.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_is_given_up() -> Result<()> {
    let pause = Duration::from_millis(300);
    let patience = |retries| RetryPolicy {
        retries,
        first_pause: pause,
        longest_pause: pause,
    };
    let dir = Workdir::new()?;
    let mut sshd = Sshd::start(&dir).await?;
    let mut bucket = holdfast_e2e::s3::S3::start(&dir).await?;
    bucket.create_bucket("repository").await?;
    let configs = [sftp(&sshd, &sshd.files()), s3(&bucket, "repository", "")];
    for config in &configs {
        open(config)
            .await
            .write("config", vec![Bytes::from_static(b"x")])
            .await?;
    }
    sshd.kill9()?;
    bucket.kill9()?;
    for config in &configs {
        let mut took = Vec::new();
        for retries in [0, 4] {
            let storage = connect_with(config, patience(retries)).await?;
            let begun = Instant::now();
            let read = tokio::time::timeout(Duration::from_secs(120), storage.read("config"));
            let error = read.await?.expect_err("nobody is there");
            took.push(begun.elapsed());
            assert_eq!(error.class(), ErrorClass::Transient, "{error}");
            assert!(
                matches!(
                    error.kind,
                    StorageErrorKind::Unreachable | StorageErrorKind::Interrupted
                ),
                "{error}"
            );
        }
        // Without patience it is not tried again; with it, four pauses are waited for.
        assert!(took[1] >= pause * 4, "{took:?}");
    }
    Ok(())
}

/// What the server says of itself: that a file was synced before it got its name, and its directory
/// after it. Trap: without it an object that was stored is empty after a power cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_sftp_is_synced_before_and_after_its_rename() -> Result<()> {
    let dir = Workdir::new()?;
    let said = dir.join("sftp.log");
    // The one inside of sshd would tell the system's log alone.
    let program = "/usr/lib/openssh/sftp-server -e -l VERBOSE";
    let options = Options {
        extra: vec![format!("ForceCommand {program} 2>> {}", said.display())],
        ..Options::default()
    };
    let server = Sshd::start_with(&dir, options).await?;
    let root = server.files().join("synced");
    let storage = open(&sftp(&server, &root)).await;
    storage.create().await?;
    storage
        .write("index/abcd", vec![Bytes::from_static(b"x")])
        .await?;
    let log = std::fs::read_to_string(&said)?;
    let steps: Vec<&str> = log
        .lines()
        .filter_map(|line| {
            let step = ["fsync", "posix-rename"]
                .into_iter()
                .find(|step| line.contains(step))?;
            line.contains(&format!("{}/index", root.display()))
                .then_some(match step {
                    "fsync" if line.contains("-tmp-") => "sync the file",
                    "fsync" => "sync the directory",
                    _ => "rename",
                })
        })
        .collect();
    assert_eq!(
        steps,
        ["sync the file", "rename", "sync the directory"],
        "{log}"
    );
    Ok(())
}
