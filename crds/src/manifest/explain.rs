//! Errors of the JSON Schema as sentences for the person who has to fix the file.
//!
//! A value is repeated only where it cannot be a secret.

use std::collections::BTreeSet;

use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;

use super::node::{Content, Mark, Node};
use crate::{patterns, rules};

/// Something wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    pub(super) message: String,
}

/// What the errors of the schema come to.
#[derive(Debug, Default)]
pub(super) struct Explained {
    pub(super) findings: Vec<Finding>,
    /// The pointers of the mappings that have a field which is probably a
    /// known one misspelt.
    pub(super) misspelt: BTreeSet<String>,
}

/// A field as far as the file has it.
pub(super) struct Place<'a> {
    /// Where its key is; where an item of a list begins.
    pub(super) mark: Mark,
    node: &'a Node,
}

/// The place of the field with this JSON pointer, or of the nearest around it.
pub(super) fn place<'a>(root: &'a Node, pointer: &str) -> Place<'a> {
    let mut place = Place {
        mark: root.mark,
        node: root,
    };
    for segment in pointer.split('/').skip(1) {
        let name = segment.replace("~1", "/").replace("~0", "~");
        let next = match &place.node.content {
            Content::List(items) => name
                .parse()
                .ok()
                .and_then(|index: usize| items.get(index))
                .map(|node| Place {
                    mark: node.mark,
                    node,
                }),
            _ => place.node.entry(&name).map(|entry| Place {
                mark: entry.key_mark,
                node: &entry.value,
            }),
        };
        match next {
            Some(next) => place = next,
            None => break,
        }
    }
    place
}

/// Words in a row, each in backticks.
pub(super) fn words<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("`{}`", name.as_ref()))
        .collect();
    quoted.join(", ")
}

/// A limit as people write it. The schema has every number with a fraction.
fn whole(limit: &Value) -> String {
    limit
        .as_f64()
        .map_or_else(|| limit.to_string(), |number| number.to_string())
}

/// All errors of a document as findings.
pub(super) fn schema_errors(
    root: &Node,
    value: &Value,
    schema: &Value,
    errors: &[ValidationError<'_>],
) -> Explained {
    let mut explained = Explained::default();
    // Unknown fields first: they explain some of the others away.
    let mut guessed: Vec<(String, String)> = Vec::new();
    for error in errors {
        let context = Context::new(root, schema, error);
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            for name in unexpected {
                let (finding, guess) = context.unknown_field(name);
                explained.findings.push(finding);
                if let Some(guess) = guess {
                    explained.misspelt.insert(context.pointer.clone());
                    guessed.push((context.pointer.clone(), guess));
                }
            }
        }
    }
    for error in errors {
        let context = Context::new(root, schema, error);
        let meant = |name: &str| {
            guessed
                .iter()
                .any(|(pointer, guess)| *pointer == context.pointer && guess == name)
        };
        let message = match error.kind() {
            ValidationErrorKind::AdditionalProperties { .. } => None,
            ValidationErrorKind::OneOfNotValid { .. }
            | ValidationErrorKind::OneOfMultipleValid { .. } => {
                let names = context.alternatives();
                if names.iter().any(|name| meant(name)) {
                    None
                } else {
                    context.one_of(value)
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                if meant(name) {
                    None
                } else {
                    Some(context.required(name))
                }
            }
            kind => Some(Finding {
                mark: context.place.mark,
                message: context.other(kind, error),
            }),
        };
        explained.findings.extend(message);
    }
    explained
}

/// An error and what lies around it.
struct Context<'a> {
    pointer: String,
    place: Place<'a>,
    /// The part of the schema that the value had to obey.
    schema: &'a Value,
}

impl<'a> Context<'a> {
    fn new(root: &'a Node, schema: &'a Value, error: &ValidationError<'_>) -> Self {
        let pointer = error.instance_path().as_str().to_owned();
        let keyword = error.schema_path().as_str();
        let parent = keyword.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self {
            place: place(root, &pointer),
            schema: schema.pointer(parent).unwrap_or(schema),
            pointer,
        }
    }

    /// The field as people write it, such as `spec.destinations[0].name`.
    fn field(&self) -> String {
        let mut field = String::new();
        for segment in self.pointer.split('/').skip(1) {
            let name = segment.replace("~1", "/").replace("~0", "~");
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                field.push_str(&format!("[{name}]"));
            } else {
                if !field.is_empty() {
                    field.push('.');
                }
                field.push_str(&name);
            }
        }
        field
    }

    /// ` in spec.source`, or nothing at the top.
    fn within(&self) -> String {
        if self.pointer.is_empty() {
            String::new()
        } else {
            format!(" in {}", self.field())
        }
    }

    fn properties(&self) -> Vec<&'a str> {
        let properties = self.schema.get("properties").and_then(Value::as_object);
        properties
            .map(|map| map.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }

    fn unknown_field(&self, name: &str) -> (Finding, Option<String>) {
        let mark = self
            .place
            .node
            .entry(name)
            .map_or(self.place.mark, |entry| entry.key_mark);
        let known = self.properties();
        let guess = rules::nearest(name, known.iter().copied());
        let below = known.iter().find(|field| {
            let pointer = format!(
                "/properties/{field}/properties/{}",
                rules::escape_pointer(name)
            );
            **field != "status" && self.schema.pointer(&pointer).is_some()
        });
        let hint = match (guess, below) {
            (Some(guess), _) => format!("did you mean `{guess}`?"),
            (None, Some(field)) => format!("it belongs under `{field}`"),
            (None, None) => {
                let known: Vec<&str> = known
                    .into_iter()
                    .filter(|field| *field != "status")
                    .collect();
                format!("remove it, or write one of {}", words(&known))
            }
        };
        let message = format!("unknown field `{name}`{}: {hint}", self.within());
        (Finding { mark, message }, guess.map(str::to_owned))
    }

    /// The names of a `oneOf`.
    fn alternatives(&self) -> Vec<&'a str> {
        let branches = self.schema.get("oneOf").and_then(Value::as_array);
        let names = branches
            .into_iter()
            .flatten()
            .filter_map(|branch| branch.get("required")?.as_array()?.first()?.as_str());
        names.collect()
    }

    fn one_of(&self, value: &Value) -> Option<Finding> {
        // A value that is no mapping has an error of its own.
        let object = value.pointer(&self.pointer)?.as_object()?;
        let names = self.alternatives();
        let set: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| object.contains_key(*name))
            .collect();
        if let [others @ .., last] = set.as_slice()
            && !others.is_empty()
        {
            let entries = set.iter().filter_map(|name| self.place.node.entry(name));
            let latest = entries.map(|entry| entry.key_mark).max();
            return Some(Finding {
                mark: latest.unwrap_or(self.place.mark),
                message: format!(
                    "{} and `{last}` cannot be set together{}: keep exactly one of {}",
                    words(others),
                    self.within(),
                    words(&names)
                ),
            });
        }
        let empty = names.iter().find_map(|name| self.place.node.entry(name));
        Some(match empty {
            Some(entry) => Finding {
                mark: entry.key_mark,
                message: format!(
                    "`{}` has no value{}: write it below, indented; {{}} if nothing is to be said",
                    entry.key,
                    self.within()
                ),
            },
            None => Finding {
                mark: self.place.mark,
                message: format!(
                    "none of {} is set{}: exactly one is needed",
                    words(&names),
                    self.within()
                ),
            },
        })
    }

    fn required(&self, name: &str) -> Finding {
        let pointer = format!("/properties/{}/description", rules::escape_pointer(name));
        let about = self
            .schema
            .pointer(&pointer)
            .and_then(Value::as_str)
            .unwrap_or_default();
        let about = about.replace('\n', " ");
        let about = about
            .split(". ")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        let about = if about.is_empty() {
            String::new()
        } else {
            format!(" ({about})")
        };
        match self.place.node.entry(name) {
            Some(entry) => Finding {
                mark: entry.key_mark,
                message: format!("`{name}` has no value{}: write one{about}", self.within()),
            },
            None => Finding {
                mark: self.place.mark,
                message: format!("`{name}` is missing{}: add it{about}", self.within()),
            },
        }
    }

    /// Errors that concern one value.
    fn other(&self, kind: &ValidationErrorKind, error: &ValidationError<'_>) -> String {
        use ValidationErrorKind as K;
        let field = self.field();
        let instance = error.instance();
        if let K::Type { kind } = kind {
            return self.wrong_type(kind, instance);
        }
        if let Some(meaning) = self.pattern_meaning(instance)
            && matches!(kind, K::Pattern { .. } | K::MinLength { .. })
        {
            return format!("{field}: {meaning}");
        }
        match kind {
            K::Enum { options } => {
                let options: Vec<&str> = options
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let found = instance.as_str().unwrap_or_default();
                let hint = match rules::nearest(found, options.iter().copied()) {
                    Some(guess) => format!("did you mean `{guess}`?"),
                    None => format!("write one of {}", words(&options)),
                };
                format!("{field} cannot be `{found}`: {hint}")
            }
            K::MinLength { .. } => format!("{field} is too short: write a value"),
            K::MaxLength { limit } => {
                format!("{field} is too long: at most {limit} characters are possible")
            }
            K::MinItems { limit } => format!("{field} is too short a list: write at least {limit}"),
            K::MaxItems { limit } => format!("{field} is too long a list: write at most {limit}"),
            K::Minimum { limit } => {
                format!("{field} is too small: write at least {}", whole(limit))
            }
            K::Maximum { limit } => format!("{field} is too large: write at most {}", whole(limit)),
            K::MinProperties { .. } => format!(
                "{field} says nothing: write at least one of {}, or leave {field} out to keep everything",
                words(&self.properties())
            ),
            K::PropertyNames { .. } => format!(
                "{field} has a key that cannot be one: use letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, and at most one prefix such as example.com/"
            ),
            K::MaxProperties { limit } => format!("{field} has too many entries: at most {limit}"),
            // Whatever the schema may say one day; never with the value in it.
            _ => format!("{field}: {}", error.masked_with("the value")),
        }
    }

    /// What the pattern at this place asks for.
    fn pattern_meaning(&self, instance: &Value) -> Option<String> {
        let pattern = self.schema.get("pattern")?.as_str()?;
        patterns::meaning(pattern, instance.as_str().unwrap_or_default())
    }

    fn wrong_type(&self, kind: &TypeKind, instance: &Value) -> String {
        let field = self.field();
        if self.alternatives().contains(&"secretKeyRef") && !instance.is_object() {
            return format!(
                "{field} must say where the secret is, never the secret itself: write {{secretKeyRef: {{name: …, key: …}}}}, {{env: NAME}} or {{file: /path}}"
            );
        }
        let expected = match kind {
            TypeKind::Single(expected) => expected.to_string(),
            TypeKind::Multiple(_) => "a number or text".to_owned(),
        };
        let found = match instance {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        let pattern = self.schema.get("pattern").and_then(Value::as_str);
        let (noun, hint) = match expected.as_str() {
            "string" if pattern == Some(patterns::DURATION) => (
                "a duration",
                "write a number with a unit, such as 90s, 5m or 2d",
            ),
            "string" if instance.is_number() || instance.is_boolean() => {
                ("text", "put it into quotes")
            }
            "string" => ("text", "write a single value"),
            "boolean" => ("true or false", "write true or false, without quotes"),
            "integer" | "number" => ("a whole number", "write digits only, without quotes"),
            "array" => ("a list", "write [a, b], or one `- item` per line"),
            "object" => ("a mapping", "write `name: value` lines below it, indented"),
            other => (other, "correct it"),
        };
        format!("{field} must be {noun}, not {found}: {hint}")
    }
}
