//! A tree made to hurt: backed up, restored by Holdfast and by stock restic, and compared in full.
//! Needs root, for owners, devices and capabilities; without it those parts are left out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod files_support;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use files_support::{Place, account, assert_same, below, config, noise};
use holdfast_engine::source::files::{FilesConfig, FilesError, OnUnreadable};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, path, &times, flags).unwrap();
}

/// Names that have hurt somebody.
fn awkward_names() -> Vec<OsString> {
    let mut names: Vec<OsString> = [
        "line\nbreak",
        "tab\there",
        "back\\slash",
        "quo\"te",
        "apo'strophe",
        "`tick`",
        "$(id)",
        "-rf",
        "--",
        " lead",
        "trail ",
        "...",
        "..a",
        "\u{1}\u{1f}\u{7f}",
        "é",
        "e\u{301}",
        "\u{2028}\u{200b}",
        "日本語",
        "🦀",
        "a:b",
        "*?[x]",
        "#",
        "!",
        "~",
        "\\x41",
        "\\u0041",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    names.push("n".repeat(255).into());
    for bytes in [&b"\xff\xfe"[..], b"half\xc3", b"\\\xff\"", b"\xed\xa0\x80"] {
        names.push(OsString::from_vec(bytes.to_vec()));
    }
    names
}

/// Makes the tree; the paths in it are relative to `top`.
fn make_tree(top: &Path) {
    fs::create_dir(top).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = top.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    file("empty", b"");
    file("one", b"1");
    file("many", &noise(1, 5_000_000));
    for (name, mode) in [
        ("unread", 0o400),
        ("none", 0o000),
        ("run", 0o755),
        ("suid", 0o4755),
        ("sgid", 0o2711),
    ] {
        set_mode(&file(name, name.as_bytes()), mode);
    }
    for (name, mode) in [
        ("dir-empty", 0o755),
        ("dir-private", 0o700),
        ("dir-sticky", 0o1777),
        ("dir-sgid", 0o2775),
        ("dir-closed", 0o500),
    ] {
        fs::create_dir(top.join(name)).unwrap();
        set_mode(&top.join(name), mode);
    }

    fs::create_dir(top.join("names")).unwrap();
    for (index, name) in awkward_names().iter().enumerate() {
        fs::write(top.join("names").join(name), noise(index as u64, 100)).unwrap();
        let mut directory = [b"d", name.as_bytes()].concat();
        directory.truncate(255);
        fs::create_dir(top.join("names").join(OsString::from_vec(directory))).unwrap();
    }

    fs::create_dir(top.join("links")).unwrap();
    symlink("../one", top.join("links/relative")).unwrap();
    symlink("/etc/passwd", top.join("links/absolute")).unwrap();
    symlink("gone", top.join("links/dangling")).unwrap();
    symlink("..", top.join("links/directory")).unwrap();
    symlink("loop", top.join("links/loop")).unwrap();
    symlink("l".repeat(4000), top.join("links/long")).unwrap();
    symlink(OsStr::from_bytes(b"raw\xff\"\\\n"), top.join("links/raw")).unwrap();
    fs::write(top.join("links/hard-1"), "hard").unwrap();
    fs::hard_link(top.join("links/hard-1"), top.join("links/hard-2")).unwrap();
    fs::hard_link(top.join("links/hard-1"), top.join("dir-private/hard-3")).unwrap();
    fs::write(top.join("links/pair-1"), "hard").unwrap();
    fs::hard_link(top.join("links/pair-1"), top.join("dir-sgid/pair-2")).unwrap();

    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(300 * 1024 * 1024).unwrap();
    sparse
        .write_all_at(&noise(2, 10_000), 100 * 1024 * 1024 + 1)
        .unwrap();
    let hole = File::create(top.join("only-a-hole")).unwrap();
    hole.set_len(20 * 1024 * 1024 + 7).unwrap();

    let mut long = top.join("long");
    for level in 0..14 {
        long = long.join(format!("{level}-{}", "p".repeat(240)));
    }
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("bottom"), "deep").unwrap();

    let attributes = file("attributes", b"x");
    xattr::set(&attributes, "user.text", b"value").unwrap();
    xattr::set(&attributes, "user.empty", b"").unwrap();
    xattr::set(&attributes, "user.binary", b"\0\xff\n").unwrap();
    xattr::set(&attributes, "user.\u{e9}\"", b"named").unwrap();
    // The owner may read and write, user 65534 read, the group read; with a default for the
    // directory: what `setfacl -m u:65534:r` writes.
    let list = access_list();
    xattr::set(&attributes, "system.posix_acl_access", &list).unwrap();
    xattr::set(top.join("dir-empty"), "system.posix_acl_default", &list).unwrap();

    rustix::fs::mkfifoat(CWD, top.join("pipe"), Mode::from_raw_mode(0o640)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(top.join("names/socket")).unwrap());

    if root() {
        for (name, kind, device) in [
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("loop7", FileType::BlockDevice, makedev(7, 7)),
        ] {
            mknodat(
                CWD,
                top.join(name),
                kind,
                Mode::from_raw_mode(0o600),
                device,
            )
            .unwrap();
        }
        let capable = file("capable", b"#!/bin/true");
        // Version 2, effective, cap_net_bind_service: what `setcap` writes.
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        xattr::set(&capable, "security.capability", capability).unwrap();
        xattr::set(&capable, "trusted.note", b"kept").unwrap();
        lchown(top.join("one"), Some(65_534), Some(12_345)).unwrap();
        lchown(top.join("links/dangling"), Some(4_000_000_000), Some(1)).unwrap();
        lchown(top.join("dir-private"), Some(1), Some(2)).unwrap();
        lchown(top.join("suid"), Some(1000), Some(1000)).unwrap();
        set_mode(&top.join("suid"), 0o6755);
    }

    set_time(&top.join("one"), -2, 500_000_001);
    set_time(&top.join("many"), 4_102_444_800, 999_999_999);
    set_time(&top.join("links/dangling"), 1_000_000_000, 1);
    set_time(&top.join("pipe"), 0, 1);
    set_time(&top.join("dir-closed"), 1_234_567_890, 123_456_789);
    set_time(&top.join("links"), 1, 0);
    set_time(top, 1_500_000_000, 5);
}

fn access_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1, 6, u32::MAX),
        (2, 4, 65_534),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend_from_slice(&u16::to_le_bytes(tag));
        list.extend_from_slice(&u16::to_le_bytes(permissions));
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_made_to_hurt_comes_back_by_us_and_by_restic() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    make_tree(&top);
    let (mut expected, blocks) = account(&top);
    // Sockets hold nothing and are left out, as restic does.
    expected.remove(Path::new("names/socket"));
    let repo = Place::init(&place.path().join("repo")).await;
    let (snapshot, manifest, _) = repo.back_up(&config(&[&top])).await.unwrap();
    let regular = expected
        .values()
        .filter(|facts| facts.kind == "file")
        .count() as u64;
    assert_eq!(manifest.files, regular);
    assert_eq!(manifest.skipped, []);
    assert!(
        manifest.notes.iter().any(|note| note.contains("1 sockets")),
        "{:?}",
        manifest.notes
    );
    repo.restic(&["check", "--read-data"]);

    let ours = place.path().join("ours");
    let report = repo.restore(&snapshot, &manifest, &ours).await.unwrap();
    assert!(
        report.warnings.is_empty() && report.skipped.is_empty(),
        "{report:?}"
    );
    assert_eq!(report.files, regular);
    let (found, found_blocks) = account(&below(&ours, &top));
    assert_same(&expected, &found);
    for (path, blocks) in &blocks {
        let found = found_blocks[path];
        assert!(
            found <= blocks + 16,
            "{path:?} took {blocks} blocks and takes {found}"
        );
    }
    // Directories that lead to the tree have the metadata they had, too.
    let (was, is) = (place.path(), below(&ours, place.path()));
    let (was, is) = (fs::metadata(was).unwrap(), fs::metadata(is).unwrap());
    assert_eq!(
        (was.mode(), was.uid(), was.gid()),
        (is.mode(), is.uid(), is.gid())
    );

    let theirs = place.path().join("theirs");
    repo.restic(&[
        "restore",
        &snapshot.id,
        "--target",
        theirs.to_str().unwrap(),
    ]);
    let (mut found, _) = account(&below(&theirs.join("files"), &top));
    // restic before 0.16 knows only targets that are text.
    let raw = Path::new("links/raw");
    found.insert(raw.into(), expected[raw].clone());
    assert_same(&expected, &found);

    // A second restore finds everything in its place.
    let again = repo.restore(&snapshot, &manifest, &ours).await.unwrap();
    assert_eq!((again.files, again.bytes, again.others), (0, 0, 0));
    assert_same(&expected, &account(&below(&ours, &top)).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_longer_than_any_call_takes_is_no_hindrance() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    fs::create_dir(&top).unwrap();
    let name = "q".repeat(250);
    let mut directory = File::open(&top).unwrap();
    for _ in 0..40 {
        rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
        directory = open_at(&directory, &name, rustix::fs::OFlags::DIRECTORY);
    }
    let create = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let bottom = rustix::fs::openat(&directory, "bottom", create, Mode::RWXU).unwrap();
    File::from(bottom).write_all_at(b"very deep", 0).unwrap();

    let repo = Place::init(&place.path().join("repo")).await;
    let (snapshot, manifest, _) = repo.back_up(&config(&[&top])).await.unwrap();
    let target = place.path().join("target");
    repo.restore(&snapshot, &manifest, &target).await.unwrap();
    let mut directory = File::open(below(&target, &top)).unwrap();
    for _ in 0..40 {
        directory = open_at(&directory, &name, rustix::fs::OFlags::DIRECTORY);
    }
    let bottom = open_at(&directory, "bottom", rustix::fs::OFlags::RDONLY);
    assert_eq!(std::io::read_to_string(bottom).unwrap(), "very deep");
}

fn open_at(directory: &File, name: &str, flags: rustix::fs::OFlags) -> File {
    File::from(rustix::fs::openat(directory, name, flags, Mode::empty()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    fs::create_dir_all(top.join("sub")).unwrap();
    for number in 0..40 {
        fs::write(top.join(format!("sub/{number}")), noise(number, 2000)).unwrap();
    }
    let repo = Place::init(&place.path().join("repo")).await;
    let (first, _, opened) = repo.back_up(&config(&[&top])).await.unwrap();
    assert_eq!(opened, 40);
    let (second, manifest, opened) = repo.back_up(&config(&[&top])).await.unwrap();
    assert_eq!((opened, manifest.files, manifest.bytes), (0, 40, 80_000));
    assert_ne!(first.id, second.id);

    // The same size and time, and only the time of change tells.
    let path = top.join("sub/7");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, noise(777, 2000)).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::write(top.join("sub/new"), "new").unwrap();
    let (third, manifest, opened) = repo.back_up(&config(&[&top])).await.unwrap();
    assert_eq!((opened, manifest.files), (2, 41));
    let target = place.path().join("target");
    repo.restore(&third, &manifest, &target).await.unwrap();
    assert_eq!(fs::read(below(&target, &path)).unwrap(), noise(777, 2000));

    repo.restic(&["check", "--read-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn excludes_several_paths_and_a_single_file() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("srv");
    for directory in [
        "uploads/cache",
        "uploads/app/node_modules/x",
        "other/uploads",
        "alone",
    ] {
        fs::create_dir_all(top.join(directory)).unwrap();
    }
    for file in [
        "uploads/keep",
        "uploads/junk.tmp",
        "uploads/cache/c",
        "uploads/app/a",
        "uploads/app/node_modules/x/y",
        "other/uploads/u",
        "alone/single",
        "alone/not-this",
    ] {
        fs::write(top.join(file), file).unwrap();
    }
    let repo = Place::init(&place.path().join("repo")).await;
    let read = FilesConfig {
        exclude: vec![
            "*.tmp".into(),
            top.join("uploads/cache").to_str().unwrap().into(),
            "**/node_modules".into(),
        ],
        ..config(&[
            &top.join("uploads"),
            &top.join("uploads/app"),
            &top.join("alone/single"),
        ])
    };
    let (snapshot, manifest, _) = repo.back_up(&read).await.unwrap();
    assert_eq!((manifest.files, manifest.excluded), (3, 3));
    let target = place.path().join("target");
    repo.restore(&snapshot, &manifest, &target).await.unwrap();
    let found: Vec<PathBuf> = account(&below(&target, &top)).0.into_keys().collect();
    let expected: Vec<PathBuf> = [
        "",
        "alone",
        "alone/single",
        "uploads",
        "uploads/app",
        "uploads/app/a",
        "uploads/keep",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    assert_eq!(found, expected);

    let all = FilesConfig {
        exclude: vec!["srv".into()],
        ..config(&[&top])
    };
    let (_, manifest, _) = repo.back_up(&all).await.unwrap();
    assert_eq!(manifest.files, 0);
    let notes = manifest.notes.join("\n");
    assert!(
        notes.contains("was asked for and a pattern excludes it"),
        "{notes}"
    );
    assert!(notes.contains("no file was saved"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_not_there_fails_by_name() {
    let place = tempfile::tempdir().unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    let gone = place.path().join("gone");
    for on_unreadable in [OnUnreadable::Fail, OnUnreadable::Skip] {
        let read = FilesConfig {
            on_unreadable,
            ..config(&[place.path(), &gone])
        };
        let error = repo.back_up(&read).await.unwrap_err();
        assert!(matches!(error, FilesError::Path { .. }), "{error}");
        assert!(
            error.to_string().contains(gone.to_str().unwrap()),
            "{error}"
        );
    }
    assert_eq!(repo.repository.snapshots().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_asked_for_is_saved_as_a_link_and_said_to_be_one() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("data")).unwrap();
    symlink("data", place.path().join("link")).unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    let link = place.path().join("link");
    let (_, manifest, _) = repo.back_up(&config(&[&link])).await.unwrap();
    assert!(
        manifest.notes[0].contains("is a symbolic link"),
        "{:?}",
        manifest.notes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_point_is_crossed_or_saved_empty() {
    // /proc is another file system everywhere; of it only a small directory is looked at.
    let place = tempfile::tempdir().unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    let exclude = vec!["/*".into(), "!/proc".into()];
    let read = FilesConfig {
        exclude,
        one_file_system: true,
        ..config(&[Path::new("/")])
    };
    let (snapshot, manifest, _) = repo.back_up(&read).await.unwrap();
    assert_eq!((manifest.files, manifest.directories), (0, 2));
    let target = place.path().join("target");
    repo.restore(&snapshot, &manifest, &target).await.unwrap();
    assert_eq!(fs::read_dir(target.join("proc")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_access_are_not_touched() {
    let place = tempfile::tempdir().unwrap();
    let top = place.path().join("tree");
    fs::create_dir(&top).unwrap();
    let path = top.join("f");
    fs::write(&path, "x").unwrap();
    let past = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let times = fs::FileTimes::new().set_accessed(past);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_times(times)
        .unwrap();
    let repo = Place::init(&place.path().join("repo")).await;
    repo.back_up(&config(&[&top])).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), past);
}
