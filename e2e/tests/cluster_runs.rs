//! Runs as Jobs on a real node: pods that are killed, deadlines, an operator that goes away while
//! they work. The pods are real, the sources are held in the middle of being read.

#[path = "cluster_runs/claims.rs"]
mod claims;
#[path = "cluster_runs/restores.rs"]
mod restores;
#[path = "cluster_runs/settings.rs"]
mod settings;
#[path = "cluster_runs/sharing.rs"]
mod sharing;
#[path = "support/runs.rs"]
mod support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::{NEVER, ONCE, World, policy, snapshots, text};

const SIZE: u64 = 16 << 20;

#[tokio::test]
async fn a_pod_that_is_killed_is_replaced_and_the_backup_is_made_once() -> Result<()> {
    let test = "a_pod_that_is_killed_is_replaced_and_the_backup_is_made_once";
    let Some(world) = World::new(test, "killed").await? else {
        return Ok(());
    };
    let source = world.source(SIZE).await?;
    let restic = world.bucket("").await?;
    let destinations = "[{name: bucket}]";
    world
        .apply(&policy(&source.yaml(), NEVER, destinations, "{}"))
        .await?;
    let operator = world.operator("one").await?;
    world.ask("now").await?;
    let shown = async {
        let first = world.pod("backup", &[]).await?;
        source.hold().await?;
        let delete = ["delete", "pod", &first.name, "--force", "--wait=false"];
        world.kubectl(&delete).await?.ok()?;
        source.slowly();
        let second = world.pod("backup", &[&first]).await?;
        source.hold().await?;
        second.kill9().await?;
        source.freely();
        world.says("backup/now", "True", "Completed").await?;
        world.says("backuppolicy/shop", "True", "BackedUp").await?;

        let jobs = world.jobs("backup").await?;
        ensure!(jobs.len() == 1, "{jobs:#?}");
        ensure!(jobs[0]["status"]["failed"] == 2, "{:#}", jobs[0]);
        let backups = world.list("backups").await?;
        ensure!(backups.len() == 1, "{backups:#?}");
        let made = snapshots(&restic).await?;
        ensure!(made == [text(&backups[0]["status"]["id"])], "{made:?}");
        // Whoever was killed has left a lock behind.
        let check = restic.run(["check", "--read-data", "--no-lock"]).await?;
        check.ok().map(drop)
    };
    world.explained(shown.await, Some(&operator)).await
}

#[tokio::test]
async fn when_every_attempt_is_killed_the_failure_is_reported() -> Result<()> {
    let test = "when_every_attempt_is_killed_the_failure_is_reported";
    let Some(world) = World::new(test, "hopeless").await? else {
        return Ok(());
    };
    let source = world.source(SIZE).await?;
    let restic = world.bucket("").await?;
    let job = "{backoffLimit: 1}";
    world
        .apply(&policy(&source.yaml(), ONCE, "[{name: bucket}]", job))
        .await?;
    let operator = world.operator("one").await?;
    let shown = async {
        let first = world.pod("backup", &[]).await?;
        source.hold().await?;
        first.kill9().await?;
        source.slowly();
        let second = world.pod("backup", &[&first]).await?;
        source.hold().await?;
        second.kill9().await?;

        let message = world
            .says("backuppolicy/shop", "False", "BackupFailed")
            .await?;
        ensure!(message.contains("137"), "{message}");
        ensure!(message.contains("BackoffLimitExceeded"), "{message}");
        let events = world.events("BackupPolicy", "shop").await?;
        ensure!(events.contains("Warning BackupFailed"), "{events:?}");
        let policy = world.get("backuppolicy/shop").await?;
        let status = &policy["status"];
        ensure!(status["lastAttemptTime"].is_string(), "{status:#}");
        ensure!(status["lastSuccessTime"].is_null(), "{status:#}");
        ensure!(status["lastBackup"].is_null(), "{status:#}");
        ensure!(status["activeJob"].is_null(), "{status:#}");
        let backups = world.list("backups").await?;
        ensure!(backups.is_empty(), "{backups:#?}");
        let made = snapshots(&restic).await?;
        ensure!(made.is_empty(), "{made:?}");
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}

#[tokio::test]
async fn a_deadline_ends_a_stalled_run_and_what_is_known_outlives_its_job() -> Result<()> {
    let test = "a_deadline_ends_a_stalled_run_and_what_is_known_outlives_its_job";
    let Some(world) = World::new(test, "late").await? else {
        return Ok(());
    };
    let source = world.source(SIZE).await?;
    let restic = world.bucket("").await?;
    let job = "{activeDeadlineSeconds: 40, ttlSecondsAfterFinished: 4}";
    world
        .apply(&policy(&source.yaml(), NEVER, "[{name: bucket}]", job))
        .await?;
    let operator = world.operator("one").await?;
    source.crawling();
    world.ask("now").await?;
    let shown = async {
        world.pod("backup", &[]).await?;
        let message = world.says("backup/now", "False", "BackupFailed").await?;
        ensure!(message.contains("DeadlineExceeded"), "{message}");
        let reason = world
            .says("backuppolicy/shop", "False", "BackupFailed")
            .await?;
        ensure!(reason.contains("DeadlineExceeded"), "{reason}");
        let failed = failures(&operator.get("/metrics").await?, &world.name);
        ensure!(failed == 1, "{failed} failed runs");
        ensure!(snapshots(&restic).await?.is_empty());

        // The Job goes, and what it came to stays.
        world
            .until("end of the Job", "jobs", |list| {
                list["items"].as_array()?.is_empty().then_some(())
            })
            .await?;
        let events = world.list("events").await?.len();
        world
            .kubectl(&[
                "annotate",
                "backuppolicy/shop",
                "holdfast.dev/requestedAt=later",
            ])
            .await?
            .ok()?;
        world
            .until("answer", "backuppolicy/shop", |policy| {
                (policy["status"]["lastHandledRequest"] == "later").then_some(())
            })
            .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let still = world
            .says("backuppolicy/shop", "False", "BackupFailed")
            .await?;
        ensure!(still == reason, "{still}");
        ensure!(world.says("backup/now", "False", "BackupFailed").await? == message);
        let failed = failures(&operator.get("/metrics").await?, &world.name);
        ensure!(failed == 1, "{failed} failed runs after the Job is gone");
        ensure!(world.jobs("backup").await?.is_empty(), "it is tried again");
        ensure!(world.list("events").await?.len() == events);

        // And it leaves when a backup succeeds.
        source.freely();
        let job = "{ttlSecondsAfterFinished: 0}";
        world
            .apply(&policy(&source.yaml(), NEVER, "[{name: bucket}]", job))
            .await?;
        world.ask("again").await?;
        world.says("backup/again", "True", "Completed").await?;
        world.says("backuppolicy/shop", "True", "BackedUp").await?;
        world
            .until("end of the second Job", "jobs", |list| {
                list["items"].as_array()?.is_empty().then_some(())
            })
            .await?;
        let policy = world.get("backuppolicy/shop").await?;
        ensure!(
            policy["status"]["lastSuccessTime"].is_string(),
            "{policy:#}"
        );
        ensure!(policy["status"]["failures"].is_null(), "{policy:#}");
        ensure!(snapshots(&restic).await?.len() == 1);
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}

/// The backups of a namespace that failed, by the metrics.
fn failures(metrics: &str, namespace: &str) -> u64 {
    let mine = format!("namespace=\"{namespace}\"");
    metrics
        .lines()
        .filter(|line| line.starts_with("holdfast_runs_total{") && line.contains(&mine))
        .filter(|line| line.contains("kind=\"backup\""))
        .filter(|line| !line.to_lowercase().contains("result=\"succeeded\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test]
async fn an_operator_that_comes_back_adopts_the_job_that_runs() -> Result<()> {
    let test = "an_operator_that_comes_back_adopts_the_job_that_runs";
    let Some(world) = World::new(test, "adopted").await? else {
        return Ok(());
    };
    let source = world.source(SIZE).await?;
    let restic = world.bucket("").await?;
    world
        .apply(&policy(&source.yaml(), ONCE, "[{name: bucket}]", "{}"))
        .await?;
    let mut operator = world.operator("one").await?;
    let pod = world.pod("backup", &[]).await;
    let pod = world.explained(pod, Some(&operator)).await?;
    source.hold().await?;
    let job = active(&world).await?;
    operator.kill9()?;

    let mut operator = world.operator("two").await?;
    let shown = async {
        // A pass of the new one, whole.
        world
            .kubectl(&[
                "annotate",
                "backuppolicy/shop",
                "holdfast.dev/requestedAt=two",
            ])
            .await?
            .ok()?;
        world
            .until("answer", "backuppolicy/shop", |policy| {
                (policy["status"]["lastHandledRequest"] == "two").then_some(())
            })
            .await?;
        ensure!(active(&world).await? == job);
        let jobs = world.jobs("backup").await?;
        ensure!(jobs.len() == 1, "{jobs:#?}");
        let same = world.pod("backup", &[]).await?;
        ensure!(same.name == pod.name, "another pod");
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await?;

    // It ends while there is no operator; the next one tells what came of it.
    operator.kill9()?;
    source.freely();
    world
        .until("end of the Job", "jobs", |list| {
            support::items(list)
                .iter()
                .any(|job| job["status"]["succeeded"] == 1)
                .then_some(())
        })
        .await?;
    let operator = world.operator("three").await?;
    let shown = async {
        world.says("backuppolicy/shop", "True", "BackedUp").await?;
        let status = world
            .until("status of the run", "backuppolicy/shop", |policy| {
                let status = &policy["status"];
                status["activeJob"].is_null().then(|| status.clone())
            })
            .await?;
        ensure!(status["lastSuccessTime"].is_string(), "{status:#}");
        let backups = world.list("backups").await?;
        ensure!(backups.len() == 1, "{backups:#?}");
        let made = snapshots(&restic).await?;
        ensure!(made == [text(&backups[0]["status"]["id"])], "{made:?}");
        ensure!(made == [text(&status["lastBackup"]["id"])], "{status:#}");
        let jobs = world.jobs("backup").await?;
        ensure!(jobs.len() == 1, "{jobs:#?}");
        ensure!(jobs[0]["metadata"]["name"] == job.as_str());
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}

/// The Job that the policy's status names.
async fn active(world: &World) -> Result<String> {
    let policy: Value = world.get("backuppolicy/shop").await?;
    let job = policy["status"]["activeJob"].as_str();
    Ok(job
        .with_context(|| format!("no active Job: {policy:#}"))?
        .to_owned())
}
