//! Runs outlive what starts them: the operator is killed again and again, replicas are replaced, the API
//! server goes away, and each backup that was due is made, once. A full node with real pods.
//!
//! `HOLDFAST_E2E_LONG=1` kills thirty times, and takes the API server away for more than a minute.

#[path = "support/asking.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, binary};
use holdfast_e2e::mongod::{self, ReplicaSet};
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::process::Signal;
use holdfast_e2e::random::Random;
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::tools::Restic;
use holdfast_e2e::{Workdir, shared};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// How long anything may take that pods do.
const LIMIT: Duration = Duration::from_secs(100);

/// A cluster with the kinds and the image, a database that pods reach, and buckets. One test at a time
/// has it: what they take away, the others need.
struct Site {
    cluster: &'static Cluster,
    image: String,
    source: ReplicaSet,
    s3: S3,
    endpoint: String,
    dir: Workdir,
}

async fn site(test: &str) -> Result<Option<MutexGuard<'static, Site>>> {
    static SITE: OnceCell<Mutex<Site>> = OnceCell::const_new();
    let Some(cluster) = shared::cluster(test).await? else {
        return Ok(None);
    };
    let site = SITE.get_or_try_init(|| async {
        cluster.apply_crds().await?;
        let image = cluster.load_image(&binary()?).await?;
        let dir = Workdir::new()?;
        let options = mongod::Options {
            address: cluster.outside()?,
            ..mongod::Options::default()
        };
        let source = ReplicaSet::start_with(&dir, options).await?;
        support::shop(&source.client().await?, "shop", 1 << 18, 3).await?;
        let s3 = S3::start(&dir).await?;
        let endpoint = format!("http://{}", cluster.expose(s3.port()).await?);
        anyhow::Ok(Mutex::new(Site {
            cluster,
            image,
            source,
            s3,
            endpoint,
            dir,
        }))
    });
    Ok(Some(site.await?.lock().await))
}

impl Site {
    /// A namespace with the Secrets.
    async fn space(&self, stem: &str) -> Result<Space> {
        let name = self.cluster.namespace(stem).await?;
        let space = Space {
            cluster: self.cluster,
            name,
        };
        for (name, data) in [
            (
                "s3",
                format!("{{id: {}, secret: {}}}", s3::ACCESS_KEY, s3::SECRET_KEY),
            ),
            ("repo", format!("{{password: {REPOSITORY_PASSWORD}}}")),
            ("db", format!("{{uri: '{}'}}", self.source.uri())),
        ] {
            space
                .apply(&format!(
                    "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {data}\n"
                ))
                .await?;
        }
        Ok(space)
    }

    /// A Destination with a bucket of its own, both of this name.
    async fn destination(&self, name: &str, more: &str) -> Result<String> {
        self.s3.create_bucket(name).await?;
        Ok(format!(
            r"
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: {name}}}
spec:
  s3:
    bucket: {name}
    endpoint: {}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repo, key: password}}}}}}
{more}",
            self.endpoint,
            s3::REGION
        ))
    }

    async fn snapshots(&self, bucket: &str) -> Result<usize> {
        let restic = Restic::s3(&self.s3, bucket, "", REPOSITORY_PASSWORD);
        Ok(restic.snapshots().await?.len())
    }

    async fn operator(&self, space: &Space, name: &str, elected: bool) -> Result<Operator> {
        let options = Options {
            namespaces: vec![space.name.clone()],
            lease_namespace: elected.then(|| space.name.clone()),
            image: Some(self.image.clone()),
            ..Options::default()
        };
        Operator::start(self.cluster, &self.dir, name, &options).await
    }
}

fn policy(destinations: &str, schedule: &str) -> String {
    format!(
        r"
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: shop}}
spec:
  source:
    mongodb:
      uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}
      include: ['shop.*']
      usersAndRoles: false
  schedule: {schedule}
  destinations: {destinations}
  retention: {{keepLast: 45}}
"
    )
}

fn backup(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec: {{policy: shop{more}}}\n"
    )
}

/// A namespace of the cluster.
struct Space {
    cluster: &'static Cluster,
    name: String,
}

impl Space {
    async fn apply(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "-n", &self.name];
        self.cluster.feed(&args, yaml).await?.ok().map(drop)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<()> {
        let all = ["-n", &self.name];
        self.cluster.kubectl(all.iter().chain(args)).await?.ok()?;
        Ok(())
    }

    async fn items(&self, kind: &str) -> Result<Vec<Value>> {
        let list = self.cluster.get(&["-n", &self.name, kind]).await?;
        Ok(list["items"].as_array().context("no list")?.clone())
    }

    async fn until<T>(
        &self,
        what: &str,
        object: &str,
        probe: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let args = ["-n", self.name.as_str(), object];
        self.cluster.until(what, LIMIT, &args, probe).await
    }

    async fn reason(&self, object: &str, wanted: &str) -> Result<Value> {
        self.until(wanted, object, |value| {
            (value["status"]["conditions"][0]["reason"] == wanted).then(|| value.clone())
        })
        .await
    }

    /// The Jobs that make backups, the oldest first.
    async fn runs(&self) -> Result<Vec<Value>> {
        let mut jobs = self.items("jobs").await?;
        jobs.retain(|job| job["metadata"]["labels"]["holdfast.dev/run"] == "backup");
        jobs.sort_by_key(|job| job["metadata"]["creationTimestamp"].to_string());
        Ok(jobs)
    }

    /// Waits until the policy's Job has a pod at work.
    async fn at_work(&self) -> Result<()> {
        self.until("pod at work", "pods", |list| {
            let pods = list["items"].as_array()?;
            let runs = pods.iter().any(|pod| pod["status"]["phase"] == "Running");
            runs.then_some(())
        })
        .await
    }

    async fn suspend(&self, suspend: bool) -> Result<()> {
        let patch = format!("-p={{\"spec\":{{\"suspend\":{suspend}}}}}");
        self.kubectl(&["patch", "backuppolicy/shop", "--type=merge", &patch])
            .await
    }

    /// Waits until the policy has no Job that goes on.
    async fn rest(&self) -> Result<()> {
        self.until("rest", "backuppolicy/shop", |shop| {
            (shop["status"].get("activeJob").is_none()).then_some(())
        })
        .await
    }

    async fn mirrors(&self, count: usize) -> Result<Vec<Value>> {
        self.until(&format!("{count} restore points"), "backups", |list| {
            let mut found = list["items"].as_array()?.clone();
            found.retain(|one| {
                one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "holdfast"
            });
            (found.len() == count).then_some(found)
        })
        .await
    }

    async fn leads(&self, who: &str) -> Result<()> {
        self.until(
            &format!("lease of {who}"),
            "lease/holdfast-operator",
            |lease| (lease["spec"]["holderIdentity"] == who).then_some(()),
        )
        .await
    }
}

/// A database that stands still until this goes away, as it does when a test fails: the others need it.
struct Held<'a>(&'a mut ReplicaSet);

impl<'a> Held<'a> {
    fn stop(source: &'a mut ReplicaSet) -> Result<Self> {
        source.signal(Signal::Stop)?;
        Ok(Self(source))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.signal(Signal::Cont) {
            println!("the database stands still for good: {error:#}");
        }
    }
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value
        .as_str()
        .with_context(|| format!("no time: {value}"))?;
    Ok(text.parse()?)
}

/// What the operator wrote on a Job when it made it, or when it had ended.
fn written(job: &Value, annotation: &str) -> Result<Value> {
    let text = &job["metadata"]["annotations"][annotation];
    let text = text
        .as_str()
        .with_context(|| format!("no {annotation}: {job:#}"))?;
    Ok(serde_json::from_str(text)?)
}

fn scheduled_for(job: &Value) -> Result<Timestamp> {
    time(&written(job, "holdfast.dev/purpose")?["scheduledFor"])
}

/// Which second of its minute it is.
fn second() -> i64 {
    Timestamp::now().as_second().rem_euclid(60)
}

/// Waits for a moment of a minute.
async fn until_second(range: std::ops::Range<i64>) {
    while !range.contains(&second()) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The value of a series of the policy `shop`.
fn metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    text.lines()
        .filter(|line| line.starts_with(name) && line.contains("policy=\"shop\""))
        .find(|line| labels.iter().all(|label| line.contains(label)))
        .and_then(|line| line.rsplit_once(' ')?.1.parse().ok())
}

/// Every minute from the first after the policy was made to the last has one Job, that has one pod,
/// that made one backup, that has one object. Gives how many there are.
async fn one_a_minute(site: &Site, space: &Space, bucket: &str) -> Result<usize> {
    let made = &space
        .cluster
        .get(&["-n", &space.name, "backuppolicy/shop"])
        .await?;
    let first = time(&made["metadata"]["creationTimestamp"])?.as_second() / 60 + 1;
    let jobs = space.runs().await?;
    let mut minutes = Vec::new();
    let mut ids = BTreeSet::new();
    for job in &jobs {
        let scheduled = scheduled_for(job)?.as_second();
        ensure!(scheduled % 60 == 0, "{job:#}");
        minutes.push(scheduled / 60 - first);
        ensure!(job["status"]["succeeded"] == 1, "{job:#}");
        ensure!(
            job["status"]["failed"].as_u64().unwrap_or(0) == 0,
            "{job:#}"
        );
        let outcome = written(job, "holdfast.dev/outcome")?;
        let runs = outcome["outcome"]["runs"].as_array().context("no runs")?;
        let stored: Vec<&str> = runs
            .iter()
            .filter(|run| run["kind"] == "backup")
            .filter_map(|run| run["snapshot"].as_str())
            .collect();
        ensure!(stored.len() == 1, "{outcome:#}");
        ids.extend(stored.into_iter().map(str::to_owned));
    }
    minutes.sort_unstable();
    let all: Vec<i64> = (0..i64::try_from(jobs.len())?).collect();
    ensure!(minutes == all, "the minutes that have a Job: {minutes:?}");
    let pods = space.items("pods").await?.len();
    ensure!(pods == jobs.len(), "{pods} pods of {} Jobs", jobs.len());
    let shown: BTreeSet<String> = space
        .mirrors(jobs.len())
        .await?
        .iter()
        .filter_map(|one| Some(one["status"]["id"].as_str()?.to_owned()))
        .collect();
    ensure!(shown == ids, "{shown:?} are shown, {ids:?} were made");
    let stored = site.snapshots(bucket).await?;
    ensure!(stored == jobs.len(), "{stored} snapshots");
    Ok(jobs.len())
}

#[tokio::test]
async fn an_operator_that_is_killed_at_random_loses_no_run_and_makes_none_twice() -> Result<()> {
    let test = "an_operator_that_is_killed_at_random_loses_no_run_and_makes_none_twice";
    let Some(site) = site(test).await? else {
        return Ok(());
    };
    let (kills, least, most) = if support::long() {
        (30, 1_000, 16_000)
    } else {
        (3, 5_000, 25_000)
    };
    let space = site.space("killed").await?;
    let destination = site.destination("killed", "").await?;
    let mut random = Random::new(3);
    let began = Instant::now();
    until_second(25..50).await;
    let mut operator = site.operator(&space, "killed", false).await?;
    space
        .apply(&(destination + &policy("[{name: killed}]", "{cron: '* * * * *'}")))
        .await?;
    for _ in 0..kills {
        let alive = least + random.below(most - least);
        tokio::time::sleep(Duration::from_millis(alive)).await;
        operator.kill9()?;
        // Some moments nobody is there, as while Kubernetes starts a pod again.
        let away = random.below(4_000);
        tokio::time::sleep(Duration::from_millis(away)).await;
        operator = site.operator(&space, "killed", false).await?;
    }

    // In the middle of a minute, when its run has ended: the state at rest.
    let deadline = Instant::now() + Duration::from_secs(200);
    let shop = loop {
        until_second(15..50).await;
        let shop = &space
            .cluster
            .get(&["-n", &space.name, "backuppolicy/shop"])
            .await?;
        let minute = Timestamp::now().as_second() / 60 * 60;
        let status = &shop["status"];
        let rests = status.get("activeJob").is_none()
            && time(&status["lastScheduleTime"]).is_ok_and(|last| last.as_second() == minute)
            && time(&status["lastSuccessTime"]).is_ok_and(|last| last.as_second() >= minute);
        if rests && space.runs().await?.len() >= 2 {
            break shop.clone();
        }
        if Instant::now() > deadline {
            bail!("it does not come to rest: {shop:#}\n{}", operator.printed());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let metrics = operator.get("/metrics").await?;
    space
        .kubectl(&[
            "patch",
            "backuppolicy/shop",
            "--type=merge",
            "-p={\"spec\":{\"suspend\":true}}",
        ])
        .await?;
    let made = one_a_minute(&site, &space, "killed").await?;
    println!(
        "{kills} kills in {:?}: {made} minutes, {made} Jobs, {made} pods, {made} Backups, {made} snapshots",
        began.elapsed()
    );

    let status = &shop["status"];
    ensure!(
        status["conditions"][0]["reason"] == "BackedUp",
        "{status:#}"
    );
    ensure!(status["conditions"][0]["status"] == "True", "{status:#}");
    let last = time(&status["lastScheduleTime"])?.as_second();
    ensure!(
        time(&status["nextRunTime"])?.as_second() == last + 60,
        "{status:#}"
    );
    let newest = space.mirrors(made).await?;
    let newest = newest
        .iter()
        .max_by_key(|one| one["status"]["completionTime"].to_string())
        .context("no backup")?;
    ensure!(
        status["lastBackup"]["id"] == newest["status"]["id"],
        "{status:#}"
    );
    let counted = metric(
        &metrics,
        "holdfast_runs_total",
        &["kind=\"backup\"", "result=\"Succeeded\""],
    );
    #[allow(clippy::cast_precision_loss, reason = "a few minutes")]
    let made = made as f64;
    ensure!(counted == Some(made), "{counted:?} are counted\n{metrics}");
    let running = metric(&metrics, "holdfast_runs_in_progress", &[]);
    ensure!(running == Some(0.0), "{running:?}");
    let failures = metric(&metrics, "holdfast_consecutive_failures", &[]);
    ensure!(failures == Some(0.0), "{failures:?}");
    let success = metric(&metrics, "holdfast_last_success_timestamp_seconds", &[]);
    let told = time(&status["lastSuccessTime"])?.as_second();
    #[allow(clippy::cast_precision_loss, reason = "a time of this century")]
    let told = told as f64;
    ensure!(
        success.is_some_and(|success| (success - told).abs() < 1.0),
        "{success:?} {told}"
    );
    Ok(())
}

#[tokio::test]
async fn what_ends_and_what_falls_due_while_the_api_server_is_away_is_found_after() -> Result<()> {
    let test = "what_ends_and_what_falls_due_while_the_api_server_is_away_is_found_after";
    let Some(mut site) = site(test).await? else {
        return Ok(());
    };
    let site = &mut *site;
    let space = site.space("away").await?;
    let destination = site.destination("away", "").await?;
    let operator = site.operator(&space, "away", false).await?;
    space.apply(&destination).await?;
    space.reason("destination/away", "Reachable").await?;

    // A run is under way, and its database holds it up until nobody can hear of its end.
    let mut rounds = 0;
    let (held, before) = loop {
        until_second(10..30).await;
        let held = Held::stop(&mut site.source)?;
        rounds += 1;
        let name = format!("before-{rounds}");
        space
            .apply(&(policy("[{name: away}]", "{cron: '* * * * *'}") + &backup(&name, "")))
            .await?;
        space.suspend(false).await?;
        space.at_work().await?;
        if (10..55).contains(&second()) {
            break (held, name);
        }
        // Too slow: the next run is due. Once more, in another minute.
        drop(held);
        ensure!(rounds < 5, "no pod is at work within a minute");
        space.reason(&format!("backup/{name}"), "Completed").await?;
        space.suspend(true).await?;
        space.rest().await?;
    };
    let killed = site.cluster.kill_apiserver().await;
    let away = Instant::now();
    drop(held);
    if killed.is_ok() {
        let least = Duration::from_secs(if support::long() { 62 } else { 10 });
        // Until a run has fallen due, too.
        tokio::time::sleep(least).await;
        until_second(5..20).await;
    }
    // Whatever became of it: the other tests need it.
    site.cluster.start_apiserver().await?;
    killed?;
    let away = away.elapsed();

    space
        .reason(&format!("backup/{before}"), "Completed")
        .await?;
    let minute = Timestamp::now().as_second() / 60 * 60;
    let caught_up = space
        .until("run that was missed", "backuppolicy/shop", |shop| {
            let last: Timestamp = shop["status"]["lastScheduleTime"].as_str()?.parse().ok()?;
            (shop["status"].get("activeJob").is_none()).then_some(last)
        })
        .await?;
    ensure!(caught_up.as_second() >= minute - 60, "{caught_up}");
    space.suspend(true).await?;
    space.reason("backuppolicy/shop", "Suspended").await?;
    space.rest().await?;
    let jobs = space.runs().await?;
    let mut minutes = BTreeSet::new();
    let mut asked = 0;
    for job in &jobs {
        ensure!(job["status"]["succeeded"] == 1, "{job:#}");
        ensure!(
            job["status"]["failed"].as_u64().unwrap_or(0) == 0,
            "{job:#}"
        );
        match scheduled_for(job) {
            Ok(minute) => ensure!(minutes.insert(minute), "twice for {minute}"),
            Err(_) => asked += 1,
        }
    }
    ensure!(asked == rounds, "{asked} Jobs of {rounds} Backups");
    ensure!(!minutes.is_empty(), "what was missed was not caught up");
    let stored = site.snapshots("away").await?;
    ensure!(
        stored == jobs.len(),
        "{stored} snapshots of {} Jobs",
        jobs.len()
    );
    ensure!(space.items("pods").await?.len() == jobs.len());
    ensure!(operator.get("/readyz").await?.starts_with("HTTP/1.1 200"));
    println!("the API server was away for {away:?}; {} Jobs", jobs.len());
    Ok(())
}

#[tokio::test]
async fn replicas_that_are_replaced_in_the_middle_of_a_run_make_no_second_one() -> Result<()> {
    let test = "replicas_that_are_replaced_in_the_middle_of_a_run_make_no_second_one";
    let Some(mut site) = site(test).await? else {
        return Ok(());
    };
    let site = &mut *site;
    let space = site.space("rolled").await?;
    let destination = site.destination("rolled", "").await?;
    let mut first = site.operator(&space, "old-1", true).await?;
    space.leads("old-1").await?;
    let mut second = site.operator(&space, "old-2", true).await?;
    // As a Deployment does it: the new ones are ready before the old ones end.
    let third = site.operator(&space, "new-1", true).await?;
    let fourth = site.operator(&space, "new-2", true).await?;
    let held = Held::stop(&mut site.source)?;
    space
        .apply(
            &(destination + &policy("[{name: rolled}]", "{cron: '0 0 29 2 *', immediate: true}")),
        )
        .await?;
    space.at_work().await?;

    ensure!(first.stop(Duration::from_secs(30)).await?.success());
    ensure!(second.stop(Duration::from_secs(30)).await?.success());
    space
        .until("lease of a new one", "lease/holdfast-operator", |lease| {
            let holder = lease["spec"]["holderIdentity"].as_str()?;
            holder.starts_with("new-").then_some(())
        })
        .await?;
    let jobs = space.runs().await?;
    ensure!(
        jobs.len() == 1 && jobs[0]["status"]["active"] == 1,
        "{jobs:#?}"
    );
    drop(held);
    // Who comes to lead meanwhile may find the snapshot before the Job has ended.
    space
        .until("end of the run", "backuppolicy/shop", |shop| {
            let status = &shop["status"];
            let ended = status["lastSuccessTime"].is_string() && status.get("activeJob").is_none();
            ended.then_some(())
        })
        .await?;
    space.reason("backuppolicy/shop", "BackedUp").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let jobs = space.runs().await?;
    ensure!(
        jobs.len() == 1 && jobs[0]["status"]["succeeded"] == 1,
        "{jobs:#?}"
    );
    ensure!(space.items("pods").await?.len() == 1);
    ensure!(site.snapshots("rolled").await? == 1);
    space.mirrors(1).await?;
    let leaders = [&third, &fourth]
        .iter()
        .filter(|one| one.printed().contains("This replica leads."))
        .count();
    ensure!(leaders == 1, "{leaders} of the new ones lead");
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_takes_its_data_with_it_only_where_it_says_so() -> Result<()> {
    let test = "what_is_deleted_takes_its_data_with_it_only_where_it_says_so";
    let Some(mut site) = site(test).await? else {
        return Ok(());
    };
    let site = &mut *site;
    let space = site.space("deleted").await?;
    let kept = site.destination("kept", "").await?;
    let lost = site
        .destination("lost", "  deletionPolicy: Delete\n")
        .await?;
    let never = "{cron: '0 0 29 2 *', immediate: true}";
    let policy = policy("[{name: kept}, {name: lost}]", never)
        .replace("immediate: true", "immediate: false");
    let _operator = site.operator(&space, "deleted", false).await?;
    space
        .apply(&format!(
            "{kept}{lost}{policy}{}{}",
            backup("first", ""),
            backup("second", ", deletionPolicy: Delete")
        ))
        .await?;
    space.reason("backup/first", "Completed").await?;
    space.reason("backup/second", "Completed").await?;
    let held = async |site: &Site| {
        anyhow::Ok((site.snapshots("kept").await?, site.snapshots("lost").await?))
    };
    ensure!(held(site).await? == (2, 2));

    // A pass that is asked for while a Restore runs is answered, and does not have it done twice.
    let mut still = Some(Held::stop(&mut site.source)?);
    space
        .apply(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {name: copy}\nspec:\n  \
             from: {policy: shop, backup: latest}\n  \
             to: {mongodb: {uriFrom: {secretKeyRef: {name: db, key: uri}}, rename: {'shop.*': 'copy.*'}}}\n",
        )
        .await?;
    space.reason("restore/copy", "Running").await?;
    space.at_work().await?;
    for request in ["while-it-runs", "when-it-is-done"] {
        let annotation = format!("holdfast.dev/requestedAt={request}");
        space
            .kubectl(&["annotate", "--overwrite", "restore/copy", &annotation])
            .await?;
        space
            .until("answer", "restore/copy", |copy| {
                (copy["status"]["lastHandledRequest"] == request).then_some(())
            })
            .await?;
        drop(still.take());
        space.reason("restore/copy", "Completed").await?;
    }
    drop(still);
    let restores = space.items("jobs").await?;
    let restores = restores
        .iter()
        .filter(|job| job["metadata"]["labels"]["holdfast.dev/run"] == "restore");
    ensure!(restores.count() == 1);

    // Retain: the object comes back as one that mirrors the restore point.
    space.kubectl(&["delete", "backup/first"]).await?;
    space.mirrors(1).await?;
    ensure!(held(site).await? == (2, 2));
    // Delete: it goes when its data is gone everywhere.
    space
        .kubectl(&["delete", "backup/second", "--timeout=90s"])
        .await?;
    ensure!(held(site).await? == (1, 1));
    space.mirrors(1).await?;

    // A policy has no data of its own.
    space.kubectl(&["delete", "backuppolicy/shop"]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    space.mirrors(1).await?;
    ensure!(held(site).await? == (1, 1));
    for destination in ["destination/lost", "destination/kept"] {
        space
            .kubectl(&["delete", destination, "--timeout=90s"])
            .await?;
    }
    ensure!(held(site).await? == (1, 0));
    space.mirrors(0).await?;

    // What was kept is taken up again, and goes to where it is missing.
    space.apply(&format!("{kept}{lost}{policy}")).await?;
    let shop = space.reason("backuppolicy/shop", "BackedUp").await?;
    ensure!(shop["metadata"]["generation"] == 1, "{shop:#}");
    space
        .until("copy", "backuppolicy/shop", |shop| {
            let status = &shop["status"];
            let there = status
                .get("missing")
                .is_none_or(|missing| missing == &serde_json::json!([]));
            (there && status.get("activeJob").is_none() && status["lastBackup"]["id"].is_string())
                .then_some(())
        })
        .await?;
    ensure!(held(site).await? == (1, 1));
    Ok(())
}
