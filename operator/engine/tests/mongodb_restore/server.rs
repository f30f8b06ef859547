//! Real MongoDB servers on loopback, each with its own port and folder, and the stock tools.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;
use secrecy::SecretString;
use tempfile::TempDir;

/// Where `e2e/setup` put a program.
pub(crate) fn tool(name: &str) -> PathBuf {
    let cache = std::env::var_os("HOLDFAST_E2E_CACHE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/e2e"),
        PathBuf::from,
    );
    let path = cache.join("bin").join(name);
    assert!(
        path.exists(),
        "{} is not there: run e2e/setup first",
        path.display()
    );
    path
}

/// A mongod that ends with the value.
pub(crate) struct Server {
    process: Child,
    port: u16,
    folder: TempDir,
    pub(crate) client: Client,
}

/// How a server is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Standalone,
    ReplicaSet,
    /// Standalone, with authentication; the account is `root` with the password `root`.
    Authenticating,
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let mut command = Command::new(tool("mongod"));
        command
            .args(["--bind_ip", "127.0.0.1", "--nounixsocket"])
            .args(["--wiredTigerCacheSizeGB", "0.5", "--setParameter"])
            .arg("diagnosticDataCollectionEnabled=false")
            .args(["--port", &port.to_string()])
            .arg("--dbpath")
            .arg(folder.path())
            .arg("--logpath")
            .arg(folder.path().join("mongod.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match kind {
            Kind::Standalone => {}
            Kind::ReplicaSet => {
                command.args(["--replSet", "rs0"]);
            }
            Kind::Authenticating => {
                command.arg("--auth");
            }
        }
        let process = command.spawn().unwrap();
        let client = connect(&format!(
            "mongodb://127.0.0.1:{port}/?directConnection=true"
        ))
        .await;
        let mut server = Self {
            process,
            port,
            folder,
            client,
        };
        let admin = server.client.database("admin");
        admin.run_command(doc! { "ping": 1 }).await.unwrap();
        match kind {
            Kind::Standalone => {}
            Kind::ReplicaSet => {
                let config =
                    doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.address() }] };
                admin
                    .run_command(doc! { "replSetInitiate": config })
                    .await
                    .unwrap();
                // Waits in server selection until there is a primary.
                server.client = connect(&server.uri()).await;
                server
                    .client
                    .database("admin")
                    .run_command(doc! { "ping": 1 })
                    .await
                    .unwrap();
            }
            Kind::Authenticating => {
                admin
                    .run_command(doc! { "createUser": "root", "pwd": "root", "roles": ["root"] })
                    .await
                    .unwrap();
                server.client = connect(&server.uri_of("root", "root")).await;
            }
        }
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection string without credentials.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://{}/", self.address())
    }

    pub(crate) fn uri_of(&self, user: &str, password: &str) -> String {
        format!(
            "mongodb://{user}:{password}@{}/?authSource=admin",
            self.address()
        )
    }

    pub(crate) fn secret_uri(&self) -> SecretString {
        SecretString::from(self.uri())
    }

    pub(crate) async fn run(&self, db: &str, command: Document) -> Document {
        self.client
            .database(db)
            .run_command(command.clone())
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Dumps everything with stock `mongodump`.
    pub(crate) fn dump(&self) -> TempDir {
        let out = tempfile::tempdir().unwrap();
        self.tool(
            "mongodump",
            &["--quiet", "--out", out.path().to_str().unwrap()],
        );
        out
    }

    /// Runs a stock tool on this server.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) {
        let output = Command::new(tool(name))
            .args(["--host", &self.address()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{name} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("mongod.log"));
            for line in log
                .unwrap_or_default()
                .lines()
                .filter(|l| l.contains("\"s\":\"E\"") || l.contains("\"s\":\"F\""))
            {
                eprintln!("mongod {}: {line}", self.port);
            }
        }
    }
}

async fn connect(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.server_selection_timeout = Some(Duration::from_secs(60));
    Client::with_options(options).unwrap()
}
