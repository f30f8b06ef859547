//! The chart in a real cluster's API: every manifest is accepted, upgrades bring the CRDs, uninstalling keeps
//! what people made, and nobody may do more than is written down. Pods are not run here.

#[path = "support/chart.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::Workdir;
use holdfast_e2e::cluster::{Cluster, Level};
use holdfast_e2e::command::Output;
use holdfast_e2e::helm::{self, chart, project, render};
use holdfast_e2e::skips::skip;
use serde_json::{Value, json};
use support::{NAMESPACE, SETS};

const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds of the Prometheus operator, which this cluster does not have.
const FOREIGN: &str = "monitoring.coreos.com/v1";

const OPERATOR: &str = "system:serviceaccount:backups:holdfast";

async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start(Level::Api).await?;
    for name in [NAMESPACE, "shop", "billing", "2024"] {
        cluster.kubectl(["create", "namespace", name]).await?.ok()?;
    }
    // The operator keeps to the strictest standard, so its namespace can demand it.
    let standard = "pod-security.kubernetes.io/enforce=restricted";
    cluster
        .kubectl(["label", "namespace", NAMESPACE, standard])
        .await?
        .ok()?;
    Ok(cluster)
}

async fn helm(cluster: &Cluster, verb: &str, folder: &Path, args: &[&str]) -> Result<Output> {
    let folder = folder.to_string_lossy();
    let mut all = vec![verb, "holdfast", &folder, "--namespace", NAMESPACE];
    all.extend(args);
    helm::run_in(&cluster.kubeconfig(), all).await?.ok()
}

#[tokio::test]
async fn every_manifest_is_accepted() -> Result<()> {
    let cluster = cluster().await?;
    for (name, values) in SETS {
        let mut objects = render(NAMESPACE, values).await?;
        objects.retain(|object| {
            let foreign = object["apiVersion"] == FOREIGN;
            if foreign {
                let kind = object["kind"].as_str().unwrap_or_default();
                let what = format!("every_manifest_is_accepted, {kind}");
                skip(&what, "no such kind in this cluster");
            }
            !foreign
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
        ];
        let output = cluster.feed(&apply, &list.to_string()).await?.ok();
        let output = output.with_context(|| format!("the values {name}"))?;
        let accepted = output.stdout.lines().count();
        ensure!(
            accepted == objects.len(),
            "{name}: {accepted} of {}",
            objects.len()
        );
        ensure!(
            !output.stderr.contains("Warning"),
            "{name}: {}",
            output.stderr
        );
    }

    // Without Helm, and twice: the second time changes nothing.
    let folder = project().join("deploy").to_string_lossy().into_owned();
    let apply = ["apply", "--server-side", "--validate=strict", "-k", &folder];
    let mut before = Value::Null;
    for _ in 0..2 {
        cluster.kubectl(apply).await?.ok()?;
        let get = ["-k", &folder];
        let now: Value = cluster.get(&get).await?["items"]
            .as_array()
            .context("no items")?
            .iter()
            .filter(|object| object["kind"] != "Deployment")
            .map(|object| object["metadata"]["resourceVersion"].clone())
            .collect();
        ensure!(
            before.is_null() || before == now,
            "something was written again"
        );
        before = now;
    }
    Ok(())
}

#[tokio::test]
async fn upgrades_bring_the_crds_and_uninstalling_leaves_them() -> Result<()> {
    let cluster = cluster().await?;
    // A chart of yesterday: its policies had no short name.
    let old = Workdir::new()?;
    copy(&chart(), old.path())?;
    let policies = old.join("files/crds/holdfast.dev_backuppolicies.yaml");
    let text = std::fs::read_to_string(&policies)?;
    ensure!(
        text.contains("    - hfp\n"),
        "the short name is another now"
    );
    std::fs::write(&policies, text.replace("    - hfp\n", "    - former\n"))?;
    helm(&cluster, "install", old.path(), &[]).await?;
    let names = |crd: &Value| crd["spec"]["names"]["shortNames"].clone();
    let get = ["crd", "backuppolicies.holdfast.dev"];
    ensure!(names(&cluster.get(&get).await?) == json!(["former"]));

    helm(&cluster, "upgrade", &chart(), &["--set", "replicas=2"]).await?;
    ensure!(
        names(&cluster.get(&get).await?) == json!(["hfp"]),
        "the CRD is as it was"
    );

    // The pods are made: the standard that the namespace demands lets them through.
    let pods = ["-n", NAMESPACE, "pods"];
    cluster
        .until("pods", PATIENCE, &pods, |list| {
            (list["items"].as_array()?.len() >= 2).then_some(())
        })
        .await?;

    let destination = "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\n\
        metadata: {name: bucket, namespace: shop}\nspec:\n  s3: {bucket: acme, region: eu-west-1}\n  \
        encryption: {password: {secretKeyRef: {name: repository, key: password}}}\n";
    cluster.apply(destination).await?;
    let made = cluster
        .get(&["-n", "shop", "destination", "bucket"])
        .await?;
    let uninstall = ["uninstall", "holdfast", "--namespace", NAMESPACE, "--wait"];
    helm::run_in(&cluster.kubeconfig(), uninstall).await?.ok()?;
    let left = cluster
        .get(&["-n", "shop", "destination", "bucket"])
        .await?;
    ensure!(
        left["metadata"]["uid"] == made["metadata"]["uid"],
        "it was made anew"
    );
    let deployments = cluster.get(&["-n", NAMESPACE, "deployments"]).await?;
    ensure!(deployments["items"] == json!([]), "{deployments}");

    // The same release takes up what it left; another is told, or takes it over.
    helm(&cluster, "install", &chart(), &[]).await?;
    Ok(())
}

/// What is asked of an account in a namespace, and the answer.
type Question = (&'static str, &'static str, bool);

#[rustfmt::skip]
const OF_THE_OPERATOR: &[Question] = &[
    ("shop", "list backuppolicies.holdfast.dev", true),
    ("shop", "patch destinations.holdfast.dev --subresource=status", true),
    ("shop", "create backups.holdfast.dev", true),
    ("shop", "create jobs.batch", true),
    ("shop", "get pods --subresource=log", true),
    ("shop", "get secrets", true),
    ("shop", "create events.events.k8s.io", true),
    (NAMESPACE, "update leases.coordination.k8s.io/holdfast-operator", true),
    // Everything it knows of an object it has from its watch.
    ("shop", "get backuppolicies.holdfast.dev", false),
    ("shop", "get pods", false),
    ("shop", "create events", false),
    ("shop", "create secrets", false),
    ("shop", "patch secrets", false),
    ("shop", "delete secrets", false),
    ("shop", "update secrets", false),
    ("shop", "patch backuppolicies.holdfast.dev", false),
    ("shop", "patch restores.holdfast.dev", false),
    ("shop", "delete jobs.batch", false),
    ("shop", "create backuppolicies.holdfast.dev", false),
    ("shop", "update backuppolicies.holdfast.dev", false),
    ("shop", "delete backuppolicies.holdfast.dev", false),
    ("shop", "delete destinations.holdfast.dev", false),
    ("shop", "create restores.holdfast.dev", false),
    ("shop", "deletecollection backups.holdfast.dev", false),
    ("shop", "create pods", false),
    ("shop", "create pods --subresource=exec", false),
    ("shop", "create serviceaccounts --subresource=token", false),
    ("shop", "create rolebindings.rbac.authorization.k8s.io", false),
    ("shop", "patch deployments.apps", false),
    ("shop", "get configmaps", false),
    ("shop", "update leases.coordination.k8s.io/holdfast-operator", false),
    (NAMESPACE, "update leases.coordination.k8s.io/another", false),
    (NAMESPACE, "delete leases.coordination.k8s.io/holdfast-operator", false),
    ("shop", "list nodes", false),
    ("shop", "list namespaces", false),
    ("shop", "patch customresourcedefinitions.apiextensions.k8s.io", false),
    ("shop", "impersonate users", false),
];

/// The pods of runs have no token; this is what their account could do if they had.
#[rustfmt::skip]
const OF_A_WORKER: &[Question] = &[
    ("shop", "get secrets", false),
    ("shop", "get backups.holdfast.dev", false),
    ("shop", "patch backups.holdfast.dev --subresource=status", false),
    ("shop", "create jobs.batch", false),
    ("shop", "get pods", false),
    ("billing", "get secrets", false),
];

#[rustfmt::skip]
const OF_PEOPLE: &[(&str, Question)] = &[
    ("view", ("shop", "list backups.holdfast.dev", true)),
    ("view", ("shop", "watch backuppolicies.holdfast.dev", true)),
    ("view", ("shop", "create restores.holdfast.dev", false)),
    ("view", ("shop", "get secrets", false)),
    ("view", ("billing", "list backups.holdfast.dev", false)),
    ("edit", ("shop", "list backups.holdfast.dev", true)),
    ("edit", ("shop", "create restores.holdfast.dev", true)),
    ("edit", ("shop", "delete destinations.holdfast.dev", true)),
    ("edit", ("shop", "patch backups.holdfast.dev --subresource=status", false)),
    ("edit", ("shop", "deletecollection backups.holdfast.dev", false)),
    ("edit", ("billing", "create backuppolicies.holdfast.dev", false)),
    ("admin", ("shop", "deletecollection backups.holdfast.dev", true)),
    ("admin", ("shop", "create backuppolicies.holdfast.dev", true)),
    ("admin", ("shop", "patch backups.holdfast.dev --subresource=status", false)),
];

/// Asks the API server whether `who` may do it.
async fn may(cluster: &Cluster, who: &str, (namespace, what, expected): Question) -> Result<()> {
    let account = format!("--as={who}");
    let mut args = vec!["auth", "can-i", "--namespace", namespace, &account];
    args.extend(what.split(' '));
    let output = cluster.kubectl(args).await?;
    let answer = output.stdout.trim();
    ensure!(
        answer == if expected { "yes" } else { "no" },
        "{who}: {what} in {namespace}: {}",
        output.said()
    );
    Ok(())
}

#[tokio::test]
async fn nobody_may_do_more_than_is_written_down() -> Result<()> {
    let cluster = cluster().await?;
    helm(&cluster, "install", &chart(), &[]).await?;
    for question in OF_THE_OPERATOR {
        may(&cluster, OPERATOR, *question).await?;
    }
    for question in OF_A_WORKER {
        may(&cluster, "system:serviceaccount:shop:default", *question).await?;
    }
    for role in ["view", "edit", "admin"] {
        let (cluster_role, user) = (format!("--clusterrole={role}"), format!("--user={role}er"));
        let bind = [
            "create",
            "rolebinding",
            role,
            &cluster_role,
            &user,
            "--namespace=shop",
        ];
        cluster.kubectl(bind).await?.ok()?;
    }
    // The controller manager adds the rules to the cluster's own roles.
    let aggregated = |role: &Value| role.to_string().contains("holdfast.dev").then_some(());
    for role in ["view", "edit", "admin"] {
        cluster
            .until("rules", PATIENCE, &["clusterrole", role], aggregated)
            .await?;
    }
    for (role, question) in OF_PEOPLE {
        may(&cluster, &format!("{role}er"), *question).await?;
    }

    // With a list of namespaces, nothing is allowed outside of it; with shared destinations, Secrets are.
    let values = [
        "--set",
        "watchNamespaces={shop}",
        "--set",
        "sharedDestinations=true",
    ];
    helm(&cluster, "upgrade", &chart(), &values).await?;
    for question in [
        ("shop", "list backuppolicies.holdfast.dev", true),
        ("shop", "create secrets", true),
        ("shop", "patch secrets", true),
        ("shop", "delete secrets", false),
        ("shop", "update secrets", false),
        ("billing", "list backuppolicies.holdfast.dev", false),
        ("billing", "get secrets", false),
        ("billing", "create secrets", false),
        ("billing", "create jobs.batch", false),
        (NAMESPACE, "get secrets", false),
        (
            NAMESPACE,
            "update leases.coordination.k8s.io/holdfast-operator",
            true,
        ),
    ] {
        may(&cluster, OPERATOR, question).await?;
    }
    Ok(())
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
