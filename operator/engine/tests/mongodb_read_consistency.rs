//! One point in time: invariants that writers keep hold in what was read under them.

mod mongodb_read_support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_e2e::bank::Bank;
use holdfast_e2e::mongod::{Options, ReplicaSet};
use holdfast_e2e::{Workdir, tools};
use mongodb_read_support::{MemoryStage, back_up, database, finish, small_ranges, write_dump};

#[tokio::test(flavor = "multi_thread")]
async fn invariants_hold_in_what_was_read_under_writers() -> Result<()> {
    let dir = Workdir::new()?;
    let server = ReplicaSet::start_with(&dir, Options::default()).await?;
    let target_dir = Workdir::new()?;
    let target = ReplicaSet::start(&target_dir).await?;
    let client = server.client().await?;
    let bank = Bank::create(&client, "bank", 20_000).await?;
    let writers = bank.start(4, 11);
    for run in 0..8 {
        let before = writers.writes();
        writers
            .until_writes(before + 200, Duration::from_secs(60))
            .await?;
        let stage = MemoryStage::new();
        let begun = writers.writes();
        let read = back_up(&database(&server.uri(), "bank"), &stage, small_ranges()).await?;
        let written = writers.writes() - begun;
        let (files, manifest) = finish(read);
        ensure!(manifest.point_in_time, "run {run}: {:?}", manifest.notes);
        ensure!(written > 0, "run {run}: nobody wrote meanwhile");
        let out = dir.fresh("dump")?;
        write_dump(&stage, &files, &out)?;
        tools::mongorestore(&target.uri(), &out, &["--drop"]).await?;
        let checked = Bank::check(&target.client().await?, "bank")
            .await
            .with_context(|| format!("run {run}"))?;
        ensure!(checked.accounts == 40_000 && checked.order > 0);
    }
    writers.stop().await?;
    Ok(())
}
