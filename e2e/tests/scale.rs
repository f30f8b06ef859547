//! Sixty policies and three hundred backups: what the operator asks of the API server, counted. The
//! full size, with its figures, is `make bench-scale`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_e2e::audit::{Audit, Requests};
use holdfast_e2e::operator::Operator;
use holdfast_e2e::scale::{Size, World, memory};

const SIZE: Size = Size {
    namespaces: 3,
    policies: 20,
    backups: 5,
};
const PAUSE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(180);

async fn requests_until_rest(
    world: &World,
    operator: &Operator,
    audit: &mut Audit,
) -> Result<Requests> {
    let rest = world
        .rest(operator, audit, Instant::now(), PAUSE, LIMIT)
        .await?;
    Ok(rest.requests)
}

fn lists(requests: &Requests) -> u64 {
    requests.count(|verb, resource| verb == "list" && resource != "leases")
}

#[tokio::test]
async fn each_backup_is_written_once_and_nothing_is_when_nothing_changes() -> Result<()> {
    let world = World::new(SIZE).await?;

    // Each object is made and given its status, once; each status is told once, as is its event.
    let mut audit = world.audit()?;
    let mut operator = world.operator("first", false).await?;
    let first = requests_until_rest(&world, &operator, &mut audit).await?;
    world.is_complete().await?;
    let count =
        |verb: &str, resource: &str| first.count(|one, other| one == verb && other == resource);
    let (policies, backups) = (
        u64::from(SIZE.all_policies()),
        u64::from(SIZE.all_backups()),
    );
    let destinations = u64::from(SIZE.namespaces);
    ensure!(count("create", "backups") == backups, "{first:#?}");
    ensure!(count("patch", "backups/status") == backups, "{first:#?}");
    ensure!(
        count("patch", "backuppolicies/status") == policies,
        "{first:#?}"
    );
    ensure!(
        count("patch", "destinations/status") == destinations,
        "{first:#?}"
    );
    ensure!(
        count("create", "events") == policies + destinations,
        "{first:#?}"
    );
    ensure!(
        first.writes() == 2 * (policies + destinations + backups),
        "{first:#?}"
    );
    // One a kind, however many objects and destinations there are; two Secrets of each destination.
    ensure!(lists(&first) == 6, "{first:#?}");
    let gets = first.count(|verb, _| verb == "get");
    ensure!(gets <= 3 * destinations, "{first:#?}");

    // A key takes 32 MiB to derive, and no two are derived at once.
    let (resident, peak) = memory(operator.pid())?;
    ensure!(peak - resident < 90.0, "{resident} MiB, at most {peak}");

    // A destination is listed again by word of a person: that is answered, and nothing else.
    let asked = world
        .cluster
        .kubectl([
            "-n",
            "scale-00",
            "annotate",
            "destination",
            "box",
            "holdfast.dev/requestedAt=now",
        ])
        .await?;
    asked.ok()?;
    let again = requests_until_rest(&world, &operator, &mut audit).await?;
    ensure!(again.writes() == 1, "{again:#?}");
    ensure!(again.count(|_, resource| resource == "destinations/status") == 1);
    ensure!(lists(&again) == 0, "{again:#?}");
    operator.stop(Duration::from_secs(30)).await?;

    // Another one finds everything as it is to be.
    let mut audit = world.audit()?;
    let operator = world.operator("again", true).await?;
    let restart = requests_until_rest(&world, &operator, &mut audit).await?;
    ensure!(restart.writes() == 0, "{restart:#?}");
    ensure!(lists(&restart) == 6, "{restart:#?}");

    // And has nothing to ask: only its lease is renewed.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle = audit.read()?;
    ensure!(
        idle.count(|_, resource| resource == "leases") > 0,
        "{idle:#?}"
    );
    ensure!(idle.writes() == 0 && lists(&idle) == 0, "{idle:#?}");
    ensure!(
        idle.count(|verb, resource| verb == "get" && resource != "leases") == 0,
        "{idle:#?}"
    );
    world.is_complete().await
}
