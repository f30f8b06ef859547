//! Directories of files: backed up with everything a file system knows of them, and brought back
//! the same, by Holdfast and by stock restic.

#[path = "support/control.rs"]
mod support;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::holdfast::{binary, quote};
use holdfast_e2e::random::Random;
use holdfast_e2e::skips::skip;
use holdfast_e2e::{Workspace, command};
use serde_json::Value;
use support::{backup, backups, expect, ids, text};

/// Somebody who is not root and owns nothing.
const NOBODY: u32 = 65_534;

/// Tells everything about a tree, a line an entry, the order that of the names' bytes.
const LISTING: &str = r#"
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1])
seen = {}
def tell(path, name):
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    words = [name.hex() or ".", oct(info.st_mode), str(info.st_uid), str(info.st_gid)]
    words.append("mtime=%d" % info.st_mtime_ns)
    if kind == stat.S_IFREG:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        words += [str(info.st_size), digest.hexdigest()]
        words.append("same=" + seen.setdefault((info.st_dev, info.st_ino), name).hex())
    if kind == stat.S_IFLNK:
        words.append("to=" + os.readlink(path).hex())
    for key in sorted(os.listxattr(path, follow_symlinks=False)):
        if key.startswith("user."):
            words.append(key + "=" + os.getxattr(path, key, follow_symlinks=False).hex())
    print(" ".join(words))
    if kind == stat.S_IFDIR:
        for entry in sorted(os.listdir(path)):
            tell(os.path.join(path, entry), os.path.join(name, entry) if name else entry)
tell(root, b"")
"#;

async fn python(script: &str, args: &[&OsStr]) -> Result<command::Output> {
    let mut python = tokio::process::Command::new(command::find("python3")?);
    python.arg("-c").arg(script).args(args);
    command::run(python, None, Duration::from_secs(120)).await
}

async fn listing(tree: &Path) -> Result<Vec<String>> {
    let output = python(LISTING, &[tree.as_os_str()]).await?.ok()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

/// Fails with the lines that differ.
fn same(one: &[String], other: &[String]) -> Result<()> {
    let missing: Vec<_> = one
        .iter()
        .filter(|line| !other.contains(line))
        .take(10)
        .collect();
    let extra: Vec<_> = other
        .iter()
        .filter(|line| !one.contains(line))
        .take(10)
        .collect();
    ensure!(
        one == other,
        "was and is not: {missing:#?}\nis and was not: {extra:#?}"
    );
    Ok(())
}

/// Sets an extended attribute; `false` where the file system has none.
async fn attribute(path: &Path, name: &str, value: &str) -> Result<bool> {
    let script = "import os, sys; os.setxattr(sys.argv[1], sys.argv[2], os.fsencode(sys.argv[3]), follow_symlinks=False)";
    let args = [path.as_os_str(), OsStr::new(name), OsStr::new(value)];
    let output = python(script, &args).await?;
    if output.code != Some(0) {
        ensure!(output.stderr.contains("not supported"), "{}", output.stderr);
        skip(
            "extended attributes in files_source",
            "the file system has none",
        );
    }
    Ok(output.code == Some(0))
}

fn root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn at(path: &Path, seconds: u64, nanoseconds: u32) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    fs::File::open(path)?
        .set_modified(time)
        .with_context(|| format!("dating {}", path.display()))
}

/// A tree with all that is awkward about files.
async fn plant(tree: &Path) -> Result<()> {
    for folder in ["", "a", "a/deep/er", "empty", "private"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    let mut noise = Vec::new();
    Random::new(5).fill(&mut noise, 3 << 20);
    for (name, content) in [
        (&b"one.txt"[..], &b"one\n"[..]),
        (b"a/zero", b""),
        (b"a/noise", &noise),
        (b"a/deep/er/.hidden", b"hidden"),
        (b"private/key", b"secret"),
        (b"latin-\xe9\xff.txt", b"not UTF-8"),
        (b"new\nline", b"new line"),
        (b"back\\slash and 'quotes\"", b"quotes"),
        ("日本語-é.txt".as_bytes(), b"unicode"),
        (&[b'x'; 255], b"a long name"),
        (b" leading and trailing ", b"spaces"),
        (b"star*?[1]", b"glob"),
    ] {
        fs::write(tree.join(OsStr::from_bytes(name)), content)?;
    }
    let sparse = fs::File::create(tree.join("sparse"))?;
    sparse.set_len(64 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"an island", 32 << 20)?;
    fs::hard_link(tree.join("one.txt"), tree.join("a/also-one.txt"))?;
    fs::hard_link(tree.join("one.txt"), tree.join("private/one-again.txt"))?;
    for (target, link) in [
        ("one.txt", "link"),
        ("/no/such/thing", "dangling"),
        ("a/deep", "to-a-folder"),
        ("..", "a/up"),
    ] {
        symlink(target, tree.join(link))?;
    }
    let mut fifo = tokio::process::Command::new(command::find("mkfifo")?);
    fifo.arg(tree.join("pipe"));
    command::run(fifo, None, Duration::from_secs(10))
        .await?
        .ok()?;
    attribute(&tree.join("one.txt"), "user.colour", "kelp green").await?;
    attribute(&tree.join("a/deep"), "user.of.a.folder", "yes").await?;
    if root() {
        chown(tree.join("private"), Some(1234), Some(5678))?;
        chown(tree.join("private/key"), Some(1234), Some(0))?;
        std::os::unix::fs::lchown(tree.join("dangling"), Some(4321), Some(8765))?;
    }
    for (name, mode) in [
        ("one.txt", 0o640),
        ("a/zero", 0o000),
        ("a/noise", 0o4755),
        ("private/key", 0o400),
        ("private", 0o700),
        ("empty", 0o1777),
    ] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode))?;
    }
    at(&tree.join("one.txt"), 1_000_000_000, 123_456_789)?;
    at(&tree.join("sparse"), 1, 1)?;
    // From the inside out, as what is made inside changes the folder.
    for folder in ["a/deep/er", "a/deep", "a", "empty", "private", ""] {
        at(&tree.join(folder), 1_234_567_890, 987_654_321)?;
    }
    Ok(())
}

/// A workspace with the tree and a policy for it; `source` has more fields of the source.
async fn planted(source: &str) -> Result<(Workspace, PathBuf)> {
    let workspace = Workspace::new()?;
    let tree = workspace.join("tree");
    plant(&tree).await?;
    workspace.local_destination("disk")?;
    declare(&workspace, &tree, source)?;
    Ok((workspace, tree))
}

fn declare(workspace: &Workspace, tree: &Path, source: &str) -> Result<()> {
    let paths = quote(&tree.to_string_lossy());
    let more: String = source.lines().map(|line| format!("  {line}\n")).collect();
    workspace.policy(
        "tree",
        &format!("files:\n  paths: [{paths}]\n{more}"),
        &["disk"],
        "",
    )?;
    Ok(())
}

/// Where a restore to a folder puts what was at this place.
fn below(target: &Path, place: &Path) -> PathBuf {
    target.join(place.strip_prefix("/").unwrap_or(place))
}

#[tokio::test]
async fn a_tree_comes_back_the_same_by_holdfast_and_by_restic() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    let original = listing(&tree).await?;
    ensure!(original.len() > 25, "{original:#?}");
    let first = workspace
        .holdfast(["backup", "tree", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    ensure!(
        first["status"]["addedBytes"].as_u64() > Some(3 << 20),
        "{first}"
    );
    same(&original, &listing(&tree).await?).context("reading changed something")?;

    let target = workspace.join("target");
    let id = support::id(&first)?;
    let args = [
        "restore",
        &id,
        "--to-path",
        &target.to_string_lossy(),
        "-o",
        "json",
    ];
    let restored = workspace.holdfast(args).await?.ok()?.json()?;
    ensure!(restored["status"]["verified"] == "Verified", "{restored}");
    let back = below(&target, &tree);
    same(&original, &listing(&back).await?).context("restored by Holdfast")?;
    let sparse = fs::metadata(back.join("sparse"))?;
    ensure!(
        sparse.len() == 64 << 20 && sparse.blocks() * 512 < 8 << 20,
        "{} blocks",
        sparse.blocks()
    );

    let target = workspace.join("by-restic");
    workspace.restic("disk").restore("latest", &target).await?;
    let back = below(&target.join("files"), &tree);
    same(&original, &listing(&back).await?).context("restored by restic")?;
    workspace.restic("disk").check().await
}

#[tokio::test]
async fn an_export_writes_the_tree_and_leaves_no_empty_archive() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    backup(&workspace, "tree").await?;
    let latest = ["export", "latest", "--policy", "tree"];
    let archive = workspace.join("tree.archive");
    let to = archive.to_string_lossy();
    let refused = workspace
        .holdfast(latest.into_iter().chain(["--archive", &to]))
        .await?;
    expect(refused, 1, &["holds files", "--dir DIR"])?;
    ensure!(!archive.exists(), "an empty archive is in the way now");

    let folder = workspace.join("exported");
    let to = folder.to_string_lossy();
    let to_folder = || latest.into_iter().chain(["--dir", &to]);
    workspace.holdfast(to_folder()).await?.ok()?;
    same(
        &listing(&tree).await?,
        &listing(&below(&folder, &tree)).await?,
    )?;
    expect(workspace.holdfast(to_folder()).await?, 1, &["is not empty"])?;
    Ok(())
}

#[tokio::test]
async fn a_merge_that_kept_something_does_not_claim_to_be_verified() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    backup(&workspace, "tree").await?;
    let target = workspace.join("target");
    let kept = below(&target, &tree).join("one.txt");
    fs::create_dir_all(below(&target, &tree))?;
    fs::write(&kept, "mine")?;
    let path = target.to_string_lossy();
    let args = [
        "restore",
        "latest",
        "--policy",
        "tree",
        "--to-path",
        &path,
        "--on-conflict",
        "Merge",
        "-o",
        "json",
    ];
    let restored = workspace.holdfast(args).await?.ok()?.json()?;
    let verified = text(&restored, "/status/verified");
    ensure!(verified.starts_with("NotComparable: "), "{restored}");
    ensure!(fs::read(&kept)? == b"mine");
    Ok(())
}

#[tokio::test]
async fn a_second_backup_adds_what_changed_and_both_come_back() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    let before = listing(&tree).await?;
    let first = backup(&workspace, "tree").await?;
    fs::write(tree.join("a/new"), "new")?;
    fs::remove_file(tree.join("dangling"))?;
    fs::set_permissions(tree.join("one.txt"), Permissions::from_mode(0o600))?;
    let after = listing(&tree).await?;
    let second = workspace
        .holdfast(["backup", "tree", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    let added = second["status"]["addedBytes"]
        .as_u64()
        .context("no addedBytes")?;
    ensure!(added < 64 << 10, "{added} bytes were added for a few names");
    // In the middle of the large file, and dated as if nothing had happened to it.
    let dated = fs::metadata(tree.join("a/noise"))?.modified()?;
    let file = fs::File::options().write(true).open(tree.join("a/noise"))?;
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 1 << 20)?;
    file.set_modified(dated)?;
    drop(file);
    let changed = listing(&tree).await?;
    let third = backup(&workspace, "tree").await?;
    let second = support::id(&second)?;
    for (id, expected) in [(first, before), (second, after), (third, changed)] {
        let target = workspace.join(format!("target-{id}"));
        let args = ["restore", &id, "--to-path", &target.to_string_lossy()];
        workspace.holdfast(args).await?.ok()?;
        same(&expected, &listing(&below(&target, &tree)).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_removed_comes_back_to_its_place() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    let original = listing(&tree).await?;
    let id = backup(&workspace, "tree").await?;
    fs::remove_dir_all(&tree)?;
    workspace.holdfast(["restore", &id]).await?.ok()?;
    same(&original, &listing(&tree).await?)?;

    // What is there and the same is in nobody's way; what differs is.
    workspace.holdfast(["restore", &id]).await?.ok()?;
    fs::write(tree.join("one.txt"), "mine")?;
    let shown = tree.join("one.txt").to_string_lossy().into_owned();
    let words = [shown.as_str(), "nothing was changed", "Drop", "Merge"];
    expect(workspace.holdfast(["restore", &id]).await?, 1, &words)?;
    ensure!(fs::read(tree.join("one.txt"))? == b"mine");
    fs::remove_file(tree.join("new\nline"))?;
    workspace
        .holdfast(["restore", &id, "--on-conflict", "Merge"])
        .await?
        .ok()?;
    ensure!(fs::read(tree.join("one.txt"))? == b"mine" && tree.join("new\nline").exists());
    workspace
        .holdfast(["restore", &id, "--on-conflict", "Drop"])
        .await?
        .ok()?;
    ensure!(fs::read(tree.join("one.txt"))? == b"one\n");

    // One folder alone.
    let target = workspace.join("part");
    let include = tree.join("private").to_string_lossy().into_owned();
    let args = [
        "restore",
        &id,
        "--to-path",
        &target.to_string_lossy(),
        "--include",
        &include,
    ];
    workspace.holdfast(args).await?.ok()?;
    let part = below(&target, &tree);
    ensure!(part.join("private/key").exists() && !part.join("a").exists());
    Ok(())
}

#[tokio::test]
async fn what_is_excluded_is_not_in_the_backup() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    let hidden = tree.join("a/deep/er/.hidden");
    declare(
        &workspace,
        &tree,
        &format!(
            "exclude: [\"*.tmp\", \"cache/\", {}, \"!keep.tmp\"]\n",
            quote(&hidden.to_string_lossy())
        ),
    )?;
    fs::create_dir_all(tree.join("a/cache/inner"))?;
    fs::write(tree.join("a/cache/inner/file"), "cached")?;
    for name in ["b.tmp", "a/c.tmp", "keep.tmp", "not.tmpx"] {
        fs::write(tree.join(name), name)?;
    }
    backup(&workspace, "tree").await?;
    let paths = workspace.restic("disk").ls("latest").await?;
    let is_in = |name: &str| {
        let path = format!("/files{}", tree.join(name).display());
        paths.contains(&path)
    };
    for name in ["one.txt", "keep.tmp", "not.tmpx", "a/noise"] {
        ensure!(is_in(name), "{name} is missing from {paths:#?}");
    }
    for name in [
        "b.tmp",
        "a/c.tmp",
        "a/cache",
        "a/cache/inner/file",
        "a/deep/er/.hidden",
    ] {
        ensure!(!is_in(name), "{name} is in {paths:#?}");
    }
    Ok(())
}

/// Runs a verb as somebody to whom the tree's secrets are closed.
async fn as_nobody(
    workspace: &Workspace,
    program: &Path,
    args: &[&str],
) -> Result<command::Output> {
    let planned = workspace.command(args)?;
    let mut command = std::process::Command::new(program);
    command
        .args(planned.get_args())
        .current_dir(workspace.path());
    for (name, value) in planned.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    if root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command::run(command.into(), None, Duration::from_secs(120)).await
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_the_run_or_is_skipped_by_name() -> Result<()> {
    let workspace = Workspace::new()?;
    let tree = workspace.join("tree");
    fs::create_dir_all(tree.join("closed"))?;
    fs::write(tree.join("open.txt"), "open")?;
    fs::write(tree.join("closed.txt"), "closed")?;
    fs::write(tree.join("closed/inner"), "closed")?;
    workspace.local_destination("disk")?;
    declare(&workspace, &tree, "onUnreadable: Fail\n")?;
    let mut program = binary()?;
    if root() {
        // The binary may lie where only root may look.
        let copy = workspace.join("holdfast");
        fs::copy(&program, &copy)?;
        program = copy;
        let mut chown = tokio::process::Command::new(command::find("chown")?);
        chown
            .arg("-R")
            .arg(format!("{NOBODY}:{NOBODY}"))
            .arg(workspace.path());
        command::run(chown, None, Duration::from_secs(60))
            .await?
            .ok()?;
    }
    for name in ["closed.txt", "closed"] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o000))?;
    }
    let closed = tree.join("closed.txt").to_string_lossy().into_owned();
    let folder = tree.join("closed").to_string_lossy().into_owned();
    let words = [
        closed.as_str(),
        &folder,
        "no backup was written",
        "onUnreadable: Skip",
    ];
    expect(
        as_nobody(&workspace, &program, &["backup", "tree"]).await?,
        1,
        &words,
    )?;
    let listed = as_nobody(&workspace, &program, &["backups", "-o", "json"])
        .await?
        .ok()?;
    ensure!(
        support::items(&listed.json()?)?.is_empty(),
        "{}",
        listed.stdout
    );

    declare(&workspace, &tree, "onUnreadable: Skip\n")?;
    let output = as_nobody(&workspace, &program, &["backup", "tree", "-o", "json"])
        .await?
        .ok()?;
    for path in [&closed, &folder] {
        ensure!(
            output.stderr.contains(path),
            "{path} was skipped without a word: {}",
            output.stderr
        );
    }
    let made = output.json()?;
    ensure!(made["status"]["files"] == 1, "{made}");
    ensure!(made["status"]["skipped"] == 2, "{made}");
    let message = text(&made, "/status/conditions/0/message");
    ensure!(message.contains("2 files or directories"), "{made}");
    for verb in ["backups", "history"] {
        let listed = as_nobody(&workspace, &program, &[verb]).await?.ok()?;
        ensure!(listed.stdout.contains("skipped"), "{}", listed.stdout);
    }
    let restic = workspace.restic("disk");
    let manifest = restic
        .run(["dump", "latest", "/holdfast/manifest.json"])
        .await?
        .ok()?
        .json()?;
    let skipped = manifest
        .pointer("/source/files/skipped")
        .or_else(|| manifest.pointer("/source/skipped"));
    let skipped: Vec<&str> = skipped
        .and_then(Value::as_array)
        .with_context(|| format!("nothing skipped in {manifest}"))?
        .iter()
        .map(|one| text(one, "/path"))
        .collect();
    ensure!(
        skipped.contains(&closed.as_str()) && skipped.contains(&folder.as_str()),
        "{skipped:?}"
    );
    for name in ["closed.txt", "closed"] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_path_that_is_not_there_fails_the_run() -> Result<()> {
    let (workspace, tree) = planted("").await?;
    let id = backup(&workspace, "tree").await?;
    fs::remove_dir_all(&tree)?;
    let shown = tree.to_string_lossy().into_owned();
    let words = ["cannot back up", &shown, "correct the policy's paths"];
    expect(workspace.holdfast(["backup", "tree"]).await?, 1, &words)?;
    ensure!(ids(&backups(&workspace, &[]).await?)? == [id]);
    Ok(())
}
