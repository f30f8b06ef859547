//! Backs a real MongoDB up, wrecks it and brings it back, as a person would. Ends by itself and
//! leaves nothing running and nothing behind. Called by `make demo`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bson::{Document, doc};
use holdfast_e2e::Workdir;
use holdfast_e2e::holdfast::{binary, http_get};
use holdfast_e2e::mongod::ReplicaSet;
use mongodb::Client;

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart");

#[tokio::main]
async fn main() -> Result<()> {
    let started = Instant::now();
    let work = Workdir::new()?;
    title("A real MongoDB, with a small shop in it");
    let server = ReplicaSet::start(&work).await?;
    let client = server.client().await?;
    fill(&client).await?;
    println!("{}", contents(&client).await?);

    title("The files: one Destination, one BackupPolicy");
    let files = work.fresh("policies")?;
    let secrets = work.fresh("secrets")?;
    copy_quickstart(&files, &work)?;
    for (name, key, value) in [
        (
            "repository",
            "password",
            "a demonstration, not a secret".to_owned(),
        ),
        ("shop-db", "uri", server.uri()),
    ] {
        std::fs::create_dir_all(secrets.join(name))?;
        std::fs::write(secrets.join(name).join(key), value)?;
    }
    for entry in ["destination.yaml", "policy.yaml"] {
        println!("{}", std::fs::read_to_string(files.join(entry))?);
    }
    let demo = Demo { work: &work };
    demo.holdfast(&["validate", "policies"])?;
    demo.holdfast(&["plan", "policies"])?;

    title("Converge: the first backup is due at once");
    demo.holdfast(&["run", "--once", "policies"])?;
    demo.holdfast(&["backups", "-f", "policies"])?;

    title("A second one, after a change: it costs what changed");
    let orders = client.database("shop").collection::<Document>("orders");
    orders
        .update_many(
            doc! {"number": {"$lt": 100}},
            doc! {"$set": {"state": "shipped"}},
        )
        .await?;
    demo.holdfast(&[
        "backup",
        "shop",
        "-f",
        "policies",
        "--tag",
        "before-the-accident",
    ])?;

    title("The accident: somebody drops the database");
    client.database("shop").drop().await?;
    println!("{}", contents(&client).await?);

    title("Back again");
    demo.holdfast(&[
        "restore",
        "latest",
        "--policy",
        "shop",
        "-f",
        "policies",
        "--dry-run",
    ])?;
    demo.holdfast(&["restore", "latest", "--policy", "shop", "-f", "policies"])?;
    println!("{}", contents(&client).await?);
    let shipped = orders.count_documents(doc! {"state": "shipped"}).await?;
    if shipped != 100 {
        bail!("{shipped} orders are shipped after the restore, and 100 were before the accident");
    }

    title("Is what lies there sound? And what happened?");
    demo.holdfast(&["check", "disk", "--read-data", "100%", "-f", "policies"])?;
    demo.holdfast(&["history"])?;

    title("What Prometheus is told");
    demo.metrics().await?;
    println!("\nDone in {:.0} s.", started.elapsed().as_secs_f64());
    Ok(())
}

struct Demo<'a> {
    work: &'a Workdir,
}

impl Demo<'_> {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .current_dir(self.work.path())
            .env("HOLDFAST_STATE_DIR", self.work.join("state"))
            .env("HOLDFAST_SECRETS_DIR", self.work.join("secrets"))
            .env("HOLDFAST_LOG", "error")
            .env("HOLDFAST_LOG_FORMAT", "text");
        Ok(command)
    }

    fn holdfast(&self, arguments: &[&str]) -> Result<()> {
        println!("$ holdfast {}", arguments.join(" "));
        let status = self
            .command(arguments)?
            .status()
            .context("running holdfast")?;
        if !status.success() {
            bail!("holdfast {} ended with {status}", arguments.join(" "));
        }
        println!();
        Ok(())
    }

    /// Runs the daemon until it is ready, reads its metrics and ends it.
    async fn metrics(&self) -> Result<()> {
        let port = holdfast_e2e::ports::free()?;
        let address = format!("127.0.0.1:{port}");
        println!("$ holdfast run policies --listen {address} &");
        let mut daemon = self
            .command(&["run", "policies", "--listen", &address])?
            .stdout(Stdio::null())
            .spawn()
            .context("starting holdfast run")?;
        let mut text = None;
        for _ in 0..100 {
            let answer = http_get(port, "/readyz").await.unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200") {
                text = Some(http_get(port, "/metrics").await?);
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // It ends by a signal, as under systemd.
        Command::new("kill").arg(daemon.id().to_string()).status()?;
        let status = daemon.wait()?;
        let text = text.context("holdfast run did not get ready within 20 s")?;
        println!("$ curl http://{address}/metrics");
        for line in text.lines().filter(|line| {
            [
                "last_success",
                "next_run",
                "runs_total",
                "destination_",
                "build_info",
                "backup_read_bytes{",
            ]
            .iter()
            .any(|word| line.starts_with("holdfast_") && line.contains(word))
        }) {
            println!("{line}");
        }
        if !status.success() {
            bail!("holdfast run ended with {status} after SIGTERM");
        }
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

fn copy_quickstart(to: &std::path::Path, work: &Workdir) -> Result<()> {
    let repository = work.join("repository").display().to_string();
    for entry in std::fs::read_dir(QUICKSTART).context("reading examples/quickstart")? {
        let entry = entry?;
        // The example names a directory of the system; the demonstration keeps to its own.
        let text =
            std::fs::read_to_string(entry.path())?.replace("/var/backups/holdfast", &repository);
        std::fs::write(to.join(entry.file_name()), text)?;
    }
    Ok(())
}

async fn fill(client: &Client) -> Result<()> {
    let database = client.database("shop");
    let orders: Vec<Document> = (0..20_000)
        .map(|number| {
            doc! {
                "number": number,
                "customer": format!("customer-{}", number % 977),
                "state": "new",
                "lines": [{"sku": format!("sku-{}", number % 313), "count": number % 7 + 1}],
                "note": format!("{number:x}").repeat(20),
            }
        })
        .collect();
    database.collection("orders").insert_many(orders).await?;
    let customers: Vec<Document> = (0..977)
        .map(|number| doc! {"_id": format!("customer-{number}"), "points": number})
        .collect();
    database
        .collection("customers")
        .insert_many(customers)
        .await?;
    database
        .run_command(doc! {"createIndexes": "orders", "indexes": [
            {"key": {"customer": 1, "number": -1}, "name": "customer_number"},
            {"key": {"number": 1}, "name": "number", "unique": true},
        ]})
        .await?;
    Ok(())
}

async fn contents(client: &Client) -> Result<String> {
    let database = client.database("shop");
    let mut names = database.list_collection_names().await?;
    names.sort();
    if names.is_empty() {
        return Ok("shop holds nothing".to_owned());
    }
    let mut text = String::from("shop holds");
    for name in names {
        let count = database
            .collection::<Document>(&name)
            .count_documents(doc! {})
            .await?;
        text.push_str(&format!(" {count} {name},"));
    }
    text.pop();
    Ok(text)
}
