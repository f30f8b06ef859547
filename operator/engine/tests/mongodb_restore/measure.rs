//! How fast, side by side with stock `mongorestore`. Run by hand, in a release build:
//! `cargo test --release -p holdfast-engine --test mongodb_restore -- --ignored --nocapture measure`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

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
        let before = Usage::now(&target);
        target.tool("mongorestore", &["--quiet", dump.path().to_str().unwrap()]);
        before.report(&target, round, "mongorestore", written);
        drop(target);

        let target = Server::start(Kind::ReplicaSet).await;
        let backup = Backup::of(dump.path());
        let before = Usage::now(&target);
        let done = run(&everything(&target), backup).await;
        before.report(&target, round, "holdfast, compared", written);
        assert!(done.verified());
    }
}

/// The clock, and the CPU that client (this process, and the tools it waited for) and server used.
struct Usage {
    at: Instant,
    client: f64,
    server: f64,
}

impl Usage {
    fn now(server: &Server) -> Self {
        Self {
            at: Instant::now(),
            client: cpu("self", 4),
            server: cpu(&server.id().to_string(), 2),
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn report(&self, server: &Server, round: i32, what: &str, bytes: usize) {
        let now = Self::now(server);
        let seconds = now.at.duration_since(self.at).as_secs_f64();
        println!(
            "{round} {what}: {seconds:.1} s, {:.1} MB/s, client CPU {:.1} s, mongod CPU {:.1} s",
            bytes as f64 / 1e6 / seconds,
            now.client - self.client,
            now.server - self.server,
        );
    }
}

/// Seconds of CPU of a process: user and system, and with 4 fields those of its ended children.
fn cpu(process: &str, fields: usize) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name of the program, in brackets, is the only field that may hold spaces.
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(fields)
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    ticks / TICKS_PER_SECOND
}
