//! kill -9 at any moment: what was there before is still there and whole, the
//! run is in the history as interrupted, and the next one is not in its way.

#[path = "support/asking.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::compare::Snapshot;
use holdfast_e2e::holdfast::Background;
use holdfast_e2e::random::Random;
use holdfast_e2e::{Workspace, dataset, shared};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use support::{back_up, backup_ids, contents, only, restore};

const LIMIT: Duration = Duration::from_secs(300);

/// A database that changes from run to run, and what each backup must show.
struct Subject {
    workspace: Workspace,
    database: String,
    client: Client,
    target: Client,
    target_uri: String,
    /// How many of the newest backups retention keeps.
    keep: usize,
    /// By id: what was in the database when it was made.
    states: BTreeMap<String, Snapshot>,
    /// The runs that were killed, by process id.
    killed: BTreeSet<u32>,
    generation: i32,
}

impl Subject {
    async fn new(retention: Option<usize>) -> Result<Self> {
        let source = shared::replica_set().await?;
        let target = shared::target().await?;
        let client = source.client().await?;
        let database = shared::unique("killed");
        dataset::fill(&client, &database, "orders", 4 << 20, 4).await?;
        let workspace = Workspace::new()?;
        workspace.local_destination("disk")?;
        let spec = retention.map_or(String::new(), |keep| {
            format!("retention: {{keepLast: {keep}}}")
        });
        let only = only(&database);
        workspace.mongodb_policy_with("shop", &source.uri(), &["disk"], &only, &spec)?;
        Ok(Self {
            workspace,
            database,
            client,
            target: target.client().await?,
            target_uri: target.uri(),
            keep: retention.unwrap_or(usize::MAX),
            states: BTreeMap::new(),
            killed: BTreeSet::new(),
            generation: 0,
        })
    }

    /// Changes a tenth of the data, so that every run has something to write
    /// and every forgotten backup something that nobody else needs.
    async fn change(&mut self) -> Result<Snapshot> {
        self.generation += 1;
        let generation = self.generation;
        let database = self.client.database(&self.database);
        database
            .collection::<Document>("orders")
            .update_many(
                doc! { "customer": { "$mod": [10, generation % 10] } },
                doc! { "$set": { "state": format!("changed {generation}") } },
            )
            .await?;
        dataset::fill(
            &self.client,
            &self.database,
            &format!("new_{generation:03}"),
            256 << 10,
            self.seed(),
        )
        .await?;
        if generation > 4 {
            let old = format!("new_{:03}", generation - 4);
            database.collection::<Document>(&old).drop().await?;
        }
        contents(&self.client, &self.database).await
    }

    fn seed(&self) -> u64 {
        1_000 + u64::try_from(self.generation).unwrap_or_default()
    }

    /// A whole run, which must succeed; how long it took.
    async fn run(&mut self, state: &Snapshot) -> Result<Duration> {
        let started = Instant::now();
        back_up(&self.workspace, "shop").await?;
        let took = started.elapsed();
        self.learn(state).await?;
        Ok(took)
    }

    /// A whole run, which must succeed; how long it took after its backup was written.
    async fn tail(&mut self, state: &Snapshot) -> Result<Duration> {
        let there = self.snapshot_files()?;
        let mut running = self.workspace.start(["backup", "shop"])?;
        self.until_written(&mut running, there).await?;
        let written = Instant::now();
        let status = running.wait(LIMIT).await?.context("a run without end")?;
        let took = written.elapsed();
        ensure!(status.success(), "{status}:\n{}", running.printed());
        self.learn(state).await?;
        Ok(took)
    }

    fn snapshot_files(&self) -> Result<usize> {
        match std::fs::read_dir(self.workspace.repository("disk").join("snapshots")) {
            Ok(files) => Ok(files.count()),
            // The first run makes it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).context("counting the snapshots"),
        }
    }

    /// Until there is one snapshot more, or the run has ended.
    async fn until_written(&self, running: &mut Background, there: usize) -> Result<()> {
        let started = Instant::now();
        while self.snapshot_files()? <= there {
            if running.wait(Duration::from_millis(2)).await?.is_some() {
                return Ok(());
            }
            ensure!(
                started.elapsed() < LIMIT,
                "no backup within {LIMIT:?}:\n{}",
                running.printed()
            );
        }
        Ok(())
    }

    /// What is listed now; backups that are new show the present state.
    async fn learn(&mut self, state: &Snapshot) -> Result<Vec<String>> {
        let ids = backup_ids(&self.workspace).await?;
        for id in &ids {
            self.states
                .entry(id.clone())
                .or_insert_with(|| state.clone());
        }
        Ok(ids)
    }

    /// Starts a run, kills it after `delay` (counted from when its backup is
    /// written, where `after_backup` says so), and looks at what is left.
    /// Returns whether it was killed before it had ended.
    async fn kill(
        &mut self,
        delay: Duration,
        after_backup: bool,
        state: &Snapshot,
    ) -> Result<bool> {
        let before = backup_ids(&self.workspace).await?;
        let there = self.snapshot_files()?;
        let mut running = self.workspace.start(["backup", "shop"])?;
        if after_backup {
            self.until_written(&mut running, there).await?;
        }
        // The moment of the kill is what is drawn here; nothing is waited for.
        let ended = running.wait(delay).await?;
        let pid = running.pid();
        running.kill9()?;
        if let Some(status) = ended {
            ensure!(
                status.success(),
                "a run that was not killed failed, {status}:\n{}",
                running.printed()
            );
        } else {
            self.killed.insert(pid);
        }

        let after = self.learn(state).await?;
        // With the killed run's own backup, if it came so far, retention may
        // have taken older ones; never more than that.
        let mut due = before;
        due.extend(
            after
                .iter()
                .filter(|id| !due.contains(id))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let due = &due[due.len().saturating_sub(self.keep)..];
        for id in due {
            ensure!(
                after.contains(id),
                "backup {id} is gone after a kill {delay:?} into the run: {after:?} are left"
            );
        }
        Ok(ended.is_none())
    }

    /// Every backup that is listed restores to what it was made of, and stock
    /// restic finds every byte.
    async fn all_is_well(&self) -> Result<()> {
        self.workspace.restic("disk").check().await?;
        let target = self.target.database(&self.database);
        for id in backup_ids(&self.workspace).await? {
            let expected = self
                .states
                .get(&id)
                .with_context(|| format!("{id} came from nowhere"))?;
            restore(&self.workspace, &self.target_uri, &[&id])
                .await
                .with_context(|| format!("restoring {id}"))?;
            expected
                .same_as(&contents(&self.target, &self.database).await?)
                .with_context(|| format!("restored {id}"))?;
            target.drop().await?;
        }
        Ok(())
    }

    /// Each killed process has at most one run that is told as interrupted, and
    /// none that still seems to go on.
    async fn history_tells(&self) -> Result<usize> {
        let runs = support::history(&self.workspace).await?;
        let mut interrupted = 0;
        for pid in &self.killed {
            let outcomes: Vec<&str> = runs
                .iter()
                .filter(|run| run["status"]["process"] == *pid)
                .map(|run| run["status"]["outcome"].as_str().unwrap_or("in progress"))
                .collect();
            let count = outcomes.iter().filter(|one| **one == "Interrupted").count();
            ensure!(
                count <= 1
                    && outcomes
                        .iter()
                        .all(|one| ["Interrupted", "Succeeded"].contains(one)),
                "runs of the killed process {pid}: {outcomes:?}"
            );
            interrupted += count;
        }
        let others = runs
            .iter()
            .filter(|run| {
                !self
                    .killed
                    .iter()
                    .any(|pid| run["status"]["process"] == *pid)
            })
            .find(|run| run["status"]["outcome"] != "Succeeded");
        ensure!(
            others.is_none(),
            "a run that nobody killed did not succeed: {others:#?}"
        );
        Ok(interrupted)
    }

    async fn drop(self) -> Result<()> {
        Ok(self.client.database(&self.database).drop().await?)
    }
}

fn part(random: &mut Random, of: Duration) -> Duration {
    of.mul_f64(random.below(1_000) as f64 / 1_000.0)
}

#[tokio::test]
async fn backups_that_are_killed_harm_no_other() -> Result<()> {
    let rounds = if support::long() { 25 } else { 3 };
    let mut subject = Subject::new(None).await?;
    let mut random = Random::new(5);
    let state = subject.change().await?;
    subject.run(&state).await?;
    let state = subject.change().await?;
    // The first makes the repository; this one is what the others are like.
    let whole = subject.run(&state).await?;
    let (mut killed, mut attempts) = (0, 0);
    while killed < rounds || subject.history_tells().await? == 0 {
        attempts += 1;
        ensure!(attempts <= 5 * rounds, "{killed} of {attempts} kills hit");
        let state = subject.change().await?;
        let delay = part(&mut random, whole);
        let hit = subject.kill(delay, false, &state).await?;
        killed += usize::from(hit);
        eprintln!("{killed}: {delay:?} of {whole:?}, hit: {hit}");
        let took = subject
            .run(&state)
            .await
            .with_context(|| format!("the run after kill {killed}"))?;
        ensure!(
            took < whole * 10 + Duration::from_secs(60),
            "the run after kill {killed} took {took:?}: was a dead lock waited for?"
        );
        if hit && killed % 10 == 0 && killed < rounds {
            subject.all_is_well().await?;
        }
    }
    subject.all_is_well().await?;
    subject.drop().await
}

#[tokio::test]
async fn forgetting_and_pruning_that_are_killed_harm_no_backup() -> Result<()> {
    let rounds = if support::long() { 25 } else { 3 };
    let mut subject = Subject::new(Some(2)).await?;
    let mut random = Random::new(6);
    let mut tail = Duration::ZERO;
    for _ in 0..4 {
        let state = subject.change().await?;
        tail = subject.tail(&state).await?;
    }
    ensure!(backup_ids(&subject.workspace).await?.len() == 2);
    let runs = support::history(&subject.workspace).await?;
    for action in ["forget", "prune"] {
        ensure!(
            runs.iter().any(|run| run["spec"]["action"] == action),
            "no {action} in {runs:#?}"
        );
    }
    let (mut killed, mut attempts) = (0, 0);
    while killed < rounds || subject.history_tells().await? == 0 {
        attempts += 1;
        ensure!(attempts <= 5 * rounds, "{killed} of {attempts} kills hit");
        let state = subject.change().await?;
        let delay = part(&mut random, tail);
        let hit = subject.kill(delay, true, &state).await?;
        killed += usize::from(hit);
        eprintln!("{killed}: {delay:?} of {tail:?} after the backup, hit: {hit}");
        // The machine may be busier now than it was.
        let state = subject.change().await?;
        tail = subject
            .tail(&state)
            .await
            .with_context(|| format!("the run after kill {killed}"))?;
        ensure!(backup_ids(&subject.workspace).await?.len() == 2);
        if hit && killed % 10 == 0 && killed < rounds {
            subject.all_is_well().await?;
        }
    }
    subject.all_is_well().await?;
    subject.drop().await
}
