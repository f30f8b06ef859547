//! Real MongoDB servers: a replica set of one node or of several, and a
//! standalone one.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;

use crate::process::{Server, Signal};
use crate::{Workdir, command, ports};

/// The user that a server with `auth` is given; it may do anything.
pub const ROOT_USER: &str = "root";
/// Its password.
pub const ROOT_PASSWORD: &str = "root-of-the-test";

const START: Duration = Duration::from_secs(90);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// WiredTiger's cache, in GB. With 0.25 a document of 16 MiB is refused as
    /// too large a transaction.
    pub cache_gb: f64,
    /// The oplog's size in MB; it grows up to this.
    pub oplog_mb: u32,
    /// Ask for passwords; the user [`ROOT_USER`] is made.
    pub auth: bool,
    /// The nodes of a replica set.
    pub nodes: usize,
    /// Where others reach it, and what a replica set calls its members; it
    /// listens on 127.0.0.1 in any case.
    pub address: Ipv4Addr,
    /// More arguments for mongod, such as `--setParameter`, `name=value`.
    pub extra: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_gb: 0.5,
            oplog_mb: 2048,
            auth: false,
            nodes: 1,
            address: Ipv4Addr::LOCALHOST,
            extra: Vec::new(),
        }
    }
}

/// One mongod process and how to start it again.
#[derive(Debug)]
struct Node {
    server: Option<Server>,
    port: u16,
    address: Ipv4Addr,
    dir: PathBuf,
    args: Vec<String>,
}

impl Node {
    fn new(dir: PathBuf, options: &Options, replica_set: Option<&str>) -> Result<Self> {
        let port = ports::free()?;
        std::fs::create_dir_all(dir.join("db"))
            .with_context(|| format!("making {}", dir.display()))?;
        let mut addresses = vec![Ipv4Addr::LOCALHOST.to_string()];
        if !options.address.is_loopback() {
            addresses.push(options.address.to_string());
        }
        let mut args: Vec<String> = [
            "--dbpath",
            &dir.join("db").to_string_lossy(),
            "--port",
            &port.to_string(),
            "--bind_ip",
            &addresses.join(","),
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            &options.cache_gb.to_string(),
            // Its own monitoring costs processor time and says nothing here.
            "--setParameter",
            "diagnosticDataCollectionEnabled=false",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(name) = replica_set {
            args.extend([
                "--replSet".into(),
                name.into(),
                "--oplogSize".into(),
                options.oplog_mb.to_string(),
            ]);
        }
        args.extend(options.extra.iter().cloned());
        Ok(Self {
            server: None,
            port,
            address: options.address,
            dir,
            args,
        })
    }

    async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(command::find("mongod")?);
        command.args(&self.args);
        let server = Server::spawn(
            &format!("mongod on port {}", self.port),
            command,
            &self.dir.join("log"),
        )?;
        // The guard is in place before anything can fail.
        self.server
            .insert(server)
            .until_listening(self.port, START)
            .await
    }

    fn running(&mut self) -> Result<&mut Server> {
        let port = self.port;
        self.server
            .as_mut()
            .with_context(|| format!("mongod on port {port} was stopped"))
    }

    fn kill9(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill9(),
            None => Ok(()),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.stop(Duration::from_secs(60)).await.map(drop),
            None => Ok(()),
        }
    }

    fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    fn direct_uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port)
    }
}

/// A client with limits that suit a test: a server that is not there is an
/// error after seconds, not after minutes.
pub async fn connect(uri: &str) -> Result<Client> {
    let mut options = ClientOptions::parse(uri)
        .await
        .with_context(|| format!("reading the URI {uri}"))?;
    options.server_selection_timeout = Some(Duration::from_secs(20));
    options.connect_timeout = Some(Duration::from_secs(5));
    Client::with_options(options).with_context(|| format!("making a client for {uri}"))
}

fn uri_with(hosts: &str, auth: bool, query: &str) -> String {
    if auth {
        format!("mongodb://{ROOT_USER}:{ROOT_PASSWORD}@{hosts}/?{query}&authSource=admin")
    } else {
        format!("mongodb://{hosts}/?{query}")
    }
}

/// Waits until the node says that it is writable.
async fn until_primary(server: &mut Server, client: &Client) -> Result<()> {
    server
        .until("primary", START, || async {
            let hello = client
                .database("admin")
                .run_command(doc! { "hello": 1 })
                .await?;
            Ok(hello
                .get_bool("isWritablePrimary")
                .unwrap_or(false)
                .then_some(()))
        })
        .await
}

async fn create_root(client: &Client) -> Result<()> {
    client
        .database("admin")
        .run_command(doc! { "createUser": ROOT_USER, "pwd": ROOT_PASSWORD, "roles": ["root"] })
        .await
        .context("making the root user")?;
    Ok(())
}

/// A replica set, of one node unless asked otherwise. Dropping it kills its
/// nodes; the data is in the [`Workdir`] it was started in.
#[derive(Debug)]
pub struct ReplicaSet {
    name: String,
    nodes: Vec<Node>,
    auth: bool,
}

impl ReplicaSet {
    /// Starts one node with the defaults and waits until it is primary.
    pub async fn start(dir: &Workdir) -> Result<Self> {
        Self::start_with(dir, Options::default()).await
    }

    /// Starts a replica set and waits until the first node is primary.
    pub async fn start_with(dir: &Workdir, mut options: Options) -> Result<Self> {
        if options.nodes == 0 {
            bail!("a replica set needs a node");
        }
        let dir = dir.fresh("mongod-rs")?;
        let name = "rs0".to_owned();
        if options.auth {
            let keyfile = dir.join("keyfile");
            std::fs::write(&keyfile, "bm90YXNlY3JldGp1c3RhdGVzdA==\n")
                .context("writing the keyfile")?;
            restrict(&keyfile)?;
            options
                .extra
                .extend(["--keyFile".into(), keyfile.to_string_lossy().into_owned()]);
        }
        let mut set = Self {
            name,
            nodes: Vec::new(),
            auth: options.auth,
        };
        for number in 0..options.nodes {
            set.nodes.push(Node::new(
                dir.join(number.to_string()),
                &options,
                Some(&set.name),
            )?);
        }
        for node in &mut set.nodes {
            node.start().await?;
        }
        set.initiate().await.context("initiating the replica set")?;
        Ok(set)
    }

    async fn initiate(&mut self) -> Result<()> {
        let members: Vec<Document> = self
            .nodes
            .iter()
            .zip(0_i32..)
            .map(|(node, id)| {
                // The first wins the first election.
                doc! { "_id": id, "host": node.host(), "priority": if id == 0 { 2 } else { 1 } }
            })
            .collect();
        let config = doc! {
            "_id": &self.name,
            "members": members,
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 },
        };
        let Some(first) = self.nodes.first_mut() else {
            bail!("no node")
        };
        let client = connect(&first.direct_uri()).await?;
        client
            .database("admin")
            .run_command(doc! { "replSetInitiate": config })
            .await?;
        until_primary(first.running()?, &client).await?;
        if self.auth {
            create_root(&client).await?;
        }
        let expected = self.nodes.len();
        if expected > 1 {
            let client = self.client().await?;
            let first = self.nodes[0].running()?;
            first
                .until("secondaries", START, || async {
                    let status = client
                        .database("admin")
                        .run_command(doc! { "replSetGetStatus": 1 })
                        .await?;
                    let healthy = status
                        .get_array("members")?
                        .iter()
                        .filter_map(|member| member.as_document()?.get_i32("state").ok())
                        .filter(|state| [1, 2].contains(state))
                        .count();
                    Ok((healthy == expected).then_some(()))
                })
                .await?;
        }
        Ok(())
    }

    /// The set's name, as in `replicaSet=`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection string, with the root user's password when there is one.
    pub fn uri(&self) -> String {
        uri_with(
            &self.hosts(),
            self.auth,
            &format!("replicaSet={}", self.name),
        )
    }

    /// The connection string for another user.
    pub fn uri_as(&self, user: &str, password: &str) -> String {
        format!(
            "mongodb://{user}:{password}@{}/?replicaSet={}&authSource=admin",
            self.hosts(),
            self.name
        )
    }

    /// `host:port`, separated by commas.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Node::host).collect();
        hosts.join(",")
    }

    /// A new client. One that was made in another test's runtime must not be
    /// used after that test's end: make a new one.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.uri()).await
    }

    /// The nodes' ports.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The process ids of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes
            .iter()
            .filter_map(|node| node.server.as_ref())
            .map(Server::id)
            .collect()
    }

    /// The end of the first node's log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.nodes
            .first()
            .and_then(|node| node.server.as_ref())
            .map(|s| s.log_tail(lines))
            .unwrap_or_default()
    }

    /// SIGKILL to every node.
    pub fn kill9(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::kill9)
    }

    /// SIGKILL to one node.
    pub fn kill9_node(&mut self, number: usize) -> Result<()> {
        self.nodes
            .get_mut(number)
            .with_context(|| format!("no node {number}"))?
            .kill9()
    }

    /// Suspends (`Signal::Stop`) or resumes (`Signal::Cont`) every node, or
    /// sends another signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.nodes
            .iter_mut()
            .filter_map(|node| node.server.as_mut())
            .try_for_each(|server| server.signal(signal))
    }

    /// Ends every node in order.
    pub async fn stop(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().rev() {
            node.stop().await?;
        }
        Ok(())
    }

    /// Starts the nodes that do not run, on their ports and data, and waits
    /// for a primary.
    pub async fn restart(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.server.is_none() {
                node.start().await?;
            }
        }
        let client = self.client().await?;
        let Some(first) = self.nodes.first_mut() else {
            bail!("no node")
        };
        until_primary(first.running()?, &client).await
    }
}

/// A server without a replica set: no oplog, no snapshot reads.
#[derive(Debug)]
pub struct Standalone {
    node: Node,
    auth: bool,
}

impl Standalone {
    /// Starts one with the defaults.
    pub async fn start(dir: &Workdir) -> Result<Self> {
        Self::start_with(dir, Options::default()).await
    }

    /// Starts one; `nodes` and `oplog_mb` have no meaning here.
    pub async fn start_with(dir: &Workdir, mut options: Options) -> Result<Self> {
        if options.auth {
            options.extra.push("--auth".into());
        }
        let node = Node::new(dir.fresh("mongod")?, &options, None)?;
        let mut standalone = Self {
            node,
            auth: options.auth,
        };
        standalone.node.start().await?;
        let direct = connect(&standalone.node.direct_uri()).await?;
        until_primary(standalone.node.running()?, &direct).await?;
        if options.auth {
            create_root(&direct).await?;
        }
        Ok(standalone)
    }

    /// The connection string, with the root user's password when there is one.
    pub fn uri(&self) -> String {
        uri_with(&self.node.host(), self.auth, "directConnection=true")
    }

    /// A new client.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.uri()).await
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.node.port
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.node.server.as_ref().map(Server::id)
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.node.kill9()
    }

    /// Ends it in order.
    pub async fn stop(&mut self) -> Result<()> {
        self.node.stop().await
    }

    /// Starts it again, on its port and data.
    pub async fn restart(&mut self) -> Result<()> {
        if self.node.server.is_none() {
            self.node.start().await?;
        }
        let client = self.client().await?;
        until_primary(self.node.running()?, &client).await
    }
}

/// Drops every database that is not the server's own, and every user and role
/// but the root user: an empty server without a restart.
pub async fn wipe(client: &Client) -> Result<()> {
    for name in client.list_database_names().await? {
        if !["admin", "config", "local"].contains(&name.as_str()) {
            client
                .database(&name)
                .drop()
                .await
                .with_context(|| format!("dropping {name}"))?;
        }
    }
    let admin = client.database("admin");
    for name in admin.list_collection_names().await? {
        if !name.starts_with("system.") {
            admin.collection::<Document>(&name).drop().await?;
        }
    }
    let users = admin
        .run_command(doc! { "usersInfo": { "forAllDBs": true } })
        .await?;
    for user in users
        .get_array("users")?
        .iter()
        .filter_map(|user| user.as_document())
    {
        let (name, db) = (user.get_str("user")?, user.get_str("db")?);
        if (name, db) != (ROOT_USER, "admin") {
            client
                .database(db)
                .run_command(doc! { "dropUser": name })
                .await?;
        }
    }
    use futures::TryStreamExt;
    let roles: Vec<Document> = admin
        .collection("system.roles")
        .find(doc! {})
        .await?
        .try_collect()
        .await?;
    for role in roles {
        client
            .database(role.get_str("db")?)
            .run_command(doc! { "dropRole": role.get_str("role")? })
            .await?;
    }
    Ok(())
}

/// Makes a file readable by its owner alone.
pub(crate) fn restrict(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restricting {}", path.display()))
}
