//! The metadata of one collection, as the backup holds it for `mongorestore`.

use bson::{Bson, Document};

use super::error::RestoreError;
use super::pieces::read_node;
use crate::manifest::CollectionManifest;
use crate::source::Content;
use crate::source::mongodb::namespace::Namespace;

/// Options and indexes of one collection.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct CollectionMetadata {
    /// As `listCollections` said them.
    pub(super) options: Document,
    /// As `listIndexes` said them.
    pub(super) indexes: Vec<Document>,
}

impl CollectionMetadata {
    /// Reads the metadata of a collection from the backup.
    pub(super) async fn read(
        content: &dyn Content,
        collection: &CollectionManifest,
    ) -> Result<Self, RestoreError> {
        let namespace = Namespace::new(&collection.db, &collection.name).to_string();
        let Some(path) = &collection.metadata_path else {
            return Ok(Self::default());
        };
        let Some(text) = read_node(content, path).await? else {
            return Err(RestoreError::damaged(
                &namespace,
                format!("the backup has no file {path}"),
            ));
        };
        Self::parse(&text)
            .map_err(|cause| RestoreError::damaged(&namespace, format!("{path}: {cause}")))
    }

    /// Parses canonical Extended JSON. Fields keep their order, which is part of the meaning of an
    /// index.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut document: Document = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let options = match document.remove("options") {
            Some(Bson::Document(options)) => options,
            None | Some(Bson::Null) => Document::new(),
            Some(other) => return Err(format!("options are {:?}", other.element_type())),
        };
        let indexes = match document.remove("indexes") {
            Some(Bson::Array(indexes)) => indexes
                .into_iter()
                .map(|index| match index {
                    Bson::Document(index) => Ok(index),
                    other => Err(format!("an index is {:?}", other.element_type())),
                })
                .collect::<Result<_, _>>()?,
            None | Some(Bson::Null) => Vec::new(),
            Some(other) => return Err(format!("indexes are {:?}", other.element_type())),
        };
        Ok(Self { options, indexes })
    }

    /// The names of the indexes to build.
    pub(super) fn secondary_index_names(&self) -> Vec<String> {
        secondary(&self.indexes)
            .filter_map(|index| index.get_str("name").ok().map(str::to_owned))
            .collect()
    }
}

/// The indexes that do not come with the collection: all but the one on `_id`.
pub(super) fn secondary(indexes: &[Document]) -> impl Iterator<Item = &Document> {
    indexes.iter().filter(|index| {
        let on_id = index
            .get_document("key")
            .is_ok_and(|key| key.len() == 1 && super::conflict::integer(key.get("_id")).is_some());
        !on_id && !index.get_bool("clustered").unwrap_or(false)
    })
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::{CollectionMetadata, secondary};

    #[test]
    fn reads_what_mongodump_writes() {
        let text = br#"{"options":{"capped":true,"size":{"$numberLong":"4096"}},
            "indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"},
                       {"v":{"$numberInt":"2"},"key":{"z":{"$numberInt":"1"},"a":{"$numberDouble":"-1.0"},"m":"2dsphere"},"name":"z_1"}],
            "uuid":"00112233445566778899aabbccddeeff","collectionName":"x","type":"collection"}"#;
        let metadata = CollectionMetadata::parse(text).unwrap();
        assert_eq!(metadata.options, doc! { "capped": true, "size": 4096_i64 });
        assert_eq!(metadata.secondary_index_names(), ["z_1"]);
        let key = metadata.indexes[1].get_document("key").unwrap();
        assert_eq!(key.keys().collect::<Vec<_>>(), ["z", "a", "m"]);
        assert_eq!(key.get("a"), Some(&Bson::Double(-1.0)));
    }

    #[test]
    fn fields_keep_their_order_however_deep() {
        let text = br#"{"options":{"viewOn":"x","pipeline":[{"$sort":{"z":{"$numberInt":"1"},"a":{"$numberInt":"-1"}}},
            {"$match":{"p":{"$regularExpression":{"pattern":"^a","options":""}},"b":{"$regex":"^c","$options":"i"}}}]}}"#;
        let metadata = CollectionMetadata::parse(text).unwrap();
        let expected = doc! { "viewOn": "x", "pipeline": [
            { "$sort": { "z": 1, "a": -1 } },
            { "$match": {
                "p": bson::Regex { pattern: "^a".to_owned(), options: String::new() },
                "b": { "$regex": "^c", "$options": "i" },
            } },
        ] };
        assert_eq!(
            bson::to_vec(&metadata.options).unwrap(),
            bson::to_vec(&expected).unwrap()
        );
    }

    #[test]
    fn a_hashed_id_is_an_index_like_any_other() {
        let indexes = [
            doc! { "key": { "_id": 1 }, "name": "_id_" },
            doc! { "key": { "_id": "hashed" }, "name": "_id_hashed" },
            doc! { "key": { "_id": 1 }, "name": "by id", "clustered": true, "unique": true },
        ];
        let names: Vec<_> = secondary(&indexes)
            .map(|index| index.get_str("name").unwrap())
            .collect();
        assert_eq!(names, ["_id_hashed"]);
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(CollectionMetadata::parse(b"{").is_err());
        assert!(CollectionMetadata::parse(br#"{"indexes": 3}"#).is_err());
        assert_eq!(
            CollectionMetadata::parse(br#"{"indexes": null}"#),
            Ok(CollectionMetadata::default())
        );
    }
}
