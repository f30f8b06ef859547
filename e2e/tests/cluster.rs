//! The test cluster itself: it starts, runs this project's image, lets pods
//! reach the servers of the tests, and leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::{Cluster, Level};
use holdfast_e2e::mongod::{Options, ReplicaSet};
use holdfast_e2e::process;
use holdfast_e2e::skips::skip;
use holdfast_e2e::{Workdir, command, holdfast, shared};

const LIMIT: Duration = Duration::from_secs(120);

/// A Job of one container, never tried again.
fn job(namespace: &str, name: &str, image: &str, args: &[&str]) -> String {
    let args = serde_json::json!(args);
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         backoffLimit: 0\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n      \
         - {{name: main, image: {image:?}, imagePullPolicy: Never, args: {args}}}\n"
    )
}

#[tokio::test]
async fn the_api_takes_the_kinds_and_comes_back_after_it_was_killed() -> Result<()> {
    let started = Instant::now();
    let cluster = Cluster::start_with(Level::Api, true).await?;
    eprintln!("the API: up after {:.1} s", started.elapsed().as_secs_f64());
    cluster.apply_crds().await?;
    let namespace = cluster.namespace("kinds").await?;
    cluster
        .apply(&format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\n\
             metadata: {{name: disk, namespace: {namespace}}}\nspec:\n  local: {{path: /backups}}\n  \
             encryption: {{password: {{secretKeyRef: {{name: disk, key: password}}}}}}\n"
        ))
        .await?;
    let audit = std::fs::read_to_string(cluster.audit_log())?;
    ensure!(audit.contains("\"resource\":\"destinations\""), "{audit}");

    cluster.kill_apiserver().await?;
    let refused = cluster.kubectl(["get", "namespaces"]).await?;
    ensure!(refused.code != Some(0), "{}", refused.said());
    cluster.start_apiserver().await?;
    let found = cluster
        .get(&["-n", &namespace, "destination", "disk"])
        .await?;
    ensure!(found["spec"]["local"]["path"] == "/backups", "{found}");

    // Killed, its supervisor cannot end anything; the kernel does.
    let supervisor = cluster.state()["supervisor"].to_string();
    ensure!(cluster.processes().len() >= 4);
    let kill = Command::new("kill")
        .args(["-s", "KILL", &supervisor])
        .status()?;
    ensure!(kill.success());
    let deadline = Instant::now() + LIMIT;
    while !cluster.processes().is_empty() {
        ensure!(Instant::now() < deadline, "{:?}", cluster.processes());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_runs_pods_that_reach_the_servers_and_leaves_nothing() -> Result<()> {
    if let Some(reason) = Cluster::refusal().await? {
        skip(
            "a_node_runs_pods_that_reach_the_servers_and_leaves_nothing",
            &reason,
        );
        return Ok(());
    }
    let started = Instant::now();
    let cluster = Cluster::start(Level::Node).await?;
    eprintln!(
        "the node: up after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let nodes = cluster.get(&["nodes"]).await?;
    ensure!(
        nodes["items"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 1)
    );
    cluster.apply_crds().await?;
    let namespace = cluster.namespace("pods").await?;

    let started = Instant::now();
    let image = cluster.load_image(&holdfast::binary()?).await?;
    eprintln!(
        "the image: loaded after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    cluster
        .apply(&job(&namespace, "version", &image, &["--version"]))
        .await?;
    let said = cluster.job(&namespace, "version", LIMIT).await?;
    ensure!(said.contains("holdfast "), "{said}");

    // A replica set that listens for pods, and a server on loopback that was exposed.
    let dir = Workdir::new()?;
    let options = Options {
        address: cluster.outside()?,
        ..Options::default()
    };
    let set = ReplicaSet::start_with(&dir, options).await?;
    set.client().await?.list_database_names().await?;
    let standalone = shared::standalone().await?;
    let exposed = cluster.expose(standalone.port()).await?;
    let rootfs = dir.fresh("rootfs")?;
    std::fs::copy(command::find("mongodump")?, rootfs.join("mongodump"))?;
    let image = cluster
        .load_rootfs(
            &rootfs,
            "holdfast.dev/mongodump:e2e",
            &["--entrypoint=/mongodump"],
        )
        .await?;
    let direct = format!("mongodb://{exposed}/?directConnection=true");
    for (name, uri) in [("set", set.uri()), ("standalone", direct)] {
        let args = ["--uri", &uri, "--db=admin", "--out=/dump"];
        cluster.apply(&job(&namespace, name, &image, &args)).await?;
        cluster.job(&namespace, name, LIMIT).await?;
    }

    // A pod that is still running when everything ends.
    cluster.claim(&namespace, "data").await?;
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: {namespace}}}\nspec:\n  \
             volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]\n  containers:\n  \
             - name: pause\n    image: holdfast.dev/e2e/pause:1\n    imagePullPolicy: Never\n    \
             volumeMounts: [{{name: data, mountPath: /data}}]\n"
        ))
        .await?;
    let pod = ["-n", &namespace, "pod", "web"];
    cluster
        .until("running pod", LIMIT, &pod, |pod| {
            (pod["status"]["phase"] == "Running").then_some(())
        })
        .await?;

    let state = cluster.state().clone();
    let kubeconfig = cluster.kubeconfig();
    let folder = kubeconfig
        .parent()
        .context("no folder")?
        .to_string_lossy()
        .into_owned();
    let running = cluster.processes();
    // Ten programs, a shim and two containers, one of them the pod's own.
    ensure!(running.len() >= 12, "{running:?}");
    let memory: u64 = running
        .iter()
        .filter_map(|id| process::peak_memory(*id).ok())
        .sum();
    eprintln!("{} processes, {} MiB at most", running.len(), memory >> 20);
    let started = Instant::now();
    cluster.stop().await?;
    eprintln!("ended after {:.1} s", started.elapsed().as_secs_f64());
    let left: Vec<&u32> = running.iter().filter(|id| process::exists(**id)).collect();
    ensure!(left.is_empty(), "still running: {left:?}");
    let name = state["network"]["interface"]
        .as_str()
        .context("no interface")?;
    ensure!(
        !Path::new("/sys/class/net").join(name).exists(),
        "{name} is left"
    );
    let group = state["cgroup"].as_str().context("no control group")?;
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")? {
        let path = hierarchy?.path().join(group);
        ensure!(!path.exists(), "{} is left", path.display());
    }
    ensure!(!Path::new("/sys/fs/cgroup").join(group).exists());
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(&folder), "{mounts}");
    Ok(())
}
