//! The dataset made to hurt: everything a MongoDB can hold that a backup tool
//! might lose, bend or trip over. The same seed gives the same data.
//!
//! | database | what |
//! |---|---|
//! | `P` | every type, strange `_id`s, collation, options, indexes, views, time series, capped, clustered, GridFS |
//! | `P_names` | collections whose names need escaping |
//! | `P_many` | many small collections |
//! | `P_big` | one large collection, one with 16 MiB documents |
//! | `P données 100%` | a database whose name needs care |
//! | `admin` | one collection of the user's own; users and roles |
//!
//! `P` is the dataset's prefix.

mod bulk;
mod indexes;
mod names;
mod options;
mod types;
mod users;

pub use names::awkward as awkward_names;
pub use users::PASSWORD as USER_PASSWORD;

use anyhow::{Context, Result};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, Database};

use crate::bson_bytes::BsonBytes;
use crate::compare::Scope;

/// What is loaded. The default suits an ordinary test run; [`Dataset::show`]
/// is the big one.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The databases' names begin with this.
    pub prefix: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The size of the large collection in bytes.
    pub big_bytes: u64,
    /// How many small collections.
    pub small_collections: u32,
    /// Whether users and roles are made.
    pub users: bool,
}

impl Default for Dataset {
    fn default() -> Self {
        Self {
            prefix: "hurt".into(),
            seed: 42,
            big_bytes: 64 << 20,
            small_collections: 100,
            users: true,
        }
    }
}

impl Dataset {
    /// The dataset of the big show: 1 GiB in one collection, 2,000 small ones.
    pub fn show() -> Self {
        Self {
            big_bytes: 1 << 30,
            small_collections: 2_000,
            ..Self::default()
        }
    }

    /// [`Dataset::show`] when `HOLDFAST_E2E_SHOW` is set, else the default.
    pub fn of_this_run() -> Self {
        match std::env::var_os("HOLDFAST_E2E_SHOW") {
            Some(value) if !value.is_empty() && value != "0" => Self::show(),
            _ => Self::default(),
        }
    }

    /// A dataset that loads in a second or two: nothing large, few small ones.
    pub fn small() -> Self {
        Self {
            big_bytes: 1 << 20,
            small_collections: 10,
            ..Self::default()
        }
    }

    /// The same with another prefix, to have several on one server.
    #[must_use]
    pub fn named(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// The main database.
    pub fn main(&self) -> String {
        self.prefix.clone()
    }

    /// The database of awkward collection names.
    pub fn names(&self) -> String {
        format!("{}_names", self.prefix)
    }

    /// The database of many small collections.
    pub fn many(&self) -> String {
        format!("{}_many", self.prefix)
    }

    /// The database of large things.
    pub fn big(&self) -> String {
        format!("{}_big", self.prefix)
    }

    /// The database with an awkward name.
    pub fn awkward(&self) -> String {
        // No spaces or dots: the server forbids them.
        format!("{}-données-100%", self.prefix)
    }

    /// All databases that belong to the dataset alone.
    pub fn databases(&self) -> Vec<String> {
        vec![
            self.main(),
            self.names(),
            self.many(),
            self.big(),
            self.awkward(),
        ]
    }

    /// The dataset's collection in `admin`.
    pub fn admin_collection(&self) -> String {
        format!("{}_notes", self.prefix)
    }

    /// The dataset as it is compared: strictly, as Holdfast must bring it back.
    pub fn scope(&self) -> Scope {
        Scope::databases(self.databases())
            .and([format!("admin.{}", self.admin_collection())])
            .users(self.users)
    }

    /// The dataset as stock tools bring it back: without what is beyond them,
    /// and with the fields of options in any order.
    pub fn stock_scope(&self) -> Scope {
        self.scope().any_option_order().without(
            self.beyond_stock()
                .into_iter()
                .map(|(namespace, _)| namespace),
        )
    }

    /// What stock `mongodump` and `mongorestore` cannot bring back, by
    /// namespace, with the reason. Holdfast has to.
    pub fn beyond_stock(&self) -> Vec<(String, &'static str)> {
        vec![
            (
                format!("{}.empty_timestamps", self.main()),
                "the server replaces a top-level Timestamp(0, 0) when it is inserted",
            ),
            (
                format!("{}.hashed_id", self.main()),
                "now and then mongorestore takes a hashed index on _id for the one that is always there",
            ),
            (
                format!("{}.new\nline", self.names()),
                "mongorestore passes over the file without a word",
            ),
        ]
    }

    /// Loads everything into a server that has none of it.
    pub async fn load(&self, client: &Client) -> Result<()> {
        let main = client.database(&self.main());
        types::load(&main, self.seed)
            .await
            .context("loading the types")?;
        options::load(&main, self.seed)
            .await
            .context("loading the collection options")?;
        indexes::load(&main).await.context("loading the indexes")?;
        names::load(self, client)
            .await
            .context("loading the awkward names")?;
        if self.users {
            users::load(&main, client)
                .await
                .context("loading users and roles")?;
        }
        bulk::small(
            &client.database(&self.many()),
            self.small_collections,
            self.seed,
        )
        .await
        .context("loading the small collections")?;
        bulk::big(
            &client.database(&self.big()),
            "big",
            self.big_bytes,
            self.seed,
        )
        .await
        .context("loading the large collection")?;
        bulk::giants(&client.database(&self.big()), self.seed)
            .await
            .context("loading the giant documents")?;
        Ok(())
    }

    /// Drops the dataset's databases, and its users and roles.
    pub async fn drop(&self, client: &Client) -> Result<()> {
        if self.users {
            users::drop(&client.database(&self.main()), client).await?;
        }
        for name in self.databases() {
            client
                .database(&name)
                .drop()
                .await
                .with_context(|| format!("dropping {name}"))?;
        }
        client
            .database("admin")
            .collection::<Document>(&self.admin_collection())
            .drop()
            .await?;
        Ok(())
    }
}

/// Fills a collection with `bytes` of documents of about 1 KiB, on several
/// connections: for tests that want size alone. The indexes are `_id` and one
/// on `customer`.
pub async fn fill(
    client: &Client,
    database: &str,
    collection: &str,
    bytes: u64,
    seed: u64,
) -> Result<u64> {
    bulk::big(&client.database(database), collection, bytes, seed).await
}

/// Creates a collection; acknowledged by one node, which is quick.
async fn create(database: &Database, name: &str, options: Document) -> Result<()> {
    let mut command = doc! { "create": name };
    command.extend(options);
    command.insert("writeConcern", doc! { "w": 1 });
    database
        .run_command(command)
        .await
        .with_context(|| format!("creating {}.{name}", database.name()))?;
    Ok(())
}

/// Inserts documents exactly as they are, in this order.
async fn insert(database: &Database, name: &str, documents: &[BsonBytes]) -> Result<()> {
    let documents = documents
        .iter()
        .map(BsonBytes::finish)
        .collect::<Result<Vec<_>>>()?;
    insert_raw(database, name, &documents, true).await
}

/// Inserts documents that the driver can hold.
async fn insert_docs(database: &Database, name: &str, documents: Vec<Document>) -> Result<()> {
    let documents = documents
        .iter()
        .map(|document| Ok(RawDocumentBuf::from_document(document)?))
        .collect::<Result<Vec<_>>>()?;
    insert_raw(database, name, &documents, true).await
}

/// One `insert` command, its bytes put together only once. It must stay below
/// the server's 16 MiB for a command.
async fn insert_raw(
    database: &Database,
    name: &str,
    documents: &[RawDocumentBuf],
    ordered: bool,
) -> Result<()> {
    let mut list = BsonBytes::new();
    let mut digits = String::new();
    for (number, document) in documents.iter().enumerate() {
        use std::fmt::Write;
        digits.clear();
        write!(digits, "{number}")?;
        list.raw(&digits, document);
    }
    let mut concern = BsonBytes::new();
    concern.int32("w", 1);
    let mut command = BsonBytes::new();
    command
        .string("insert", name)
        .array("documents", &list)
        .boolean("ordered", ordered)
        .boolean("bypassDocumentValidation", true)
        .document("writeConcern", &concern);
    let answer = database
        .run_raw_command(command.finish()?)
        .await
        .with_context(|| format!("inserting into {}.{name}", database.name()))?;
    if let Ok(errors) = answer.get_array("writeErrors") {
        anyhow::bail!(
            "inserting into {}.{name}: {:?}",
            database.name(),
            errors.first()
        );
    }
    Ok(())
}
