//! One document: from its nodes to a typed resource, or to its problems.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use kube::{
    CustomResourceExt as _,
    core::cel::{CompiledSchema, ErrorKind, apply_defaults, compile_schema, validate_compiled},
};
use serde_json::Value;

use super::{
    Ignored, Kind, Loaded, Location, ObjectKey, Parsed, Resource,
    explain::{self, Finding},
    location,
    node::{Content, Mark, Node},
    problem,
};
use crate::{
    API_VERSION, Backup, BackupPolicy, DEFAULT_NAMESPACE, Destination, GROUP, Restore, VERSION,
    rules, schema,
};

/// What a kind is checked against, made once.
struct Checker {
    kind: Kind,
    /// The schema as the API server has it: for defaults.
    open_api: Value,
    /// The same, with unknown fields refused.
    strict: Value,
    validator: Option<jsonschema::Validator>,
    cel: CompiledSchema,
}

static CHECKERS: LazyLock<[Checker; 4]> = LazyLock::new(|| Kind::ALL.map(Checker::new));

impl Checker {
    fn new(kind: Kind) -> Self {
        let crd = match kind {
            Kind::Destination => Destination::crd(),
            Kind::BackupPolicy => BackupPolicy::crd(),
            Kind::Backup => Backup::crd(),
            Kind::Restore => Restore::crd(),
        };
        let open_api = schema::open_api(&crd);
        let strict = schema::strict(&crd);
        let validator = jsonschema::draft7::new(&strict).ok();
        let cel = compile_schema(&schema::without_servers_rules(open_api.clone()));
        Self {
            kind,
            open_api,
            strict,
            validator,
            cel,
        }
    }
}

/// Reads a document and puts what comes of it into `parsed`. A `faulty` one is
/// checked, but never becomes a resource.
pub(super) fn read(file: &Path, node: Node, faulty: bool, parsed: &mut Parsed) {
    if node.is_null() {
        return;
    }
    let group = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    let api_version = node
        .get("apiVersion")
        .and_then(Node::as_str)
        .map(str::to_owned);
    let kind = node.get("kind").and_then(Node::as_str).map(str::to_owned);
    let is_list = kind.as_deref().is_some_and(|kind| kind.ends_with("List"));
    let ours = api_version
        .as_deref()
        .is_some_and(|text| group(text) == GROUP);
    if is_list
        && (ours || api_version.as_deref() == Some("v1"))
        && let Some(Content::List(items)) = node.get("items").map(|items| &items.content)
    {
        for item in items.clone() {
            read(file, item, faulty, parsed);
        }
        return;
    }
    match envelope(&node, api_version.as_deref(), kind.as_deref(), ours) {
        Envelope::Ours(kind) => {
            if let Some(checker) = CHECKERS.iter().find(|checker| checker.kind == kind) {
                checker.read(file, node, faulty, parsed);
            }
        }
        Envelope::Foreign => {
            let location = location(file, node.mark);
            parsed.ignored.push(Ignored {
                location,
                api_version,
                kind,
            });
        }
        Envelope::Wrong(mark, message) => {
            parsed.unreadable += 1;
            parsed.problems.push(problem(file, mark, message));
        }
    }
}

enum Envelope {
    Ours(Kind),
    Foreign,
    Wrong(Mark, String),
}

fn envelope(node: &Node, api_version: Option<&str>, kind: Option<&str>, ours: bool) -> Envelope {
    let known = || Kind::ALL.map(Kind::name);
    let exact = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let at = |key: &str| node.get(key).map_or(node.mark, |value| value.mark);
    let Some(api_version) = api_version else {
        let looks_ours = kind.is_some_and(|name| exact(name).is_some());
        let resource = node.get("metadata").is_some() && node.get("spec").is_some();
        return if looks_ours || resource {
            let message = format!("apiVersion is missing: add `apiVersion: {API_VERSION}`");
            Envelope::Wrong(at("apiVersion"), message)
        } else {
            Envelope::Foreign
        };
    };
    if !ours {
        return if api_version.to_lowercase().contains("holdfast") {
            let message = format!("unknown apiVersion `{api_version}`: write `{API_VERSION}`");
            Envelope::Wrong(at("apiVersion"), message)
        } else {
            Envelope::Foreign
        };
    }
    if api_version != API_VERSION {
        let message = format!(
            "`{api_version}` is not a version this program knows: it knows {VERSION} only, so write `{API_VERSION}`"
        );
        return Envelope::Wrong(at("apiVersion"), message);
    }
    let Some(kind) = kind else {
        let message = format!("kind is missing: add one of {}", explain::words(&known()));
        return Envelope::Wrong(at("kind"), message);
    };
    match exact(kind) {
        Some(kind) => Envelope::Ours(kind),
        None => {
            let hint = match rules::nearest(kind, known()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("write one of {}", explain::words(&known())),
            };
            Envelope::Wrong(at("kind"), format!("unknown kind `{kind}`: {hint}"))
        }
    }
}

impl Checker {
    fn read(&self, file: &Path, node: Node, faulty: bool, parsed: &mut Parsed) {
        let mut value = node.to_json();
        // As the API server does: a key without a value is no key.
        prune_nulls(&mut value, &self.strict);
        let key = object_key(self.kind, &value);
        let findings = self.findings(&node, &value);
        let location = location(file, node.mark);
        let clean = findings.is_empty() && !faulty;
        for Finding { mark, message } in findings {
            parsed.problems.push(problem(file, mark, message));
        }
        match clean.then(|| self.resource(&value)) {
            Some(Ok(resource)) => parsed.resources.push(Loaded {
                resource,
                location,
                node: Arc::new(node),
            }),
            Some(Err(error)) => {
                // The schema lets nothing through that the type refuses; should
                // the two ever disagree, it is said rather than hidden.
                let message = format!("this {} cannot be read: {error}", self.kind);
                parsed.problems.push(problem(file, node.mark, message));
                parsed.broken.extend(key.map(|key| (key, location)));
            }
            None => parsed.broken.extend(key.map(|key| (key, location))),
        }
    }

    /// Everything that is wrong, each thing once.
    fn findings(&self, node: &Node, value: &Value) -> Vec<Finding> {
        let Some(validator) = &self.validator else {
            return vec![Finding {
                mark: node.mark,
                message: format!("the schema of {} cannot be used: report this", self.kind),
            }];
        };
        let errors: Vec<_> = validator.iter_errors(value).collect();
        let explained = explain::schema_errors(node, value, &self.strict, &errors);
        let mut findings = explained.findings;

        let defaulted = apply_defaults(&self.open_api, value);
        let violations = rules::check_value(&defaulted);
        let broken_rules = match validate_compiled(&self.cel, &defaulted, None) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec(),
        };
        for error in broken_rules {
            let pointer = pointer(&error.field_path);
            // Where the schema is broken, a rule may fail to evaluate, and what
            // it misses may be there under a misspelt name.
            let evaluated = error.kind == ErrorKind::ValidationFailure;
            let doubtful = explained.misspelt.contains(&pointer);
            // What Rust says of the same is said better.
            let twofold = rules::IN_CEL_TOO.contains(&pointer.as_str())
                && violations
                    .iter()
                    .any(|violation| violation.pointer.starts_with(&pointer));
            if !twofold && (errors.is_empty() || (evaluated && !doubtful)) {
                let mark = explain::place(node, &pointer).mark;
                findings.push(Finding {
                    mark,
                    message: error.message,
                });
            }
        }
        let told: Vec<Mark> = findings.iter().map(|finding| finding.mark).collect();
        for violation in violations {
            let mark = explain::place(node, &violation.pointer).mark;
            // The schema may have said the same in other words.
            if !told.contains(&mark) {
                findings.push(Finding {
                    mark,
                    message: violation.message,
                });
            }
        }
        findings.sort();
        findings.dedup();
        findings
    }

    fn resource(&self, value: &Value) -> Result<Resource, serde_json::Error> {
        let mut value = apply_defaults(&self.open_api, value);
        if let Some(object) = value.as_object_mut() {
            // The status is what the program finds out, never what a file says.
            object.remove("status");
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                let namespace = metadata.entry("namespace");
                namespace.or_insert_with(|| DEFAULT_NAMESPACE.into());
            }
        }
        Ok(match self.kind {
            Kind::Destination => Resource::Destination(serde_json::from_value(value)?),
            Kind::BackupPolicy => Resource::BackupPolicy(serde_json::from_value(value)?),
            Kind::Backup => Resource::Backup(serde_json::from_value(value)?),
            Kind::Restore => Resource::Restore(serde_json::from_value(value)?),
        })
    }
}

/// The name of an object that may be wrong elsewhere.
fn object_key(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    Some(ObjectKey {
        kind,
        namespace: text("/metadata/namespace").unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        name: text("/metadata/name")?,
    })
}

/// Takes out the known fields that have no value.
fn prune_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(object) => {
            let Some(properties) = schema.get("properties") else {
                return;
            };
            object.retain(|key, value| !value.is_null() || properties.get(key).is_none());
            for (key, value) in object {
                if let Some(schema) = properties.get(key) {
                    prune_nulls(value, schema);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    prune_nulls(item, schema);
                }
            }
        }
        _ => {}
    }
}

/// `spec.destinations[1].name` as the JSON pointer `/spec/destinations/1/name`.
fn pointer(field_path: &str) -> String {
    field_path
        .split(['.', '[', ']'])
        .filter(|segment| !segment.is_empty())
        .map(|segment| format!("/{}", rules::escape_pointer(segment)))
        .collect()
}

/// The place of a field, or of the nearest one around it.
pub(super) fn locate(file: &Path, node: &Node, pointer: &str) -> Location {
    location(file, explain::place(node, pointer).mark)
}
