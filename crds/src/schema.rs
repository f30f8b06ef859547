//! JSON Schema from the CRDs: strict, for plain files and for editors.
//!
//! A cluster drops a field it does not know and goes on. In a plain file that
//! is an error, so every object gets `additionalProperties: false` here, and
//! what only the API server understands is taken out.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

use crate::{API_VERSION, crdgen, cron, patterns};

/// The schema of a CRD as the API server has it.
pub(crate) fn open_api(crd: &CustomResourceDefinition) -> Value {
    crd.spec
        .versions
        .first()
        .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
        .and_then(|schema| serde_json::to_value(schema).ok())
        .unwrap_or_default()
}

/// The schema without the CEL rules that only an API server can evaluate.
pub(crate) fn without_servers_rules(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(object) => {
            if let Some(Value::Array(rules)) = object.get_mut("x-kubernetes-validations") {
                rules.retain(|rule| {
                    let text = rule.get("rule").and_then(Value::as_str);
                    !text.is_some_and(|text| cron::ONLY_SERVERS.contains(&text))
                });
            }
            for value in object.values_mut() {
                *value = without_servers_rules(value.take());
            }
        }
        Value::Array(items) => {
            for value in items {
                *value = without_servers_rules(value.take());
            }
        }
        _ => {}
    }
    schema
}

/// The JSON Schema that a plain file's document of this kind must obey.
pub(crate) fn strict(crd: &CustomResourceDefinition) -> Value {
    let mut schema = close(open_api(crd));
    if let Some(root) = schema.as_object_mut() {
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            let kind = &crd.spec.names.kind;
            properties.insert("apiVersion".to_owned(), json!({"const": API_VERSION}));
            properties.insert("kind".to_owned(), json!({"const": kind}));
            properties.insert("metadata".to_owned(), metadata());
        }
        root.insert(
            "required".to_owned(),
            json!(["apiVersion", "kind", "metadata", "spec"]),
        );
    }
    schema
}

/// One schema for all kinds. Conditional on `kind` instead of a `oneOf`, so
/// that an editor complains about the field that is wrong and not about all
/// the kinds that the document is not.
pub(crate) fn editor_schema() -> Value {
    let mut definitions = Map::new();
    let mut kinds = Vec::new();
    let mut branches = Vec::new();
    for crd in crdgen::crds() {
        let kind = crd.spec.names.kind.clone();
        branches.push(json!({
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"$ref": format!("#/definitions/{kind}")},
        }));
        definitions.insert(kind.clone(), strict(&crd));
        kinds.push(kind);
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Holdfast",
        "description": format!("The resources of {API_VERSION}."),
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"enum": kinds}},
        "allOf": branches,
        "definitions": definitions,
    })
}

/// Refuses unknown fields, and takes out what is not JSON Schema.
fn close(schema: Value) -> Value {
    let Value::Object(mut object) = schema else {
        return schema;
    };
    if object.remove("x-kubernetes-int-or-string") == Some(Value::Bool(true)) {
        object.insert("type".to_owned(), json!(["integer", "string"]));
    }
    object.retain(|key, _| !key.starts_with("x-kubernetes-") && key != "nullable");
    let open = object.contains_key("additionalProperties");
    for (key, value) in &mut object {
        match key.as_str() {
            "properties" => {
                if let Value::Object(properties) = value {
                    for property in properties.values_mut() {
                        *property = close(property.take());
                    }
                }
            }
            "items" | "additionalProperties" => *value = close(value.take()),
            _ => {}
        }
    }
    if object.contains_key("properties") && !open {
        object.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(object)
}

/// What `metadata` may say in a plain file: what people write, and what a
/// server adds, so that the output of `kubectl get -o yaml` is taken as it is.
fn metadata() -> Value {
    let keys = json!({"pattern": patterns::QUALIFIED});
    let labels = json!({
        "type": "object",
        "propertyNames": keys,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": patterns::LABEL_VALUE},
    });
    let annotations = json!({
        "type": "object",
        "propertyNames": keys,
        "additionalProperties": {"type": "string"},
    });
    json!({
        "type": "object",
        "description": "The name of the object, and what else belongs to it.",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": patterns::NAME, "description": "The name, unique per kind and namespace."},
            "namespace": {"type": "string", "minLength": 1, "maxLength": 63, "pattern": patterns::LABEL, "default": crate::DEFAULT_NAMESPACE, "description": "The namespace."},
            "labels": labels,
            "annotations": annotations,
            "finalizers": {"type": "array", "items": {"type": "string"}},
            "creationTimestamp": {"type": "string"},
            "deletionTimestamp": {"type": "string"},
            "deletionGracePeriodSeconds": {"type": "integer"},
            "generateName": {"type": "string"},
            "generation": {"type": "integer"},
            "managedFields": {"type": "array"},
            "ownerReferences": {"type": "array"},
            "resourceVersion": {"type": "string"},
            "selfLink": {"type": "string"},
            "uid": {"type": "string"},
        },
    })
}
