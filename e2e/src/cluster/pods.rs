//! What pods need and do: images, claims, Jobs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::{Cluster, LIMIT};
use crate::{Workdir, command, shared};

impl Cluster {
    /// Makes the project's image of a binary and gives it to the node: the
    /// same root filesystem as the Dockerfile's. Pods name what is returned,
    /// with `imagePullPolicy: Never` or `IfNotPresent`.
    pub async fn load_image(&self, binary: &Path) -> Result<String> {
        let work = Workdir::new()?;
        let rootfs = work.join("rootfs");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/rootfs");
        let mut assemble = Command::new(script);
        assemble
            .arg("--binary")
            .arg(binary)
            .arg("--out")
            .arg(&rootfs);
        command::run(assemble, None, LIMIT).await?.ok()?;
        self.load_rootfs(
            &rootfs,
            &format!("holdfast.dev/{}:e2e", shared::unique("holdfast")),
            &[
                "--entrypoint=/usr/local/bin/holdfast",
                "--cmd=operator",
                "--user=65532:65532",
                "--env=PATH=/usr/local/bin",
                "--env=HOME=/tmp",
                "--env=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            ],
        )
        .await
    }

    /// Makes an image of a folder and gives it to the node; the options are
    /// those of `cluster image`.
    pub async fn load_rootfs(&self, rootfs: &Path, name: &str, options: &[&str]) -> Result<String> {
        let work = Workdir::new()?;
        let archive = work.join("image.tar");
        let mut pack = Command::new(command::find("cluster")?);
        pack.args(["image", "--name", name, "--rootfs"])
            .arg(rootfs)
            .arg("--out")
            .arg(&archive)
            .args(options);
        command::run(pack, None, LIMIT).await?.ok()?;
        self.tell(&["load"], &archive.to_string_lossy()).await?;
        Ok(name.to_owned())
    }

    /// A PersistentVolumeClaim over a folder, bound; gives the folder.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join("claims").join(namespace).join(name);
        std::fs::create_dir_all(&folder).context("making the folder of a claim")?;
        // Pods that are not root write to it.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))
            .context("opening the folder of a claim")?;
        let spec = "storageClassName: \"\"\n  accessModes: [ReadWriteOnce, ReadWriteMany]";
        self.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {namespace}-{name}}}\nspec:\n  \
             capacity: {{storage: 1Gi}}\n  {spec}\n  hostPath: {{path: {}}}\n---\n\
             apiVersion: v1\nkind: PersistentVolumeClaim\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {spec}\n  \
             volumeName: {namespace}-{name}\n  resources: {{requests: {{storage: 1Gi}}}}\n",
            folder.display()
        ))
        .await?;
        let claim = ["-n", namespace, "persistentvolumeclaim", name];
        self.until("bound claim", LIMIT, &claim, |claim| {
            (claim["status"]["phase"] == "Bound").then_some(())
        })
        .await?;
        Ok(folder)
    }

    /// Waits until a Job has succeeded, and gives what its pods printed; an
    /// error with that when it failed.
    pub async fn job(&self, namespace: &str, name: &str, limit: Duration) -> Result<String> {
        let job = ["-n", namespace, "job", name];
        let failed = self
            .until("end of the Job", limit, &job, |job| {
                let conditions = job["status"]["conditions"].as_array()?;
                let is = |kind| {
                    let kind = serde_json::Value::from(kind);
                    conditions
                        .iter()
                        .any(|c| c["type"] == kind && c["status"] == "True")
                };
                (is("Complete") || is("Failed")).then(|| is("Failed"))
            })
            .await?;
        let logs = ["logs", "-n", namespace, "--prefix", "--tail=-1", "-l"];
        let pods = format!("batch.kubernetes.io/job-name={name}");
        let said = self
            .kubectl(logs.iter().copied().chain([pods.as_str()]))
            .await?
            .said();
        ensure!(!failed, "the Job {name} failed: {said}");
        Ok(said)
    }
}
