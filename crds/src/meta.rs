//! Schema helpers and the Kubernetes types that every status shares.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

/// A list of strings each of which must match one pattern.
pub(crate) fn list_of(pattern: &str, max_length: u32) -> serde_json::Value {
    serde_json::json!({"type": "string", "minLength": 1, "maxLength": max_length, "pattern": pattern})
}
