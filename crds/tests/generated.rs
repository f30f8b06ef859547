//! The generated files are those that the types give, and an API server takes them.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use holdfast_crds::crdgen;
use kube::core::cel::{CompiledSchema, compile_schema, estimate_rule_cost};
use serde_json::Value;

fn schemas() -> Vec<(String, Value)> {
    crdgen::crds()
        .into_iter()
        .map(|crd| {
            let schema = &crd.spec.versions[0]
                .schema
                .as_ref()
                .unwrap()
                .open_api_v3_schema;
            (
                crd.spec.names.kind.clone(),
                serde_json::to_value(schema).unwrap(),
            )
        })
        .collect()
}

/// Every part of a schema, with the way to it.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(inner).filter(|schema| schema.is_object()) {
            walk(&format!("{path}.{inner}"), schema, visit);
        }
    }
}

#[test]
fn files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in crdgen::files().unwrap() {
        let path = root.join(&file.path);
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == file.content,
            "{} is stale: run `{}`",
            file.path,
            crdgen::REGENERATE
        );
    }
}

#[test]
fn nothing_else_lies_among_the_crds() {
    let expected: Vec<String> = crdgen::files()
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            assert!(
                expected.contains(&name),
                "{name} belongs to no kind: delete it"
            );
        }
    }
}

/// What the API server demands of a structural schema, as far as our types
/// could break it: a type everywhere, and nothing but rules inside `oneOf`.
#[test]
fn schemas_are_structural() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, node| {
            let open = node.get("x-kubernetes-int-or-string").is_some();
            assert!(node.get("type").is_some() || open, "{path} has no type");
            for keyword in ["anyOf", "allOf", "not", "$ref", "const", "definitions"] {
                assert!(node.get(keyword).is_none(), "{path} has {keyword}");
            }
            for branch in node
                .get("oneOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let keys: Vec<&String> = branch.as_object().unwrap().keys().collect();
                assert_eq!(
                    keys,
                    ["required"],
                    "{path}: a branch of oneOf says too much"
                );
                let name = branch["required"][0].as_str().unwrap();
                assert!(
                    node["properties"].get(name).is_some(),
                    "{path} has no {name}"
                );
            }
            let both =
                node.get("properties").is_some() && node.get("additionalProperties").is_some();
            assert!(!both, "{path} has properties and additionalProperties");
            assert!(node.get("uniqueItems").is_none(), "{path} has uniqueItems");
            // The API server warns about formats that it does not know.
            let format = node.get("format").and_then(Value::as_str);
            let known = [None, Some("int32"), Some("int64"), Some("date-time")];
            assert!(known.contains(&format), "{path} has the format {format:?}");
        });
    }
}

#[test]
fn every_field_of_a_spec_is_explained() {
    for (kind, schema) in schemas() {
        let mut visit = |path: &str, node: &Value| {
            let inner = path.ends_with(".items") || path.ends_with(".additionalProperties");
            // Kubernetes explains its own types; they would make the CRD too large.
            let kubernetes = path.starts_with("BackupPolicy.spec.job.")
                && path.matches('.').count()
                    > "BackupPolicy.spec.job.affinity".matches('.').count();
            let described = node.get("description").and_then(Value::as_str);
            assert!(
                inner || kubernetes || described.is_some_and(|text| !text.is_empty()),
                "{path} is not explained"
            );
        };
        walk(
            &format!("{kind}.spec"),
            &schema["properties"]["spec"],
            &mut visit,
        );
    }
}

/// A CRD whose rules the API server deems too expensive is refused whole.
#[test]
fn rules_compile_and_are_cheap() {
    fn check(path: &str, schema: &CompiledSchema, node: &Value) {
        let errors = schema.compilation_errors();
        assert!(errors.is_empty(), "{path}: {errors:?}");
        for rule in node
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = rule["rule"].as_str().unwrap();
            // A real API server reckons the comparison of every two renames affordable; this
            // estimate knows of no bound for the keys of a mapping. e2e/tests/admission.rs asks it.
            let affordable = text.contains("self[one] != self[other]");
            let warnings = estimate_rule_cost(text, schema);
            assert!(affordable || warnings.is_empty(), "{path}: {warnings:?}");
            let message = rule["message"].as_str().unwrap();
            assert!(
                !message.contains('\n') && !message.is_empty(),
                "{path}: {message}"
            );
            if let Some(field) = rule.get("fieldPath").and_then(Value::as_str) {
                let name = field.trim_start_matches('.');
                assert!(
                    node["properties"].get(name).is_some(),
                    "{path} has no {name}"
                );
            }
        }
    }
    let mut rules = 0;
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, node| {
            rules += node
                .get("x-kubernetes-validations")
                .map_or(0, |rules| rules.as_array().unwrap().len());
            check(path, &compile_schema(node), node);
        });
    }
    assert!(rules >= 12, "only {rules} rules are left");
}

#[test]
fn editor_schema_tells_kinds_apart() {
    let schema: Value = serde_json::from_str(&crdgen::json_schema().unwrap()).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let good = serde_json::json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "Backup",
        "metadata": {"name": "now"}, "spec": {"policy": "shop"},
    });
    assert!(validator.is_valid(&good));
    let mut unknown_field = good.clone();
    unknown_field["spec"]["polcy"] = "shop".into();
    assert!(!validator.is_valid(&unknown_field));
    let mut other_kind = good.clone();
    other_kind["kind"] = "Restore".into();
    assert!(!validator.is_valid(&other_kind));
}

/// `kubectl apply` keeps a copy of the whole object in an annotation, and annotations may have
/// 256 KiB in all.
#[test]
fn crds_can_be_applied() {
    for crd in crdgen::crds() {
        let size = serde_json::to_vec(&crd).unwrap().len();
        assert!(
            size < 200 * 1024,
            "{} has {size} bytes",
            crd.spec.names.kind
        );
    }
}

/// The fields that come with later issues must not be accepted and ignored.
#[test]
fn later_fields_are_left_out() {
    let text = crdgen::json_schema().unwrap();
    for field in [
        "escrow",
        "immutability",
        "quota",
        "pricing",
        "maintenance",
        "monthlyCost",
        "drill",
        "anomaly",
        "notify",
        "anomalies",
    ] {
        assert!(
            !text.contains(&format!("\"{field}\"")),
            "{field} is there already"
        );
    }
}
