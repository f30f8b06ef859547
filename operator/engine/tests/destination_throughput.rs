//! Measures each kind of destination: 256 MiB in packs of 16 MiB, four at a time, written and read
//! back; SFTP also as if it were 40 ms away. No figure is asserted. `HOLDFAST_THROUGHPUT_PACKS` is
//! another number of packs. Run it with optimisation:
//!
//! `cargo test --release -p holdfast-engine --test destination_throughput -- --ignored --nocapture`

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod destination_support;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use destination_support::{local, noise, open, s3, sftp, sftp_config};
use futures::{StreamExt, TryStreamExt, stream};
use holdfast_e2e::sshd::Sshd;
use holdfast_e2e::{Workdir, shared};
use holdfast_engine::destination::{SftpConfig, StorageConfig, StorageError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const PACKS: &str = "HOLDFAST_THROUGHPUT_PACKS";
const PACK: usize = 16 * 1024 * 1024;
const AT_A_TIME: usize = 4;
const ONE_WAY: Duration = Duration::from_millis(20);

fn packs() -> usize {
    std::env::var(PACKS)
        .ok()
        .and_then(|packs| packs.parse().ok())
        .unwrap_or(16)
}

fn report(what: &str, started: Instant) {
    let megabytes = (packs() * PACK) as f64 / 1e6;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what:<24} {:>7.0} MB/s  ({seconds:.2} s)",
        megabytes / seconds
    );
}

async fn measure(name: &str, config: &StorageConfig) -> Result<()> {
    let storage = open(config).await;
    storage.create().await?;
    let packs: Vec<_> = (0..packs()).map(|n| noise(PACK, n as u64)).collect();
    let path = |n: usize| format!("data/{n:02x}/{n:08x}");

    let started = Instant::now();
    let written: Result<Vec<()>, StorageError> = stream::iter(0..packs())
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
    let same: Vec<bool> = stream::iter(0..packs())
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
    let seconds = started.elapsed().as_secs_f64() * (packs() / AT_A_TIME) as f64;
    println!(
        "{name:<10} read one by one {:>5.0} MB/s",
        (packs() * PACK) as f64 / 1e6 / seconds
    );
    Ok(())
}

/// A way to `target` on which each byte takes [`ONE_WAY`] and as many are under way as there are.
async fn far_away(target: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
                return;
            };
            for stream in [&near, &far] {
                let _ = stream.set_nodelay(true);
            }
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(delay(near_in, far_out));
            tokio::spawn(delay(far_in, near_out));
        }
    });
    Ok(port)
}

async fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((when, bytes)) = due.recv().await {
            tokio::time::sleep_until(when).await;
            let bytes: Bytes = bytes;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    loop {
        let mut bytes = BytesMut::with_capacity(64 * 1024);
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if sender
            .send((tokio::time::Instant::now() + ONE_WAY, bytes.freeze()))
            .is_err()
        {
            return;
        }
    }
}

/// The stock program, for comparison; `port` is the server's own or one that leads to it.
async fn measure_stock_sftp(name: &str, server: &Sshd, port: u16, dir: &Workdir) -> Result<()> {
    let file = dir.join("stock");
    std::fs::write(&file, noise(packs() * PACK, 7))?;
    let known_hosts = dir.join("known_hosts");
    std::fs::write(
        &known_hosts,
        format!("[127.0.0.1]:{port} {}\n", server.host_key()?),
    )?;
    let there = server.files().join("stock");
    for (what, batch) in [
        (
            "write",
            format!("put {} {}", file.display(), there.display()),
        ),
        (
            "read",
            format!("get {} {}", there.display(), dir.join("back").display()),
        ),
    ] {
        let script = dir.join("batch");
        std::fs::write(&script, batch)?;
        let mut command = tokio::process::Command::new("sftp");
        command.args([
            "-q",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        command
            .arg("-P")
            .arg(port.to_string())
            .arg("-i")
            .arg(server.key());
        command
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()));
        command.arg("-b").arg(&script);
        command.arg(format!("{}@{}", server.user(), server.host()));
        let started = Instant::now();
        let output = command.output().await?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        report(&format!("{name} {what}"), started);
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
    measure_stock_sftp("stock sftp", server, server.port(), &dir).await?;
    let port = far_away(server.port()).await?;
    let far = SftpConfig {
        port,
        ..sftp_config(server, &server.files().join("far"))
    };
    measure("far sftp", &StorageConfig::Sftp(far)).await?;
    measure_stock_sftp("far stock sftp", server, port, &dir).await
}
