//! The operator against a real API server and controller manager, without a node: what it writes,
//! what it does not write, and that nothing is done twice. No pod runs here, so that a Job stays as
//! it was made.

#[path = "support/asking.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::{Cluster, Level};
use holdfast_e2e::holdfast::REPOSITORY_PASSWORD;
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::{Workdir, Workspace};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// A cluster with the kinds, an S3 server and a place for logs.
struct World {
    cluster: Cluster,
    s3: S3,
    dir: Workdir,
}

impl World {
    async fn new() -> Result<Self> {
        let dir = Workdir::new()?;
        let cluster = Cluster::start(Level::Api).await?;
        cluster.apply_crds().await?;
        let s3 = S3::start(&dir).await?;
        Ok(Self { cluster, s3, dir })
    }

    /// The Secrets `s3`, `repo` and `db` in a namespace.
    async fn secrets(&self, namespace: &str) -> Result<()> {
        let yaml = format!(
            r"
apiVersion: v1
kind: Secret
metadata: {{name: s3, namespace: {namespace}}}
stringData: {{id: {}, secret: {}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: repo, namespace: {namespace}}}
stringData: {{password: {REPOSITORY_PASSWORD}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: db, namespace: {namespace}}}
stringData: {{uri: 'mongodb://db:27017/?replicaSet=rs0'}}
",
            s3::ACCESS_KEY,
            s3::SECRET_KEY
        );
        self.cluster.apply(&yaml).await?.ok()?;
        Ok(())
    }

    fn destination(&self, namespace: &str, name: &str, bucket: &str, more: &str) -> String {
        format!(
            r"
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  s3:
    bucket: {bucket}
    endpoint: {}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repo, key: password}}}}}}
{more}",
            self.s3.endpoint(),
            s3::REGION
        )
    }

    async fn operator(&self, name: &str, options: &Options) -> Result<Operator> {
        Operator::start(&self.cluster, &self.dir, name, options).await
    }

    /// Waits for the reason of a condition.
    async fn reason(&self, object: &[&str], condition: &str, wanted: &str) -> Result<Value> {
        self.cluster
            .until(
                &format!("{condition} because of {wanted} at {object:?}"),
                SOON,
                object,
                |value| {
                    let conditions = value["status"]["conditions"].as_array()?;
                    conditions
                        .iter()
                        .find(|one| one["type"] == condition && one["reason"] == wanted)
                        .cloned()
                },
            )
            .await
    }

    async fn jobs(&self, namespace: &str) -> Result<Vec<String>> {
        let list = self.cluster.get(&["-n", namespace, "jobs"]).await?;
        Ok(names(&list))
    }

    async fn one_job(&self, namespace: &str) -> Result<String> {
        self.cluster
            .until("Job", SOON, &["-n", namespace, "jobs"], |list| {
                names(list).into_iter().next()
            })
            .await
    }

    /// The versions of everything of ours, by kind and name.
    async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let kinds = "destinations,backuppolicies,backups,restores,jobs,secrets,events";
        let list = self.cluster.get(&["--all-namespaces", kinds]).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(list["items"]
            .as_array()
            .context("no list")?
            .iter()
            .map(|item| {
                let metadata = &item["metadata"];
                let key = format!(
                    "{} {}/{}",
                    text(&item["kind"]),
                    text(&metadata["namespace"]),
                    text(&metadata["name"])
                );
                (key, text(&metadata["resourceVersion"]))
            })
            .collect())
    }
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned()))
        .collect()
}

fn policy(namespace: &str, name: &str, destinations: &str, schedule: &str) -> String {
    format!(
        r"
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  source: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}}}}}
  schedule: {schedule}
  destinations: {destinations}
  retention: {{keepLast: 3}}
"
    )
}

const DUE_NOW: &str = "{cron: '0 0 1 1 *', immediate: true}";

#[tokio::test]
async fn a_due_policy_becomes_one_job_and_nothing_is_written_without_a_change() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.cluster.namespace("idle").await?;
    world.s3.create_bucket("idle").await?;
    world.secrets(&namespace).await?;
    let yaml = format!(
        "{}{}{}",
        world.destination(&namespace, "box", "idle", ""),
        world.destination(&namespace, "nowhere", "no-such-bucket", ""),
        policy(&namespace, "shop", "[{name: box}]", DUE_NOW)
    );
    world.cluster.apply(&yaml).await?.ok()?;
    let options = Options {
        // What is listed again and again and is the same is not written either.
        arguments: vec!["--sync-interval=3s".to_owned()],
        ..Options::default()
    };
    let operator = world.operator("one", &options).await?;

    world
        .reason(
            &["-n", &namespace, "destination", "box"],
            "Ready",
            "Reachable",
        )
        .await?;
    world
        .reason(
            &["-n", &namespace, "destination", "nowhere"],
            "Ready",
            "NoSuchPlace",
        )
        .await?;
    let job = world.one_job(&namespace).await?;
    let object = world.cluster.get(&["-n", &namespace, "job", &job]).await?;
    ensure!(object["metadata"]["ownerReferences"][0]["kind"] == "BackupPolicy");
    ensure!(object["metadata"]["ownerReferences"][0]["name"] == "shop");
    ensure!(object["spec"]["template"]["spec"]["automountServiceAccountToken"] == false);
    let text = object.to_string();
    ensure!(!text.contains(s3::SECRET_KEY) && !text.contains(REPOSITORY_PASSWORD));
    let shop = world
        .cluster
        .until(
            "active Job",
            SOON,
            &["-n", &namespace, "backuppolicy", "shop"],
            |object| (object["status"]["activeJob"] == job.as_str()).then(|| object.clone()),
        )
        .await?;
    ensure!(shop["status"]["lastScheduleTime"].is_string());
    ensure!(shop["status"]["observedGeneration"] == 1);
    ensure!(shop["status"].get("recoveryPointAge").is_none());

    // Nothing changes: nothing is written, not by us and not because of us.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = world.versions().await?;
    world.cluster.apply(&yaml).await?.ok()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = world.versions().await?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    ensure!(world.jobs(&namespace).await? == [job]);

    // A pass by word of a person is answered, by one write.
    let annotate = ["-n", &namespace, "annotate", "backuppolicy", "shop"];
    world
        .cluster
        .kubectl(annotate.iter().chain(&["holdfast.dev/requestedAt=now"]))
        .await?
        .ok()?;
    world
        .cluster
        .until(
            "answer",
            SOON,
            &["-n", &namespace, "backuppolicy", "shop"],
            |object| (object["status"]["lastHandledRequest"] == "now").then_some(()),
        )
        .await?;
    let metrics = operator.get("/metrics").await?;
    ensure!(metrics.contains("holdfast_runs_in_progress"), "{metrics}");
    ensure!(
        metrics.contains(&format!("namespace=\"{namespace}\"")),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn a_secret_that_comes_later_is_noticed_and_a_change_of_state_is_one_event() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.cluster.namespace("late").await?;
    world.s3.create_bucket("late").await?;
    world
        .cluster
        .apply(&world.destination(&namespace, "box", "late", ""))
        .await?
        .ok()?;
    let _operator = world.operator("one", &Options::default()).await?;
    let object = ["-n", &namespace, "destination", "box"];
    world.reason(&object, "Ready", "SecretNotFound").await?;
    world.secrets(&namespace).await?;
    world.reason(&object, "Ready", "Reachable").await?;
    let events = world.cluster.get(&["-n", &namespace, "events"]).await?;
    let mut reasons: Vec<String> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| Some(event["reason"].as_str()?.to_owned()))
        .collect();
    reasons.sort();
    ensure!(reasons == ["Reachable", "SecretNotFound"], "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn a_destination_of_another_namespace_is_used_only_where_it_says_so() -> Result<()> {
    let world = World::new().await?;
    let owner = world.cluster.namespace("owner").await?;
    let guest = world.cluster.namespace("guest").await?;
    let other = world.cluster.namespace("other").await?;
    world.s3.create_bucket("shared").await?;
    for namespace in [&owner, &guest, &other] {
        world.secrets(namespace).await?;
    }
    let allowed = format!("  allowedNamespaces: [{guest}]\n");
    world
        .cluster
        .apply(&world.destination(&owner, "shared", "shared", &allowed))
        .await?
        .ok()?;
    let shared = format!("[{{name: shared, namespace: {owner}}}]");
    let absent = format!("[{{name: absent, namespace: {owner}}}]");
    for (namespace, name, destinations) in [
        (&guest, "shop", &shared),
        (&other, "shop", &shared),
        (&other, "lost", &absent),
    ] {
        let yaml = policy(namespace, name, destinations, DUE_NOW);
        world.cluster.apply(&yaml).await?.ok()?;
    }
    let _operator = world.operator("one", &Options::default()).await?;

    // Whether it is there cannot be learnt from the refusal.
    let refused = ["-n", &other, "backuppolicy", "shop"];
    let refused = world
        .reason(&refused, "Ready", "DestinationNotFound")
        .await?;
    let missing = ["-n", &other, "backuppolicy", "lost"];
    let missing = world
        .reason(&missing, "Ready", "DestinationNotFound")
        .await?;
    let words = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    ensure!(words(&refused).replace("shared", "absent") == words(&missing));
    ensure!(world.jobs(&other).await?.is_empty());

    // The keys are beside the Job before its pod could wait for them, and go with the policy.
    let job = world.one_job(&guest).await?;
    let job = world.cluster.get(&["-n", &guest, "job", &job]).await?;
    let keys = job["spec"]["template"]["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|volume| volume["name"] == "holdfast-secret-run")
        .and_then(|volume| volume["secret"]["secretName"].as_str())
        .context("no volume with the keys of a destination of another namespace")?;
    let secret = world.cluster.get(&["-n", &guest, "secret", keys]).await?;
    let owner = &secret["metadata"]["ownerReferences"][0];
    ensure!(
        owner["kind"] == "BackupPolicy" && owner["name"] == "shop",
        "{owner}"
    );
    Ok(())
}

#[tokio::test]
async fn operators_that_are_killed_and_take_over_make_no_second_job() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.cluster.namespace("turns").await?;
    world.s3.create_bucket("turns").await?;
    world.secrets(&namespace).await?;
    let options = Options {
        lease_namespace: Some(namespace.clone()),
        ..Options::default()
    };
    let mut first = world.operator("first", &options).await?;
    let lease = ["-n", &namespace, "lease", "holdfast-operator"];
    let holder = |name: &'static str| {
        let world = &world;
        async move {
            world
                .cluster
                .until(
                    &format!("lease held by {name}"),
                    Duration::from_secs(40),
                    &lease,
                    |lease| (lease["spec"]["holderIdentity"] == name).then_some(()),
                )
                .await
        }
    };
    holder("first").await?;
    let second = world.operator("second", &options).await?;
    let yaml = format!(
        "{}{}",
        world.destination(&namespace, "box", "turns", ""),
        policy(&namespace, "shop", "[{name: box}]", DUE_NOW)
    );
    world.cluster.apply(&yaml).await?.ok()?;
    let job = world.one_job(&namespace).await?;
    first.kill9()?;
    let killed = Instant::now();
    holder("second").await?;
    println!("taken over after {:?}", killed.elapsed());
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(world.jobs(&namespace).await? == std::slice::from_ref(&job));
    ensure!(second.printed().contains("This replica leads."));

    // One that ends lets the next begin at once.
    let mut second = second;
    let third = world.operator("third", &options).await?;
    second.stop(Duration::from_secs(30)).await?;
    let asked = Instant::now();
    holder("third").await?;
    ensure!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(world.jobs(&namespace).await? == [job]);
    drop(third);
    Ok(())
}

#[tokio::test]
async fn who_loses_the_lease_ends_and_who_loses_the_api_server_for_a_while_goes_on() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.cluster.namespace("outage").await?;
    world.s3.create_bucket("outage").await?;
    world.secrets(&namespace).await?;
    let alone = world.operator("alone", &Options::default()).await?;
    let mut elected = world
        .operator(
            "elected",
            &Options {
                lease_namespace: Some(namespace.clone()),
                namespaces: vec!["kube-public".to_owned()],
                ..Options::default()
            },
        )
        .await?;
    world
        .cluster
        .until(
            "lease",
            SOON,
            &["-n", &namespace, "lease", "holdfast-operator"],
            |_| Some(()),
        )
        .await?;
    world.cluster.kill_apiserver().await?;
    let ended = elected
        .wait(Duration::from_secs(30))
        .await?
        .context("it goes on without its lease")?;
    ensure!(ended.code() == Some(1), "{ended}");
    let away = if support::long() { 60 } else { 20 };
    tokio::time::sleep(Duration::from_secs(away)).await;
    world.cluster.start_apiserver().await?;
    ensure!(alone.get("/healthz").await?.starts_with("HTTP/1.1 200"));
    world
        .cluster
        .apply(&world.destination(&namespace, "box", "outage", ""))
        .await?
        .ok()?;
    world
        .cluster
        .until(
            "readiness",
            Duration::from_secs(60),
            &["-n", &namespace, "destination", "box"],
            |object| object["status"]["conditions"].as_array().map(|_| ()),
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_new_cluster_shows_what_is_in_an_old_bucket() -> Result<()> {
    let world = World::new().await?;
    let namespace = world.cluster.namespace("old").await?;
    world.s3.create_bucket("old").await?;
    world.secrets(&namespace).await?;

    // Made on one box, long ago.
    let workspace = Workspace::new()?;
    workspace.secret("s3", "id", s3::ACCESS_KEY)?;
    workspace.secret("s3", "secret", s3::SECRET_KEY)?;
    workspace.secret("repo", "password", REPOSITORY_PASSWORD)?;
    let data = workspace.join("data");
    std::fs::create_dir(&data)?;
    let files = format!(
        "---\napiVersion: holdfast.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: shop, namespace: {namespace}}}\nspec:\n  source: {{files: {{paths: [{}]}}}}\n  destinations: [{{name: box}}]\n",
        data.display()
    );
    let destination = world.destination(&namespace, "box", "old", "");
    workspace.yaml("all", &format!("{destination}{files}"))?;
    let name = format!("{namespace}/shop");
    for round in 0..3 {
        std::fs::write(data.join("file"), format!("round {round}"))?;
        workspace.holdfast(["backup", &name]).await?.ok()?;
    }

    world.cluster.apply(&destination).await?.ok()?;
    let limited = Options {
        arguments: vec!["--max-backups-per-policy=2".to_owned()],
        ..Options::default()
    };
    let mut operator = world.operator("limited", &limited).await?;
    let list = ["-n", &namespace, "backups"];
    let shown = |count: usize| {
        let world = &world;
        async move {
            world
                .cluster
                .until(&format!("{count} backups"), SOON, &list, |list| {
                    let complete = list["items"].as_array()?.iter().all(|item| {
                        item["status"]["conditions"][0]["status"] == "True"
                            && item["spec"]["policy"] == "shop"
                    });
                    (complete && names(list).len() == count).then(|| list.clone())
                })
                .await
        }
    };
    shown(2).await?;
    operator.stop(Duration::from_secs(20)).await?;
    let _operator = world.operator("all", &Options::default()).await?;
    let all = shown(3).await?;
    let labels = &all["items"][0]["metadata"]["labels"];
    ensure!(labels["holdfast.dev/policy"] == "shop", "{labels}");
    ensure!(labels["holdfast.dev/destination.box"] == "true", "{labels}");
    ensure!(all["items"][0]["status"]["copies"][0]["destination"] == "box");

    // An object that is deleted comes back: the restore point is there.
    let victim = names(&all).into_iter().next().context("no backup")?;
    world
        .cluster
        .kubectl(["-n", &namespace, "delete", "backup", &victim])
        .await?
        .ok()?;
    let touch = [
        "-n",
        &namespace,
        "annotate",
        "destination",
        "box",
        "holdfast.dev/requestedAt=1",
    ];
    world.cluster.kubectl(touch).await?.ok()?;
    shown(3).await?;

    // A restore point that is deleted takes its object with it.
    let ids = workspace
        .holdfast(["backups", "-o", "json"])
        .await?
        .ok()?
        .json()?;
    let id = ids["items"][0]["status"]["id"].as_str().context("no id")?;
    workspace.holdfast(["delete", "--yes", id]).await?.ok()?;
    let touch = [
        "-n",
        &namespace,
        "annotate",
        "--overwrite",
        "destination",
        "box",
        "holdfast.dev/requestedAt=2",
    ];
    world.cluster.kubectl(touch).await?.ok()?;
    shown(2).await?;
    Ok(())
}
