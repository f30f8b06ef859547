//! Indexes, built after the data: one command per collection, one pass over its documents.

use bson::{Bson, Document, doc};

use super::error::RestoreError;
use super::metadata::{CollectionMetadata, secondary};
use super::target::{Target, write_concern};
use crate::source::mongodb::namespace::Namespace;

/// Builds the indexes of one collection; says how many.
pub(super) async fn build(
    target: &Target,
    namespace: &Namespace,
    metadata: &CollectionMetadata,
) -> Result<u64, RestoreError> {
    let collated = metadata.options.contains_key("collation");
    let indexes: Vec<Bson> = secondary(&metadata.indexes)
        .map(|index| Bson::Document(specification(index, collated)))
        .collect();
    let count = indexes.len() as u64;
    if count == 0 {
        return Ok(0);
    }
    let names = metadata.secondary_index_names().join(", ");
    let command = doc! {
        "createIndexes": &namespace.collection,
        "indexes": indexes,
        "ignoreUnknownIndexOptions": true,
        "writeConcern": write_concern(),
    };
    let action = format!("build the indexes {names} of {namespace}");
    target.run(&namespace.db, &action, command).await?;
    Ok(count)
}

/// An index as `listIndexes` said it, without what is the server's to choose: the version of its
/// format, and the namespace that old servers repeat. Where the collection has a collation, an index
/// without one would inherit it: that it has none must be said.
fn specification(index: &Document, collated: bool) -> Document {
    let mut index = index.clone();
    index.remove("v");
    index.remove("ns");
    if collated && !index.contains_key("collation") {
        index.insert("collation", doc! { "locale": "simple" });
    }
    index
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::specification;

    #[test]
    fn everything_but_version_and_namespace_is_kept_in_order() {
        let index = doc! {
            "v": 2, "key": { "b": 1, "a": -1 }, "name": "b_1_a_-1", "ns": "shop.x",
            "unique": true, "partialFilterExpression": { "z": 1, "a": 2 }, "textIndexVersion": 3,
        };
        assert_eq!(
            specification(&index, false),
            doc! {
                "key": { "b": 1, "a": -1 }, "name": "b_1_a_-1", "unique": true,
                "partialFilterExpression": { "z": 1, "a": 2 }, "textIndexVersion": 3,
            }
        );
    }

    #[test]
    fn an_index_without_collation_does_not_inherit_the_collections() {
        let index = doc! { "key": { "a": 1 }, "name": "a_1" };
        assert_eq!(
            specification(&index, true),
            doc! { "key": { "a": 1 }, "name": "a_1", "collation": { "locale": "simple" } }
        );
        let index = doc! { "key": { "a": 1 }, "name": "a_1", "collation": { "locale": "fr" } };
        assert_eq!(specification(&index, true), index);
    }
}
