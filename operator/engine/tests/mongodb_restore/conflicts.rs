//! What happens to namespaces that are on the target already.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use bson::doc;
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::mongodb::restore::{
    Action, OnConflict, RestoreError, Verification, plan_restore, restore,
};
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::dataset::seen;
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

async fn small_source() -> tempfile::TempDir {
    let source = Server::start(Kind::Standalone).await;
    for name in ["a", "b", "c"] {
        let documents: Vec<_> = (0..10)
            .map(|n| doc! { "_id": n, "from": "backup" })
            .collect();
        source
            .run("shop", doc! { "insert": name, "documents": documents })
            .await;
    }
    source
        .run(
            "shop",
            doc! { "createIndexes": "a", "indexes": [{ "key": { "x": 1 }, "name": "x" }] },
        )
        .await;
    source.dump()
}

#[tokio::test]
async fn fail_names_all_that_is_in_the_way_and_writes_nothing() {
    let dump = small_source().await;
    let target = Server::start(Kind::Standalone).await;
    target
        .run("shop", doc! { "insert": "a", "documents": [{ "_id": 1 }] })
        .await;
    target
        .run("shop", doc! { "create": "c", "capped": true, "size": 4096 })
        .await;
    let before = seen(&target.client, "shop").await;

    let (manifest, content) = Backup::of(dump.path()).share();
    let request = everything(&target);
    let plan = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap();
    assert_eq!(plan.conflicts().len(), 2, "{plan}");
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
    let text = error.to_string();
    for part in [
        "shop.a holds documents",
        "shop.c is empty and has other options",
        "nothing was written",
        "Merge",
        "Drop",
        "rename",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("shop.b"), "{text}");
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert_eq!(before, seen(&target.client, "shop").await);
}

#[tokio::test]
async fn fail_fills_an_empty_collection_that_is_the_same() {
    let dump = small_source().await;
    let target = Server::start(Kind::Standalone).await;
    target.run("shop", doc! { "create": "a" }).await;
    let report = run(&everything(&target), Backup::of(dump.path())).await;
    assert_eq!(report.namespaces[0].action, Action::Fill);
    assert!(report.verified(), "{report}");
    assert_eq!(report.documents(), 30);
}

#[tokio::test]
async fn drop_drops_only_what_is_restored() {
    let dump = small_source().await;
    let target = Server::start(Kind::Standalone).await;
    for name in ["a", "b", "other"] {
        target
            .run(
                "shop",
                doc! { "insert": name, "documents": [{ "_id": "mine" }] },
            )
            .await;
    }
    let mut request = everything(&target);
    request.on_conflict = OnConflict::Drop;
    request.include = vec!["shop.a".into()];
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!(report.namespaces.len(), 1);
    assert_eq!(report.namespaces[0].action, Action::Replace);
    let shop = seen(&target.client, "shop").await;
    assert_eq!(shop["a"].documents.len(), 10);
    assert_eq!(shop["b"].documents.len(), 1);
    assert_eq!(shop["other"].documents.len(), 1);
}

#[tokio::test]
async fn merge_adds_what_is_missing_and_touches_nothing() {
    let dump = small_source().await;
    let target = Server::start(Kind::Standalone).await;
    target
        .run("shop", doc! { "insert": "a", "documents": [{ "_id": 3, "from": "here" }, { "_id": 99, "from": "here" }] })
        .await;
    let mut request = everything(&target);
    request.on_conflict = OnConflict::Merge;
    let report = run(&request, Backup::of(dump.path())).await;
    let a = &report.namespaces[0];
    assert_eq!(
        (a.action, a.inserted, a.skipped, a.indexes),
        (Action::Merge, 9, 1, 1)
    );
    assert!(
        matches!(a.verification, Verification::NotComparable { .. }),
        "{report}"
    );
    assert!(matches!(
        report.namespaces[1].verification,
        Verification::Verified { .. }
    ));
    let found = target
        .run("shop", doc! { "count": "a", "query": { "from": "here" } })
        .await;
    assert_eq!(found.get_i32("n"), Ok(2));
    let found = target.run("shop", doc! { "count": "a", "query": {} }).await;
    assert_eq!(found.get_i32("n"), Ok(11));
}

#[tokio::test]
async fn merge_into_another_unique_index_is_an_error_and_not_a_success() {
    let dump = small_source().await;
    let target = Server::start(Kind::Standalone).await;
    target
        .run("shop", doc! { "createIndexes": "a", "indexes": [{ "key": { "from": 1 }, "name": "from", "unique": true }] })
        .await;
    let mut request = everything(&target);
    request.on_conflict = OnConflict::Merge;
    let (manifest, content) = Backup::of(dump.path()).share();
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
    let RestoreError::Interrupted { cause, done, .. } = &error else {
        panic!("{error}");
    };
    let RestoreError::Rejected {
        namespace,
        count,
        first,
    } = cause.as_ref()
    else {
        panic!("{error}");
    };
    assert_eq!((namespace.as_str(), *count), ("shop.a", 9));
    assert!(first[0].contains("E11000"), "{error}");
    assert!(done.contains("shop.a"), "{error}");
}

#[tokio::test]
async fn drop_replaces_stored_functions_and_what_is_left_out_is_told() {
    let source = Server::start(Kind::Standalone).await;
    let function = |id: &str, value: i32| doc! { "_id": id, "value": value };
    let insert =
        |documents: Vec<bson::Document>| doc! { "insert": "system.js", "documents": documents };
    source
        .run("shop", insert(vec![function("f", 1), function("g", 1)]))
        .await;
    source.run("admin", insert(vec![function("a", 1)])).await;
    let dump = source.dump();
    let target = Server::start(Kind::Standalone).await;
    target
        .run("shop", insert(vec![function("f", 2), function("h", 2)]))
        .await;
    let mut request = everything(&target);
    request.on_conflict = OnConflict::Drop;
    let mut backup = Backup::of(dump.path());
    // Our own backups list it in their manifest.
    let mut of_admin = backup.manifest.collections[0].clone();
    of_admin.db = "admin".to_owned();
    backup.manifest.collections.push(of_admin);
    let report = run(&request, backup).await;
    assert_eq!(report.namespaces.len(), 1, "{report}");
    assert_eq!(report.namespaces[0].action, Action::Replace);
    assert!(report.verified(), "{report}");
    let functions = &seen(&target.client, "shop").await["system.js"];
    assert_eq!(functions.documents.len(), 2);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("not restored") && note.contains("admin.system.js")),
        "{report}"
    );
}
