//! Backups that no server can hold exactly as they are: they are restored, and said not to be
//! comparable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::path::Path;

use bson::{DateTime, doc};
use holdfast_engine::class::Classified as _;
use holdfast_engine::manifest::ClusterTime;
use holdfast_engine::progress::Progress;
use holdfast_engine::source::mongodb::restore::{
    Action, OnConflict, RestoreReport, Verification, plan_restore, restore,
};
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

fn reason(report: &RestoreReport) -> &str {
    match &report.namespaces[0].verification {
        Verification::NotComparable { reason } => reason,
        _ => panic!("{report}"),
    }
}

/// A dump of `shop.orders` that meets documents 3 and 7 twice, as the scan of a standalone server
/// does when they are deleted and inserted again meanwhile.
async fn with_repeated_ids() -> tempfile::TempDir {
    let source = Server::start(Kind::Standalone).await;
    let documents: Vec<_> = (0..10).map(|n| doc! { "_id": n, "at": "first" }).collect();
    source
        .run("shop", doc! { "insert": "orders", "documents": documents })
        .await;
    let dump = source.dump();
    let path = dump.path().join("shop/orders.bson");
    let mut bytes = std::fs::read(&path).unwrap();
    for id in [3, 7] {
        bytes.extend(bson::to_vec(&doc! { "_id": id, "at": "second" }).unwrap());
    }
    std::fs::write(&path, bytes).unwrap();
    dump
}

#[tokio::test]
async fn a_document_that_was_met_twice_is_restored_once() {
    let dump = with_repeated_ids().await;
    let target = Server::start(Kind::Standalone).await;
    let report = run(&everything(&target), Backup::of(dump.path())).await;
    let one = &report.namespaces[0];
    assert_eq!((one.inserted, one.skipped), (10, 2), "{report}");
    assert!(reason(&report).contains("_id"), "{report}");
    assert!(!report.verified());
    let found = target
        .run("shop", doc! { "count": "orders", "query": {} })
        .await;
    assert_eq!(found.get_i32("n"), Ok(10));
}

#[tokio::test]
async fn a_backup_of_one_time_has_every_document_once_or_is_refused() {
    let dump = with_repeated_ids().await;
    let target = Server::start(Kind::Standalone).await;
    let mut backup = Backup::of(dump.path());
    backup.manifest.cluster_time = Some(ClusterTime { t: 1, i: 1 });
    let (manifest, content) = backup.share();
    let request = everything(&target);
    let plan = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap();
    let error = restore(
        &request,
        &plan,
        &manifest,
        content,
        &Progress::new(),
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.reason(), "DocumentsRejected", "{error}");
}

/// Makes the capped collection of a dump smaller than what it holds.
fn shrink(dump: &Path, from: &str, to: &str) {
    let path = dump.join("shop/log.metadata.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn a_capped_collection_keeps_what_fits_of_a_backup_that_holds_more() {
    let source = Server::start(Kind::Standalone).await;
    source
        .run(
            "shop",
            doc! { "create": "log", "capped": true, "size": 1 << 20 },
        )
        .await;
    let lines: Vec<_> = (0..500)
        .map(|n| doc! { "_id": n, "line": "x".repeat(1000) })
        .collect();
    source
        .run("shop", doc! { "insert": "log", "documents": lines })
        .await;
    let dump = source.dump();
    shrink(dump.path(), "1048576", "262144");
    let target = Server::start(Kind::Standalone).await;
    let report = run(&everything(&target), Backup::of(dump.path())).await;
    assert!(reason(&report).contains("capped"), "{report}");
    let newest = target
        .run("shop", doc! { "count": "log", "query": { "_id": 499 } })
        .await;
    assert_eq!(newest.get_i32("n"), Ok(1));
}

#[tokio::test]
async fn documents_that_expire_on_an_index_of_the_target_are_no_mismatch() {
    let source = Server::start(Kind::Standalone).await;
    let index = doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 1 };
    let indexes = doc! { "createIndexes": "tokens", "indexes": [index] };
    source.run("shop", indexes.clone()).await;
    let later = DateTime::from_millis(DateTime::now().timestamp_millis() + 3_600_000);
    for part in 0..4 {
        let documents: Vec<_> = (0..3000)
            .map(|n| doc! { "_id": 3000 * part + n, "at": later, "text": "x".repeat(1000) })
            .collect();
        source
            .run("shop", doc! { "insert": "tokens", "documents": documents })
            .await;
    }
    let dump = source.dump();

    for (on_conflict, action) in [
        (OnConflict::Fail, Action::Fill),
        (OnConflict::Merge, Action::Merge),
    ] {
        let target = Server::start(Kind::Standalone).await;
        target.run("shop", indexes.clone()).await;
        let expiring = expire_one(&target.uri());
        let mut request = everything(&target);
        request.on_conflict = on_conflict;
        let report = run(&request, Backup::of(dump.path())).await;
        expiring.join().unwrap();
        assert_eq!(report.namespaces[0].action, action);
        assert!(reason(&report).contains("expire"), "{report}");
    }
}

/// Removes a document as soon as there is one: what the server's own thread does when it comes by.
fn expire_one(uri: &str) -> std::thread::JoinHandle<()> {
    let uri = uri.to_owned();
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let client = mongodb::Client::with_uri_str(uri).await.unwrap();
            let shop = client.database("shop");
            let delete = doc! { "delete": "tokens", "deletes": [{ "q": {}, "limit": 1 }] };
            while shop.run_command(delete.clone()).await.unwrap().get_i32("n") == Ok(0) {}
        });
    })
}
