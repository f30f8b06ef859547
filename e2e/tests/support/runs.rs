//! What the tests of runs in a cluster share: one cluster with a node, the kinds and the image; for
//! each test a namespace, a source that can be held, and the processes of its pods.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::holdfast::{REPOSITORY_PASSWORD, binary};
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::proxy::{Mood, Proxy};
use holdfast_e2e::tools::Restic;
use holdfast_e2e::{Workdir, command, dataset, s3, shared};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// How long anything may take that Kubernetes and the operator do between them.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// A schedule that is never due here.
pub(crate) const NEVER: &str = "{cron: '0 0 29 2 *'}";

/// A schedule that is due once, at once.
pub(crate) const ONCE: &str = "{cron: '0 0 29 2 *', immediate: true}";

static IMAGE: OnceCell<String> = OnceCell::const_new();
static ENDPOINT: OnceCell<String> = OnceCell::const_new();

/// A namespace of the cluster that all tests share.
pub(crate) struct World {
    pub(crate) cluster: &'static Cluster,
    pub(crate) image: String,
    pub(crate) dir: Workdir,
    pub(crate) name: String,
}

impl World {
    /// A namespace of its own, in which the Secret `repo` is; `None` where no node can run.
    pub(crate) async fn new(test: &str, stem: &str) -> Result<Option<Self>> {
        let Some(cluster) = shared::cluster(test).await? else {
            return Ok(None);
        };
        let image = IMAGE
            .get_or_try_init(|| async {
                cluster.apply_crds().await?;
                cluster.load_image(&binary()?).await
            })
            .await?
            .clone();
        let world = Self {
            cluster,
            image,
            dir: Workdir::new()?,
            name: cluster.namespace(stem).await?,
        };
        world
            .secret("repo", &[("password", REPOSITORY_PASSWORD)])
            .await?;
        Ok(Some(world))
    }

    /// Another namespace beside it.
    pub(crate) async fn beside(&self, stem: &str) -> Result<Self> {
        Ok(Self {
            cluster: self.cluster,
            image: self.image.clone(),
            dir: Workdir::new()?,
            name: self.cluster.namespace(stem).await?,
        })
    }

    /// An operator of these namespaces alone, as a process.
    pub(crate) async fn operator_of(&self, name: &str, namespaces: &[&Self]) -> Result<Operator> {
        let options = Options {
            namespaces: namespaces.iter().map(|one| one.name.clone()).collect(),
            image: Some(self.image.clone()),
            ..Options::default()
        };
        Operator::start(self.cluster, &self.dir, name, &options).await
    }

    /// An operator of this namespace alone.
    pub(crate) async fn operator(&self, name: &str) -> Result<Operator> {
        self.operator_of(name, &[self]).await
    }

    pub(crate) async fn apply(&self, yaml: &str) -> Result<()> {
        let args = ["apply", "-n", &self.name];
        self.cluster.feed(&args, yaml).await?.ok().map(drop)
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<command::Output> {
        let space = ["-n", &self.name];
        self.cluster.kubectl(args.iter().chain(&space)).await
    }

    /// Creates a Secret, or gives it other values.
    pub(crate) async fn secret(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let data: serde_json::Map<String, Value> = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
            .collect();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data,
        });
        self.apply(&secret.to_string()).await
    }

    pub(crate) async fn get(&self, object: &str) -> Result<Value> {
        self.cluster.get(&["-n", &self.name, object]).await
    }

    /// The objects of a kind.
    pub(crate) async fn list(&self, kind: &str) -> Result<Vec<Value>> {
        Ok(items(&self.get(kind).await?))
    }

    /// The Jobs that make backups, or do something else.
    pub(crate) async fn jobs(&self, run: &str) -> Result<Vec<Value>> {
        let mut jobs = self.list("jobs").await?;
        jobs.retain(|job| job["metadata"]["labels"]["holdfast.dev/run"] == run);
        Ok(jobs)
    }

    pub(crate) async fn until<T>(
        &self,
        what: &str,
        object: &str,
        probe: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let args = ["-n", &self.name, object];
        self.cluster.until(what, LIMIT, &args, probe).await
    }

    /// Waits until a condition has this status and reason, and gives its message.
    pub(crate) async fn says(&self, object: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{status} because of {reason} at {object}");
        self.until(&what, object, |object| {
            let said = object["status"]["conditions"].as_array()?;
            said.iter()
                .find(|one| one["status"] == status && one["reason"] == reason)
                .map(|one| text(&one["message"]))
        })
        .await
    }

    /// Fills a bucket's worth of objects: the bucket, the Secret `s3`, the Destination `bucket`.
    pub(crate) async fn bucket(&self, more: &str) -> Result<Restic> {
        let s3 = shared::s3().await?;
        let endpoint = ENDPOINT
            .get_or_try_init(|| self.cluster.expose(s3.port()))
            .await?;
        s3.create_bucket(&self.name).await?;
        self.secret("s3", &[("id", s3::ACCESS_KEY), ("secret", s3::SECRET_KEY)])
            .await?;
        self.apply(&format!(
            r"
apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: bucket}}
spec:
  s3:
    bucket: {}
    endpoint: http://{endpoint}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: s3, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: s3, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repo, key: password}}}}}}
{more}",
            self.name,
            s3::REGION
        ))
        .await?;
        Ok(Restic::s3(s3, &self.name, "", REPOSITORY_PASSWORD))
    }

    /// The Destination `disk` on a claim of that name; gives its folder.
    pub(crate) async fn disk(&self) -> Result<std::path::PathBuf> {
        let folder = self.cluster.claim(&self.name, "disk").await?;
        self.apply(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\nmetadata: {name: disk}\nspec:\n  \
             local: {path: /repository, persistentVolumeClaim: {claimName: disk}}\n  \
             encryption: {password: {secretKeyRef: {name: repo, key: password}}}\n",
        )
        .await?;
        Ok(folder)
    }

    /// Asks for a backup of the policy `shop`.
    pub(crate) async fn ask(&self, name: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\n\
             spec: {{policy: shop}}\n"
        ))
        .await
    }

    /// A server with a database of this size, of which no more is read than is let through.
    pub(crate) async fn source(&self, bytes: u64) -> Result<Source> {
        let server = shared::standalone().await?;
        let database = shared::unique("shop");
        let client = server.client().await?;
        dataset::fill(&client, &database, "orders", bytes, 3).await?;
        let proxy = Proxy::start(server.port()).await?;
        let address = self.cluster.expose(proxy.port()).await?;
        let source = Source {
            uri: format!("mongodb://{address}/?directConnection=true"),
            database,
            proxy,
        };
        source.slowly();
        Ok(source)
    }

    /// Waits for a running pod of a Job that is none of those, and for its process.
    pub(crate) async fn pod(&self, run: &str, but: &[&Pod]) -> Result<Pod> {
        let deadline = Instant::now() + LIMIT;
        loop {
            for pod in self.list("pods").await? {
                let labels = &pod["metadata"]["labels"];
                let name = text(&pod["metadata"]["name"]);
                let fits = labels["holdfast.dev/run"] == run
                    && pod["status"]["phase"] == "Running"
                    && but.iter().all(|known| known.name != name);
                let uid = text(&pod["metadata"]["uid"]);
                if fits && let Some(process) = self.process(&uid) {
                    return Ok(Pod {
                        name,
                        process,
                        object: pod,
                    });
                }
            }
            ensure!(
                Instant::now() < deadline,
                "no running pod for a {run}: {:#}",
                self.get("jobs,pods,events").await?
            );
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// The worker in a pod.
    fn process(&self, uid: &str) -> Option<u32> {
        let read = |id: u32, name: &str| {
            let bytes = std::fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        self.cluster.processes().into_iter().find(|id| {
            let group = read(*id, "cgroup");
            let within = group.contains(uid) || group.contains(&uid.replace('-', "_"));
            within && read(*id, "cmdline").ends_with("holdfast\0worker\0")
        })
    }

    /// The events about an object, as `type reason`.
    pub(crate) async fn events(&self, kind: &str, name: &str) -> Result<BTreeSet<String>> {
        let events = self.list("events").await?;
        Ok(events
            .iter()
            .filter(|event| event["involvedObject"]["kind"] == kind)
            .filter(|event| event["involvedObject"]["name"] == name)
            .map(|event| format!("{} {}", text(&event["type"]), text(&event["reason"])))
            .collect())
    }

    /// Adds to a failure what can be seen.
    pub(crate) async fn explained<T>(
        &self,
        result: Result<T>,
        operator: Option<&Operator>,
    ) -> Result<T> {
        let Err(error) = result else {
            return result;
        };
        let objects = self.kubectl(&["get", "all,events"]).await?.said();
        let ours = ["logs", "--prefix", "--tail=40", "-l"];
        let ours = ours
            .iter()
            .chain(&["app.kubernetes.io/managed-by=holdfast"]);
        let logs = self.kubectl(&ours.copied().collect::<Vec<_>>()).await?;
        let printed = operator.map(Operator::printed).unwrap_or_default();
        Err(error.context(format!(
            "{objects}\n--- pods\n{}\n--- operator\n{printed}",
            logs.said()
        )))
    }
}

/// A running pod of a Job.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) process: u32,
    pub(crate) object: Value,
}

impl Pod {
    /// SIGKILL to its process, as the kernel does it when memory runs out.
    pub(crate) async fn kill9(&self) -> Result<()> {
        let mut kill = tokio::process::Command::new(command::find("kill")?);
        kill.arg("-9").arg(self.process.to_string());
        command::run(kill, None, LIMIT).await?.ok().map(drop)
    }

    /// A file below `/proc/ID/`.
    pub(crate) fn proc(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.process);
        std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }

    /// Whether its processes see this path.
    pub(crate) fn sees(&self, path: &str) -> bool {
        Path::new(&format!("/proc/{}/root{path}", self.process))
            .symlink_metadata()
            .is_ok()
    }
}

/// A database behind a proxy.
pub(crate) struct Source {
    pub(crate) database: String,
    pub(crate) proxy: Proxy,
    pub(crate) uri: String,
}

impl Source {
    /// `source` of a policy, in one line.
    pub(crate) fn yaml(&self) -> String {
        format!(
            "{{mongodb: {{uri: '{}', include: ['{}.*'], usersAndRoles: false}}}}",
            self.uri, self.database
        )
    }

    /// Lets it be read, but not so that a backup ends while one looks away.
    pub(crate) fn slowly(&self) {
        self.proxy.set(Mood::Slow(Duration::from_millis(150)));
    }

    /// Lets it be read.
    pub(crate) fn freely(&self) {
        self.proxy.set(Mood::Fine);
    }

    /// Lets so little through that nothing comes to an end, and no connection is taken for dead.
    pub(crate) fn crawling(&self) {
        self.proxy.set(Mood::Slow(Duration::from_secs(1)));
    }

    /// Waits until some of it was read, and holds the rest back: a stall would be noticed by the
    /// driver, which ends a connection that is silent for 20 s.
    pub(crate) async fn hold(&self) -> Result<()> {
        let before = self.proxy.passed();
        let deadline = Instant::now() + LIMIT;
        while self.proxy.passed() < before + (512 << 10) {
            ensure!(Instant::now() < deadline, "nothing is read of the source");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.proxy.set(Mood::Slow(Duration::from_secs(3)));
        Ok(())
    }
}

/// A policy `shop`; `job` is the value of `spec.job`.
pub(crate) fn policy(source: &str, schedule: &str, destinations: &str, job: &str) -> String {
    format!(
        r"
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: shop}}
spec:
  source: {source}
  schedule: {schedule}
  destinations: {destinations}
  retention: {{keepLast: 3}}
  job: {job}
"
    )
}

/// `.items`.
pub(crate) fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

/// A string, or nothing.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The ids of restic's listing of a repository that may not be there.
pub(crate) async fn snapshots(restic: &Restic) -> Result<Vec<String>> {
    let listed = restic.run(["snapshots", "--json", "--no-lock"]).await?;
    if listed.code != Some(0) {
        // 10: there is no repository.
        return listed.code_is(10).map(|_| Vec::new());
    }
    let list = listed.json()?;
    let ids = list.as_array().context("no list of snapshots")?;
    Ok(ids.iter().map(|one| text(&one["id"])).collect())
}
