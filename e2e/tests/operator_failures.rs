//! What an operator makes of what goes wrong: it says so once, waits for what is missing, touches nothing
//! that it was not asked to, and goes on. A real API server without a node: no pod starts here.

#[path = "support/space.rs"]
mod support;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::operator::{Operator, Options};
use holdfast_e2e::process::Signal;
use serde_json::Value;
use support::{SOON, Space, text};

const DB: &str =
    "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {uri: 'mongodb://db:27017'}\n";

fn restore(name: &str) -> String {
    format!(
        r"
---
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: {name}}}
spec:
  from: {{policy: shop, backup: latest}}
  to: {{mongodb: {{uriFrom: {{secretKeyRef: {{name: target, key: uri}}}}}}}}
"
    )
}

/// The name of the one mirrored Backup, once its finalizer promises to take the data with it.
async fn promised(space: &Space) -> Result<String> {
    let backups = space.backups(1).await?;
    let name = backups.keys().next().context("no backup")?.clone();
    let delete = r#"{"spec": {"deletionPolicy": "Delete"}}"#;
    space
        .kubectl(&["patch", "backup", &name, "--type=merge", "-p", delete])
        .await?;
    space
        .until("finalizer", &["backup", &name], |backup| {
            backup["metadata"]["finalizers"][0].as_str().map(|_| ())
        })
        .await?;
    Ok(name)
}

/// How many snapshots there are of the policy, as they are seen from the box.
async fn left(workspace: &holdfast_e2e::Workspace) -> Result<usize> {
    let list = ["backups", "-o", "json"];
    let list = workspace.holdfast(list).await?.ok()?.json()?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

#[tokio::test]
async fn a_policy_that_waits_says_so_once_and_goes_on_when_the_secret_comes() -> Result<()> {
    let space = Space::new("waits").await?;
    space.kubectl(&["delete", "secret", "db"]).await?;
    let _operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    space.apply(&space.policy("")).await?;
    space.reason("backuppolicy/shop", "SecretNotFound").await?;
    space.is_still().await?;
    let events = space.events("BackupPolicy").await?;
    let told = events.iter().filter(|one| *one == "SecretNotFound");
    ensure!(told.count() == 1, "{events:?}");
    ensure!(space.jobs().await?.is_empty());
    space.apply(DB).await?;
    space.until("Job", &["jobs"], one).await?;
    space.reason("backuppolicy/shop", "Scheduled").await?;
    Ok(())
}

fn one(list: &Value) -> Option<Value> {
    list["items"].as_array()?.first().cloned()
}

#[tokio::test]
async fn a_restore_waits_for_its_secret_and_is_done_when_that_comes() -> Result<()> {
    let space = Space::new("target").await?;
    space.made_before(1).await?;
    let _operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    space
        .apply(&space.policy("  retention: {keepLast: 3}\n"))
        .await?;
    space.apply(&restore("back")).await?;
    let back = space.reason("restore/back", "SecretNotFound").await?;
    ensure!(back["status"].get("completionTime").is_none(), "{back:#}");
    space.is_still().await?;
    space
        .apply(&DB.replace("{name: db}", "{name: target}"))
        .await?;
    space.reason("restore/back", "Running").await?;
    ensure!(space.jobs().await? == ["restore"]);
    Ok(())
}

/// A quota that is full is nobody's mistake: the run is made when there is room.
#[tokio::test]
async fn a_job_that_is_not_admitted_is_tried_again() -> Result<()> {
    let space = Space::new("quota").await?;
    let quota = |jobs: u32| {
        format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: jobs}}\nspec: {{hard: {{count/jobs.batch: '{jobs}'}}}}\n"
        )
    };
    space.apply(&quota(0)).await?;
    space
        .until("quota in force", &["resourcequota", "jobs"], |quota| {
            quota["status"]["hard"].as_object().map(|_| ())
        })
        .await?;
    let _operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    space.apply(&space.policy("")).await?;
    space.reason("backuppolicy/shop", "JobNotAdmitted").await?;
    space.is_still().await?;
    space.apply(&quota(5)).await?;
    space.until("Job", &["jobs"], one).await?;
    space.reason("backuppolicy/shop", "Scheduled").await?;
    Ok(())
}

/// The policy names another destination now. What is in the one before is nobody's to delete.
#[tokio::test]
async fn a_destination_that_a_policy_leaves_keeps_what_was_promised_to_go_with_an_object()
-> Result<()> {
    let space = Space::new("leaves").await?;
    let workspace = space.made_before(1).await?;
    let _operator = space.operator().await?;
    let other = space
        .destination()
        .replace("name: box", "name: other")
        .replace("  encryption", "    prefix: other\n  encryption");
    space.apply(&space.destination()).await?;
    space.apply(&other).await?;
    let policy = space.policy("  retention: {keepLast: 3}\n  suspend: true\n");
    space.apply(&policy).await?;
    let backup = promised(&space).await?;
    space
        .apply(&policy.replace("[{name: box}]", "[{name: other}]"))
        .await?;
    space
        .until("new generation", &["backuppolicy/shop"], |shop| {
            (shop["status"]["observedGeneration"] == 2).then_some(())
        })
        .await?;
    space.ask("destination/other", "1").await?;
    space.ask("backuppolicy/shop", "1").await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let object = space.get(&["backup", &backup]).await?;
    ensure!(
        object["metadata"].get("deletionTimestamp").is_none(),
        "{object:#}"
    );
    ensure!(space.jobs().await?.is_empty(), "{:?}", space.jobs().await?);
    ensure!(left(&workspace).await? == 1);
    Ok(())
}

/// The word that was taken back gives no keys any more, not even for what was promised before.
#[tokio::test]
async fn a_guest_that_is_not_allowed_any_more_deletes_nothing_and_gets_no_keys() -> Result<()> {
    let space = Space::new("host").await?;
    let guest = Space::new("guest").await?;
    let allowed = |names: &str| format!("{}  allowedNamespaces: [{names}]\n", space.destination());
    // Made by the guest's policy, into the owner's repository.
    let workspace = space.made_before_by(&guest.name, 1).await?;
    let _operator = space.operator_of(&[&space.name, &guest.name]).await?;
    space.apply(&allowed(&guest.name)).await?;
    let named = format!("[{{name: box, namespace: {}}}]", space.name);
    let policy = guest
        .policy("  retention: {keepLast: 3}\n  suspend: true\n")
        .replace("[{name: box}]", &named);
    guest.apply(&policy).await?;
    let backup = promised(&guest).await?;

    space.apply(&allowed("")).await?;
    guest
        .reason("backuppolicy/shop", "DestinationNotFound")
        .await?;
    guest
        .kubectl(&["delete", "backup", &backup, "--wait=false"])
        .await?;
    guest.backups(0).await?;
    ensure!(guest.jobs().await?.is_empty(), "{:?}", guest.jobs().await?);
    let secrets = guest.get(&["secrets"]).await?;
    let copied = secrets["items"].as_array().into_iter().flatten();
    let copied: Vec<String> = copied
        .map(|secret| text(&secret["metadata"]["name"]))
        .filter(|name| name.contains("-keys-"))
        .collect();
    ensure!(copied.is_empty(), "{copied:?}");
    ensure!(left(&workspace).await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_destination_that_is_deleted_and_still_used_says_so_once() -> Result<()> {
    let space = Space::new("used").await?;
    let _operator = space.operator().await?;
    let going = format!("{}  deletionPolicy: Delete\n", space.destination());
    space.apply(&going).await?;
    space.apply(&space.policy("  suspend: true\n")).await?;
    space.reason("destination/box", "Reachable").await?;
    space
        .kubectl(&["delete", "destination", "box", "--wait=false"])
        .await?;
    space.reason("destination/box", "StillInUse").await?;
    space.is_still().await?;
    let events = space.events("Destination").await?;
    let told = events.iter().filter(|one| *one == "StillInUse");
    ensure!(told.count() == 1, "{events:?}");
    space.kubectl(&["delete", "backuppolicy", "shop"]).await?;
    space
        .until("no Destination", &["destinations"], |list| {
            one(list).is_none().then_some(())
        })
        .await
}

/// No node takes the pod: that is told long before the deadline of its Job.
#[tokio::test]
async fn a_pod_that_does_not_start_is_told_of() -> Result<()> {
    let space = Space::new("pending").await?;
    let _operator = space.operator().await?;
    space.apply(&space.destination()).await?;
    space.apply(&space.policy("")).await?;
    let backup = "---\napiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: now}\nspec: {policy: shop}\n";
    space.apply(backup).await?;
    space.until("Job", &["jobs"], one).await?;
    let all = ["-n", &space.name, "backuppolicy/shop"];
    let limit = Duration::from_secs(200);
    let message = space
        .cluster
        .until("PodPending", limit, &all, |shop| {
            let condition = &shop["status"]["conditions"][0];
            (condition["reason"] == "PodPending").then(|| text(&condition["message"]))
        })
        .await?;
    ensure!(message.contains("does not start"), "{message}");
    space.is_still().await?;
    let events = space.events("BackupPolicy").await?;
    ensure!(events.contains(&"PodPending".to_owned()), "{events:?}");
    Ok(())
}

/// One that stood still for longer than the lease writes nothing when it goes on.
#[tokio::test]
async fn a_leader_that_was_stopped_ends_without_a_word_when_it_goes_on() -> Result<()> {
    let space = Space::new("stopped").await?;
    let options = Options {
        namespaces: vec![space.name.clone()],
        lease_namespace: Some(space.name.clone()),
        arguments: vec!["--sync-interval=3s".to_owned()],
        ..Options::default()
    };
    let start = |name: &'static str| Operator::start(space.cluster, &space.dir, name, &options);
    let mut first = start("first").await?;
    let holder = async |name: &str| {
        space
            .cluster
            .until(
                &format!("lease held by {name}"),
                SOON,
                &["-n", &space.name, "lease", "holdfast-operator"],
                |lease| (lease["spec"]["holderIdentity"] == name).then(|| lease.clone()),
            )
            .await
    };
    holder("first").await?;
    let leads = first.get("/metrics").await?;
    ensure!(leads.contains("holdfast_leader 1"), "{leads}");
    let second = start("second").await?;
    let waits = second.get("/metrics").await?;
    ensure!(waits.contains("holdfast_leader 0"), "{waits}");
    space.apply(&space.destination()).await?;
    space.reason("destination/box", "Reachable").await?;

    first.signal(Signal::Stop)?;
    holder("second").await?;
    // Something to be written is at hand for whoever goes on.
    space.apply(&space.policy("")).await?;
    space.until("Job", &["jobs"], one).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let before = space.versions().await?;
    first.signal(Signal::Cont)?;
    let ended = first
        .wait(Duration::from_secs(30))
        .await?
        .context("it goes on without its lease")?;
    ensure!(ended.code() == Some(1), "{ended}");
    ensure!(first.printed().contains("The lease is lost"));
    let after = space.versions().await?;
    ensure!(before == after, "{before:#?}\n{after:#?}");
    holder("second").await?;
    ensure!(space.jobs().await? == ["backup"]);
    Ok(())
}
