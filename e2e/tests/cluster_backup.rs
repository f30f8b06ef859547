//! From `helm install` to a restored MongoDB in a real cluster, by kubectl alone and with the manifests of
//! `examples/` as they stand. The operator runs as a pod with no rights but the chart's; the work is done
//! by pods of this project's image. What the manifests count on is made here: Secrets, and a Service by
//! which pods reach the S3 server.

#[path = "support/asking.rs"]
mod support;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::helm;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, binary};
use holdfast_e2e::mongod::{Options, ReplicaSet};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::tools::Restic;
use holdfast_e2e::{Workdir, shared};
use serde_json::Value;
use support::{condition, contents, shop};

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

    /// `kubectl VERB -f examples/PATH`.
    async fn example(&self, verb: &str, path: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(path);
        let path = path.to_string_lossy();
        let args = [verb, "-n", &self.name, "-f", &path];
        self.cluster.kubectl(args).await?.ok().map(drop)
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

    /// Waits until so many Backups are there, and none failed.
    async fn backups(&self, count: usize) -> Result<()> {
        let limit = std::time::Duration::from_secs(60);
        let args = ["-n", &self.name, "backups"];
        let what = format!("{count} backups that succeeded");
        let probe = |list: &Value| {
            let items = list["items"].as_array()?;
            let good = items
                .iter()
                .filter(|item| condition(item, "Succeeded") == Some("True"));
            (items.len() == count && good.count() == count).then_some(())
        };
        self.cluster.until(&what, limit, &args, probe).await
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

/// The Service that the example names as its S3 server, in front of one outside of the cluster.
async fn minio(cluster: &Cluster, objects: &S3) -> Result<()> {
    let exposed = cluster.expose(objects.port()).await?;
    let (address, port) = exposed.rsplit_once(':').context("no port")?;
    let yaml = format!(
        r"
apiVersion: v1
kind: Namespace
metadata: {{name: storage}}
---
apiVersion: v1
kind: Service
metadata: {{name: minio, namespace: storage}}
spec: {{ports: [{{name: s3, port: 9000, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: minio, namespace: storage, labels: {{kubernetes.io/service-name: minio}}}}
addressType: IPv4
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
ports: [{{name: s3, port: {port}}}]
"
    );
    cluster.apply(&yaml).await?.ok().map(drop)
}

#[tokio::test]
async fn from_helm_install_to_a_restored_database_with_the_examples() -> Result<()> {
    let test = "from_helm_install_to_a_restored_database_with_the_examples";
    let Some(cluster) = shared::cluster(test).await? else {
        return Ok(());
    };
    let image = cluster.load_image(&binary()?).await?;
    install(cluster, &image).await?;
    let dir = Workdir::new()?;
    let server = Options {
        address: cluster.outside()?,
        ..Options::default()
    };
    let server = ReplicaSet::start_with(&dir, server).await?;
    let client = server.client().await?;
    shop(&client, "shop", 1 << 20, 3).await?;
    let original = contents(&client, "shop").await?;
    let objects = S3::start(&dir).await?;
    objects.create_bucket("acme-backups").await?;
    minio(cluster, &objects).await?;

    let space = Space {
        cluster,
        name: cluster.namespace("shop").await?,
    };
    let keys = [("id", s3::ACCESS_KEY), ("secret", s3::SECRET_KEY)];
    space.secret("bucket", &keys).await?;
    let password = [("password", REPOSITORY_PASSWORD)];
    space.secret("repository", &password).await?;
    space.secret("shop-db", &[("uri", &server.uri())]).await?;

    // The policy is due at once.
    space.example("apply", "cluster").await?;
    space.wait("destination/bucket", "Ready").await?;
    space.wait("backuppolicy/shop", "Ready").await?;
    space.backups(1).await?;
    space.example("create", "backup/backup.yaml").await?;
    space.wait("backup/before-migration", "Succeeded").await?;
    space.backups(2).await?;

    // Some night.
    client.database("shop").drop().await?;
    space.example("apply", "restore/restore.yaml").await?;
    space.wait("restore/shop-copy", "Succeeded").await?;
    let restore = space.get("restore/shop-copy").await?;
    ensure!(restore["status"]["verified"] == "Verified", "{restore:#}");
    let restored = contents(&client, "shop_copy").await?;
    let renamed = original.renamed(&[("shop.*", "shop_copy.*")]);
    renamed.same_as(&restored)?;

    // A claim is added: what the next run writes is copied there, and stock restic reads it.
    shop(&client, "shop", 1 << 18, 4).await?;
    let disk = cluster.claim(&space.name, "disk").await?;
    space
        .apply(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {name: disk}
spec:
  local: {path: /repository, persistentVolumeClaim: {claimName: disk}}
  encryption: {password: {secretKeyRef: {name: repository, key: password}}}
",
        )
        .await?;
    let both = r#"{"spec":{"destinations":[{"name":"bucket"},{"name":"disk"}]}}"#;
    let patch = ["patch", "-n", &space.name, "backuppolicy/shop"];
    let change = ["--type=merge", "-p", both];
    cluster.kubectl(patch.iter().chain(&change)).await?.ok()?;
    space.wait("destination/disk", "Ready").await?;
    space
        .apply("apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: twice}\nspec: {policy: shop}\n")
        .await?;
    space.wait("backup/twice", "Succeeded").await?;
    space.wait("backuppolicy/shop", "Ready").await?;
    Restic::local(&disk, REPOSITORY_PASSWORD).check().await?;

    // Nothing ran twice, and nothing secret is in what a Job shows.
    space.backups(3).await?;
    let jobs = space.get("jobs").await?;
    let shown = jobs.to_string();
    for secret in [REPOSITORY_PASSWORD, s3::SECRET_KEY] {
        ensure!(!shown.contains(secret), "{secret} is in a Job");
    }
    let made = jobs["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|job| job["metadata"]["labels"]["holdfast.dev/run"] == "backup")
        .count();
    ensure!(made == 3, "{made} Jobs made a backup: {jobs:#}");
    Ok(())
}
