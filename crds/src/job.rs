//! How the pods of a policy run in a cluster: Kubernetes' own fields, in its own shapes.
//!
//! The schemas of Kubernetes' types are taken over whole, so that a mistake is
//! refused when it is applied and not when the first pod is made. Only their
//! texts are left out, which the API server has already, and what a pod of a
//! backup has no use for or must not have (folders of the node).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration, Volume,
    VolumeMount,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::patterns;

/// How the pods of a policy run in a cluster. On one machine there are none,
/// and a policy that has this field is refused there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.volumeMounts) || self.volumeMounts.all(mount, has(self.volumes) && self.volumes.exists(volume, volume.name == mount.name))").message("a volumeMount names a volume that is not there: declare it in volumes, or correct the name").field_path(".volumeMounts"))]
pub struct JobTemplate {
    /// What the container may use, and what is set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// The labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// The taints of nodes that do not matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Which nodes are chosen, by labels of nodes and by other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,
    /// The service account of the pods. Its token is not mounted: it matters to
    /// admission and to the pulling of images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub service_account_name: Option<String>,
    /// The Secrets with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "image_pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// More volumes, of the kinds that the restricted Pod Security Standard
    /// allows, and `nfs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "volumes")]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("two volumes have the same name: give each its own"))]
    #[x_kube(validation = Rule::new("self.all(volume, !volume.name.startsWith('holdfast-'))").message("volumes whose names begin with holdfast- are those of Holdfast itself: choose another name"))]
    pub volumes: Vec<Volume>,
    /// Where those volumes are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "volume_mounts")]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.mountPath == one.mountPath))").message("two volumes are mounted at the same path: give each its own"))]
    #[x_kube(validation = Rule::new("self.all(mount, mount.mountPath != '/tmp' && mount.mountPath != '/holdfast' && !mount.mountPath.startsWith('/holdfast/'))").message("/tmp and /holdfast are mounted by Holdfast itself: choose another mountPath"))]
    pub volume_mounts: Vec<VolumeMount>,
    /// The security context of the pods, instead of a user without rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "security_context")]
    pub security_context: Option<PodSecurityContext>,
    /// The priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub priority_class_name: Option<String>,
    /// How many seconds a Job may take, its retries included. Without it, any
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int64"))]
    pub active_deadline_seconds: Option<i64>,
    /// How often a pod that failed is replaced before the Job counts as failed.
    #[serde(default = "backoff_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub backoff_limit: i32,
    /// How many seconds a Job that ended stays, with its pods and their logs.
    #[serde(default = "ttl_seconds_after_finished")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: i32,
}

impl Default for JobTemplate {
    fn default() -> Self {
        Self {
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            service_account_name: None,
            image_pull_secrets: Vec::new(),
            volumes: Vec::new(),
            volume_mounts: Vec::new(),
            security_context: None,
            priority_class_name: None,
            active_deadline_seconds: None,
            backoff_limit: backoff_limit(),
            ttl_seconds_after_finished: ttl_seconds_after_finished(),
        }
    }
}

const fn backoff_limit() -> i32 {
    2
}

const fn ttl_seconds_after_finished() -> i32 {
    86_400
}

/// A PersistentVolumeClaim in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// The name of the PersistentVolumeClaim.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub claim_name: String,
}

/// A PersistentVolumeClaim in the same namespace, and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(MOUNT_RULE).message(MOUNT_MESSAGE).field_path(".mountPath"))]
pub struct FilesClaim {
    /// The name of the PersistentVolumeClaim.
    #[schemars(regex(pattern = patterns::NAME), length(max = 253))]
    pub claim_name: String,
    /// Where it is mounted, read-only. The `paths` lie in it.
    #[schemars(regex(pattern = patterns::ABSOLUTE_PATH), length(max = 4096))]
    pub mount_path: String,
}

/// The CEL rule of a struct whose `mountPath` a claim is mounted at.
const MOUNT_RULE: &str = "self.mountPath.matches('^(/[^/:]+)+$') && !(self.mountPath + '/').matches('/[.][.]?/|^/(tmp|holdfast)/')";
/// What to do when it does not hold.
const MOUNT_MESSAGE: &str = "a claim cannot be mounted there: write a folder below / such as /data, without `:`, `..` and a slash at its end, and neither /tmp nor /holdfast";
/// The CEL rule of a struct whose `path` a claim is mounted at, if it has one.
pub(crate) const CLAIM_PATH_RULE: &str = "!has(self.persistentVolumeClaim) || (self.path.matches('^(/[^/:]+)+$') && !(self.path + '/').matches('/[.][.]?/|^/(tmp|holdfast)/'))";
/// What to do when it does not hold.
pub(crate) const CLAIM_PATH_MESSAGE: &str = "the claim is mounted at this path, which is not possible there: write a folder below / such as /data, without `:`, `..` and a slash at its end, and neither /tmp nor /holdfast";

/// The kinds of volumes that a policy may name.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "nfs",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn resources(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = kubernetes::<ResourceRequirements>(generator);
    keep(&mut schema, &["limits", "requests"]);
    schema_of(schema)
}

fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    list(kubernetes::<Toleration>(generator), 64)
}

fn affinity(generator: &mut SchemaGenerator) -> Schema {
    schema_of(kubernetes::<Affinity>(generator))
}

fn image_pull_secrets(_: &mut SchemaGenerator) -> Schema {
    let name = json!({"type": "string", "pattern": patterns::NAME, "maxLength": 253});
    let reference = json!({"type": "object", "required": ["name"], "properties": {"name": name}});
    list(reference, 32)
}

fn volumes(generator: &mut SchemaGenerator) -> Schema {
    let mut volume = kubernetes::<Volume>(generator);
    let mut known: Vec<&str> = VOLUMES.to_vec();
    let branches: Vec<Value> = known
        .iter()
        .map(|kind| json!({"required": [kind]}))
        .collect();
    known.push("name");
    keep(&mut volume, &known);
    set(
        &mut volume,
        "/properties/name",
        "pattern",
        patterns::LABEL.into(),
    );
    set(&mut volume, "/properties/name", "maxLength", 63.into());
    set(&mut volume, "", "oneOf", branches.into());
    list(volume, 32)
}

fn volume_mounts(generator: &mut SchemaGenerator) -> Schema {
    let mut mount = kubernetes::<VolumeMount>(generator);
    set(&mut mount, "/properties/name", "maxLength", 63.into());
    set(
        &mut mount,
        "/properties/mountPath",
        "pattern",
        patterns::MOUNT_PATH.into(),
    );
    set(
        &mut mount,
        "/properties/mountPath",
        "maxLength",
        4096.into(),
    );
    list(mount, 32)
}

fn security_context(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = kubernetes::<PodSecurityContext>(generator);
    if let Some(properties) = properties(&mut schema) {
        properties.remove("windowsOptions");
    }
    schema_of(schema)
}

/// The schema of one of Kubernetes' types without its texts.
fn kubernetes<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = generator.subschema_for::<T>().to_value();
    slim(&mut schema);
    schema
}

/// Takes the texts out, and bounds the quantities.
fn slim(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    object.remove("description");
    if object.contains_key("x-kubernetes-int-or-string") {
        object.insert("pattern".to_owned(), patterns::QUANTITY.into());
    }
    for (key, value) in object {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(slim);
            }
            ("items" | "additionalProperties", inner) => slim(inner),
            _ => {}
        }
    }
}

fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    schema.get_mut("properties").and_then(Value::as_object_mut)
}

fn keep(schema: &mut Value, names: &[&str]) {
    if let Some(properties) = properties(schema) {
        properties.retain(|name, _| names.contains(&name.as_str()));
    }
}

fn set(schema: &mut Value, pointer: &str, key: &str, value: Value) {
    if let Some(Value::Object(object)) = schema.pointer_mut(pointer) {
        object.insert(key.to_owned(), value);
    }
}

fn list(items: Value, most: u32) -> Schema {
    schema_of(json!({"type": "array", "maxItems": most, "items": items}))
}

fn schema_of(value: Value) -> Schema {
    // A schema is always a mapping; one that were not would allow everything.
    Schema::try_from(value).unwrap_or_default()
}
