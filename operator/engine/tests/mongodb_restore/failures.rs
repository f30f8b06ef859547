//! What goes wrong in the middle, and what the error says then.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::sync::{Arc, Mutex};

use bson::doc;
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::mongodb::restore::{
    OnConflict, RestoreError, Verification, plan_restore, restore,
};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::dataset::{self, EMPTY, seen};
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

async fn orders() -> tempfile::TempDir {
    let source = Server::start(Kind::Standalone).await;
    for name in ["orders", "other"] {
        let documents: Vec<_> = (0..4000)
            .map(|n| doc! { "_id": n, "text": format!("the text of number {n:05}"), "filler": "x".repeat(300) })
            .collect();
        source
            .run("shop", doc! { "insert": name, "documents": documents })
            .await;
    }
    source.dump()
}

#[tokio::test]
async fn a_document_that_differs_from_the_backup_is_found() {
    let dump = orders().await;
    let target = Server::start(Kind::Standalone).await;
    let mut backup = Backup::of(dump.path());
    backup.tamper("shop", "orders", b"number 00042", b"number 00043");
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
    let RestoreError::Mismatch { mismatches, report } = &error else {
        panic!("{error}");
    };
    assert_eq!(mismatches.len(), 1);
    assert!(mismatches[0].starts_with("shop.orders"), "{error}");
    assert!(matches!(
        report.namespaces[0].verification,
        Verification::Mismatched {
            expected_documents: 4000,
            found_documents: 4000,
            ..
        }
    ));
    assert!(matches!(
        report.namespaces[1].verification,
        Verification::Verified { .. }
    ));
    assert_eq!(error.class(), ErrorClass::Damaged);
    assert!(error.to_string().contains("other programs"), "{error}");
}

#[tokio::test]
async fn a_server_that_goes_away_is_transient_and_the_error_says_how_far_it_came() {
    let dump = orders().await;
    let target = Server::start(Kind::Standalone).await;
    let mut request = everything(&target);
    request.target = SecretString::from(format!("{}?serverSelectionTimeoutMS=500", target.uri()));
    let server = Arc::new(Mutex::new(target));
    let killed = Arc::clone(&server);
    let backup = Backup::of(dump.path()).on_blob(move |number| {
        if number == 10 {
            killed.lock().unwrap().kill();
        }
    });
    let (manifest, content) = backup.share();
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
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    let RestoreError::Interrupted { done, .. } = &error else {
        panic!("{error}");
    };
    assert!(
        done.contains("partial: ") && done.contains("of 4000 documents"),
        "{error}"
    );
    assert!(error.to_string().contains("onConflict: Drop"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_in_the_middle_is_waited_for() {
    let dump = orders().await;
    let target = Server::start(Kind::ReplicaSet).await;
    let uri = target.uri();
    let backup = Backup::of(dump.path()).on_blob(move |number| {
        if number == 10 {
            step_down(&uri);
        }
    });
    let report = run(&everything(&target), backup).await;
    assert!(report.verified(), "{report}");
    assert_eq!(report.documents(), 8000);
}

/// Makes the only member of a set step down for a second; returns when it has.
fn step_down(uri: &str) {
    let uri = format!("{uri}?directConnection=true");
    let stepping = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let client = mongodb::Client::with_uri_str(uri).await.unwrap();
            client
                .database("admin")
                .run_command(doc! { "replSetStepDown": 1, "force": true })
                .await
                .unwrap();
        });
    });
    stepping.join().unwrap();
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_stops() {
    let dump = orders().await;
    let target = Server::start(Kind::Standalone).await;
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    let backup = Backup::of(dump.path()).on_blob(move |number| {
        if number == 5 {
            asked.cancel();
        }
    });
    let request = everything(&target);
    let (manifest, content) = backup.share();
    let plan = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap();
    let error = restore(
        &request,
        &plan,
        &manifest,
        content,
        &Progress::new(),
        &cancel,
    )
    .await
    .unwrap_err();
    let RestoreError::Interrupted { cause, .. } = &error else {
        panic!("{error}");
    };
    assert!(matches!(cause.as_ref(), RestoreError::Cancelled), "{error}");
}

#[tokio::test]
async fn a_backup_that_lacks_documents_is_damaged() {
    let dump = orders().await;
    let target = Server::start(Kind::Standalone).await;
    let mut backup = Backup::of(dump.path());
    backup.truncate("shop", "orders");
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
    assert_eq!(error.class(), ErrorClass::Damaged, "{error}");
    assert!(
        error.to_string().contains("the manifest says 4000"),
        "{error}"
    );
}

#[tokio::test]
async fn empty_timestamps_survive_a_merge_and_leave_alone_what_is_there() {
    let source = Server::start(Kind::Standalone).await;
    dataset::load(&source).await;
    let dump = source.dump();
    let target = Server::start(Kind::ReplicaSet).await;
    target
        .run(
            "shop",
            doc! { "insert": "timestamps", "documents": [{ "_id": 7, "mine": true }] },
        )
        .await;
    let mut request = everything(&target);
    request.include = vec!["shop.timestamps".into()];
    request.on_conflict = OnConflict::Merge;
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!(
        (report.namespaces[0].inserted, report.namespaces[0].skipped),
        (50, 1)
    );
    let empty = target
        .run(
            "shop",
            doc! { "count": "timestamps", "query": { "at": EMPTY, "in.at": EMPTY } },
        )
        .await;
    assert_eq!(empty.get_i32("n"), Ok(49));
    let mine = target.run("shop", doc! { "count": "timestamps", "query": { "_id": 7, "mine": true, "at": { "$exists": false } } }).await;
    assert_eq!(mine.get_i32("n"), Ok(1));
    assert_eq!(
        seen(&target.client, "shop").await["timestamps"]
            .documents
            .len(),
        51
    );
}
