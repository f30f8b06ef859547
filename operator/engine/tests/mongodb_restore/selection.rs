//! What is restored, under which name, and what a dry run shows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use bson::doc;
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::source::mongodb::restore::{Action, RestorePlan, plan_restore};

use super::content::Backup;
use super::dataset::{self, seen};
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

#[tokio::test]
async fn chosen_namespaces_under_other_names() {
    let source = Server::start(Kind::Standalone).await;
    dataset::load(&source).await;
    let dump = source.dump();
    let target = Server::start(Kind::Standalone).await;
    let mut request = everything(&target);
    request.include = vec![
        "shop.orders".into(),
        "shop.we?ther".into(),
        "Données".into(),
    ];
    request.rename = vec![
        ("shop.weather".into(), "climate.series".into()),
        ("Données.*".into(), "shop.d_*".into()),
    ];
    let report = run(&request, Backup::of(dump.path())).await;
    assert!(report.verified(), "{report}");

    let from = seen(&source.client, "shop").await;
    let shop = seen(&target.client, "shop").await;
    let climate = seen(&target.client, "climate").await;
    assert_eq!(shop["orders"], from["orders"]);
    assert_eq!(climate["series"], from["weather"]);
    assert_eq!(
        climate["system.buckets.series"].documents,
        from["system.buckets.weather"].documents
    );
    let names = seen(&source.client, "Données").await;
    assert_eq!(shop.len(), 1 + names.len());
    for (name, expected) in names {
        assert_eq!(shop[&format!("d_{name}")], expected);
    }
}

#[tokio::test]
async fn a_plan_shows_everything_and_writes_nothing() {
    let source = Server::start(Kind::Standalone).await;
    dataset::load(&source).await;
    let dump = source.dump();
    let target = Server::start(Kind::Standalone).await;
    target
        .run(
            "copy",
            doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
        )
        .await;
    let mut request = everything(&target);
    request.rename = vec![
        ("shop.*".into(), "copy.*".into()),
        ("shop.orders".into(), "copy.renamed".into()),
    ];
    let (manifest, content) = Backup::of(dump.path()).share();
    let plan = plan_restore(&request, &manifest, content.as_ref())
        .await
        .unwrap();

    let of = |source: &str| {
        plan.namespaces
            .iter()
            .find(|one| one.source == source)
            .unwrap()
    };
    assert_eq!(of("shop.orders").target, "copy.renamed");
    assert_eq!(of("shop.orders").documents, 5000);
    assert_eq!(of("shop.orders").action, Action::Create);
    assert_eq!(of("shop.indexed").indexes.len(), 13);
    assert_eq!(of("shop.weather").kind, "timeseries");
    assert!(
        plan.notes
            .iter()
            .any(|note| note.contains("copy.by_customer") && note.contains("orders")),
        "{plan}"
    );
    let text = plan.to_string();
    assert!(text.lines().count() > plan.namespaces.len(), "{text}");
    assert!(
        text.contains("SOURCE") && text.contains("copy.renamed"),
        "{text}"
    );
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<RestorePlan>(&json).unwrap(), plan);

    let names = target.client.list_database_names().await.unwrap();
    assert!(!names.contains(&"Données".to_owned()), "{names:?}");
    assert_eq!(seen(&target.client, "copy").await.len(), 1);
}

#[tokio::test]
async fn requests_that_mean_nothing_are_errors() {
    let source = Server::start(Kind::Standalone).await;
    for name in ["a", "b"] {
        source
            .run("shop", doc! { "insert": name, "documents": [{ "_id": 1 }] })
            .await;
    }
    let dump = source.dump();
    let (manifest, content) = Backup::of(dump.path()).share();
    type Names = &'static [(&'static str, &'static str)];
    let cases: [(&[&str], Names, &str); 8] = [
        (
            &["shop.x"],
            &[],
            "nothing in the backup matches \"shop.x\"; it holds shop.a, shop.b",
        ),
        (&["shop.a", "other.*"], &[], "other.*"),
        (&[".a"], &[], ".a"),
        (&[], &[("shop.x", "shop.y")], "matches nothing"),
        (&[], &[("shop.a", "shop.b")], "would both become shop.b"),
        (&[], &[("shop.*", "copy.x")], "asterisks"),
        (&[], &[("shop.*", "config.*")], "belongs to the server"),
        (
            &[],
            &[("shop.a", "shop.system.users")],
            "no collection can be called that",
        ),
    ];
    for (include, rename, expected) in cases {
        let mut request = everything(&source);
        request.include = include.iter().map(|&one| one.into()).collect();
        request.rename = rename.iter().map(|&(a, b)| (a.into(), b.into())).collect();
        let error = plan_restore(&request, &manifest, content.as_ref())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
    }
}
