//! Measures each kind of destination: 256 MiB in packs of 16 MiB, four at a time, written and read
//! back. No figure is asserted. Run it with optimisation:
//!
//! `cargo test --release -p holdfast-engine --test destination_throughput -- --ignored --nocapture`

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod destination_support;

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use destination_support::{local, noise, open, s3, sftp};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_e2e::sshd::Sshd;
use holdfast_e2e::{Workdir, shared};
use holdfast_engine::destination::{StorageConfig, StorageError};

const PACKS: usize = 16;
const PACK: usize = 16 * 1024 * 1024;
const AT_A_TIME: usize = 4;

fn report(what: &str, started: Instant) {
    let megabytes = (PACKS * PACK) as f64 / 1e6;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what:<24} {:>7.0} MB/s  ({seconds:.2} s)",
        megabytes / seconds
    );
}

async fn measure(name: &str, config: &StorageConfig) -> Result<()> {
    let storage = open(config).await;
    storage.create().await?;
    let packs: Vec<_> = (0..PACKS).map(|n| noise(PACK, n as u64)).collect();
    let path = |n: usize| format!("data/{n:02x}/{n:08x}");

    let started = Instant::now();
    let written: Result<Vec<()>, StorageError> = stream::iter(0..PACKS)
        .map(|n| {
            let (storage, pack) = (&storage, packs[n].clone());
            async move { storage.write(&path(n), vec![pack]).await }
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await;
    written?;
    report(&format!("{name} write"), started);

    let started = Instant::now();
    let same: Vec<bool> = stream::iter(0..PACKS)
        .map(|n| {
            let (storage, pack) = (&storage, &packs[n]);
            async move { Ok::<_, StorageError>(storage.read(&path(n)).await?.len() == pack.len()) }
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;
    report(&format!("{name} read"), started);
    ensure!(same.iter().all(|same| *same), "a pack has another length");

    let started = Instant::now();
    for n in 0..AT_A_TIME {
        storage.read(&path(n)).await?;
    }
    let seconds = started.elapsed().as_secs_f64() * (PACKS / AT_A_TIME) as f64;
    println!(
        "{name:<10} read one by one {:>5.0} MB/s",
        (PACKS * PACK) as f64 / 1e6 / seconds
    );
    Ok(())
}

/// The stock program, for comparison.
fn measure_stock_sftp(server: &Sshd, dir: &Workdir) -> Result<()> {
    let file = dir.join("stock");
    std::fs::write(&file, noise(PACKS * PACK, 7))?;
    for (what, batch) in [
        (
            "stock sftp write",
            format!(
                "put {} {}",
                file.display(),
                server.files().join("stock").display()
            ),
        ),
        (
            "stock sftp read",
            format!(
                "get {} {}",
                server.files().join("stock").display(),
                dir.join("back").display()
            ),
        ),
    ] {
        let script = dir.join("batch");
        std::fs::write(&script, batch)?;
        let mut command = Command::new("sftp");
        command.args([
            "-q",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command.arg("-P").arg(server.port().to_string());
        command.arg("-i").arg(server.key());
        command.arg("-o").arg(format!(
            "UserKnownHostsFile={}",
            server.known_hosts()?.display()
        ));
        command.arg("-b").arg(&script);
        command.arg(format!("{}@{}", server.user(), server.host()));
        let started = Instant::now();
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        report(what, started);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn throughput() -> Result<()> {
    let dir = Workdir::new()?;
    measure("local", &local(&dir.join("repository"))).await?;
    let server = shared::s3().await?;
    server.create_bucket("throughput").await?;
    measure("s3", &s3(server, "throughput", "")).await?;
    let server = shared::sshd().await?;
    measure("sftp", &sftp(server, &server.files().join("throughput"))).await?;
    measure_stock_sftp(server, &dir)
}
