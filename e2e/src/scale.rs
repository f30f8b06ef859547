//! Many policies and many backups in one cluster, and an operator that is measured on them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;

use crate::audit::{Audit, Requests};
use crate::cluster::{Cluster, Level};
use crate::holdfast::REPOSITORY_PASSWORD;
use crate::operator::{Operator, Options};
use crate::s3::{self, S3};
use crate::{Workdir, snapshots};

/// The namespace of the operator's lease.
const LEASE_NAMESPACE: &str = "default";

/// A process that takes less of a core than this, in percent, is doing nothing.
const RESTING: f64 = 5.0;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Namespaces, each with one destination.
    pub namespaces: u32,
    /// Policies in each.
    pub policies: u32,
    /// Backups of each policy.
    pub backups: u32,
}

impl Size {
    /// All policies.
    #[must_use]
    pub fn all_policies(self) -> u32 {
        self.namespaces * self.policies
    }

    /// All backups.
    #[must_use]
    pub fn all_backups(self) -> u32 {
        self.all_policies() * self.backups
    }
}

/// A cluster that holds the policies, and an S3 server that holds the backups.
#[derive(Debug)]
pub struct World {
    /// The cluster; it keeps an audit log.
    pub cluster: Cluster,
    /// The S3 server.
    pub s3: S3,
    dir: Workdir,
    size: Size,
}

/// How an operator came to rest.
#[derive(Debug, Clone)]
pub struct Rest {
    /// Seconds from its start to the last thing it did.
    pub seconds: f64,
    /// What it asked of the API server.
    pub requests: Requests,
    /// Its CPU seconds.
    pub cpu: f64,
}

impl World {
    /// Starts both and fills them; no operator has seen any of it.
    pub async fn new(size: Size) -> Result<Self> {
        let dir = Workdir::new()?;
        let cluster = Cluster::start_with(Level::Api, true).await?;
        cluster.apply_crds().await?;
        let s3 = S3::start(&dir).await?;
        let world = Self {
            cluster,
            s3,
            dir,
            size,
        };
        world.snapshots().await?;
        stream::iter(0..size.namespaces)
            .map(|number| world.declare(number))
            .buffer_unordered(2)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(world)
    }

    async fn snapshots(&self) -> Result<()> {
        let mut threads = Vec::new();
        for number in 0..self.size.namespaces {
            let namespace = namespace(number);
            self.s3.create_bucket(&namespace).await?;
            let folder = self.s3.bucket_dir(&namespace);
            let policies: Vec<String> = (0..self.size.policies)
                .map(|policy| format!("{namespace}/{}", policy_name(policy)))
                .collect();
            let backups = self.size.backups;
            // The engine's futures stay on the thread that they began on.
            threads.push(tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Handle::current();
                runtime.block_on(snapshots::write(&folder, &policies, backups))
            }));
        }
        for thread in threads {
            thread.await.context("writing snapshots")??;
        }
        Ok(())
    }

    async fn declare(&self, number: u32) -> Result<()> {
        let namespace = namespace(number);
        let mut yaml = format!(
            r"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: s3, namespace: {namespace}}}
stringData: {{id: {}, secret: {}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: repository, namespace: {namespace}}}
stringData: {{password: {REPOSITORY_PASSWORD}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: db, namespace: {namespace}}}
stringData: {{uri: 'mongodb://db:27017/?replicaSet=rs0'}}
---
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: box, namespace: {namespace}}}
spec:
  s3:
    bucket: {namespace}
    endpoint: {}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repository, key: password}}}}}}
",
            s3::ACCESS_KEY,
            s3::SECRET_KEY,
            self.s3.endpoint(),
            s3::REGION,
        );
        for policy in 0..self.size.policies {
            let name = policy_name(policy);
            // Nothing is due before the next 29 February.
            yaml.push_str(&format!(
                r"---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  source: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: db, key: uri}}}}}}}}
  schedule: {{cron: '0 0 29 2 *'}}
  destinations: [{{name: box}}]
  retention: {{keepLast: 1000}}
"
            ));
        }
        self.cluster.feed(&["create"], &yaml).await?.ok()?;
        Ok(())
    }

    /// Starts an operator; `elected` has it hold a lease.
    pub async fn operator(&self, name: &str, elected: bool) -> Result<Operator> {
        let options = Options {
            lease_namespace: elected.then(|| LEASE_NAMESPACE.to_owned()),
            ..Options::default()
        };
        Operator::start(&self.cluster, &self.dir, name, &options).await
    }

    /// The audit log, from here on.
    pub fn audit(&self) -> Result<Audit> {
        Audit::from_now(&self.cluster.audit_log())
    }

    /// Waits until an operator that was started at `since` has written nothing and done nothing for
    /// `pause`. Only its process and the audit log are looked at: asking the API server would be work.
    pub async fn rest(
        &self,
        operator: &Operator,
        audit: &mut Audit,
        since: Instant,
        pause: Duration,
        limit: Duration,
    ) -> Result<Rest> {
        const STEP: Duration = Duration::from_millis(500);
        let mut requests = Requests::default();
        let mut used = cpu(operator.pid())?;
        let mut looked = Instant::now();
        let mut busy = Instant::now();
        loop {
            tokio::time::sleep(STEP).await;
            let new = audit.read()?;
            let now = cpu(operator.pid())?;
            let percent = (now - used) / looked.elapsed().as_secs_f64() * 100.0;
            (used, looked) = (now, Instant::now());
            if new.writes() > 0 || percent > RESTING {
                busy = Instant::now();
            }
            requests.add(&new);
            if busy.elapsed() >= pause {
                break;
            }
            if since.elapsed() > limit {
                bail!(
                    "it does not come to rest within {} s: {requests:?}\n{}",
                    limit.as_secs(),
                    crate::command::tail(&operator.printed(), 20)
                );
            }
        }
        Ok(Rest {
            seconds: busy.duration_since(since).as_secs_f64(),
            requests,
            cpu: used,
        })
    }

    /// Fails unless every policy is ready and every backup has its object.
    pub async fn is_complete(&self) -> Result<()> {
        let (mut policies, mut backups) = (0, 0);
        for number in 0..self.size.namespaces {
            let namespace = namespace(number);
            let list = self
                .cluster
                .get(&["-n", &namespace, "backuppolicies"])
                .await?;
            for policy in items(&list) {
                let status = &policy["status"];
                ensure!(
                    holds(status, "Ready") && status["observedGeneration"] == 1,
                    "{policy:#}"
                );
                ensure!(status["lastBackup"]["id"].is_string(), "{policy:#}");
                policies += 1;
            }
            let list = self.cluster.get(&["-n", &namespace, "backups"]).await?;
            for backup in items(&list) {
                ensure!(holds(&backup["status"], "Succeeded"), "{backup:#}");
                backups += 1;
            }
        }
        ensure!(
            (policies, backups) == (self.size.all_policies(), self.size.all_backups()),
            "{policies} policies and {backups} backups of {:?}",
            self.size
        );
        Ok(())
    }
}

fn namespace(number: u32) -> String {
    format!("scale-{number:02}")
}

fn policy_name(number: u32) -> String {
    format!("shop-{number:03}")
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn holds(status: &Value, condition: &str) -> bool {
    status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|one| one["type"] == condition && one["status"] == "True")
}

/// CPU seconds of a process so far.
pub fn cpu(pid: u32) -> Result<f64> {
    // Clock ticks are a hundredth of a second on Linux, whatever the kernel's own.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("it has ended")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("reading its times")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> Result<f64> {
        Ok(fields
            .get(at)
            .context("reading its times")?
            .parse::<f64>()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// MiB of memory of a process: resident now, and the most there was.
pub fn memory(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("it has ended")?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line
            .and_then(|rest| rest.split_whitespace().next())
            .context("reading its memory")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
