//! Everything goes back as it was: documents byte for byte, options and indexes as listed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use holdfast_engine::progress::Progress;
use holdfast_engine::source::mongodb::restore::{
    Action, OnConflict, RestoreReport, RestoreRequest, Verification, plan_restore, restore,
};
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::dataset::{self, DATABASES, Writer, assert_same};
use super::server::{Kind, Server};

/// A request for everything, into this server.
pub(crate) fn everything(server: &Server) -> RestoreRequest {
    RestoreRequest {
        target: server.secret_uri(),
        include: Vec::new(),
        rename: Vec::new(),
        on_conflict: OnConflict::Fail,
        users_and_roles: false,
    }
}

/// A run is a task of its own in the operator: what it awaits must be able to change threads.
pub(crate) fn sendable<F: Future + Send>(future: F) -> F {
    future
}

/// Plans and restores.
pub(crate) async fn run(request: &RestoreRequest, backup: Backup) -> RestoreReport {
    let (manifest, content) = backup.share();
    let planning = plan_restore(request, &manifest, content.as_ref());
    let plan = sendable(planning).await.unwrap();
    let progress = Progress::new();
    let cancel = CancellationToken::new();
    let restoring = restore(request, &plan, &manifest, content, &progress, &cancel);
    let report = sendable(restoring).await.unwrap();
    assert_eq!(progress.snapshot().done_bytes, plan.bytes());
    assert_eq!(progress.snapshot().items, plan.documents());
    report
}

fn same_names() -> Vec<(&'static str, &'static str)> {
    DATABASES.iter().map(|db| (*db, *db)).collect()
}

#[tokio::test]
async fn into_a_replica_set() {
    let source = Server::start(Kind::ReplicaSet).await;
    dataset::load(&source).await;
    let dump = source.dump();
    let target = Server::start(Kind::ReplicaSet).await;
    let report = run(&everything(&target), Backup::of(dump.path())).await;
    for one in &report.namespaces {
        assert_eq!(one.action, Action::Create, "{}", one.target);
        let no_data = one.source == "shop.hot"
            || one.source.contains("view")
            || one.source == "shop.by_customer";
        let expected = match one.verification {
            Verification::NoData => no_data,
            Verification::Verified { .. } => !no_data,
            _ => false,
        };
        assert!(expected, "{}: {}", one.target, one.verification);
    }
    assert!(report.verified());
    assert_same(
        &source.client,
        &target.client,
        &same_names(),
        Writer::Holdfast,
    )
    .await;
}

#[tokio::test]
async fn from_any_blobs_and_renamed_into_a_standalone() {
    let source = Server::start(Kind::Standalone).await;
    dataset::load(&source).await;
    let dump = source.dump();
    let target = Server::start(Kind::Standalone).await;
    let mut request = everything(&target);
    request.rename = vec![
        ("shop.*".into(), "copy.*".into()),
        ("Données.*".into(), "Copie.*".into()),
    ];
    let report = run(&request, Backup::of(dump.path()).in_blobs_of(1000)).await;
    assert!(report.verified(), "{report}");
    let names = [("shop", "copy"), ("Données", "Copie")];
    assert_same(&source.client, &target.client, &names, Writer::Holdfast).await;
}

#[tokio::test]
async fn what_is_dropped_and_restored_is_as_before() {
    let server = Server::start(Kind::ReplicaSet).await;
    dataset::load(&server).await;
    let dump = server.dump();
    // Something else under the same names, and something that is not in the backup.
    server.run("shop", bson::doc! { "delete": "orders", "deletes": [{ "q": { "_id": { "$gt": 10 } }, "limit": 0 }] }).await;
    server.run("shop", bson::doc! { "drop": "one" }).await;
    server
        .run(
            "shop",
            bson::doc! { "create": "one", "capped": true, "size": 4096 },
        )
        .await;
    server
        .run(
            "shop",
            bson::doc! { "dropIndexes": "indexed", "index": "*" },
        )
        .await;

    let mut request = everything(&server);
    request.on_conflict = OnConflict::Drop;
    let report = run(&request, Backup::of(dump.path())).await;
    for one in &report.namespaces {
        assert_eq!(one.action, Action::Replace, "{report}");
        let compared = !matches!(one.verification, Verification::NotComparable { .. });
        assert!(compared, "{report}");
    }
    // Time series buckets get other ids in every server, so this is compared with the dump's own
    // source through a second restore.
    let reference = Server::start(Kind::Standalone).await;
    run(&everything(&reference), Backup::of(dump.path())).await;
    assert_same(
        &reference.client,
        &server.client,
        &same_names(),
        Writer::Holdfast,
    )
    .await;
}
