//! Restores whose pods are killed half-way.

use anyhow::{Result, ensure};
use holdfast_e2e::shared;
use mongodb::bson::Document;

use crate::support::{NEVER, Source, World, policy};

/// A Restore into another database of the same server.
fn restore(name: &str, source: &Source, on_conflict: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: {name}}}\nspec:\n  \
         from: {{policy: shop, backup: latest}}\n  \
         to: {{mongodb: {{uri: '{}', rename: {{'{database}.*': 'back-{database}.*'}}, \
         onConflict: {on_conflict}}}}}\n",
        source.uri,
        database = source.database,
    )
}

#[tokio::test]
async fn a_restore_that_is_killed_is_done_again_only_where_it_may_write_over_its_half() -> Result<()>
{
    let test = "a_restore_that_is_killed_is_done_again_only_where_it_may_write_over_its_half";
    let Some(world) = World::new(test, "half").await? else {
        return Ok(());
    };
    let source = world.source(16 << 20).await?;
    source.freely();
    world.bucket("").await?;
    world
        .apply(&policy(&source.yaml(), NEVER, "[{name: bucket}]", "{}"))
        .await?;
    let operator = world.operator("one").await?;
    world.ask("now").await?;
    let shown = async {
        world.says("backup/now", "True", "Completed").await?;

        source.slowly();
        world.apply(&restore("once", &source, "Fail")).await?;
        let pod = world.pod("restore", &[]).await?;
        source.hold().await?;
        pod.kill9().await?;
        let message = world.says("restore/once", "False", "Interrupted").await?;
        ensure!(
            message.contains("part of it may have been written"),
            "{message}"
        );
        ensure!(message.contains("137"), "{message}");
        ensure!(!message.contains("next attempt"), "{message}");
        let jobs = world.jobs("restore").await?;
        ensure!(
            jobs.len() == 1 && jobs[0]["status"]["failed"] == 1,
            "{jobs:#?}"
        );
        let events = world.events("Restore", "once").await?;
        ensure!(events.contains("Warning Interrupted"), "{events:?}");

        source.slowly();
        world.apply(&restore("over", &source, "Drop")).await?;
        let first = world.pod("restore", &[&pod]).await?;
        source.hold().await?;
        first.kill9().await?;
        source.freely();
        world.says("restore/over", "True", "Completed").await?;
        let restored = world.get("restore/over").await?;
        ensure!(restored["status"]["verified"] == "Verified", "{restored:#}");
        let jobs = world.jobs("restore").await?;
        ensure!(jobs.len() == 2, "{jobs:#?}");
        let client = shared::standalone().await?.client().await?;
        let count = async |database: &str| {
            let orders = client.database(database).collection::<Document>("orders");
            orders.count_documents(Document::new()).await
        };
        let (was, is) = (
            count(&source.database).await?,
            count(&format!("back-{}", source.database)).await?,
        );
        ensure!(was == is, "{was} documents and {is}");
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}
