//! What a pod of a cluster does, without the cluster: `holdfast worker` gets
//! its work in the environment and leaves its account in a file, as the kubelet
//! would have it.

#[path = "support/asking.rs"]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::holdfast::REPOSITORY_PASSWORD;
use holdfast_e2e::process::{Server, Signal};
use holdfast_e2e::{Workspace, command, ports, s3, shared};
use serde_json::{Value, json};
use support::{contents, shop};

const LIMIT: Duration = Duration::from_secs(300);

/// A password that must be seen nowhere.
const DATABASE_PASSWORD: &str = "hunter2-of-the-database";

/// A pod's surroundings: a folder, and the work that is changed between runs.
struct Pod {
    workspace: Workspace,
    work: Value,
}

/// How a worker ended.
struct Ended {
    outcome: Value,
    output: command::Output,
}

impl Ended {
    /// The snapshots that a destination's listing tells.
    fn listed(&self, destination: &str) -> Result<Vec<String>> {
        let listing = self
            .output
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix("holdfast-listing: "))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|listing| listing["destination"] == destination)
            .with_context(|| format!("no listing of {destination}: {}", self.output.stdout))?;
        let snapshots = listing["snapshots"].as_array().into_iter().flatten();
        Ok(snapshots
            .filter_map(|one| one["id"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// The runs of a kind.
    fn runs(&self, kind: &str) -> Vec<&Value> {
        let runs = self.outcome["runs"].as_array().into_iter().flatten();
        runs.filter(|run| run["kind"] == kind).collect()
    }
}

impl Pod {
    fn new() -> Result<Self> {
        let work = json!({
            "version": 1, "run": "team/shop/1", "namespace": "team",
            "policy": {"name": "shop", "spec": {"source": {}, "suspend": false, "destinations": []}},
            "destinations": {},
            "task": {"backup": {}},
        });
        Ok(Self {
            workspace: Workspace::new()?,
            work,
        })
    }

    /// With a source that holds a small shop in a database of its own.
    async fn with_shop() -> Result<(Self, String)> {
        let source = shared::replica_set().await?;
        let database = shared::unique("worker");
        shop(&source.client().await?, &database, 1 << 20, 7).await?;
        let mut pod = Self::new()?;
        pod.reads(&source.uri(), &database)?;
        Ok((pod, database))
    }

    fn secret(&self, name: &str, key: &str, value: &str) -> Result<Value> {
        let path = self.workspace.secret(name, key, value)?;
        Ok(json!({"file": path.to_string_lossy()}))
    }

    fn reads(&mut self, uri: &str, database: &str) -> Result<()> {
        self.work["policy"]["spec"]["source"] = json!({"mongodb": {
            "uriFrom": self.secret("database", "uri", uri)?,
            "include": [format!("{database}.*")], "usersAndRoles": false,
        }});
        Ok(())
    }

    fn destination(&mut self, name: &str, mut spec: Value) -> Result<()> {
        spec["encryption"] =
            json!({"password": self.secret("repository", "password", REPOSITORY_PASSWORD)?});
        self.work["destinations"][name] = json!({"spec": spec});
        self.work["policy"]["spec"]["destinations"]
            .as_array_mut()
            .context("destinations is no list")?
            .push(json!({"name": name}));
        Ok(())
    }

    fn disk(&mut self, name: &str) -> Result<()> {
        let path = self.workspace.repository(name);
        self.destination(name, json!({"local": {"path": path.to_string_lossy()}}))
    }

    fn bucket(&mut self, name: &str, endpoint: &str, bucket: &str) -> Result<()> {
        let spec = json!({"s3": {
            "bucket": bucket, "endpoint": endpoint, "region": s3::REGION,
            "accessKeyId": self.secret("s3", "id", s3::ACCESS_KEY)?,
            "secretAccessKey": self.secret("s3", "secret", s3::SECRET_KEY)?,
        }});
        self.destination(name, spec)
    }

    fn asks(&mut self, run: &str, task: Value) {
        self.work["run"] = run.into();
        self.work["task"] = task;
    }

    fn message(&self) -> PathBuf {
        self.workspace.join("termination-log")
    }

    fn command(&self) -> Result<std::process::Command> {
        // The file of the pod before is not this one's.
        std::fs::write(self.message(), "")?;
        let mut command = self.workspace.command(["worker"])?;
        command
            .env("HOLDFAST_WORK", self.work.to_string())
            .env("HOLDFAST_TERMINATION_LOG", self.message());
        Ok(command)
    }

    fn outcome(&self) -> Result<Value> {
        let message = std::fs::read_to_string(self.message())?;
        ensure!(message.len() <= 4096, "{} bytes", message.len());
        serde_json::from_str(&message).with_context(|| format!("no outcome: {message}"))
    }

    /// One pod, from its start to its end. Nothing secret is in what it leaves.
    async fn run(&self, code: i32) -> Result<Ended> {
        let output = command::run(self.command()?.into(), None, LIMIT).await?;
        let output = output.code_is(code)?;
        let outcome = self.outcome()?;
        let left = format!("{}{}{outcome}", output.stdout, output.stderr);
        for secret in [REPOSITORY_PASSWORD, s3::SECRET_KEY, DATABASE_PASSWORD] {
            ensure!(!left.contains(secret), "{secret} is in:\n{left}");
        }
        ensure!(
            output.stderr.lines().all(|line| line.starts_with('{')),
            "not JSON: {}",
            output.stderr
        );
        Ok(Ended { outcome, output })
    }

    fn start(&self) -> Result<Server> {
        Server::spawn(
            "worker",
            self.command()?,
            &self.workspace.join("worker.log"),
        )
    }

    fn snapshots(&self, disk: &str) -> usize {
        let folder = self.workspace.repository(disk).join("snapshots");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

#[tokio::test]
async fn a_backup_with_all_that_follows_it_and_back_again() -> Result<()> {
    let objects = shared::s3().await?;
    let bucket = shared::unique("worker");
    objects.create_bucket(&bucket).await?;
    let (mut pod, database) = Pod::with_shop().await?;
    pod.bucket("bucket", &objects.endpoint(), &bucket)?;
    pod.disk("disk")?;
    pod.work["policy"]["spec"]["retention"] = json!({"keepLast": 1});

    let first = pod.run(0).await?;
    ensure!(
        first.outcome["result"] == "Succeeded",
        "{:#}",
        first.outcome
    );
    ensure!(first.outcome.get("error").is_none(), "{:#}", first.outcome);
    let backup = first.runs("backup");
    let copy = first.runs("copy");
    ensure!(backup.len() == 1 && copy.len() == 1, "{:#}", first.outcome);
    ensure!(backup[0]["figures"]["documents"].as_u64() > Some(500));
    let id = backup[0]["snapshot"].as_str().context("no id")?;
    ensure!(first.listed("disk")?.len() == 1);
    let known = &first.outcome["destinations"];
    for name in ["bucket", "disk"] {
        ensure!(known[name]["backups"] == 1, "{known:#}");
        ensure!(known[name]["repositoryId"].is_string(), "{known:#}");
    }

    // The next run forgets the first backup, and prunes.
    pod.asks(
        "team/shop/2",
        json!({"backup": {"object": "by-hand", "tags": ["release"]}}),
    );
    pod.work["destinations"]["disk"]["knownRepositoryId"] = known["disk"]["repositoryId"].clone();
    let second = pod.run(0).await?;
    for kind in ["forget", "prune"] {
        ensure!(second.runs(kind).len() == 2, "{:#}", second.outcome);
    }
    let listed = second.listed("disk")?;
    ensure!(listed.len() == 1 && listed[0] != id, "{listed:?}");
    pod.workspace.restic("disk").check().await?;

    // A look tells what there is, of every kind of destination.
    pod.asks("look", json!({"look": {}}));
    let seen = pod.run(0).await?;
    ensure!(seen.listed("disk")? == listed && seen.listed("bucket")?.len() == 1);
    ensure!(seen.outcome["destinations"]["bucket"]["storedBytes"].as_u64() > Some(0));

    // And back again.
    let source = shared::replica_set().await?;
    let target = shared::target().await?;
    let to = json!({"mongodb": {"uriFrom": pod.secret("target", "uri", &target.uri())?}});
    pod.asks(
        "restore",
        json!({"restore": {
            "name": "back", "destination": "disk", "snapshot": listed[0],
            "spec": {"from": {"policy": "shop"}, "to": to},
        }}),
    );
    let restored = pod.run(0).await?;
    let figures = &restored.outcome["restore"];
    ensure!(figures["verified"] == "Verified", "{:#}", restored.outcome);
    ensure!(figures["documents"].as_u64() > Some(500), "{figures:#}");
    ensure!(restored.runs("restore").len() == 1);
    let original = contents(&source.client().await?, &database).await?;
    original.same_as(&contents(&target.client().await?, &database).await?)?;
    // Once more it is in its own way.
    let again = pod.run(3).await?;
    ensure!(
        again.outcome["error"]["class"] != "transient",
        "{:#}",
        again.outcome
    );

    // What was promised to be deleted is deleted, and its space is free.
    pod.asks(
        "delete",
        json!({"delete": {"object": "Backup team/shop-1", "snapshots": {"disk": listed}}}),
    );
    ensure!(pod.run(0).await?.listed("disk")?.is_empty());
    ensure!(pod.run(0).await?.outcome["result"] == "Succeeded");
    Ok(())
}

#[tokio::test]
async fn a_pod_killed_after_its_backup_is_followed_by_one_that_makes_no_other() -> Result<()> {
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    // The first pod does not get past this; the second does.
    let marker = pod.workspace.join("marker");
    let script = format!(
        "test -e {0} || {{ touch {0}; sleep 600; }}",
        marker.display()
    );
    pod.work["policy"]["spec"]["hooks"] =
        json!({"after": [{"command": ["sh", "-c", script], "timeout": "15m"}]});
    let mut first = pod.start()?;
    first
        .until("get to the hook", LIMIT, || async {
            Ok(marker.exists().then_some(()))
        })
        .await?;
    first.kill9()?;
    ensure!(pod.snapshots("disk") == 1);
    let left = pod.outcome()?;
    ensure!(left["result"] == "Interrupted", "{left:#}");

    let second = pod.run(0).await?;
    ensure!(second.outcome["madeBefore"] == true, "{:#}", second.outcome);
    ensure!(second.runs("backup").len() == 1);
    ensure!(second.runs("backup")[0]["outcome"] == "Succeeded");
    ensure!(second.listed("disk")?.len() == 1 && pod.snapshots("disk") == 1);

    // Another run is another backup.
    pod.asks("team/shop/2", json!({"backup": {}}));
    let third = pod.run(0).await?;
    ensure!(third.outcome.get("madeBefore").is_none());
    ensure!(pod.snapshots("disk") == 2);
    Ok(())
}

#[tokio::test]
async fn kills_at_any_moment_leave_one_backup_a_run() -> Result<()> {
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    let started = Instant::now();
    pod.run(0).await?;
    let took = started.elapsed();
    let runs = if support::long() { 20 } else { 4 };
    for number in 2..2 + runs {
        pod.asks(&format!("team/shop/{number}"), json!({"backup": {}}));
        let mut killed = pod.start()?;
        killed.wait(took * (number - 1) / runs).await?;
        killed.kill9()?;
        pod.run(0).await?;
        let there = pod.snapshots("disk");
        ensure!(
            there == usize::try_from(number)?,
            "{there} after {number} runs"
        );
    }
    pod.workspace.restic("disk").check().await
}

#[tokio::test]
async fn the_exit_code_says_whether_another_try_makes_sense() -> Result<()> {
    // A source that is not there is tried again.
    let mut pod = Pod::new()?;
    let nowhere = ports::free()?;
    let uri = format!(
        "mongodb://backup:{DATABASE_PASSWORD}@127.0.0.1:{nowhere}/?serverSelectionTimeoutMS=2000"
    );
    pod.reads(&uri, "any")?;
    pod.disk("disk")?;
    let ended = pod.run(1).await?;
    ensure!(
        ended.outcome["error"]["class"] == "transient",
        "{:#}",
        ended.outcome
    );
    ensure!(ended.runs("backup")[0]["outcome"] == "Failed");
    ensure!(pod.snapshots("disk") == 0);

    // A password that is wrong stays wrong.
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    pod.run(0).await?;
    pod.workspace
        .secret("repository", "password", "another one")?;
    pod.asks("team/shop/2", json!({"backup": {}}));
    let ended = pod.run(3).await?;
    ensure!(
        ended.outcome["error"]["reason"] == "WrongPassword",
        "{:#}",
        ended.outcome
    );
    pod.workspace
        .secret("repository", "password", REPOSITORY_PASSWORD)?;

    // A secret that is missing is told by its name.
    std::fs::remove_file(pod.workspace.join("secrets/database/uri"))?;
    let folder = pod.workspace.join("secrets/database");
    pod.work["secrets"] = json!({folder.to_string_lossy(): "shop-db"});
    let ended = pod.run(3).await?;
    let told = ended.outcome["error"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure!(told.contains("Secret shop-db / uri"), "{told}");

    // A repository that is gone is not replaced by an empty one.
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    pod.work["destinations"]["disk"]["knownRepositoryId"] = "ab".repeat(32).into();
    let ended = pod.run(3).await?;
    ensure!(
        ended.outcome["error"]["reason"] == "RepositoryMissing",
        "{:#}",
        ended.outcome
    );
    ensure!(!pod.workspace.repository("disk").join("config").exists());

    // Work of another version is not guessed at.
    pod.work["newer"] = true.into();
    let ended = pod.run(3).await?;
    ensure!(
        ended.outcome["error"]["reason"] == "WorkNotUnderstood",
        "{:#}",
        ended.outcome
    );
    Ok(())
}

#[tokio::test]
async fn a_copy_that_fails_does_not_undo_the_backup() -> Result<()> {
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    pod.bucket(
        "away",
        &format!("http://127.0.0.1:{}", ports::free()?),
        "nothing",
    )?;
    let ended = pod.run(0).await?;
    ensure!(
        ended.outcome["result"] == "Succeeded",
        "{:#}",
        ended.outcome
    );
    ensure!(ended.runs("backup")[0]["outcome"] == "Succeeded");
    ensure!(
        ended.outcome["error"]["message"].is_string(),
        "{:#}",
        ended.outcome
    );
    // The same as upkeep alone is a failure.
    pod.asks("upkeep", json!({"upkeep": {}}));
    let ended = pod.run(1).await?;
    ensure!(ended.outcome["result"] == "Failed", "{:#}", ended.outcome);
    Ok(())
}

#[tokio::test]
async fn a_pod_that_is_asked_to_go_says_so() -> Result<()> {
    let (mut pod, _) = Pod::with_shop().await?;
    pod.disk("disk")?;
    let marker = pod.workspace.join("marker");
    let script = format!("touch {}; sleep 600", marker.display());
    pod.work["policy"]["spec"]["hooks"] =
        json!({"before": [{"command": ["sh", "-c", script], "timeout": "15m"}]});
    let mut running = pod.start()?;
    running
        .until("get to the hook", LIMIT, || async {
            Ok(marker.exists().then_some(()))
        })
        .await?;
    running.signal(Signal::Term)?;
    let status = running.wait(Duration::from_secs(30)).await?;
    ensure!(
        status.and_then(|status| status.code()) == Some(1),
        "{status:?}"
    );
    let outcome = pod.outcome()?;
    ensure!(outcome["result"] == "Interrupted", "{outcome:#}");
    ensure!(pod.snapshots("disk") == 0);
    Ok(())
}
