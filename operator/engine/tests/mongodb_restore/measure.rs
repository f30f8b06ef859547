//! How fast, side by side with stock `mongorestore`. Run by hand, in a release build:
//! `cargo test --release -p holdfast-engine --test mongodb_restore -- --ignored --nocapture measure`.

use std::time::Instant;

use bson::doc;
use bson::oid::ObjectId;

use super::content::Backup;
use super::round_trip::{everything, run};
use super::server::{Kind, Server};

const BYTES: usize = 512 << 20;

#[tokio::test]
#[ignore = "measures; run by hand"]
async fn half_a_gibibyte_with_three_indexes() {
    let source = Server::start(Kind::ReplicaSet).await;
    let mut written = 0;
    let mut n = 0_i64;
    while written < BYTES {
        let documents: Vec<_> = (0..5000)
            .map(|_| {
                n += 1;
                doc! { "_id": ObjectId::new(), "n": n, "customer": format!("customer-{}", n.wrapping_mul(2_654_435_761) % 100_000), "status": n % 7,
                    "lines": [{ "sku": n % 1000, "q": 1 }, { "sku": n % 77, "q": 2 }], "text": format!("{n:0>400}") }
            })
            .collect();
        written += documents
            .iter()
            .map(|d| bson::to_vec(d).unwrap().len())
            .sum::<usize>();
        source
            .run("bench", doc! { "insert": "orders", "documents": documents })
            .await;
    }
    source
        .run("bench", doc! { "createIndexes": "orders", "indexes": [
            { "key": { "n": 1 }, "name": "n", "unique": true }, { "key": { "customer": 1, "status": 1 }, "name": "customer" }, { "key": { "lines.sku": 1 }, "name": "sku" } ] })
        .await;
    let dump = source.dump();
    drop(source);
    for round in 0..2 {
        let target = Server::start(Kind::ReplicaSet).await;
        let started = Instant::now();
        target.tool("mongorestore", &["--quiet", dump.path().to_str().unwrap()]);
        report(round, "mongorestore", started, written);
        drop(target);

        let target = Server::start(Kind::ReplicaSet).await;
        let backup = Backup::of(dump.path());
        let started = Instant::now();
        let done = run(&everything(&target), backup).await;
        report(round, "holdfast (compared)", started, written);
        assert!(done.verified());
    }
}

#[allow(clippy::cast_precision_loss)]
fn report(round: i32, what: &str, started: Instant, bytes: usize) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{round} {what}: {seconds:.1} s, {:.1} MB/s",
        bytes as f64 / 1e6 / seconds
    );
}
