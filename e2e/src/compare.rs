//! What a server holds, in a form that can be compared: documents as digests
//! that do not depend on order, indexes, options, views, users and roles.
//!
//! Two servers: [`differences`]. One server before and after: take a
//! [`Snapshot`] of each and ask it for [`Snapshot::differences`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use mongodb::bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::{Client, Database};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Collections up to this many documents are remembered one by one, so that
/// a difference can name the `_id`s.
const NAMED: u64 = 5_000;

/// Which part of a server is looked at.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    databases: Option<BTreeSet<String>>,
    collections: BTreeSet<String>,
    without: BTreeSet<String>,
    users: bool,
    any_option_order: bool,
}

impl Scope {
    /// Everything that is not the server's own, users and roles too (without
    /// the harness's root user).
    pub fn all() -> Self {
        Self {
            users: true,
            ..Self::default()
        }
    }

    /// These databases, without users and roles.
    pub fn databases<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self {
            databases: Some(names.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    /// These namespaces too, from databases that are not looked at otherwise.
    #[must_use]
    pub fn and<S: Into<String>>(mut self, namespaces: impl IntoIterator<Item = S>) -> Self {
        self.collections
            .extend(namespaces.into_iter().map(Into::into));
        self
    }

    /// The order of fields inside the options of collections and indexes does
    /// not matter (that of an index's key does). Stock mongorestore shuffles
    /// validators, wildcard projections and the like, differently every time.
    #[must_use]
    pub fn any_option_order(mut self) -> Self {
        self.any_option_order = true;
        self
    }

    /// Not these namespaces.
    #[must_use]
    pub fn without<S: Into<String>>(mut self, namespaces: impl IntoIterator<Item = S>) -> Self {
        self.without.extend(namespaces.into_iter().map(Into::into));
        self
    }

    /// With users and roles, or without.
    #[must_use]
    pub fn users(mut self, yes: bool) -> Self {
        self.users = yes;
        self
    }
}

/// The digest of a collection's documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub count: u64,
    /// How many bytes of BSON.
    pub bytes: u64,
    /// The sum of the documents' 128-bit hashes; order does not change it.
    pub sum: u128,
    /// The hash of all of them in natural order; capped collections only.
    pub in_order: Option<u128>,
}

/// One collection or view.
#[derive(Clone, Debug, Default)]
pub struct CollectionState {
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// Its options as listCollections shows them.
    pub options: BTreeMap<String, String>,
    /// Its indexes by name, as listIndexes shows them.
    pub indexes: BTreeMap<String, BTreeMap<String, String>>,
    /// Its documents; `None` for a view.
    pub digest: Option<Digest>,
    /// The documents' hashes with their `_id`s, when there are few.
    few: BTreeMap<u128, String>,
    /// What a view, or the like, stands on.
    view_on: Option<String>,
}

/// What a server, or part of one, holds at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By namespace.
    pub collections: BTreeMap<String, CollectionState>,
    /// Users by `db.name`, with the hash of their record.
    pub users: BTreeMap<String, u128>,
    /// Roles by `db.name`, with the hash of their record.
    pub roles: BTreeMap<String, u128>,
}

impl Snapshot {
    /// Reads it. Nobody should write meanwhile.
    pub async fn take(client: &Client, scope: &Scope) -> Result<Self> {
        let mut snapshot = Self::default();
        let mut work = Vec::new();
        for name in client
            .list_database_names()
            .await
            .context("listing the databases")?
        {
            let whole = match &scope.databases {
                Some(names) => names.contains(&name),
                None => !["local", "config"].contains(&name.as_str()),
            };
            let partly = scope
                .collections
                .iter()
                .any(|namespace| namespace.split_once('.').is_some_and(|(db, _)| db == name));
            if !whole && !partly {
                continue;
            }
            let database = client.database(&name);
            for collection in list(&database)
                .await
                .with_context(|| format!("listing the collections of {name}"))?
            {
                let collection_name = collection.get_str("name")?;
                let buckets = collection_name.starts_with("system.buckets.");
                if collection_name.starts_with("system.")
                    && collection_name != "system.js"
                    && !buckets
                {
                    continue;
                }
                let namespace = format!("{name}.{collection_name}");
                // A time series and its buckets are left out together.
                let of = if buckets {
                    namespace.replacen("system.buckets.", "", 1)
                } else {
                    namespace.clone()
                };
                if !whole && !scope.collections.contains(&of) {
                    continue;
                }
                if !scope.without.contains(&of) && !scope.without.contains(&namespace) {
                    work.push((namespace, database.clone(), collection));
                }
            }
        }
        snapshot.collections = futures::stream::iter(work)
            .map(|(namespace, database, listed)| async move {
                let state = look(&database, &listed, scope.any_option_order)
                    .await
                    .with_context(|| format!("reading {namespace}"))?;
                anyhow::Ok((namespace, state))
            })
            .buffer_unordered(6)
            .try_collect()
            .await?;
        if scope.users {
            let admin = client.database("admin");
            snapshot.users = principals(&admin, "system.users", "user")
                .await
                .context("reading the users")?;
            snapshot
                .users
                .remove(&format!("admin.{}", crate::mongod::ROOT_USER));
            snapshot.roles = principals(&admin, "system.roles", "role")
                .await
                .context("reading the roles")?;
        }
        Ok(snapshot)
    }

    /// The same under other names: each pair renames one namespace
    /// (`"shop.orders"`, `"copy.orders"`) or a whole database (`"shop.*"`, `"copy.*"`).
    pub fn renamed(&self, pairs: &[(&str, &str)]) -> Self {
        let rename = |namespace: &str| {
            for (from, to) in pairs {
                match (from.strip_suffix(".*"), to.strip_suffix(".*")) {
                    (Some(from), Some(to)) => {
                        if let Some(rest) = namespace
                            .strip_prefix(from)
                            .and_then(|rest| rest.strip_prefix('.'))
                        {
                            return format!("{to}.{rest}");
                        }
                    }
                    _ if namespace == *from => return (*to).to_owned(),
                    _ => {}
                }
            }
            namespace.to_owned()
        };
        let mut renamed = self.clone();
        renamed.collections = self
            .collections
            .iter()
            .map(|(namespace, state)| {
                let mut state = state.clone();
                if let (Some(on), Some((database, _))) = (&state.view_on, namespace.split_once('.'))
                    && let Some((_, on)) = rename(&format!("{database}.{on}")).split_once('.')
                {
                    state
                        .options
                        .insert("viewOn".into(), format!("{:?}", Bson::String(on.into())));
                    state.view_on = Some(on.to_owned());
                }
                (rename(namespace), state)
            })
            .collect();
        renamed
    }

    /// How many documents there are.
    pub fn documents(&self) -> u64 {
        self.collections
            .values()
            .filter_map(|state| state.digest.as_ref())
            .map(|digest| digest.count)
            .sum()
    }

    /// What is different in `other`, one line each; empty when nothing is.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (namespace, state) in &self.collections {
            match other.collections.get(namespace) {
                Some(theirs) => differences_of(namespace, state, theirs, &mut found),
                None => found.push(format!("{namespace:?}: the {} is missing", state.kind)),
            }
        }
        for (namespace, state) in &other.collections {
            if !self.collections.contains_key(namespace) {
                found.push(format!(
                    "{namespace:?}: a {} that should not be there",
                    state.kind
                ));
            }
        }
        for (what, ours, theirs) in [
            ("user", &self.users, &other.users),
            ("role", &self.roles, &other.roles),
        ] {
            for (name, hash) in ours {
                match theirs.get(name) {
                    Some(their) if their == hash => {}
                    Some(_) => found.push(format!("{what} {name}: the record differs")),
                    None => found.push(format!("{what} {name}: missing")),
                }
            }
            for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
                found.push(format!("{what} {name}: should not be there"));
            }
        }
        found
    }

    /// An error that lists the differences, if there are any.
    pub fn same_as(&self, other: &Self) -> Result<()> {
        let found = self.differences(other);
        if found.is_empty() {
            return Ok(());
        }
        let shown = found
            .iter()
            .take(50)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        anyhow::bail!("{} differences:\n{shown}", found.len())
    }
}

/// What is different on the second server.
pub async fn differences(expected: &Client, actual: &Client, scope: &Scope) -> Result<Vec<String>> {
    let (expected, actual) = tokio::try_join!(
        Snapshot::take(expected, scope),
        Snapshot::take(actual, scope)
    )?;
    Ok(expected.differences(&actual))
}

fn differences_of(
    namespace: &str,
    ours: &CollectionState,
    theirs: &CollectionState,
    found: &mut Vec<String>,
) {
    if ours.kind != theirs.kind {
        found.push(format!(
            "{namespace:?}: a {} where there was a {}",
            theirs.kind, ours.kind
        ));
        return;
    }
    maps(
        &format!("{namespace:?}: option"),
        &ours.options,
        &theirs.options,
        found,
    );
    for (name, index) in &ours.indexes {
        match theirs.indexes.get(name) {
            Some(their) => maps(
                &format!("{namespace:?}: index {name:?}:"),
                index,
                their,
                found,
            ),
            None => found.push(format!("{namespace:?}: index {name:?} is missing")),
        }
    }
    for name in theirs
        .indexes
        .keys()
        .filter(|name| !ours.indexes.contains_key(*name))
    {
        found.push(format!("{namespace:?}: index {name:?} should not be there"));
    }
    let (Some(digest), Some(their)) = (&ours.digest, &theirs.digest) else {
        return;
    };
    if digest == their {
        return;
    }
    let same = (digest.count, digest.bytes, digest.sum) == (their.count, their.bytes, their.sum);
    if same {
        found.push(format!(
            "{namespace:?}: the same documents in another order"
        ));
        return;
    }
    let missing: Vec<_> = ours
        .few
        .iter()
        .filter(|(hash, _)| !theirs.few.contains_key(hash))
        .collect();
    let extra: Vec<_> = theirs
        .few
        .iter()
        .filter(|(hash, _)| !ours.few.contains_key(hash))
        .collect();
    let names = |list: &[(&u128, &String)]| {
        list.iter()
            .take(5)
            .map(|(_, id)| id.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    found.push(format!(
        "{namespace:?}: {} documents of {} bytes where there were {} of {}; gone or changed: [{}]; new or changed: [{}]",
        their.count, their.bytes, digest.count, digest.bytes, names(&missing), names(&extra)
    ));
}

fn maps(
    what: &str,
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
    found: &mut Vec<String>,
) {
    for (name, value) in ours {
        match theirs.get(name) {
            Some(their) if their == value => {}
            Some(their) => found.push(format!("{what} {name} is {their}, was {value}")),
            None => found.push(format!("{what} {name} is missing, was {value}")),
        }
    }
    for (name, value) in theirs.iter().filter(|(name, _)| !ours.contains_key(*name)) {
        found.push(format!("{what} {name} is {value}, was not there"));
    }
}

async fn list(database: &Database) -> Result<Vec<Document>> {
    let cursor = database
        .run_cursor_command(doc! { "listCollections": 1, "cursor": { "batchSize": 10_000 } })
        .await?;
    Ok(cursor.try_collect().await?)
}

async fn look(database: &Database, listed: &Document, sorted: bool) -> Result<CollectionState> {
    let name = listed.get_str("name")?;
    let kind = listed.get_str("type")?.to_owned();
    let options = listed.get_document("options").cloned().unwrap_or_default();
    let shown = if sorted {
        sort(&options)
    } else {
        options.clone()
    };
    let mut state = CollectionState {
        options: fields(&shown, &["uuid"]),
        view_on: options.get_str("viewOn").ok().map(str::to_owned),
        ..CollectionState::default()
    };
    if kind != "view" {
        let command = doc! { "listIndexes": name, "cursor": { "batchSize": 10_000 } };
        let indexes: Vec<Document> = database
            .run_cursor_command(command)
            .await?
            .try_collect()
            .await?;
        for index in indexes {
            let name = index.get_str("name")?.to_owned();
            let mut shown = if sorted { sort(&index) } else { index.clone() };
            shown.insert("key", index.get_document("key")?);
            state.indexes.insert(name, fields(&shown, &["ns"]));
        }
    }
    if kind == "collection" {
        let capped = options.get_bool("capped").unwrap_or(false);
        let (digest, few) = digest(database, name, capped).await?;
        state.digest = Some(digest);
        state.few = few;
    }
    state.kind = kind;
    Ok(state)
}

/// The same document with the fields of every level in order of their names.
fn sort(document: &Document) -> Document {
    fn value(from: &Bson) -> Bson {
        match from {
            Bson::Document(document) => Bson::Document(sort(document)),
            Bson::Array(array) => Bson::Array(array.iter().map(value).collect()),
            other => other.clone(),
        }
    }
    let fields: BTreeMap<&String, &Bson> = document.iter().collect();
    fields
        .into_iter()
        .map(|(name, from)| (name.clone(), value(from)))
        .collect()
}

/// The fields by name: their order does not matter, that inside them does.
fn fields(document: &Document, without: &[&str]) -> BTreeMap<String, String> {
    document
        .iter()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), format!("{value:?}")))
        .collect()
}

/// The digest of a collection's documents.
pub async fn digest(
    database: &Database,
    name: &str,
    ordered: bool,
) -> Result<(Digest, BTreeMap<u128, String>)> {
    let mut digest = Digest::default();
    let mut few = BTreeMap::new();
    let mut order = ordered.then(Xxh3::new);
    let mut cursor = database
        .collection::<RawDocumentBuf>(name)
        .find(doc! {})
        .hint(mongodb::options::Hint::Keys(doc! { "$natural": 1 }))
        .await?;
    while cursor.advance().await? {
        let document = cursor.current();
        let hash = xxh3_128(document.as_bytes());
        digest.count += 1;
        digest.bytes += document.as_bytes().len() as u64;
        digest.sum = digest.sum.wrapping_add(hash);
        if let Some(order) = &mut order {
            order.update(document.as_bytes());
        }
        if digest.count <= NAMED {
            few.insert(hash, id_of(document));
        }
    }
    digest.in_order = order.map(|order| order.digest128());
    if digest.count > NAMED {
        few.clear();
    }
    Ok((digest, few))
}

fn id_of(document: &RawDocument) -> String {
    let id = match document.get("_id") {
        Ok(Some(id)) => format!("{id:?}"),
        Ok(None) => "no _id".into(),
        Err(error) => format!("unreadable: {error}"),
    };
    id.chars().take(120).collect()
}

async fn principals(
    admin: &Database,
    collection: &str,
    key: &str,
) -> Result<BTreeMap<String, u128>> {
    let mut found = BTreeMap::new();
    let mut cursor = admin
        .collection::<RawDocumentBuf>(collection)
        .find(doc! {})
        .await?;
    while cursor.advance().await? {
        let record = cursor.current();
        let name = format!("{}.{}", record.get_str("db")?, record.get_str(key)?);
        found.insert(name, xxh3_128(record.as_bytes()));
    }
    Ok(found)
}
