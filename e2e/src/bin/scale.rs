//! Measures the operator with 2,000 policies and 10,000 Backup objects: memory, the time until it
//! has nothing more to do, and what it asks of the API server while nothing changes. Called by
//! `make bench-scale`; `HOLDFAST_SCALE_IDLE_MINUTES` (10) is how long it is watched then, and
//! `HOLDFAST_SCALE_PERCENT` (100) makes it smaller.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use holdfast_e2e::audit::Requests;
use holdfast_e2e::scale::{Rest, Size, World, cpu, memory};

const PAUSE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(1800);

#[tokio::main]
async fn main() -> Result<()> {
    let minutes = number("HOLDFAST_SCALE_IDLE_MINUTES", 10)?;
    let percent = number("HOLDFAST_SCALE_PERCENT", 100)?;
    let size = Size {
        namespaces: 20,
        policies: percent.max(1),
        backups: 5,
    };
    eprintln!(
        "Making {} policies with {} snapshots …",
        size.all_policies(),
        size.all_backups()
    );
    let started = Instant::now();
    let world = World::new(size).await?;
    eprintln!("That took {:.0} s.", started.elapsed().as_secs_f64());

    println!("| | wall s | CPU s | RSS MiB | peak RSS MiB | writes | reads | watches |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut audit = world.audit()?;
    let since = Instant::now();
    let mut operator = world.operator("first", true).await?;
    let rest = world
        .rest(&operator, &mut audit, since, PAUSE, LIMIT)
        .await?;
    print("first steady state", &rest, operator.pid())?;
    world.is_complete().await?;
    operator.stop(Duration::from_secs(60)).await?;
    explain(&rest.requests);

    let mut audit = world.audit()?;
    let since = Instant::now();
    let operator = world.operator("again", true).await?;
    let rest = world
        .rest(&operator, &mut audit, since, PAUSE, LIMIT)
        .await?;
    print("restart", &rest, operator.pid())?;
    explain(&rest.requests);

    eprintln!("Watching it for {minutes} minutes …");
    let mut audit = world.audit()?;
    let before = cpu(operator.pid())?;
    let seconds = u64::from(minutes) * 60;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let requests = audit.read()?;
    let rest = Rest {
        seconds: seconds as f64,
        requests,
        cpu: cpu(operator.pid())? - before,
    };
    print(&format!("idle for {minutes} min"), &rest, operator.pid())?;
    explain(&rest.requests);
    println!("\nAn idle hour by that measure:\n");
    println!("| verb | resource | requests |");
    println!("|---|---|---|");
    for ((verb, resource), count) in &rest.requests.0 {
        let hour = *count as f64 * 60.0 / f64::from(minutes.max(1));
        println!("| {verb} | {resource} | {hour:.0} |");
    }
    Ok(())
}

fn number(variable: &str, default: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is a number")),
        Err(_) => Ok(default),
    }
}

fn print(what: &str, rest: &Rest, pid: u32) -> Result<()> {
    let (resident, peak) = memory(pid)?;
    let requests = &rest.requests;
    println!(
        "| {what} | {:.1} | {:.1} | {resident:.0} | {peak:.0} | {} | {} | {} |",
        rest.seconds,
        rest.cpu,
        requests.writes(),
        requests.count(|verb, _| matches!(verb, "get" | "list")),
        requests.count(|verb, _| verb == "watch"),
    );
    Ok(())
}

fn explain(requests: &Requests) {
    for ((verb, resource), count) in &requests.0 {
        eprintln!("  {count} {verb} {resource}");
    }
}
