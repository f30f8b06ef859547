//! What the snapshot shall show of a deployment that was read: the files of a dump that stock
//! mongorestore takes, and the manifest.

use std::collections::BTreeMap;

use mongodb::bson::Timestamp;

use super::catalog::{Catalog, CatalogEntry, Selection};
use super::connect::{Deployment, Topology};
use super::error::MongodbError;
use super::metadata::{metadata_json, prelude_json};
use super::namespace::{DUMP_ROOT, Namespace};
use super::read::CollectionRead;
use super::users;
use crate::manifest::{ClusterTime, CollectionManifest, MongodbManifest, SegmentManifest};
use crate::source::{BlobId, ComposedFile, SegmentNumber, Stage};

/// A deployment that was read in full.
#[derive(Debug, Clone)]
pub struct MongodbRead {
    files: Vec<ComposedFile>,
    manifest: MongodbManifest,
    /// For each collection of the manifest the numbers of its segments.
    numbers: Vec<Vec<SegmentNumber>>,
}

impl MongodbRead {
    /// The files of the dump, and the manifest with the blobs that `resolve` names.
    pub fn finish(
        self,
        resolve: impl Fn(SegmentNumber) -> Vec<BlobId>,
    ) -> (Vec<ComposedFile>, MongodbManifest) {
        let mut manifest = self.manifest;
        for (collection, numbers) in manifest.collections.iter_mut().zip(self.numbers) {
            for (segment, number) in collection.segments.iter_mut().zip(numbers) {
                segment.blobs = resolve(number).iter().map(ToString::to_string).collect();
            }
        }
        (self.files, manifest)
    }

    /// The manifest as far as it is known before blobs are.
    #[must_use]
    pub fn manifest(&self) -> &MongodbManifest {
        &self.manifest
    }
}

/// Everything as it was read.
#[derive(Debug)]
pub struct Everything {
    /// What was read.
    pub deployment: Deployment,
    /// The collections, as of the time.
    pub catalog: Catalog,
    /// The one time, where there is one.
    pub time: Option<Timestamp>,
    /// The documents.
    pub read: BTreeMap<Namespace, CollectionRead>,
}

/// Stores the texts of the dump and says what the snapshot shall show. `server` is for messages.
///
/// # Errors
/// When the stage takes no more, or a collection was not read.
pub async fn compose(
    mut state: Everything,
    server: &str,
    selection: &Selection,
    notes: Vec<String>,
    stage: &dyn Stage,
) -> Result<MongodbRead, MongodbError> {
    let mut files = Vec::new();
    let prelude = stage.put(prelude_json(&state.deployment.version)).await?;
    files.push(ComposedFile {
        path: format!("{DUMP_ROOT}/prelude.json"),
        parts: vec![prelude],
    });
    let mut collections = Vec::new();
    let mut numbers = Vec::new();
    for entry in state.catalog.entries() {
        let metadata = metadata_json(entry);
        let metadata_path = entry.namespace.metadata_path();
        files.push(ComposedFile {
            path: metadata_path.clone(),
            parts: vec![stage.put(metadata).await?],
        });
        let read = match (state.read.remove(&entry.namespace), &entry.data) {
            (Some(read), _) => read,
            (None, None) => CollectionRead::default(),
            // It never happens; if it did, an empty file would stand for a full collection.
            (None, Some(data)) => {
                return Err(MongodbError::Server {
                    action: format!("read {data}"),
                    server: server.to_owned(),
                    code: 0,
                    cause: "it was passed over".to_owned(),
                });
            }
        };
        let parts: Vec<SegmentNumber> = read.segments.iter().map(|one| one.number).collect();
        let data_path = entry.data.as_ref().map(Namespace::data_path);
        if let Some(path) = data_path.clone() {
            let parts = parts.clone();
            files.push(ComposedFile { path, parts });
        }
        numbers.push(parts);
        collections.push(collection_manifest(entry, &read, data_path, metadata_path));
    }
    let count = |is: fn(&Namespace) -> bool| {
        let of = |one: &CollectionManifest| is(&Namespace::new(&one.db, &one.name));
        let wanted = collections.iter().filter(|one| of(one));
        wanted.map(|one| one.documents).sum::<u64>()
    };
    let (users, roles) = (count(users::is_users), count(users::is_roles));
    let capped = state.catalog.entries().any(|entry| entry.capped);
    let manifest = MongodbManifest {
        server_version: state.deployment.version.clone(),
        feature_compatibility_version: state.deployment.feature_compatibility_version.clone(),
        replica_set: match &state.deployment.topology {
            Topology::ReplicaSet { name } => Some(name.clone()),
            Topology::Standalone => None,
        },
        cluster_time: state.time.map(|time| ClusterTime {
            t: time.time,
            i: time.increment,
        }),
        point_in_time: state.time.is_some() && !capped,
        notes: all_notes(&state, selection, notes),
        collections,
        users,
        roles,
    };
    Ok(MongodbRead {
        files,
        manifest,
        numbers,
    })
}

fn all_notes(state: &Everything, selection: &Selection, mut notes: Vec<String>) -> Vec<String> {
    if state.time.is_none() {
        notes.push(
            "The server is standalone: collections were read one after the other, and there is no single point in time."
                .to_owned(),
        );
    } else {
        for entry in state.catalog.entries().filter(|entry| entry.capped) {
            notes.push(format!(
                "{} is capped: it cannot be read at a point in time, and was read as it was a little later.",
                entry.namespace
            ));
        }
    }
    for orphan in state.catalog.orphans() {
        notes.push(format!(
            "{orphan} holds buckets of a time series that is gone; it is not in the backup."
        ));
    }
    if selection.users_and_roles && !selection.filter.include().is_empty() {
        notes.push(
            "Users and roles are those of the whole server, not only of what is included."
                .to_owned(),
        );
    }
    notes
}

fn collection_manifest(
    entry: &CatalogEntry,
    read: &CollectionRead,
    data_path: Option<String>,
    metadata_path: String,
) -> CollectionManifest {
    CollectionManifest {
        db: entry.namespace.db.clone(),
        name: entry.namespace.collection.clone(),
        kind: entry.kind.as_str().to_owned(),
        uuid: entry.uuid.clone(),
        capped: entry.capped,
        data_path,
        metadata_path: Some(metadata_path),
        documents: read.documents,
        bytes: read.bytes,
        indexes: u32::try_from(entry.indexes.len()).unwrap_or(u32::MAX),
        digest: read.digest.to_string(),
        segments: read
            .segments
            .iter()
            .map(|segment| SegmentManifest {
                blobs: Vec::new(),
                bytes: segment.bytes,
                documents: segment.documents,
                first_record_id: segment.first_record_id,
            })
            .collect(),
    }
}
