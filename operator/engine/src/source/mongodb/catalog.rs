//! The catalogue: which collections, views and time series there are, with their options and
//! indexes exactly as the server lists them.
//!
//! What is skipped is what mongodump skips: `local`, most of `config`, what the server keeps for
//! itself, and `system.*` except stored JavaScript and (if wanted) users and roles. The buckets of
//! a time series go with the series.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Bson, Document, doc, spec::BinarySubtype};

use super::connect::Connection;
use super::cursor::collect;
use super::error::{MongodbError, code};
use super::namespace::{Namespace, NamespaceFilter};

/// Collections of `config` that belong to a backup.
const CONFIG_COLLECTIONS: [&str; 7] = [
    "chunks",
    "collections",
    "databases",
    "settings",
    "shards",
    "tags",
    "version",
];

/// How many questions are asked at a time.
const QUESTIONS: usize = 8;

/// What an entry of the catalogue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A collection.
    Collection,
    /// A view: it has no documents of its own.
    View,
    /// A time series: a view of its buckets.
    TimeSeries,
}

impl Kind {
    /// The word of `listCollections`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::View => "view",
            Self::TimeSeries => "timeseries",
        }
    }
}

/// A collection, view or time series.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogEntry {
    /// Its name.
    pub namespace: Namespace,
    /// What it is.
    pub kind: Kind,
    /// Its options, in the server's order.
    pub options: Document,
    /// Its indexes, in the server's order.
    pub indexes: Vec<Document>,
    /// UUID of the collection that holds the documents, 32 hex digits.
    pub uuid: Option<String>,
    /// UUID as its metadata file gives it: that of the entry itself, which a time series lacks.
    pub metadata_uuid: Option<String>,
    /// Where its documents are: itself, or the buckets; nowhere for a view.
    pub data: Option<Namespace>,
    /// Whether it is capped.
    pub capped: bool,
    /// Whether its recordIds are its `_id`s.
    pub clustered: bool,
    /// Bytes of its documents, an estimate.
    pub bytes: u64,
    /// How many documents, an estimate.
    pub documents: u64,
}

/// What is wanted of a deployment, as it was listed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    entries: BTreeMap<Namespace, CatalogEntry>,
    /// Every collection there is, wanted or not: which patterns match nothing depends on it.
    seen: BTreeSet<Namespace>,
    orphans: BTreeSet<Namespace>,
}

/// Says what is wanted of a deployment.
#[derive(Debug, Clone)]
pub struct Selection {
    /// By name.
    pub filter: NamespaceFilter,
    /// Whether users and roles are wanted.
    pub users_and_roles: bool,
}

impl Selection {
    /// Whether a collection, view or time series is wanted.
    #[must_use]
    pub fn wants(&self, namespace: &Namespace) -> bool {
        if super::users::is_users_or_roles(namespace) {
            return self.users_and_roles;
        }
        is_backed_up(namespace) && self.filter.selects(namespace)
    }

    /// The databases that hold all that is wanted; `None` where only the server knows them. Users
    /// and roles are the whole server's, and who may read them may list it.
    #[must_use]
    pub fn databases(&self) -> Option<BTreeSet<&str>> {
        self.filter.databases().filter(|_| !self.users_and_roles)
    }
}

/// Whether a collection belongs to a backup at all, users and roles aside.
fn is_backed_up(namespace: &Namespace) -> bool {
    let name = namespace.collection.as_str();
    match namespace.db.as_str() {
        "local" => false,
        "config" => CONFIG_COLLECTIONS.contains(&name),
        db if db.starts_with("__mdb_internal_") => false,
        _ => !name.starts_with("system.") || name == "system.js",
    }
}

impl Catalog {
    /// Lists what is wanted.
    ///
    /// # Errors
    /// When the server does not answer or does not allow it.
    pub async fn list(
        connection: &Connection,
        selection: &Selection,
    ) -> Result<Self, MongodbError> {
        let databases = match selection.databases() {
            Some(named) => named.into_iter().map(str::to_owned).collect(),
            None => list_databases(connection).await?,
        };
        let mut catalog = Self::default();
        for db in databases.iter().filter(|db| *db != "local") {
            catalog.list_database(connection, selection, db).await?;
        }
        Ok(catalog)
    }

    /// Lists one database anew.
    ///
    /// # Errors
    /// When the server does not answer or does not allow it.
    pub async fn list_database(
        &mut self,
        connection: &Connection,
        selection: &Selection,
        db: &str,
    ) -> Result<(), MongodbError> {
        self.entries.retain(|namespace, _| namespace.db != db);
        self.seen.retain(|namespace| namespace.db != db);
        self.orphans.retain(|namespace| namespace.db != db);
        let command = doc! {"listCollections": 1, "cursor": {}};
        let action = format!("list the collections of {db}");
        let listed = collect(connection, db, action, command).await?;
        let mut found: Vec<CatalogEntry> = listed
            .into_iter()
            .filter_map(|one| entry(db, one))
            .collect();
        let uuids: BTreeMap<Namespace, Option<String>> = found
            .iter()
            .map(|one| (one.namespace.clone(), one.uuid.clone()))
            .collect();
        for one in &mut found {
            if one.kind == Kind::TimeSeries {
                one.uuid = uuids.get(&one.namespace.buckets()).cloned().flatten();
            }
        }
        self.orphans.extend(orphaned_buckets(selection, &uuids));
        let own = |namespace: &Namespace| is_backed_up(namespace);
        self.seen.extend(uuids.into_keys().filter(own));
        let wanted = found
            .into_iter()
            .filter(|one| selection.wants(&one.namespace));
        let complete: Vec<Option<CatalogEntry>> = futures::stream::iter(wanted)
            .map(|entry| complete(connection, entry))
            .buffer_unordered(QUESTIONS)
            .try_collect()
            .await?;
        let entries = complete.into_iter().flatten();
        self.entries
            .extend(entries.map(|entry| (entry.namespace.clone(), entry)));
        Ok(())
    }

    /// What is wanted, in order of namespace.
    pub fn entries(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.entries.values()
    }

    /// Buckets that are wanted and whose time series is gone.
    pub fn orphans(&self) -> impl Iterator<Item = &Namespace> {
        self.orphans.iter()
    }

    /// The wanted entry of this name; buckets stand for their time series.
    #[must_use]
    pub fn get(&self, namespace: &Namespace) -> Option<&CatalogEntry> {
        self.entries
            .get(namespace)
            .or_else(|| self.entries.get(&namespace.without_buckets_prefix()))
    }

    /// Patterns of what is wanted that match no collection at all.
    #[must_use]
    pub fn unmatched(&self, filter: &NamespaceFilter) -> Vec<String> {
        filter
            .include()
            .iter()
            .filter(|pattern| !self.seen.iter().any(|one| pattern.matches(one)))
            .map(ToString::to_string)
            .collect()
    }

    /// Whether a collection of the other catalogue is not in this one as the same collection.
    #[must_use]
    pub fn first_lost_from(&self, before: &Self) -> Option<Namespace> {
        let same = |old: &&CatalogEntry| {
            old.data.is_some()
                && self
                    .entries
                    .get(&old.namespace)
                    .is_none_or(|new| new.uuid != old.uuid)
        };
        before.entries().find(same).map(|one| one.namespace.clone())
    }
}

/// The names of all databases. Unless told otherwise the server leaves out, without a word, those
/// that the account has no rights in: then what it may not read would be missing in a backup that
/// is a success.
async fn list_databases(connection: &Connection) -> Result<Vec<String>, MongodbError> {
    let command = doc! {"listDatabases": 1, "nameOnly": true, "authorizedDatabases": false};
    let answer = connection.run("admin", "list all databases", command).await;
    let answer = answer.map_err(|error| match error {
        MongodbError::PermissionDenied {
            action,
            server,
            cause,
            ..
        } => MongodbError::PermissionDenied {
            action,
            server,
            cause,
            advice: "grant it the roles backup and clusterMonitor on the database admin; or, to \
                     back up only some databases, name those in include (such as shop.*) and set \
                     usersAndRoles: false"
                .to_owned(),
        },
        other => other,
    })?;
    Ok(answer
        .get_array("databases")
        .into_iter()
        .flatten()
        .filter_map(|one| Some(one.as_document()?.get_str("name").ok()?.to_owned()))
        .collect())
}

fn orphaned_buckets(
    selection: &Selection,
    names: &BTreeMap<Namespace, Option<String>>,
) -> Vec<Namespace> {
    names
        .keys()
        .filter(|one| {
            let series = one.without_buckets_prefix();
            series != **one && !names.contains_key(&series) && selection.wants(&series)
        })
        .cloned()
        .collect()
}

/// What `listCollections` says of one; `None` for what has no name.
fn entry(db: &str, mut listed: Document) -> Option<CatalogEntry> {
    let name = listed.get_str("name").ok()?.to_owned();
    let options = match listed.remove("options") {
        Some(Bson::Document(options)) => options,
        _ => Document::new(),
    };
    let kind = match listed.get_str("type") {
        Ok("view") => Kind::View,
        Ok("timeseries") => Kind::TimeSeries,
        _ => Kind::Collection,
    };
    let uuid = match listed.get_document("info").map(|info| info.get("uuid")) {
        Ok(Some(Bson::Binary(uuid))) if uuid.subtype == BinarySubtype::Uuid => {
            Some(hex::encode(&uuid.bytes))
        }
        _ => None,
    };
    let namespace = Namespace::new(db, name);
    let data = match kind {
        Kind::Collection => Some(namespace.clone()),
        Kind::View => None,
        Kind::TimeSeries => Some(namespace.buckets()),
    };
    Some(CatalogEntry {
        kind,
        capped: options.get_bool("capped").unwrap_or(false),
        clustered: kind == Kind::TimeSeries || options.contains_key("clusteredIndex"),
        metadata_uuid: uuid.clone(),
        uuid,
        data,
        options,
        indexes: Vec::new(),
        bytes: 0,
        documents: 0,
        namespace,
    })
}

/// Adds indexes and sizes; `None` when the collection is gone meanwhile: the watch on the oplog
/// sees that too.
async fn complete(
    connection: &Connection,
    mut entry: CatalogEntry,
) -> Result<Option<CatalogEntry>, MongodbError> {
    if entry.kind != Kind::View {
        let action = format!("list the indexes of {}", entry.namespace);
        let command = doc! {"listIndexes": &entry.namespace.collection, "cursor": {}};
        match collect(connection, &entry.namespace.db, action, command).await {
            Ok(indexes) => entry.indexes = indexes,
            Err(error)
                if matches!(
                    error.code(),
                    Some(code::NAMESPACE_NOT_FOUND | code::COMMAND_NOT_SUPPORTED_ON_VIEW)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(data) = &entry.data {
        let (bytes, documents) = sizes(connection, data).await;
        entry.bytes = bytes;
        entry.documents = documents;
    }
    Ok(Some(entry))
}

/// Estimates that decide how a collection is read, never whether: without them it is read with one
/// cursor.
async fn sizes(connection: &Connection, namespace: &Namespace) -> (u64, u64) {
    let command = doc! {
        "aggregate": &namespace.collection,
        "pipeline": [
            {"$collStats": {"storageStats": {}}},
            {"$project": {"size": "$storageStats.size", "count": "$storageStats.count"}},
        ],
        "cursor": {},
    };
    let action = format!("ask for the size of {namespace}");
    match collect(connection, &namespace.db, action, command).await {
        Ok(answer) => {
            let number = |name: &str| {
                let value = answer.first().and_then(|one| one.get(name));
                match value {
                    Some(Bson::Int32(value)) => u64::try_from(*value).unwrap_or(0),
                    Some(Bson::Int64(value)) => u64::try_from(*value).unwrap_or(0),
                    // Sizes past 2^53 do not occur; a float is what very old servers send.
                    Some(Bson::Double(value)) => *value as u64,
                    _ => 0,
                }
            };
            (number("size"), number("count"))
        }
        Err(error) => {
            tracing::debug!(%namespace, %error, "The size is not known; one cursor is used.");
            (0, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("shop.orders", true, true)]
    #[case("shop.system.js", true, true)]
    #[case("shop.system.profile", false, false)]
    #[case("shop.system.views", false, false)]
    #[case("shop.system.buckets.weather", false, false)]
    #[case("local.oplog.rs", false, false)]
    #[case("config.settings", true, true)]
    #[case("config.transactions", false, false)]
    #[case("config.system.sessions", false, false)]
    #[case("admin.mine", true, true)]
    #[case("admin.system.users", false, true)]
    #[case("admin.system.roles", false, true)]
    #[case("admin.system.version", false, true)]
    #[case("admin.system.keys", false, false)]
    #[case("shop.system.users", false, false)]
    #[case("__mdb_internal_search.x", false, false)]
    #[case("shop.__mdb_internal_x", true, true)]
    fn skips_what_mongodump_skips(
        #[case] namespace: &str,
        #[case] plain: bool,
        #[case] with_users: bool,
    ) {
        let namespace: Namespace = namespace.parse().unwrap();
        for (users_and_roles, expected) in [(false, plain), (true, with_users)] {
            let filter = NamespaceFilter::default();
            let selection = Selection {
                filter,
                users_and_roles,
            };
            assert_eq!(selection.wants(&namespace), expected, "{users_and_roles}");
        }
    }

    #[test]
    fn users_and_roles_are_wanted_whatever_include_says() {
        let selection = Selection {
            filter: NamespaceFilter::new(&["shop.*".to_owned()], &["admin.*".to_owned()]).unwrap(),
            users_and_roles: true,
        };
        assert!(selection.wants(&Namespace::new("admin", "system.users")));
        assert!(!selection.wants(&Namespace::new("admin", "mine")));
    }
}
