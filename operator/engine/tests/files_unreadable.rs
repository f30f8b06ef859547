//! Files that really cannot be read: for a user without permission, by an error of the device, or
//! because they are gone. They fail the run by name, or are skipped and told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod files_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use files_support::{Place, below, config};
use holdfast_engine::class::Classified;
use holdfast_engine::source::files::{FilesConfig, FilesError, OnUnreadable};

/// Reading this regular file fails with EIO for everybody: nothing is mapped at its beginning.
fn memory() -> PathBuf {
    PathBuf::from(format!("/proc/{}/mem", std::process::id()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_device_fails_the_run_and_leaves_no_snapshot() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("fine"), "fine").unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    let read = config(&[&place.path().join("fine"), &memory()]);
    let error = repo.back_up(&read).await.unwrap_err();
    assert_eq!(error.reason(), "SourceUnreadable");
    let text = error.to_string();
    assert!(
        text.starts_with("1 of the files could not be read and no backup was written"),
        "{text}"
    );
    assert!(text.contains(memory().to_str().unwrap()), "{text}");
    assert!(text.contains("Input/output error"), "{text}");
    assert_eq!(repo.repository.snapshots().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_it_is_named_in_the_manifest_and_the_rest_is_saved() {
    let place = tempfile::tempdir().unwrap();
    let fine = place.path().join("fine");
    fs::write(&fine, "fine").unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    let read = FilesConfig {
        on_unreadable: OnUnreadable::Skip,
        ..config(&[&fine, &memory()])
    };
    let (snapshot, manifest, _) = repo.back_up(&read).await.unwrap();
    assert_eq!((manifest.files, manifest.bytes), (1, 4));
    assert_eq!(manifest.skipped.len(), 1);
    assert_eq!(manifest.skipped[0].path, memory().to_str().unwrap());
    assert!(
        manifest.skipped[0].reason.contains("Input/output error"),
        "{:?}",
        manifest.skipped
    );
    repo.restic(&["check", "--read-data"]);
    let target = place.path().join("target");
    repo.restore(&snapshot, &manifest, &target).await.unwrap();
    assert_eq!(fs::read(below(&target, &fine)).unwrap(), b"fine");
    assert!(!below(&target, &memory()).exists());
}

/// Where the test below does its work, for the process that lacks the permission.
const PLACE: &str = "HOLDFAST_TEST_PLACE";

#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_are_all_named() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    fs::create_dir_all(top.join("closed")).unwrap();
    fs::create_dir(top.join("open")).unwrap();
    for name in [
        "open/mine",
        "open/secret-1",
        "open/secret-2",
        "closed/inside",
    ] {
        fs::write(top.join(name), name).unwrap();
    }
    for (name, mode) in [
        ("open/secret-1", 0o000),
        ("open/secret-2", 0o000),
        ("closed", 0o000),
    ] {
        fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        // Root reads everything: the same test in a process of a user that does not.
        chown(place.path(), Some(65_534), Some(65_534)).unwrap();
        let program = place.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "without_permission", "--ignored", "--nocapture"])
            .env(PLACE, place.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("1 passed"), "{text}");
    } else {
        check_without_permission(place.path()).await;
    }
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by files_of_others_are_all_named, as another user"]
async fn without_permission() {
    let place = std::env::var_os(PLACE).expect("the place that the other test made");
    check_without_permission(Path::new(&place)).await;
}

async fn check_without_permission(place: &Path) {
    let top = place.join("tree");
    let repo = Place::init(&place.join("repo")).await;
    let error = repo.back_up(&config(&[&top])).await.unwrap_err();
    let FilesError::Unreadable { list } = &error else {
        panic!("{error}")
    };
    let mut named: Vec<_> = list.first.iter().map(|(path, _)| path.clone()).collect();
    named.sort();
    let expected = ["closed", "open/secret-1", "open/secret-2"].map(|name| top.join(name));
    assert_eq!(named, expected);
    assert!(
        list.first
            .iter()
            .all(|(_, reason)| reason.contains("Permission denied")),
        "{error}"
    );
    assert_eq!(repo.repository.snapshots().await.unwrap(), []);

    let skip = FilesConfig {
        on_unreadable: OnUnreadable::Skip,
        ..config(&[&top])
    };
    let (snapshot, manifest, _) = repo.back_up(&skip).await.unwrap();
    assert_eq!((manifest.files, manifest.skipped.len()), (1, 3));
    // A listing knows it without the manifest.
    assert_eq!(snapshot.facts.as_ref().unwrap().skipped, Some(3));
    let target = place.join("target");
    let report = repo.restore(&snapshot, &manifest, &target).await.unwrap();
    assert_eq!(report.files, 1);
    assert_eq!(
        fs::read(below(&target, &top.join("open/mine"))).unwrap(),
        b"open/mine"
    );

    // The owner that this user cannot give is told; nothing else is lost.
    if nix::unistd::geteuid().as_raw() == 65_534 {
        assert!(
            report
                .warnings
                .first
                .iter()
                .any(|(_, reason)| reason.contains("owner 0:0")),
            "{report:?}"
        );
    }
}
