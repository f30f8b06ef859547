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
use holdfast_engine::source::mongodb::restore::{OnConflict, Verification, plan_restore, restore};
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

/// A target without passwords, with the users and roles of a dump of [`source`] and nothing else.
async fn with_the_same_users(dump: &tempfile::TempDir) -> Server {
    let target = Server::start(Kind::Standalone).await;
    let mut request = everything(&target);
    request.users_and_roles = true;
    run(&request, Backup::of(dump.path())).await;
    target.run("shop", doc! { "dropDatabase": 1 }).await;
    target
}

async fn roles_of_alice(target: &Server) -> usize {
    let reply = target.run("shop", doc! { "usersInfo": "alice" }).await;
    let users = reply.get_array("users").unwrap();
    let alice = users[0].as_document().unwrap();
    alice.get_array("roles").unwrap().len()
}

#[tokio::test]
async fn the_same_ones_are_left_alone_and_shown_in_the_plan() {
    let dump = source().await;
    let target = with_the_same_users(&dump).await;
    let mut request = everything(&target);
    request.users_and_roles = true;
    let (manifest, content) = Backup::of(dump.path()).share();
    let plan = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap();
    assert_eq!(plan.users.keep, ["shop.alice"]);
    assert_eq!(plan.roles.keep, ["shop.teller"]);
    let row = plan.to_string();
    let row = row.lines().find(|line| line.contains("admin.system.users"));
    assert!(row.unwrap().ends_with("keep 1"), "{plan}");
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!((report.users, report.roles), (0, 0), "{report}");
    assert!(
        report.notes.iter().any(|note| note.contains("1 users")),
        "{report}"
    );
}

#[tokio::test]
async fn one_that_differs_is_in_the_way_is_kept_or_replaced() {
    let dump = source().await;
    let target = with_the_same_users(&dump).await;
    let more = doc! { "grantRolesToUser": "alice", "roles": ["dbAdmin"] };
    target.run("shop", more).await;
    assert_eq!(roles_of_alice(&target).await, 2);
    let mut request = everything(&target);
    request.users_and_roles = true;

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
    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("user shop.alice") && text.contains("nothing was written"),
        "{text}"
    );
    assert!(!text.contains("teller"), "{text}");
    let names = target.client.list_database_names().await.unwrap();
    assert!(!names.contains(&"shop".to_owned()), "{names:?}");

    request.on_conflict = OnConflict::Merge;
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!((report.users, report.roles), (0, 0), "{report}");
    assert_eq!(roles_of_alice(&target).await, 2);

    let nothing = doc! { "updateRole": "teller", "privileges": [] };
    target.run("shop", nothing).await;
    let mine = doc! { "createUser": "mine", "pwd": "x", "roles": ["teller"] };
    target.run("shop", mine).await;
    request.on_conflict = OnConflict::Drop;
    let report = run(&request, Backup::of(dump.path())).await;
    assert_eq!((report.users, report.roles), (1, 1), "{report}");
    assert_eq!(roles_of_alice(&target).await, 1);
    let info = doc! { "rolesInfo": "teller", "showPrivileges": true };
    let teller = target.run("shop", info).await.to_string();
    assert!(teller.contains("orders"), "{teller}");
    // Others stay, and have the role still.
    let mine = target.run("shop", doc! { "usersInfo": "mine" }).await;
    assert!(mine.to_string().contains("teller"), "{mine}");
}

#[tokio::test]
async fn an_account_that_may_not_see_users_is_told_so_before_anything_is_written() {
    let dump = source().await;
    let target = Server::start(Kind::Authenticating).await;
    let roles = ["readWriteAnyDatabase", "dbAdminAnyDatabase"];
    let user = doc! { "createUser": "writer", "pwd": "secret", "roles": roles.as_slice() };
    target.run("admin", user).await;
    let mut request = everything(&target);
    request.target = SecretString::from(target.uri_of("writer", "secret"));
    request.users_and_roles = true;
    let (manifest, content) = Backup::of(dump.path()).share();
    let error = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap_err();
    assert_eq!(error.class(), ErrorClass::Waiting, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("which users are there") && text.contains("role `restore`"),
        "{text}"
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
