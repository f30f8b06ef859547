//! What is empty for a moment is not taken for what is meant: a place whose disk is not mounted, and a
//! file that is being written.

#[path = "support/control.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_e2e::holdfast::{Background, quote};
use holdfast_e2e::{Workspace, shared};
use support::{
    IMMEDIATE, backup, backups, expect, files, history, metric, sample, text, until, until_runs,
};

const END: Duration = Duration::from_secs(60);

/// An hour that no test meets.
const NEVER: &str = "schedule: {cron: \"0 0 29 2 *\"}\n";

fn request(name: &str, policy: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{policy: {policy}}}\n"
    )
}

/// An empty folder takes the place of the repository, as when its disk is not mounted.
fn unmount(place: &Path, away: &Path) -> Result<()> {
    std::fs::rename(place, away)?;
    Ok(std::fs::create_dir(place)?)
}

async fn until_up(daemon: &Background, wanted: f64) -> Result<()> {
    until(&format!("destination_up {wanted}"), async || {
        let metrics = daemon.get("/metrics").await?;
        let up = metric(
            &metrics,
            "holdfast_destination_up",
            &[("destination", "disk")],
        );
        Ok((up == Some(wanted)).then_some(()))
    })
    .await
}

async fn ends_well(mut daemon: Background) -> Result<()> {
    let status = daemon.stop(END).await?;
    ensure!(status.success(), "{status}: {}", daemon.printed());
    Ok(())
}

#[tokio::test]
async fn a_running_daemon_writes_nothing_where_its_repository_was() -> Result<()> {
    let source = shared::replica_set().await?;
    let client = source.client().await?;
    let database = shared::unique("vanished");
    holdfast_e2e::dataset::fill(&client, &database, "orders", 1 << 18, 5).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    let only = format!("include: [\"{database}.*\"]\nusersAndRoles: false\n");
    workspace.mongodb_policy_with("shop", &source.uri(), &["disk"], &only, IMMEDIATE)?;
    let daemon = workspace.start_run(&[]).await?;
    until_runs(&daemon, "shop", "backup", "Succeeded", 1).await?;
    until_up(&daemon, 1.0).await?;

    let place = workspace.repository("disk");
    let away = workspace.join("away");
    unmount(&place, &away)?;
    workspace.yaml("now", &request("now", "shop"))?;
    until_up(&daemon, 0.0).await?;
    let told = until("a policy that is not ready", async || {
        let metrics = daemon.get("/metrics").await?;
        let ready = metric(&metrics, "holdfast_policy_ready", &[("policy", "shop")]);
        Ok((ready == Some(0.0)).then_some(metrics))
    })
    .await?;
    let made = [
        ("policy", "shop"),
        ("kind", "backup"),
        ("result", "Succeeded"),
    ];
    ensure!(
        metric(&told, "holdfast_runs_total", &made) == Some(1.0),
        "{told}"
    );
    ensure!(
        files(&place)?.is_empty(),
        "something was written into the empty place: {:?}",
        files(&place)?
    );

    std::fs::remove_dir(&place)?;
    std::fs::rename(&away, &place)?;
    // A change of the files wakes everything.
    workspace.yaml("again", &request("again", "shop"))?;
    until_up(&daemon, 1.0).await?;
    until_runs(&daemon, "shop", "backup", "Succeeded", 3).await?;
    ends_well(daemon).await?;
    ensure!(backups(&workspace, &[]).await?.len() == 3);
    client.database(&database).drop().await?;
    workspace.restic("disk").check().await
}

#[tokio::test]
async fn a_backup_by_hand_makes_no_repository_in_the_place_of_one() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    workspace.local_destination("disk")?;
    workspace.files_policy("data", &[&folder], &["disk"], "")?;
    backup(&workspace, "data").await?;
    let place = workspace.repository("disk");
    let away = workspace.join("away");
    unmount(&place, &away)?;
    let words = ["is not there any more", "may not be mounted"];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    ensure!(files(&place)?.is_empty());
    // Nor into another that lies there now.
    std::fs::remove_dir(&place)?;
    let other = Workspace::new()?;
    let folder = sample(&other, "data")?;
    other.local_destination("disk")?;
    other.files_policy("data", &[&folder], &["disk"], "")?;
    backup(&other, "data").await?;
    std::fs::rename(other.repository("disk"), &place)?;
    let words = ["held", "nothing is written to it"];
    expect(workspace.holdfast(["backup", "data"]).await?, 1, &words)?;
    // A pass says so of policy and destination, as often as it is asked.
    for _ in 0..2 {
        let output = workspace.holdfast(["run", "--once", "policies"]).await?;
        let output = expect(output, 1, &["Destination default/disk"])?;
        ensure!(
            output.said().contains("RepositoryChanged"),
            "{}",
            output.said()
        );
    }
    std::fs::remove_dir_all(&place)?;
    std::fs::rename(&away, &place)?;
    backup(&workspace, "data").await?;
    ensure!(backups(&workspace, &[]).await?.len() == 2);
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_being_written_deletes_nothing_and_restores_nothing_again() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    let place = workspace.repository("disk");
    let storage = format!("local: {{path: {}}}", quote(&place.to_string_lossy()));
    let destination = workspace.destination("disk", &storage, "deletionPolicy: Delete\n")?;
    let policy = workspace.files_policy("data", &[&folder], &["disk"], NEVER)?;
    backup(&workspace, "data").await?;
    let target = workspace.join("target");
    let restore = workspace.yaml(
        "restore",
        &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: again}}\nspec:\n  from: {{policy: data}}\n  to:\n    files: {{path: {}, onConflict: Drop}}\n",
            quote(&target.to_string_lossy())
        ),
    )?;
    let daemon = workspace.start_run(&[]).await?;
    until_runs(&daemon, "data", "restore", "Succeeded", 1).await?;
    let mut whole = Vec::new();
    for file in [&destination, &policy, &restore] {
        whole.push((file, std::fs::read(file)?));
        std::fs::write(file, "")?;
    }
    until("the daemon to see the empty files", async || {
        Ok(daemon
            .printed()
            .contains("do not declare some objects any more")
            .then_some(()))
    })
    .await?;
    for (file, text) in whole {
        std::fs::write(file, text)?;
    }
    // What comes after proves that it has looked again.
    workspace.yaml("now", &request("now", "data"))?;
    until_runs(&daemon, "data", "backup", "Succeeded", 2).await?;
    ends_well(daemon).await?;
    ensure!(files(&place.join("snapshots"))?.len() == 2);
    let restores = history(&workspace, &[])
        .await?
        .iter()
        .filter(|run| text(run, "/spec/action") == "restore")
        .count();
    ensure!(restores == 1, "{restores} restores");
    Ok(())
}
