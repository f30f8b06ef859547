//! What the contract tests cannot see: roots that go away, modes, left-overs, and the order in which
//! a write reaches the disk.

use super::*;

/// The steps that reached the disk, in order: paths below the root, temporary names shortened.
#[derive(Debug, Default)]
struct Steps {
    root: PathBuf,
    taken: Mutex<Vec<String>>,
    /// The step that fails, by its beginning.
    broken: Option<&'static str>,
}

/// The real disk, and what was asked of it.
#[derive(Debug)]
struct Recording(Arc<Steps>);

impl Recording {
    fn step(&self, step: &str, path: &Path) -> io::Result<()> {
        let below = path.strip_prefix(&self.0.root).unwrap_or(path);
        let name = below.display().to_string();
        let name = name
            .split_once("-tmp-")
            .map_or(name.clone(), |(name, _)| format!("{name}-tmp"));
        let step = format!("{step} {name}");
        if self.0.broken.is_some_and(|broken| step.starts_with(broken)) {
            return Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        }
        locked(&self.0.taken).push(step);
        Ok(())
    }
}

impl Disk for Recording {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.step("make", path)?;
        Machine.make_directory(path)
    }
    fn write(&self, path: &Path, parts: &[Bytes]) -> io::Result<File> {
        self.step("write", path)?;
        Machine.write(path, parts)
    }
    fn sync_file(&self, path: &Path, file: &File) -> io::Result<()> {
        self.step("sync file", path)?;
        Machine.sync_file(path, file)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename to", to)?;
        Machine.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        Machine.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.step("sync directory", path)?;
        Machine.sync_directory(path)
    }
}

fn recorded(root: &Path, broken: Option<&'static str>) -> (LocalStorage, Arc<Steps>) {
    let steps = Arc::new(Steps {
        root: root.to_path_buf(),
        taken: Mutex::default(),
        broken,
    });
    let config = LocalConfig {
        path: root.to_path_buf(),
    };
    let disk = Box::new(Recording(Arc::clone(&steps)));
    let storage = LocalStorage::on(&config, disk).expect("an absolute path");
    (storage, steps)
}

/// Trap: a rename that is not preceded by a sync of the file leaves an empty object after a power
/// cut, and one that is not followed by a sync of the directory none, after it was said to be there.
#[tokio::test]
async fn a_write_is_synced_before_it_has_its_name_and_its_name_before_it_counts() {
    let home = tempfile::tempdir().expect("a directory");
    let (storage, steps) = recorded(home.path(), None);
    let content = || vec![Bytes::from_static(b"x")];
    storage
        .write("data/ab/abcd", content())
        .await
        .expect("written");
    let taken = || std::mem::take(&mut *locked(&steps.taken));
    assert_eq!(
        taken(),
        [
            "make data",
            "sync directory ",
            "make data/ab",
            "sync directory data",
            "write data/ab/abcd-tmp",
            "sync file data/ab/abcd-tmp",
            "rename to data/ab/abcd",
            "sync directory data/ab",
        ]
    );
    storage.write("config", content()).await.expect("written");
    assert_eq!(
        taken(),
        [
            "write config-tmp",
            "sync file config-tmp",
            "rename to config",
            "sync directory ",
        ]
    );
    // An index that names what is gone must not come back; a pack that does is only unused.
    storage.write("index/ff", content()).await.expect("written");
    taken();
    storage.remove("index/ff").await.expect("removed");
    storage.remove("data/ab/abcd").await.expect("removed");
    assert_eq!(
        taken(),
        [
            "remove index/ff",
            "sync directory index",
            "remove data/ab/abcd"
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_synced_is_not_written() {
    for (broken, there) in [
        ("sync file", false),
        ("rename", false),
        // It has its name, and may have lost it after a power cut: it is an error all the same.
        ("sync directory index", true),
    ] {
        let home = tempfile::tempdir().expect("a directory");
        let (storage, _) = recorded(home.path(), Some(broken));
        let error = storage
            .write("index/ff", vec![Bytes::from_static(b"x")])
            .await
            .expect_err("not durable");
        assert_eq!(error.kind, StorageErrorKind::Corrupt, "{error}");
        let listed = storage.list("").await.expect("listed");
        assert_eq!(!listed.is_empty(), there, "{broken}: {listed:?}");
        let left = fs::read_dir(home.path().join("index")).expect("there");
        assert_eq!(left.count(), usize::from(there), "{broken}");
    }
}

fn storage(path: &Path) -> LocalStorage {
    LocalStorage::new(&LocalConfig {
        path: path.to_path_buf(),
    })
    .expect("an absolute path")
}

#[test]
fn a_relative_path_is_refused() {
    let error = LocalStorage::new(&LocalConfig {
        path: "backups".into(),
    })
    .expect_err("refused");
    assert_eq!(error.kind, StorageErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_root_that_has_gone_is_not_made_again_by_a_write() {
    let home = tempfile::tempdir().expect("a directory");
    let root = home.path().join("disk");
    let storage = storage(&root);
    storage.create().await.expect("created");
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
        .await
        .expect("written");
    fs::remove_dir_all(&root).expect("gone");
    let error = storage
        .write("data/ab/abce", vec![Bytes::from_static(b"x")])
        .await
        .expect_err("there is no place");
    assert_eq!(error.kind, StorageErrorKind::NoSuchPlace);
    assert!(!root.exists());
}

#[tokio::test]
async fn a_directory_that_has_gone_below_the_root_is_made_again() {
    let home = tempfile::tempdir().expect("a directory");
    let storage = storage(home.path());
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
        .await
        .expect("written");
    fs::remove_dir_all(home.path().join("data")).expect("gone");
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"y")])
        .await
        .expect("written");
    assert_eq!(storage.read("data/ab/abcd").await.expect("read"), &b"y"[..]);
}

#[tokio::test]
async fn without_the_parent_of_the_root_there_is_no_place() {
    let home = tempfile::tempdir().expect("a directory");
    let storage = storage(&home.path().join("not/mounted"));
    for error in [
        storage.probe().await.expect_err("no place"),
        storage.create().await.expect_err("no place"),
        storage
            .list("snapshots")
            .await
            .map(drop)
            .expect_err("no place"),
        storage
            .read("config")
            .await
            .map(drop)
            .expect_err("no place"),
    ] {
        assert_eq!(error.kind, StorageErrorKind::NoSuchPlace, "{error}");
    }
}

#[tokio::test]
async fn files_and_directories_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a directory");
    let root = home.path().join("root");
    let storage = storage(&root);
    storage.create().await.expect("created");
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
        .await
        .expect("written");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("data/ab")), 0o700);
    assert_eq!(mode(&root.join("data/ab/abcd")), 0o600);
}

#[tokio::test]
async fn left_overs_are_not_listed_and_old_ones_are_removed_by_the_next_write() {
    let home = tempfile::tempdir().expect("a directory");
    let storage = storage(home.path());
    storage
        .write("data/ab/abcd", vec![Bytes::from_static(b"x")])
        .await
        .expect("written");
    let old = home.path().join("data/ab/abce-tmp-0000000000000001");
    let young = home.path().join("data/ab/abce-tmp-0000000000000002");
    for path in [&old, &young] {
        fs::write(path, b"part").expect("written");
    }
    let past = SystemTime::now() - names::LEFTOVER_AGE - std::time::Duration::from_secs(60);
    File::options()
        .append(true)
        .open(&old)
        .and_then(|f| f.set_modified(past))
        .expect("aged");

    let listed = storage.list("data").await.expect("listed");
    assert_eq!(
        listed,
        [Entry {
            path: "data/ab/abcd".to_owned(),
            size: 1
        }]
    );
    assert!(old.exists(), "reading changes nothing");
    storage.write("config", vec![]).await.expect("written");
    assert!(!old.exists() && young.exists());
}
