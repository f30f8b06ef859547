//! Files on a claim: backed up to another claim, brought back to a third.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_e2e::command;
use holdfast_e2e::holdfast::REPOSITORY_PASSWORD;
use holdfast_e2e::random::Random;
use holdfast_e2e::tools::Restic;

use crate::support::{NEVER, World, policy, snapshots, text};

/// The account of the image.
const WORKER: u32 = 65_532;

/// Tells everything about a tree, a line an entry.
const LISTING: &str = r#"
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1])
def tell(path, name):
    info = os.lstat(path)
    words = [name.hex() or ".", oct(info.st_mode), str(info.st_uid), str(info.st_gid)]
    words.append("mtime=%d" % info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        words.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
    if stat.S_ISLNK(info.st_mode):
        words.append("to=" + os.readlink(path).hex())
    for key in sorted(os.listxattr(path, follow_symlinks=False)):
        if key.startswith("user."):
            words.append(key + "=" + os.getxattr(path, key, follow_symlinks=False).hex())
    print(" ".join(words))
    if stat.S_ISDIR(info.st_mode):
        for entry in sorted(os.listdir(path)):
            tell(os.path.join(path, entry), os.path.join(name, entry) if name else entry)
tell(root, b"")
"#;

async fn python(script: &str, args: &[&OsStr]) -> Result<command::Output> {
    let mut python = tokio::process::Command::new(command::find("python3")?);
    python.arg("-c").arg(script).args(args);
    command::run(python, None, Duration::from_secs(60)).await
}

async fn listing(tree: &Path) -> Result<Vec<String>> {
    let output = python(LISTING, &[tree.as_os_str()]).await?.ok()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}

/// Files with all that an account without rights can give them.
async fn plant(tree: &Path) -> Result<()> {
    fs::create_dir_all(tree.join("a/deep/er"))?;
    fs::create_dir_all(tree.join("empty"))?;
    let mut noise = Vec::new();
    Random::new(7).fill(&mut noise, 3 << 20);
    for (name, content) in [
        ("one.txt", &b"one\n"[..]),
        ("a/none", b""),
        ("a/noise", &noise),
        ("a/deep/er/.hidden", b"hidden"),
        ("日本語-é.txt", b"unicode"),
    ] {
        fs::write(tree.join(name), content)?;
    }
    for (target, link) in [
        ("one.txt", "link"),
        ("/no/such", "dangling"),
        ("..", "a/up"),
    ] {
        symlink(target, tree.join(link))?;
    }
    let attribute = "import os, sys; os.setxattr(sys.argv[1], 'user.colour', b'kelp green')";
    for name in ["one.txt", "a/deep"] {
        python(attribute, &[tree.join(name).as_os_str()])
            .await?
            .ok()?;
    }
    for (name, mode) in [
        ("one.txt", 0o640),
        ("a/none", 0o600),
        ("a/noise", 0o755),
        ("a/deep", 0o2750),
        ("empty", 0o1777),
        ("", 0o755),
    ] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(mode))?;
    }
    for entry in [
        "",
        "a",
        "a/deep",
        "a/deep/er",
        "a/deep/er/.hidden",
        "a/none",
        "a/noise",
        "a/up",
        "empty",
        "one.txt",
        "link",
        "dangling",
        "日本語-é.txt",
    ] {
        lchown(tree.join(entry), Some(WORKER), Some(WORKER))?;
    }
    // A change of the owner takes that bit away from what is not a folder.
    fs::set_permissions(tree.join("a/deep"), Permissions::from_mode(0o2750))?;
    Ok(())
}

#[tokio::test]
async fn files_on_a_claim_come_back_to_another_claim() -> Result<()> {
    let test = "files_on_a_claim_come_back_to_another_claim";
    let Some(world) = World::new(test, "claims").await? else {
        return Ok(());
    };
    let uploads = world.cluster.claim(&world.name, "uploads").await?;
    let back = world.cluster.claim(&world.name, "back").await?;
    let tree = uploads.join("tree");
    plant(&tree).await?;
    let original = listing(&tree).await?;
    let disk = world.disk().await?;
    let source = "{files: {paths: [/srv/uploads/tree], \
                  persistentVolumeClaim: {claimName: uploads, mountPath: /srv/uploads}}}";
    world
        .apply(&policy(source, NEVER, "[{name: disk}]", "{}"))
        .await?;
    let operator = world.operator("one").await?;
    let shown = async {
        world.says("destination/disk", "True", "Reachable").await?;
        world.ask("now").await?;
        world.says("backup/now", "True", "Completed").await?;
        world.says("backuppolicy/shop", "True", "BackedUp").await?;
        let id = text(&world.get("backup/now").await?["status"]["id"]);
        let restic = Restic::local(&disk, REPOSITORY_PASSWORD);
        ensure!(snapshots(&restic).await? == [id]);
        restic.check().await?;
        ensure!(listing(&tree).await? == original, "the source was changed");

        world
            .apply(
                "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {name: back}\nspec:\n  \
                 from: {policy: shop, backup: latest}\n  \
                 to: {files: {path: /restored, persistentVolumeClaim: {claimName: back}}}\n",
            )
            .await?;
        world.says("restore/back", "True", "Completed").await?;
        let restored = listing(&back.join("srv/uploads/tree")).await?;
        ensure!(restored == original, "{original:#?}\n{restored:#?}");
        let restore = world.get("restore/back").await?;
        ensure!(
            restore["status"]["files"].as_u64() >= Some(5),
            "{restore:#}"
        );
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}
