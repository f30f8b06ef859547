//! Users, roles, and what an account may do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use bson::doc;
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::progress::Progress;
use holdfast_engine::source::mongodb::restore::{Verification, plan_restore, restore};
use mongodb::Client;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::dataset::EMPTY;
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

async fn source() -> tempfile::TempDir {
    let source = Server::start(Kind::Standalone).await;
    for name in ["orders", "stamped"] {
        source
            .run(
                "shop",
                doc! { "insert": name, "documents": [{ "_id": 1 }, { "_id": 2 }] },
            )
            .await;
    }
    let update = doc! { "q": { "_id": 2 }, "u": { "$set": { "at": EMPTY } } };
    source
        .run("shop", doc! { "update": "stamped", "updates": [update] })
        .await;
    source
        .run("shop", doc! { "createRole": "teller", "privileges": [{ "resource": { "db": "shop", "collection": "orders" }, "actions": ["find"] }], "roles": [] })
        .await;
    source
        .run(
            "shop",
            doc! { "createUser": "alice", "pwd": "wonder", "roles": ["teller"] },
        )
        .await;
    source.dump()
}

#[tokio::test]
async fn are_merged_and_can_log_in() {
    let dump = source().await;
    let target = Server::start(Kind::Authenticating).await;
    target
        .run("admin", doc! { "createUser": "restorer", "pwd": "secret", "roles": ["restore", "readWriteAnyDatabase"] })
        .await;
    let mut request = everything(&target);
    request.target = SecretString::from(target.uri_of("restorer", "secret"));
    request.users_and_roles = true;
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!((report.users, report.roles), (1, 1));
    assert!(report.verified(), "{report}");

    let uri = format!("mongodb://alice:wonder@{}/shop", target.address());
    let alice = Client::with_uri_str(uri).await.unwrap();
    let found = alice
        .database("shop")
        .run_command(doc! { "find": "orders" })
        .await
        .unwrap();
    assert_eq!(
        found
            .get_document("cursor")
            .unwrap()
            .get_array("firstBatch")
            .unwrap()
            .len(),
        2
    );
    let refused = alice
        .database("shop")
        .run_command(doc! { "insert": "orders", "documents": [{}] })
        .await;
    assert!(refused.is_err());
    // Who was there stays, and no copy of the credentials does.
    let users = target
        .run("admin", doc! { "usersInfo": { "forAllDBs": true } })
        .await;
    assert_eq!(users.get_array("users").unwrap().len(), 3);
    let left = target
        .client
        .database("admin")
        .list_collection_names()
        .await
        .unwrap();
    assert!(
        !left.iter().any(|name| name.starts_with("temp")),
        "{left:?}"
    );
}

#[tokio::test]
async fn an_account_that_may_not_read_restores_and_says_what_was_not_compared() {
    let dump = source().await;
    let target = Server::start(Kind::Authenticating).await;
    target
        .run(
            "admin",
            doc! { "createUser": "writer", "pwd": "secret", "roles": ["restore"] },
        )
        .await;
    let mut request = everything(&target);
    request.target = SecretString::from(target.uri_of("writer", "secret"));
    request.include = vec!["shop.orders".into()];
    let report = run(&request, Backup::of(dump.path())).await;
    let Verification::NotComparable { reason } = &report.namespaces[0].verification else {
        panic!("{report}");
    };
    assert!(reason.contains("readAnyDatabase"), "{reason}");
    assert!(!report.verified());
}

#[tokio::test]
async fn an_account_that_may_not_update_is_told_what_empty_timestamps_need() {
    let dump = source().await;
    let target = Server::start(Kind::Authenticating).await;
    target
        .run(
            "admin",
            doc! { "createUser": "writer", "pwd": "secret", "roles": ["restore"] },
        )
        .await;
    let mut request = everything(&target);
    request.target = SecretString::from(target.uri_of("writer", "secret"));
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
    assert_eq!(error.class(), ErrorClass::Waiting, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("shop.stamped") && text.contains("readWriteAnyDatabase"),
        "{text}"
    );
}

#[tokio::test]
async fn an_account_without_the_rights_is_told_which() {
    let dump = source().await;
    let target = Server::start(Kind::Authenticating).await;
    target
        .run(
            "admin",
            doc! { "createUser": "weak", "pwd": "sesame", "roles": ["readAnyDatabase"] },
        )
        .await;
    let mut request = everything(&target);
    request.target = SecretString::from(target.uri_of("weak", "sesame"));
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
    assert_eq!(error.class(), ErrorClass::Waiting, "{error}");
    assert!(error.to_string().contains("role `restore`"), "{error}");
    // A refusal of the server quotes the command, and that holds the session and the documents.
    assert!(!error.to_string().contains("lsid"), "{error}");
    assert!(!format!("{error} {error:?} {request:?}").contains("sesame"));
}
