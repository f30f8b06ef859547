//! What is exported is what the stock tools take.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_engine::export::{ExportError, export_archive, export_directory};
use holdfast_engine::progress::Progress;
use tokio_util::sync::CancellationToken;

use super::content::Backup;
use super::dataset::{self, DATABASES, Writer, assert_same};
use super::round_trip::sendable;
use super::server::{Kind, Server};

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

async fn with_users() -> Server {
    let source = Server::start(Kind::Standalone).await;
    dataset::load(&source).await;
    // Stock mongorestore takes any index on _id alone for the one that every collection has.
    source
        .run(
            "shop",
            bson::doc! { "dropIndexes": "indexed", "index": "_id_hashed" },
        )
        .await;
    source
        .run(
            "shop",
            bson::doc! { "createUser": "alice", "pwd": "wonder", "roles": ["read"] },
        )
        .await;
    source
}

async fn assert_has_alice(server: &Server) {
    let users = server
        .run("shop", bson::doc! { "usersInfo": "alice" })
        .await;
    assert_eq!(users.get_array("users").unwrap().len(), 1);
}

#[tokio::test]
async fn a_directory_is_the_dump_byte_for_byte() {
    let source = with_users().await;
    let dump = source.dump();
    let (_, content) = Backup::of(dump.path()).share();
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("new/dump");
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let exporting = export_directory(content.as_ref(), &dir, &progress, &cancel);
    sendable(exporting).await.unwrap();
    let exported = files(&dir);
    assert_eq!(exported, files(dump.path()));
    assert_eq!(progress.snapshot().items, exported.len() as u64);

    let target = Server::start(Kind::Standalone).await;
    target.tool(
        "mongorestore",
        &[
            "--quiet",
            "--bypassDocumentValidation",
            dir.to_str().unwrap(),
        ],
    );
    let names: Vec<_> = DATABASES.iter().map(|db| (*db, *db)).collect();
    assert_same_but_for_empty_timestamps(&source, &target, &names).await;
    assert_has_alice(&target).await;

    let again = export_directory(content.as_ref(), &dir, &progress, &cancel).await;
    assert!(matches!(again, Err(ExportError::NotEmpty(_))), "{again:?}");
}

#[tokio::test]
async fn an_archive_is_one_that_mongorestore_takes() {
    let source = with_users().await;
    let dump = source.dump();
    let (manifest, content) = Backup::of(dump.path()).share();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("archive");
    let file = tokio::fs::File::create(&path).await.unwrap();
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let exporting = export_archive(content.as_ref(), &manifest, file, &progress, &cancel);
    sendable(exporting).await.unwrap();
    assert_eq!(
        progress.snapshot().done_bytes,
        progress.snapshot().total_bytes
    );

    let target = Server::start(Kind::Standalone).await;
    let archive = format!("--archive={}", path.display());
    target.tool(
        "mongorestore",
        &["--quiet", "--bypassDocumentValidation", &archive],
    );
    let names: Vec<_> = DATABASES.iter().map(|db| (*db, *db)).collect();
    assert_same_but_for_empty_timestamps(&source, &target, &names).await;
    assert_has_alice(&target).await;
}

/// Stock `mongorestore` of this version lets the server replace empty timestamps.
async fn assert_same_but_for_empty_timestamps(
    source: &Server,
    target: &Server,
    names: &[(&str, &str)],
) {
    for server in [source, target] {
        server
            .run("shop", bson::doc! { "drop": "timestamps" })
            .await;
    }
    assert_same(&source.client, &target.client, names, Writer::Mongorestore).await;
}
