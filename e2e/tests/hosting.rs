//! What a declaration asks for that one machine does not have is refused with a reason and never
//! ignored; and a destination of another namespace is used only where that one says so.

#[path = "support/control.rs"]
mod support;

use std::path::Path;

use anyhow::{Result, ensure};
use holdfast_e2e::Workspace;
use holdfast_e2e::holdfast::quote;
use support::{IMMEDIATE, expect, files, sample};

const CLAIM: &str = "persistentVolumeClaim: {claimName: some";

#[tokio::test]
async fn what_only_a_cluster_has_is_refused_on_one_machine() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    workspace.local_destination("disk")?;
    // A claim is not mounted below /tmp, where the workspace is; nothing is ever made at these.
    let place = Path::new("/holdfast-e2e-volume/repository");
    let restored = Path::new("/holdfast-e2e-volume/restored");
    workspace.destination(
        "volume",
        &format!(
            "local: {{path: {}, {CLAIM}}}}}",
            quote(&place.to_string_lossy())
        ),
        "",
    )?;
    let claimed = format!("files:\n  paths: [/data/shop]\n  {CLAIM}, mountPath: /data}}\n");
    // What each policy must be told of.
    let job = ["spec.job is for a cluster", "remove it"];
    let claim = [
        "spec.source.files.persistentVolumeClaim",
        "paths are folders here",
    ];
    let volume = ["spec.local.persistentVolumeClaim", "path is a folder here"];
    let with_job = format!("{IMMEDIATE}job: {{backoffLimit: 1}}\n");
    workspace.files_policy("job", &[&folder], &["disk"], &with_job)?;
    workspace.policy("claimed", &claimed, &["disk"], IMMEDIATE)?;
    workspace.files_policy("volume", &[&folder], &["volume"], IMMEDIATE)?;

    expect(workspace.holdfast(["validate", "policies"]).await?, 0, &[])?;
    for (policy, words) in [("job", job), ("claimed", claim), ("volume", volume)] {
        let output = workspace.holdfast(["backup", policy]).await?;
        expect(output, 1, &words)?;
    }
    let args = ["run", "--once", "policies", "-o", "json"];
    let once = workspace.holdfast(args).await?;
    let once = expect(once, 1, &[job[0], claim[0], volume[0], "ClusterOnly"])?;
    ensure!(!once.said().contains("BackedUp"), "{}", once.said());
    ensure!(
        files(&workspace.repository("disk"))?.is_empty() && !place.exists(),
        "something was written"
    );

    // Without what is refused, the same policies do their work.
    workspace.files_policy("job", &[&folder], &["disk"], IMMEDIATE)?;
    workspace.remove_yaml("policy-claimed")?;
    workspace.remove_yaml("policy-volume")?;
    workspace.remove_yaml("destination-volume")?;
    workspace.yaml(
        "restore",
        &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back}}\nspec:\n  from: {{policy: job}}\n  to: {{files: {{path: {}, {CLAIM}}}}}}}\n",
            quote(&restored.to_string_lossy())
        ),
    )?;
    let once = workspace.holdfast(args).await?;
    expect(
        once,
        1,
        &["spec.to.files.persistentVolumeClaim", "ClusterOnly"],
    )?;
    ensure!(
        !files(&workspace.repository("disk"))?.is_empty(),
        "no backup was made"
    );
    ensure!(!restored.exists(), "something was restored");
    Ok(())
}

#[tokio::test]
async fn a_destination_of_another_namespace_has_to_allow_it() -> Result<()> {
    let workspace = Workspace::new()?;
    let folder = sample(&workspace, "data")?;
    let destination = |name: &str, allowed: &str| -> Result<()> {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Destination\nmetadata: {{name: {name}, namespace: backups}}\nspec:\n  local: {{path: {}}}\n  encryption: {{password: {{secretKeyRef: {{name: repository, key: password}}}}}}\n  allowedNamespaces: {allowed}\n",
            quote(&workspace.repository(name).to_string_lossy())
        );
        workspace
            .yaml(&format!("destination-{name}"), &text)
            .map(drop)
    };
    let policy = |destinations: &str| -> Result<()> {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: BackupPolicy\nmetadata: {{name: data, namespace: web}}\nspec:\n  source: {{files: {{paths: [{}]}}}}\n  destinations: {destinations}\n  {IMMEDIATE}",
            quote(&folder.to_string_lossy())
        );
        workspace.yaml("policy-data", &text).map(drop)
    };
    destination("theirs", "[shop]")?;
    destination("ours", "[web]")?;
    destination("everyones", "[\"*\"]")?;

    // The words do not tell what is there and not allowed from what is not there.
    let mut said = Vec::new();
    for name in ["theirs", "nobodys"] {
        policy(&format!("[{{name: {name}, namespace: backups}}]"))?;
        let output = workspace.holdfast(["validate", "policies"]).await?;
        let output = expect(output, 2, &["namespace `web` may use no Destination"])?;
        said.push(output.said().replace(name, "NAME"));
    }
    ensure!(said[0] == said[1], "{said:#?}");

    policy("[{name: ours, namespace: backups}, {name: everyones, namespace: backups}]")?;
    expect(workspace.holdfast(["validate", "policies"]).await?, 0, &[])?;
    let once = workspace.holdfast(["run", "--once", "policies"]).await?;
    expect(once, 0, &[])?;
    for name in ["ours", "everyones"] {
        let snapshots = workspace.restic(name).snapshots().await?;
        ensure!(snapshots.len() == 1, "{name} holds {}", snapshots.len());
    }
    let listed = support::backups(&workspace, &["--policy", "web/data"]).await?;
    ensure!(listed.len() == 1, "{listed:?}");
    ensure!(
        listed[0]["status"]["copies"].as_array().map(Vec::len) == Some(2),
        "{listed:?}"
    );
    let history = support::history(&workspace, &["--policy", "web/data"]).await?;
    ensure!(
        history
            .iter()
            .all(|run| run["metadata"]["namespace"] == "web"
                && run["spec"]["destinationNamespace"] == "backups"),
        "{history:?}"
    );

    // A Restore reads from what its policy means by the name.
    let restored = workspace.join("restored");
    workspace.yaml(
        "restore",
        &format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: Restore\nmetadata: {{name: back, namespace: web}}\nspec:\n  from: {{policy: data, destination: everyones}}\n  to: {{files: {{path: {}}}}}\n",
            quote(&restored.to_string_lossy())
        ),
    )?;
    let once = workspace.holdfast(["run", "--once", "policies"]).await?;
    expect(once, 0, &[])?;
    ensure!(!files(&restored)?.is_empty(), "nothing was restored");
    Ok(())
}
