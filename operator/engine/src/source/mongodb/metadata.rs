//! The texts of a dump: `<collection>.metadata.json` and `prelude.json`.
//!
//! Canonical Extended JSON v2, one object, as mongodump writes it; the order and the types of what
//! the server listed are kept, as the order inside an index's `key` has a meaning.

use bytes::Bytes;
use mongodb::bson::{Bson, Document};
use serde_json::{Map, Value};

use super::catalog::CatalogEntry;

/// The text of a collection's metadata file.
#[must_use]
pub fn metadata_json(entry: &CatalogEntry) -> Bytes {
    let mut object = Map::new();
    if !entry.options.is_empty() {
        object.insert("options".to_owned(), canonical(&entry.options));
    }
    let indexes = entry.indexes.iter().map(canonical).collect();
    object.insert("indexes".to_owned(), Value::Array(indexes));
    if let Some(uuid) = &entry.metadata_uuid {
        object.insert("uuid".to_owned(), Value::String(uuid.clone()));
    }
    object.insert(
        "collectionName".to_owned(),
        Value::String(entry.namespace.collection.clone()),
    );
    object.insert(
        "type".to_owned(),
        Value::String(entry.kind.as_str().to_owned()),
    );
    Bytes::from(Value::Object(object).to_string())
}

/// The text of the dump's prelude.
#[must_use]
pub fn prelude_json(server_version: &str) -> Bytes {
    let prelude = serde_json::json!({
        "ServerVersion": server_version,
        "ToolVersion": concat!("holdfast ", env!("CARGO_PKG_VERSION")),
    });
    Bytes::from(prelude.to_string())
}

fn canonical(document: &Document) -> Value {
    Bson::Document(document.clone()).into_canonical_extjson()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{DateTime, Decimal128, Regex, doc};

    use super::super::catalog::Kind;
    use super::super::namespace::Namespace;
    use super::*;

    fn entry(options: Document, indexes: Vec<Document>) -> CatalogEntry {
        CatalogEntry {
            namespace: Namespace::new("shop", "orders"),
            kind: Kind::Collection,
            options,
            indexes,
            uuid: Some("0123456789abcdef0123456789abcdef".to_owned()),
            metadata_uuid: Some("0123456789abcdef0123456789abcdef".to_owned()),
            data: Some(Namespace::new("shop", "orders")),
            capped: false,
            clustered: false,
            bytes: 0,
            documents: 0,
        }
    }

    #[test]
    fn keeps_order_and_types() {
        let index = doc! {
            "v": 2, "key": {"z": 1, "a": -1_i64, "m": 1.0, "t": "text"}, "name": "z_1",
            "partialFilterExpression": {"z": {"$gt": 5}, "a": {"$exists": true}},
            "expireAfterSeconds": 3600,
        };
        let text = metadata_json(&entry(doc! {"capped": true, "size": 4096.0}, vec![index]));
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            concat!(
                r#"{"options":{"capped":true,"size":{"$numberDouble":"4096.0"}},"#,
                r#""indexes":[{"v":{"$numberInt":"2"},"#,
                r#""key":{"z":{"$numberInt":"1"},"a":{"$numberLong":"-1"},"m":{"$numberDouble":"1.0"},"t":"text"},"#,
                r#""name":"z_1","#,
                r#""partialFilterExpression":{"z":{"$gt":{"$numberInt":"5"}},"a":{"$exists":true}},"#,
                r#""expireAfterSeconds":{"$numberInt":"3600"}}],"#,
                r#""uuid":"0123456789abcdef0123456789abcdef","collectionName":"orders","type":"collection"}"#
            )
        );
    }

    #[test]
    fn every_type_of_an_option_is_read_back() {
        let options = doc! {
            "validator": {
                "d": {"$gt": DateTime::from_millis(-1)},
                "n": {"$lt": "1.5E+3".parse::<Decimal128>().unwrap()},
                "r": Regex { pattern: "^a".to_owned(), options: "i".to_owned() },
                "f": f64::INFINITY,
            },
        };
        let text = metadata_json(&entry(options.clone(), Vec::new()));
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["indexes"], serde_json::json!([]));
        let back: Bson = value["options"].clone().try_into().unwrap();
        assert_eq!(back, Bson::Document(options));
    }
}
