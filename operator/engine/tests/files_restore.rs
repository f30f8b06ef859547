//! Restoring files, from backups made by hand: what is in the way, what is hostile, what is
//! damaged, and what is chosen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod files_support;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use files_support::{HandMade, manifest, node};
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::files::{
    FilesError, OnConflict, RestoreFilesPlan, RestoreFilesReport, RestoreFilesRequest,
    RestoreTarget, plan_restore_files, restore_files,
};
use holdfast_engine::source::{Node, NodeKind};
use tokio_util::sync::CancellationToken;

fn request(target: &Path, include: &[&str], on_conflict: OnConflict) -> RestoreFilesRequest {
    RestoreFilesRequest {
        target: RestoreTarget::Path(target.to_path_buf()),
        include: include.iter().map(ToString::to_string).collect(),
        on_conflict,
    }
}

async fn restore(
    backup: &HandMade,
    request: &RestoreFilesRequest,
) -> Result<RestoreFilesReport, FilesError> {
    restore_files(
        backup,
        &manifest(&["/srv"]),
        request,
        &Progress::new(),
        &CancellationToken::new(),
    )
    .await
}

async fn plan(backup: &HandMade, request: &RestoreFilesRequest) -> RestoreFilesPlan {
    plan_restore_files(
        backup,
        &manifest(&["/srv"]),
        request,
        &CancellationToken::new(),
    )
    .await
    .unwrap()
}

/// `/srv` with `a` (of two blobs), `b`, `sub/c` and a link `l`.
fn small() -> HandMade {
    let mut backup = HandMade::new();
    backup.directory("/", "srv");
    backup.file("/srv", "a", &[b"one ", b"two"]);
    backup.file("/srv", "b", &[b"bee"]);
    backup.link("/srv", "l", "a");
    backup.directory("/srv", "sub");
    backup.file("/srv/sub", "c", &[b"sea"]);
    backup
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn names(path: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_absent_directory_is_made_and_filled_as_planned() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("deep/target");
    let request = request(&target, &[], OnConflict::Fail);
    let planned = plan(&small(), &request).await;
    assert!(!target.exists());
    let expected = RestoreFilesPlan {
        files: 3,
        bytes: 13,
        directories: 2,
        others: 1,
        ..Default::default()
    };
    assert_eq!(planned, expected);

    let report = restore(&small(), &request).await.unwrap();
    assert_eq!(
        (
            report.files,
            report.bytes,
            report.directories,
            report.others
        ),
        (3, 13, 2, 1)
    );
    assert!(
        report.warnings.is_empty() && report.skipped.is_empty(),
        "{report:?}"
    );
    assert_eq!(read(target.join("srv/a")), "one two");
    assert_eq!(read(target.join("srv/sub/c")), "sea");
    assert_eq!(
        std::fs::read_link(target.join("srv/l")).unwrap(),
        Path::new("a")
    );
    for path in ["srv", "srv/a", "srv/sub", "srv/l"] {
        let meta = std::fs::symlink_metadata(target.join(path)).unwrap();
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (1_700_000_000, 123_456_789),
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_the_same_is_kept_and_gets_its_metadata_back() {
    let target = tempfile::tempdir().unwrap();
    let request = request(target.path(), &[], OnConflict::Fail);
    restore(&small(), &request).await.unwrap();
    let a = target.path().join("srv/a");
    let inode = std::fs::metadata(&a).unwrap().ino();
    std::fs::set_permissions(&a, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_file(target.path().join("srv/b")).unwrap();
    std::fs::write(target.path().join("srv/stranger"), "stays").unwrap();

    let planned = plan(&small(), &request).await;
    assert_eq!((planned.files, planned.bytes, planned.identical), (1, 3, 5));
    let report = restore(&small(), &request).await.unwrap();
    assert_eq!((report.files, report.kept), (1, 3));
    let meta = std::fs::metadata(&a).unwrap();
    assert_eq!(
        (meta.ino(), meta.mode() & 0o777, meta.mtime()),
        (inode, 0o644, 1_700_000_000)
    );
    assert_eq!(read(target.path().join("srv/stranger")), "stays");
}

#[tokio::test]
async fn a_conflict_changes_nothing_and_names_every_one() {
    let target = tempfile::tempdir().unwrap();
    let srv = target.path().join("srv");
    std::fs::create_dir(&srv).unwrap();
    // Same size and time, other content: only a comparison of content can tell.
    std::fs::write(srv.join("b"), "boo").unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
    std::fs::File::options()
        .write(true)
        .open(srv.join("b"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    symlink("elsewhere", srv.join("l")).unwrap();
    std::fs::write(srv.join("sub"), "a file where a directory was").unwrap();

    let error = restore(&small(), &request(target.path(), &[], OnConflict::Fail))
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    let text = error.to_string();
    for name in [
        "srv/b (it differs)",
        "srv/l (it differs)",
        "srv/sub (it is not a directory)",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(names(&srv), ["b", "l", "sub"]);
}

#[tokio::test]
async fn drop_replaces_and_merge_keeps() {
    for on_conflict in [OnConflict::Drop, OnConflict::Merge] {
        let target = tempfile::tempdir().unwrap();
        let srv = target.path().join("srv");
        std::fs::create_dir(&srv).unwrap();
        std::fs::write(srv.join("b"), "mine").unwrap();
        std::fs::create_dir(srv.join("l")).unwrap();
        symlink("/nowhere", srv.join("sub")).unwrap();
        let planned = plan(&small(), &request(target.path(), &[], on_conflict)).await;
        assert_eq!(planned.different.count, 3, "{planned:?}");
        let report = restore(&small(), &request(target.path(), &[], on_conflict))
            .await
            .unwrap();
        assert_eq!(read(srv.join("a")), "one two");
        if on_conflict == OnConflict::Drop {
            assert_eq!(read(srv.join("b")), "bee");
            assert_eq!(std::fs::read_link(srv.join("l")).unwrap(), Path::new("a"));
            assert_eq!(read(srv.join("sub/c")), "sea");
            assert_eq!(report.files, 3);
        } else {
            assert_eq!(read(srv.join("b")), "mine");
            assert!(srv.join("l").is_dir());
            assert_eq!(
                std::fs::read_link(srv.join("sub")).unwrap(),
                Path::new("/nowhere")
            );
            assert_eq!((report.files, report.kept), (1, 3));
        }
    }
}

#[tokio::test]
async fn a_directory_with_something_in_it_is_never_removed_for_a_file() {
    let target = tempfile::tempdir().unwrap();
    let precious = target.path().join("srv/b/precious");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "keep me").unwrap();
    let error = restore(&small(), &request(target.path(), &[], OnConflict::Drop))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a directory that is not empty is in its place"),
        "{error}"
    );
    assert!(
        matches!(
            error,
            FilesError::Incomplete {
                restored: 2,
                damaged: false,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(read(precious), "keep me");
}

#[tokio::test]
async fn only_what_is_chosen_is_restored_with_what_leads_there() {
    let target = tempfile::tempdir().unwrap();
    let chosen = request(target.path(), &["/srv/sub", "a"], OnConflict::Fail);
    let report = restore(&small(), &chosen).await.unwrap();
    assert_eq!(report.files, 2);
    assert_eq!(names(target.path().join("srv")), ["a", "sub"]);
    assert_eq!(read(target.path().join("srv/sub/c")), "sea");

    let except = request(target.path(), &["/srv", "!sub"], OnConflict::Fail);
    restore(&small(), &except).await.unwrap();
    assert_eq!(names(target.path().join("srv")), ["a", "b", "l", "sub"]);

    let nothing = request(target.path(), &["*.jpg"], OnConflict::Fail);
    let error = restore(&small(), &nothing).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nothing in the backup matches *.jpg"),
        "{error}"
    );
}

#[tokio::test]
async fn names_that_lead_out_are_refused() {
    for name in ["..", ".", "../../escaped", "/etc/escaped", "a\0b", ""] {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("in/side");
        let mut backup = small();
        let blob = backup.store(b"evil");
        backup.add(
            "/srv/sub",
            Node {
                size: 4,
                ..node(name, NodeKind::File(vec![blob]))
            },
        );
        let error = restore(&backup, &request(&target, &[], OnConflict::Drop))
            .await
            .unwrap_err();
        assert!(
            matches!(error, FilesError::UnsafeName { .. }),
            "{name:?}: {error}"
        );
        assert!(!place.path().join("in/escaped").exists());
        assert!(
            !target.exists(),
            "the survey found it before anything was made"
        );
    }
}

#[tokio::test]
async fn no_symbolic_link_leads_out_of_the_target() {
    for on_conflict in [OnConflict::Fail, OnConflict::Drop, OnConflict::Merge] {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let target = place.path().join("target");
        // One link comes with the backup, under the name of a directory of the backup...
        let mut backup = HandMade::new();
        backup.link("/", "srv", outside.to_str().unwrap());
        backup.directory("/", "srv");
        backup.file("/srv", "evil", &[b"evil"]);
        let _ = restore(&backup, &request(&target, &[], on_conflict)).await;
        assert_eq!(names(&outside), [""; 0], "{on_conflict:?}");
        // ... the other is there already.
        let target = place.path().join("second");
        std::fs::create_dir(&target).unwrap();
        symlink(&outside, target.join("srv")).unwrap();
        let _ = restore(&small(), &request(&target, &[], on_conflict)).await;
        assert_eq!(names(&outside), [""; 0], "{on_conflict:?}");
    }
}

#[tokio::test]
async fn to_the_original_place_links_above_what_was_backed_up_are_the_machines_own() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    std::fs::create_dir_all(place.join("disk/data")).unwrap();
    symlink(place.join("disk"), place.join("mnt")).unwrap();
    // Backed up as <place>/mnt/data, where mnt is a link.
    let mut backup = HandMade::new();
    let mut parent = String::from("/");
    for name in place.join("mnt/data").components().skip(1) {
        let name = name.as_os_str().to_str().unwrap();
        backup.directory(&parent, name);
        parent = format!("{}/{name}", parent.trim_end_matches('/'));
    }
    backup.file(&parent, "f", &[b"data"]);
    let before = std::fs::metadata(&place).unwrap().mtime();
    let restored = restore_files(
        &backup,
        &manifest(&[&parent]),
        &RestoreFilesRequest {
            target: RestoreTarget::Original,
            include: Vec::new(),
            on_conflict: OnConflict::Fail,
        },
        &Progress::new(),
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    assert_eq!((restored.files, restored.directories), (1, 1));
    assert_eq!(read(place.join("disk/data/f")), "data");
    assert!(place.join("mnt").is_symlink());
    assert_eq!(
        std::fs::metadata(&place).unwrap().mtime(),
        before,
        "it is not of the backup"
    );
}

#[tokio::test]
async fn a_damaged_blob_costs_its_file_and_no_other() {
    let target = tempfile::tempdir().unwrap();
    let mut backup = small();
    let blob = backup.store(b"two");
    backup.damaged.push(blob);
    let error = restore(&backup, &request(target.path(), &[], OnConflict::Fail))
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Damaged);
    assert!(
        error
            .to_string()
            .contains("srv/a (the repository at memory is damaged"),
        "{error}"
    );
    assert_eq!(names(target.path().join("srv")), ["b", "l", "sub"]);
    assert_eq!(read(target.path().join("srv/sub/c")), "sea");
}

#[tokio::test]
async fn a_size_that_the_content_does_not_have_is_damage() {
    for size in [2, 4] {
        let target = tempfile::tempdir().unwrap();
        let mut backup = small();
        let blob = backup.store(b"bee");
        backup.add(
            "/srv",
            Node {
                size,
                ..node("z", NodeKind::File(vec![blob]))
            },
        );
        let error = restore(&backup, &request(target.path(), &[], OnConflict::Fail))
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Damaged);
        assert_eq!(names(target.path().join("srv")), ["a", "b", "l", "sub"]);
    }
}

fn hard_link(inode: u64, blob: holdfast_engine::source::BlobId, name: &str) -> Node {
    Node {
        size: 3,
        inode,
        device_id: 7,
        links: 3,
        ..node(name, NodeKind::File(vec![blob]))
    }
}

#[tokio::test]
async fn names_of_one_file_become_one_file_again() {
    let target = tempfile::tempdir().unwrap();
    let mut backup = small();
    let blob = backup.store(b"bee");
    backup.add("/srv", hard_link(42, blob, "x1"));
    backup.add("/srv", hard_link(42, blob, "x2"));
    backup.add("/srv/sub", hard_link(42, blob, "x3"));
    backup.add("/srv/sub", hard_link(43, blob, "other"));
    let request = request(target.path(), &["x*", "other"], OnConflict::Fail);
    let planned = plan(&backup, &request).await;
    assert_eq!((planned.files, planned.bytes), (4, 6));
    let inode = |path: &str| std::fs::metadata(target.path().join(path)).unwrap().ino();
    for pass in 0..2 {
        let report = restore(&backup, &request).await.unwrap();
        let expected = if pass == 0 { (4, 6, 0) } else { (0, 0, 4) };
        assert_eq!((report.files, report.bytes, report.kept), expected);
        assert_eq!(inode("srv/x1"), inode("srv/x2"));
        assert_eq!(inode("srv/x1"), inode("srv/sub/x3"));
        assert_ne!(inode("srv/x1"), inode("srv/sub/other"));
    }
    // The same content under an inode of its own is linked again; Merge links to nothing it
    // merely found.
    std::fs::remove_file(target.path().join("srv/x2")).unwrap();
    std::fs::write(target.path().join("srv/x2"), "bee").unwrap();
    restore(&backup, &request).await.unwrap();
    assert_eq!(inode("srv/x1"), inode("srv/x2"));
    std::fs::write(target.path().join("srv/x1"), "mine").unwrap();
    std::fs::remove_file(target.path().join("srv/sub/x3")).unwrap();
    let merge = RestoreFilesRequest {
        on_conflict: OnConflict::Merge,
        ..request.clone()
    };
    restore(&backup, &merge).await.unwrap();
    assert_eq!(read(target.path().join("srv/x1")), "mine");
    assert_eq!(read(target.path().join("srv/sub/x3")), "bee");
}

#[tokio::test]
async fn zeros_become_holes() {
    let target = tempfile::tempdir().unwrap();
    let mut backup = small();
    let zeros = vec![0; 8 * 1024 * 1024];
    backup.file(
        "/srv",
        "sparse",
        &[&b"head"[..], &zeros, &b"middle"[..], &zeros],
    );
    restore(
        &backup,
        &request(target.path(), &["sparse"], OnConflict::Fail),
    )
    .await
    .unwrap();
    let path = target.path().join("srv/sparse");
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 16 * 1024 * 1024 + 10);
    assert!(meta.blocks() <= 32, "{} blocks", meta.blocks());
    let content = std::fs::read(&path).unwrap();
    assert_eq!(&content[4 + zeros.len()..10 + zeros.len()], b"middle");
}

#[tokio::test]
async fn a_restore_that_is_stopped_leaves_no_half_file() {
    let target = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = restore_files(
        &small(),
        &manifest(&["/srv"]),
        &request(target.path(), &[], OnConflict::Fail),
        &Progress::new(),
        &cancel,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, FilesError::Cancelled), "{error}");
    assert_eq!(names(target.path()), [""; 0]);
}

#[tokio::test]
async fn a_backup_without_files_says_so() {
    let target = tempfile::tempdir().unwrap();
    let request = request(target.path(), &[], OnConflict::Fail);
    let error = restore(&HandMade::default(), &request).await.unwrap_err();
    assert!(matches!(error, FilesError::NoFiles), "{error}");
}

#[tokio::test]
async fn progress_counts_what_is_written() {
    let target = tempfile::tempdir().unwrap();
    let progress = Progress::new();
    restore_files(
        &small(),
        &manifest(&["/srv"]),
        &request(target.path(), &[], OnConflict::Fail),
        &progress,
        &CancellationToken::new(),
    )
    .await
    .unwrap();
    let snapshot = progress.snapshot();
    assert_eq!(
        (snapshot.done_bytes, snapshot.total_bytes, snapshot.items),
        (13, 13, 4)
    );
}
