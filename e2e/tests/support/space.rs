//! A namespace of the shared API server, with a bucket of its own, Secrets, and what was made on one
//! box before.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::holdfast::REPOSITORY_PASSWORD;
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::{Workdir, Workspace, shared};
use serde_json::Value;
use tokio::sync::OnceCell;

/// How long something may take that a loaded machine does in seconds.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// A namespace of the shared cluster with the Secrets, and a bucket of its own.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) cluster: &'static Cluster,
    pub(crate) s3: &'static S3,
    /// Its name, and that of the bucket.
    pub(crate) name: String,
    pub(crate) dir: Workdir,
}

impl Space {
    /// A new one.
    pub(crate) async fn new(stem: &str) -> Result<Self> {
        static KINDS: OnceCell<()> = OnceCell::const_new();
        let cluster = shared::api().await?;
        KINDS.get_or_try_init(|| cluster.apply_crds()).await?;
        let s3 = shared::s3().await?;
        let name = cluster.namespace(stem).await?;
        s3.create_bucket(&name).await?;
        let space = Self {
            cluster,
            s3,
            name,
            dir: Workdir::new()?,
        };
        let secret = |name: &str, data: &str| {
            format!(
                "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{data}}}\n"
            )
        };
        let keys = format!("id: {}, secret: {}", s3::ACCESS_KEY, s3::SECRET_KEY);
        space.apply(&secret("s3", &keys)).await?;
        space
            .apply(&secret("repo", &format!("password: {REPOSITORY_PASSWORD}")))
            .await?;
        space
            .apply(&secret("db", "uri: 'mongodb://db:27017/?replicaSet=rs0'"))
            .await?;
        Ok(space)
    }

    /// An operator of this namespace alone.
    pub(crate) async fn operator(&self) -> Result<Operator> {
        self.operator_of(&[&self.name]).await
    }

    /// An operator of some namespaces, which lists the destinations again and again.
    pub(crate) async fn operator_of(&self, namespaces: &[&str]) -> Result<Operator> {
        let options = Options {
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            arguments: vec!["--sync-interval=3s".to_owned()],
            ..Options::default()
        };
        Operator::start(self.cluster, &self.dir, &self.name, &options).await
    }

    /// The destination `box`.
    pub(crate) fn destination(&self) -> String {
        format!(
            r"
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: box, namespace: {}}}
spec:
  s3:
    bucket: {}
    endpoint: {}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repo, key: password}}}}}}
",
            self.name,
            self.name,
            self.s3.endpoint(),
            s3::REGION
        )
    }

    /// A policy that would run at once if it had never run.
    pub(crate) fn policy(&self, more: &str) -> String {
        format!(
            r"
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: shop, namespace: {}}}
spec:
  source: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}}}}}
  schedule: {{cron: '0 0 29 2 *', immediate: true}}
  destinations: [{{name: box}}]
{more}",
            self.name
        )
    }

    /// Backups of the policy `shop` that were made on one box, long ago.
    pub(crate) async fn made_before(&self, count: usize) -> Result<Workspace> {
        self.made_before_by(&self.name, count).await
    }

    /// The same of the policy of another namespace.
    pub(crate) async fn made_before_by(&self, guest: &str, count: usize) -> Result<Workspace> {
        let workspace = Workspace::new()?;
        workspace.secret("s3", "id", s3::ACCESS_KEY)?;
        workspace.secret("s3", "secret", s3::SECRET_KEY)?;
        workspace.secret("repo", "password", REPOSITORY_PASSWORD)?;
        let data = workspace.join("data");
        std::fs::create_dir(&data)?;
        let here = self.destination().replace(
            &format!("namespace: {}", self.name),
            &format!("namespace: {guest}"),
        );
        workspace.yaml("box", &here)?;
        workspace.yaml("shop", &on_a_box(guest, &data.to_string_lossy()))?;
        let name = format!("{guest}/shop");
        for round in 0..count {
            std::fs::write(data.join("file"), format!("round {round}"))?;
            workspace.holdfast(["backup", &name]).await?.ok()?;
        }
        Ok(workspace)
    }

    /// Applies manifests of this namespace.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "-n", &self.name];
        self.cluster.feed(&args, yaml).await?.ok().map(drop)
    }

    /// As a GitOps tool applies: it owns the fields that it names, and a conflict is a failure.
    pub(crate) async fn flux(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "--server-side", "--field-manager=flux"];
        self.cluster.feed(&args, yaml).await?.ok().map(drop)
    }

    /// kubectl in this namespace.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<()> {
        let all = ["-n", &self.name];
        self.cluster.kubectl(all.iter().chain(args)).await?.ok()?;
        Ok(())
    }

    /// What kubectl gets.
    pub(crate) async fn get(&self, what: &[&str]) -> Result<Value> {
        let all = [&["-n", self.name.as_str()], what].concat();
        self.cluster.get(&all).await
    }

    /// Waits until an object is as it should be.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        object: &[&str],
        probe: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let all = [&["-n", self.name.as_str()], object].concat();
        self.cluster.until(what, SOON, &all, probe).await
    }

    /// Waits for the reason of the first condition.
    pub(crate) async fn reason(&self, object: &str, wanted: &str) -> Result<Value> {
        self.until(wanted, &[object], |value| {
            (value["status"]["conditions"][0]["reason"] == wanted).then(|| value.clone())
        })
        .await
    }

    /// The mirrored Backups, by name, with their uids; waits until there are so many.
    pub(crate) async fn backups(&self, count: usize) -> Result<BTreeMap<String, String>> {
        self.until(&format!("{count} backups"), &["backups"], |list| {
            let found: BTreeMap<String, String> = list["items"]
                .as_array()?
                .iter()
                .filter(|item| {
                    let labels = &item["metadata"]["labels"];
                    labels["app.kubernetes.io/managed-by"] == "holdfast"
                })
                .filter(|item| item["status"]["id"].is_string())
                .map(|item| {
                    (
                        text(&item["metadata"]["name"]),
                        text(&item["metadata"]["uid"]),
                    )
                })
                .collect();
            (found.len() == count).then_some(found)
        })
        .await
    }

    /// The Jobs, by what they do.
    pub(crate) async fn jobs(&self) -> Result<Vec<String>> {
        let list = self.get(&["jobs"]).await?;
        let runs = list["items"].as_array().into_iter().flatten();
        let mut runs: Vec<String> = runs
            .map(|job| text(&job["metadata"]["labels"]["holdfast.dev/run"]))
            .collect();
        runs.sort();
        Ok(runs)
    }

    /// The versions of everything, by kind and name.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let kinds = "destinations,backuppolicies,backups,restores,jobs,secrets,events";
        let list = self.get(&[kinds]).await?;
        let items = list["items"].as_array().context("no list")?;
        Ok(items
            .iter()
            .map(|item| {
                let (kind, metadata) = (text(&item["kind"]), &item["metadata"]);
                let key = format!("{kind}/{}", text(&metadata["name"]));
                (key, text(&metadata["resourceVersion"]))
            })
            .collect())
    }

    /// The reasons of the events of one kind, in the order of the alphabet.
    pub(crate) async fn events(&self, kind: &str) -> Result<Vec<String>> {
        let list = self.get(&["events"]).await?;
        let mut reasons: Vec<String> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| {
                event["regarding"]["kind"] == kind || event["involvedObject"]["kind"] == kind
            })
            .map(|event| text(&event["reason"]))
            .collect();
        reasons.sort();
        Ok(reasons)
    }

    /// Fails when anything is written for a while, once it has settled.
    pub(crate) async fn is_still(&self) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let before = self.versions().await?;
        tokio::time::sleep(Duration::from_secs(15)).await;
        let after = self.versions().await?;
        ensure!(before == after, "{before:#?}\n{after:#?}");
        Ok(())
    }

    /// Asks for a pass over an object, and waits for the answer.
    pub(crate) async fn ask(&self, object: &str, request: &str) -> Result<()> {
        let annotation = format!("holdfast.dev/requestedAt={request}");
        self.kubectl(&["annotate", "--overwrite", object, &annotation])
            .await?;
        self.until(&format!("answer of {object}"), &[object], |value| {
            (value["status"]["lastHandledRequest"] == request).then_some(())
        })
        .await
    }
}

fn on_a_box(namespace: &str, data: &str) -> String {
    format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: shop, namespace: {namespace}}}
spec:
  source: {{files: {{paths: [{data}]}}}}
  schedule: {{cron: '0 0 29 2 *', immediate: true}}
  destinations: [{{name: box}}]
  retention: {{keepLast: 3}}
"
    )
}

/// The text of a value.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
