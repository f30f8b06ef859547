//! Backs the same data up three ways and prints the figures side by side, as ratios: Holdfast,
//! `mongodump --archive | restic backup --stdin`, and `mongodump --gzip --archive`. Called by
//! `make bench`; `HOLDFAST_BENCH_MIB` sets the size (2048 unless said otherwise).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use holdfast_e2e::Workdir;
use holdfast_e2e::command::find;
use holdfast_e2e::dataset::fill;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, Workspace};
use holdfast_e2e::mongod::ReplicaSet;

/// What one way of backing up took.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
    stored_mib: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mib: u64 = match std::env::var("HOLDFAST_BENCH_MIB") {
        Ok(text) => text
            .parse()
            .context("HOLDFAST_BENCH_MIB is a number of MiB")?,
        Err(_) => 2048,
    };
    let work = Workdir::new()?;
    let server = ReplicaSet::start(&work).await?;
    let client = server.client().await?;
    eprintln!("Loading {mib} MiB …");
    let database = client.database("bench");
    fill(&client, "bench", "big", mib * 1024 * 1024 * 3 / 4, 1).await?;
    fill(&client, "bench", "second", mib * 1024 * 1024 / 4, 2).await?;
    let stats: Document = database.run_command(doc! {"dbStats": 1}).await?;
    let size = stats
        .get_f64("dataSize")
        .or_else(|_| stats.get_i64("dataSize").map(|n| n as f64));
    eprintln!(
        "{:.0} MiB of BSON are there.",
        size.unwrap_or_default() / 1_048_576.0
    );

    let workspace = Workspace::new()?;
    workspace.local_destination("disk")?;
    workspace.mongodb_policy("bench", &server.uri(), &["disk"])?;
    let repository = workspace.repository("disk");
    let restic = work.join("restic");
    let restic_init = restic_command(&restic, &["init"])?
        .stdout(Stdio::null())
        .status()?;
    if !restic_init.success() {
        bail!("restic init failed");
    }

    let mut rows: Vec<(&str, Figures)> = Vec::new();
    for again in [false, true] {
        let mut command = workspace.command(["backup", "bench"])?;
        let before = size_of(&repository).unwrap_or_default();
        let mut figures = measure(vec![command.stdout(Stdio::null()).spawn()?])?;
        figures.stored_mib = size_of(&repository)? - before;
        rows.push((
            if again {
                "holdfast, unchanged"
            } else {
                "holdfast, first"
            },
            figures,
        ));

        let before = size_of(&restic).unwrap_or_default();
        let mut dump = Command::new(find("mongodump")?)
            .args(["--uri", &server.uri(), "--archive", "--quiet"])
            .stdout(Stdio::piped())
            .spawn()?;
        let pipe = dump.stdout.take().context("the pipe of mongodump")?;
        let backup = restic_command(&restic, &["backup", "--stdin", "--quiet"])?
            .stdin(pipe)
            .spawn()?;
        let mut figures = measure(vec![dump, backup])?;
        figures.stored_mib = size_of(&restic)? - before;
        rows.push((
            if again {
                "mongodump | restic, unchanged"
            } else {
                "mongodump | restic, first"
            },
            figures,
        ));
    }
    let archive = work.join("dump.gz");
    let dump = Command::new(find("mongodump")?)
        .args(["--uri", &server.uri(), "--gzip", "--quiet"])
        .arg(format!("--archive={}", archive.display()))
        .spawn()?;
    let mut figures = measure(vec![dump])?;
    figures.stored_mib = size_of(&archive)?;
    rows.push(("mongodump --gzip", figures));

    print(&rows);
    Ok(())
}

fn print(rows: &[(&str, Figures)]) {
    println!("| | wall s | CPU s | peak RSS MiB | stored MiB | wall, as a ratio |");
    println!("|---|---|---|---|---|---|");
    let base = rows
        .iter()
        .find(|(name, _)| *name == "mongodump | restic, first")
        .map_or(1.0, |(_, figures)| figures.wall);
    for (name, figures) in rows {
        println!(
            "| {name} | {:.1} | {:.1} | {:.0} | {:.0} | {:.2} |",
            figures.wall,
            figures.cpu,
            figures.peak_mib,
            figures.stored_mib,
            figures.wall / base
        );
    }
}

fn restic_command(repository: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new("restic");
    command
        .arg("-r")
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
        .env("RESTIC_CACHE_DIR", repository.with_extension("cache"));
    Ok(command)
}

/// Waits for a pipeline. CPU time and peak memory are read from `/proc` fifty times a second; what a
/// process takes after the last reading is missed, which is less than a fiftieth of a second.
fn measure(mut children: Vec<Child>) -> Result<Figures> {
    let started = Instant::now();
    let mut seen = vec![(0.0, 0.0); children.len()];
    loop {
        let mut running = false;
        for (child, seen) in children.iter_mut().zip(&mut seen) {
            if let Some(reading) = reading(child.id()) {
                *seen = (reading.0.max(seen.0), reading.1.max(seen.1));
            }
            match child.try_wait()? {
                None => running = true,
                Some(status) if !status.success() => {
                    bail!("a command of the bench ended with {status}")
                }
                Some(_) => {}
            }
        }
        if !running {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Figures {
        wall: started.elapsed().as_secs_f64(),
        cpu: seen.iter().map(|(cpu, _)| cpu).sum(),
        peak_mib: seen.iter().map(|(_, peak)| peak).sum(),
        stored_mib: 0.0,
    })
}

/// CPU seconds and peak MiB of a process so far; `None` once it has ended.
fn reading(pid: u32) -> Option<(f64, f64)> {
    // Clock ticks are a hundredth of a second on Linux, whatever the kernel's own.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or_default();
    Some((ticks / TICKS, peak / 1024.0))
}

fn size_of(path: &Path) -> Result<f64> {
    let mut bytes = 0;
    let mut stack = vec![path.to_owned()];
    while let Some(path) = stack.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                stack.push(entry?.path());
            }
        } else {
            bytes += metadata.len();
        }
    }
    Ok(bytes as f64 / 1_048_576.0)
}
