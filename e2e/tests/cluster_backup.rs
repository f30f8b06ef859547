//! The main job in a real cluster: the operator is installed by helm and runs as a pod with no rights but
//! the chart's; the rest is kubectl alone: a Destination, a policy, a Backup that is asked for, and a
//! Restore. The work is done by pods of this project's image.

#[path = "support/asking.rs"]
mod support;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::helm;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, binary};
use holdfast_e2e::mongod::{Options, ReplicaSet};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::tools::Restic;
use holdfast_e2e::{Workdir, shared};
use serde_json::Value;
use support::{contents, shop};

/// Where the operator is installed.
const SYSTEM: &str = "holdfast-system";

/// Installs the chart and waits until its pods are ready; its namespace takes none but restricted ones.
async fn install(cluster: &Cluster, image: &str) -> Result<()> {
    let (repository, tag) = image
        .rsplit_once(':')
        .with_context(|| format!("{image} has no tag"))?;
    cluster
        .kubectl(["create", "namespace", SYSTEM])
        .await?
        .ok()?;
    let standard = "pod-security.kubernetes.io/enforce=restricted";
    cluster
        .kubectl(["label", "namespace", SYSTEM, standard])
        .await?
        .ok()?;
    let chart = helm::chart();
    let chart = chart.to_string_lossy();
    let repository = format!("image.repository={repository}");
    let tag = format!("image.tag={tag}");
    let mut args = vec!["install", "holdfast", &chart, "--namespace", SYSTEM];
    args.extend(["--wait", "--timeout", "100s", "--set", &repository]);
    args.extend(["--set", &tag, "--set", "image.pullPolicy=Never"]);
    args.extend(["--set", "replicas=2"]);
    let installed = helm::run_in(&cluster.kubeconfig(), args).await?.ok();
    if let Err(error) = installed {
        let said = printed(cluster).await?;
        let pods = cluster.kubectl(["describe", "pods", "-n", SYSTEM]).await?;
        return Err(error.context(format!("{said}\n{}", pods.said())));
    }
    Ok(())
}

/// What the operator's pods have printed.
async fn printed(cluster: &Cluster) -> Result<String> {
    let ours = "app.kubernetes.io/name=holdfast";
    let logs = ["logs", "-n", SYSTEM, "--prefix", "--tail=60", "-l", ours];
    Ok(cluster.kubectl(logs).await?.said())
}

/// A namespace of the cluster.
struct Space<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Space<'_> {
    async fn apply(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "-n", &self.name];
        self.cluster.feed(&args, yaml).await?.ok().map(drop)
    }

    async fn secret(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let data: Value = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        self.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {data}\n"
        ))
        .await
    }

    async fn get(&self, object: &str) -> Result<Value> {
        self.cluster.get(&["-n", &self.name, object]).await
    }

    /// `kubectl wait`; what the object, the pods and the operator say when it is in vain.
    async fn wait(&self, object: &str, condition: &str) -> Result<()> {
        let wanted = format!("--for=condition={condition}");
        let args = ["wait", "-n", &self.name, object, &wanted, "--timeout=110s"];
        let waited = self.cluster.kubectl(args).await?.ok();
        if waited.is_ok() {
            return Ok(());
        }
        let object = self.get(object).await?;
        let pods = ["logs", "-n", &self.name, "--prefix", "--tail=40"];
        let ours = ["-l", "app.kubernetes.io/managed-by=holdfast"];
        let pods = self.cluster.kubectl(pods.iter().chain(&ours)).await?.said();
        let events = ["get", "events,pods,jobs", "-n", &self.name];
        let events = self.cluster.kubectl(events).await?.said();
        let operator = printed(self.cluster).await?;
        waited.map(drop).with_context(|| {
            format!("{object:#}\n--- pods\n{pods}\n--- events\n{events}\n--- operator\n{operator}")
        })
    }
}

#[tokio::test]
async fn a_database_is_backed_up_and_restored_by_kubectl_alone() -> Result<()> {
    let test = "a_database_is_backed_up_and_restored_by_kubectl_alone";
    let Some(cluster) = shared::cluster(test).await? else {
        return Ok(());
    };
    let image = cluster.load_image(&binary()?).await?;
    install(cluster, &image).await?;
    let dir = Workdir::new()?;
    let servers = || Options {
        address: cluster.outside().unwrap_or(std::net::Ipv4Addr::LOCALHOST),
        ..Options::default()
    };
    let source = ReplicaSet::start_with(&dir, servers()).await?;
    let target = ReplicaSet::start_with(&dir, servers()).await?;
    let client = source.client().await?;
    shop(&client, "shop", 1 << 20, 3).await?;
    let original = contents(&client, "shop").await?;
    let objects = S3::start(&dir).await?;
    objects.create_bucket("acme").await?;
    let endpoint = format!("http://{}", cluster.expose(objects.port()).await?);

    let space = Space {
        cluster,
        name: cluster.namespace("shop").await?,
    };
    space
        .secret("s3", &[("id", s3::ACCESS_KEY), ("secret", s3::SECRET_KEY)])
        .await?;
    space
        .secret("repo", &[("password", REPOSITORY_PASSWORD)])
        .await?;
    space.secret("db", &[("uri", &source.uri())]).await?;
    space.secret("new-db", &[("uri", &target.uri())]).await?;
    let disk = cluster.claim(&space.name, "disk").await?;

    let password = "encryption: {password: {secretKeyRef: {name: repo, key: password}}}";
    space
        .apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: bucket}}
spec:
  s3:
    bucket: acme
    endpoint: {endpoint}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  {password}
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: disk}}
spec:
  local: {{path: /repository, persistentVolumeClaim: {{claimName: disk}}}}
  {password}
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
  schedule: {{cron: '0 0 29 2 *'}}
  destinations: [{{name: bucket}}, {{name: disk}}]
  retention: {{keepLast: 3}}
",
            s3::REGION
        ))
        .await?;
    space.wait("destination/bucket", "Ready").await?;
    space
        .apply(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: now}\n\
             spec: {policy: shop, tags: [by-hand]}\n",
        )
        .await?;
    space.wait("backup/now", "Succeeded").await?;
    let backup = space.get("backup/now").await?;
    let id = backup["status"]["id"]
        .as_str()
        .with_context(|| format!("no id: {backup:#}"))?;
    space.wait("backuppolicy/shop", "Ready").await?;

    // Stock restic finds it on the claim, where the pod has copied it.
    let restic = Restic::local(&disk, REPOSITORY_PASSWORD);
    restic.check().await?;

    // Nothing ran twice, and nothing secret is in what a Job shows.
    let jobs = space.get("jobs").await?.to_string();
    for secret in [REPOSITORY_PASSWORD, s3::SECRET_KEY] {
        ensure!(!jobs.contains(secret), "{secret} is in a Job");
    }
    let backups = space.get("jobs").await?;
    let made = backups["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|job| job["metadata"]["labels"]["holdfast.dev/run"] == "backup")
        .count();
    ensure!(made == 1, "{made} Jobs made a backup: {backups:#}");

    // And back again.
    space
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\nspec:\n  \
             from: {{policy: shop, backup: '{id}', destination: bucket}}\n  \
             to: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: new-db, key: uri}}}}}}}}\n"
        ))
        .await?;
    space.wait("restore/back", "Succeeded").await?;
    let restore = space.get("restore/back").await?;
    ensure!(restore["status"]["verified"] == "Verified", "{restore:#}");
    original.same_as(&contents(&target.client().await?, "shop").await?)
}
