//! One moment: while money moves between collections, a backup shows the bank
//! as it was at one point in time.

#[path = "support/asking.rs"]
mod support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::bank::Bank;
use holdfast_e2e::random::Random;
use holdfast_e2e::{Workspace, shared};
use support::{back_up, id, only, restore};

#[tokio::test]
async fn a_backup_of_a_busy_bank_shows_one_moment() -> Result<()> {
    let (rounds, accounts) = if support::long() {
        (20, 100_000)
    } else {
        (3, 20_000)
    };
    let source = shared::replica_set().await?;
    let target = shared::target().await?;
    let (client, restored) = (source.client().await?, target.client().await?);
    let database = shared::unique("bank");
    let bank = Bank::create(&client, &database, accounts).await?;
    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    workspace.mongodb_policy_with("bank", &source.uri(), &["disk"], &only(&database), "")?;

    let running = bank.start(3, 11);
    let mut random = Random::new(11);
    let mut last = 0;
    for round in 1..=rounds {
        // Not always at the same beat.
        let more = 20 + random.below(100);
        running
            .until_writes(running.writes() + more, Duration::from_secs(60))
            .await?;
        let before = running.writes();
        let backup = back_up(&workspace, "bank").await?;
        let during = running.writes() - before;
        ensure!(
            during > 20,
            "only {during} writes during backup {round}: nothing was put to the test"
        );
        ensure!(backup["status"]["pointInTime"] == true, "{backup:#}");
        let made = id(&backup)?;
        let args = [made.as_str(), "--on-conflict", "Drop"];
        restore(&workspace, &target.uri(), &args)
            .await
            .with_context(|| format!("restoring backup {round}"))?;
        let checked = Bank::check(&restored, &database)
            .await
            .with_context(|| format!("backup {round} of {rounds}"))?;
        eprintln!("backup {round}: {during} writes meanwhile, {checked:?}");
        ensure!(
            checked.accounts == i64::try_from(accounts * 2)? && checked.order > last,
            "{checked:?} after {last}"
        );
        last = checked.order;
    }
    running.stop().await?;
    Bank::check(&client, &database).await?;
    restored.database(&database).drop().await?;
    client.database(&database).drop().await?;
    Ok(())
}
