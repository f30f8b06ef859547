//! A destination of another namespace: its keys reach the pods of those that it lists, the new ones
//! after they were changed, and nobody else.

use anyhow::{Result, ensure};
use holdfast_e2e::holdfast::REPOSITORY_PASSWORD;
use holdfast_e2e::shared;
use holdfast_e2e::tools::Restic;

use crate::support::{NEVER, World, policy, snapshots, text};

#[tokio::test]
async fn a_guest_backs_up_with_the_keys_of_today_and_others_get_nothing() -> Result<()> {
    let test = "a_guest_backs_up_with_the_keys_of_today_and_others_get_nothing";
    let Some(owner) = World::new(test, "owner").await? else {
        return Ok(());
    };
    let guest = owner.beside("guest").await?;
    let other = owner.beside("other").await?;
    let source = owner.source(1 << 20).await?;
    source.freely();
    let allowed = format!("  allowedNamespaces: [{}]\n", guest.name);
    let restic = owner.bucket(&allowed).await?;
    let destinations = format!("[{{name: bucket, namespace: {}}}]", owner.name);
    for world in [&guest, &other] {
        let yaml = policy(&source.yaml(), NEVER, &destinations, "{}");
        world.apply(&yaml).await?;
        world.ask("one").await?;
    }
    let operator = owner.operator_of("one", &[&owner, &guest, &other]).await?;
    let shown = async {
        guest.says("backup/one", "True", "Completed").await?;
        let first = text(&guest.get("backup/one").await?["status"]["id"]);
        ensure!(snapshots(&restic).await? == [first.as_str()]);

        // The owner changes the password: the old one opens nothing any more.
        let new = "another-password-of-the-owner";
        let file = owner.dir.join("new-password");
        std::fs::write(&file, new)?;
        let file = file.to_string_lossy();
        let changed = restic
            .run(["key", "passwd", "--new-password-file", &file])
            .await?;
        changed.ok()?;
        ensure!(restic.run(["snapshots", "--no-lock"]).await?.code != Some(0));
        owner.secret("repo", &[("password", new)]).await?;
        guest.ask("two").await?;
        guest.says("backup/two", "True", "Completed").await?;
        let second = text(&guest.get("backup/two").await?["status"]["id"]);
        let restic = Restic::s3(shared::s3().await?, &owner.name, "", new);
        let made = snapshots(&restic).await?;
        ensure!(made.len() == 2 && made.contains(&second), "{made:?}");
        // What pods show has neither of them.
        let shown = guest.get("jobs,pods").await?.to_string();
        ensure!(!shown.contains(new) && !shown.contains(REPOSITORY_PASSWORD));

        other
            .says("backuppolicy/shop", "False", "DestinationNotFound")
            .await?;
        ensure!(other.list("jobs").await?.is_empty(), "a Job for a stranger");
        let secrets = other.list("secrets").await?;
        ensure!(secrets.is_empty(), "{secrets:#?}");
        Ok(())
    };
    let shown = guest.explained(shown.await, Some(&operator)).await;
    other.explained(shown, None).await
}
