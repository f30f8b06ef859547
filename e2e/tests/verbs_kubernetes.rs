//! The verbs with `--kubernetes`, as a person with a kubeconfig runs them beside a cluster with an operator
//! and real pods.

#[path = "support/asking.rs"]
mod support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::command::{self, Output};
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, binary};
use holdfast_e2e::mongod::{Options as ServerOptions, ReplicaSet};
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::{Workdir, Workspace, shared};
use serde_json::Value;
use support::{contents, id, shop};

/// What a person types beside one cluster.
struct Person<'a> {
    workspace: &'a Workspace,
    kubeconfig: String,
    namespace: String,
}

impl Person<'_> {
    async fn asks(&self, args: &[&str]) -> Result<Output> {
        let mut all: Vec<&str> = args.to_vec();
        all.extend(["--kubernetes", "-n", &self.namespace]);
        let mut command = self.workspace.command(all)?;
        command.env("KUBECONFIG", &self.kubeconfig);
        command::run(command.into(), None, Duration::from_secs(120)).await
    }

    async fn gets(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        self.asks(&all).await?.ok()?.json()
    }

    /// What is refused, with its exit code and words.
    async fn is_refused(&self, args: &[&str], code: i32, words: &str) -> Result<()> {
        let output = self.asks(args).await?;
        ensure!(output.code == Some(code), "{args:?}: {}", output.said());
        ensure!(output.stderr.contains(words), "{args:?}: {}", output.said());
        Ok(())
    }
}

#[tokio::test]
async fn the_verbs_do_beside_a_cluster_what_they_do_on_one_box() -> Result<()> {
    let test = "the_verbs_do_beside_a_cluster_what_they_do_on_one_box";
    let Some(cluster) = shared::cluster(test).await? else {
        return Ok(());
    };
    cluster.apply_crds().await?;
    let image = cluster.load_image(&binary()?).await?;
    let dir = Workdir::new()?;
    let server = ServerOptions {
        address: cluster.outside()?,
        ..ServerOptions::default()
    };
    let server = ReplicaSet::start_with(&dir, server).await?;
    let client = server.client().await?;
    shop(&client, "shop", 1 << 18, 9).await?;
    let original = contents(&client, "shop").await?;
    let objects = S3::start(&dir).await?;
    objects.create_bucket("acme").await?;
    let endpoint = cluster.expose(objects.port()).await?;
    let namespace = cluster.namespace("verbs").await?;
    let uri = server.uri();
    let yaml = format!(
        r"
apiVersion: v1
kind: Secret
metadata: {{name: keys, namespace: {namespace}}}
stringData: {{id: {}, secret: {}, password: {REPOSITORY_PASSWORD}, uri: '{uri}'}}
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: bucket, namespace: {namespace}}}
spec:
  s3:
    bucket: acme
    endpoint: http://{endpoint}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: keys, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: keys, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: keys, key: password}}}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: disk, namespace: {namespace}}}
spec:
  local: {{path: /repository, persistentVolumeClaim: {{claimName: disk}}}}
  encryption: {{password: {{secretKeyRef: {{name: keys, key: password}}}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: shop, namespace: {namespace}}}
spec:
  source: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: keys, key: uri}}}}, include: ['shop.*'], usersAndRoles: false}}}}
  destinations: [{{name: bucket}}]
",
        s3::ACCESS_KEY,
        s3::SECRET_KEY,
        s3::REGION
    );
    cluster.apply(&yaml).await?.ok()?;
    let options = Options {
        image: Some(image),
        namespaces: vec![namespace.clone()],
        ..Options::default()
    };
    let _operator = Operator::start(cluster, &dir, "operator", &options).await?;
    let workspace = Workspace::new()?;
    let person = Person {
        workspace: &workspace,
        kubeconfig: cluster.kubeconfig().to_string_lossy().into_owned(),
        namespace,
    };

    // A run now, by the operator.
    let backup = person
        .gets(&["backup", "shop", "--tag", "before-migration"])
        .await?;
    ensure!(backup["kind"] == "Backup" && backup["spec"]["policy"] == "shop");
    let first = id(&backup)?;
    let short = &first[..8];

    // The list, the history, and a check from here.
    let listed = person.gets(&["backups", "--policy", "shop"]).await?;
    let listed = listed["items"].as_array().context("no items")?;
    ensure!(listed.len() == 1 && id(&listed[0])? == first, "{listed:?}");
    let table = person.asks(&["backups"]).await?.ok()?.stdout;
    ensure!(
        table.contains(short) && table.contains("before-migration"),
        "{table}"
    );
    let history = person.gets(&["history"]).await?;
    let runs = history["items"].as_array().context("no runs")?;
    ensure!(runs.len() == 1, "{history:#}");
    let check = person
        .gets(&["check", "bucket", "--read-data", "100%"])
        .await?;
    ensure!(check["sound"] == true, "{check:#}");

    // Some night.
    client.database("shop").drop().await?;
    let restore = person.gets(&["restore", short]).await?;
    ensure!(restore["kind"] == "Restore" && restore["status"]["verified"] == "Verified");
    original.same_as(&contents(&client, "shop").await?)?;
    let rename = [
        "restore",
        "latest",
        "--policy",
        "shop",
        "--rename",
        "shop.*=copy.*",
    ];
    let told = person.asks(&rename).await?.ok()?.stdout;
    ensure!(told.contains("Content: Verified"), "{told}");
    let renamed = original.renamed(&[("shop.*", "copy.*")]);
    renamed.same_as(&contents(&client, "copy").await?)?;

    // What is in the way is refused, in the words of the run.
    let again = person.asks(&["restore", short]).await?;
    ensure!(
        again.code == Some(1) && again.stderr.contains("shop."),
        "{}",
        again.said()
    );

    // The archive is written here, and a backup is deleted from here.
    let archive = workspace.join("shop.archive");
    let archive = archive.to_string_lossy();
    person
        .asks(&["export", short, "--archive", &archive])
        .await?
        .ok()?;
    ensure!(std::fs::metadata(archive.as_ref())?.len() > 1 << 18);
    person.asks(&["delete", short, "--yes"]).await?.ok()?;
    person
        .is_refused(&["export", short, "--archive", "-"], 1, short)
        .await?;

    // What cannot be done from here says so.
    let refused: [(&[&str], i32, &str); 7] = [
        (&["check", "disk"], 2, "claim"),
        (&["backup", "nobody"], 2, "no BackupPolicy"),
        (&["backups", "--foreign"], 2, "--foreign"),
        (&["restore", "latest"], 2, "--policy"),
        (&["restore", "ffffffff"], 2, "ffffffff"),
        (&["restore", short, "--to-path", "/tmp/x"], 2, "--to-path"),
        (&["delete", "latest"], 2, "latest"),
    ];
    for (args, code, words) in refused {
        person.is_refused(args, code, words).await?;
    }
    Ok(())
}
