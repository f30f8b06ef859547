//! The specs of each host on the other one.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use holdfast_crds::{BackupPolicySpec, Destination, DestinationSpec, RestoreSpec};
use rstest::rstest;
use serde_json::{Value, json};

use super::Surroundings::{Cluster, Machine, Pod};
use super::{CLUSTER_ONLY, MACHINE_ONLY, Refusal, Surroundings, destination, policy, restore};
use crate::host::Name;

fn fields(refusals: &[Refusal], reason: &str) -> Vec<&'static str> {
    for refusal in refusals {
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.starts_with(refusal.field), "{refusal:?}");
    }
    refusals.iter().map(|refusal| refusal.field).collect()
}

fn key() -> Value {
    json!({"secretKeyRef": {"name": "s", "key": "k"}})
}

fn destination_of(storage: Value) -> DestinationSpec {
    let mut spec = storage;
    if spec.get("encryption").is_none() {
        spec["encryption"] = json!({"password": key()});
    }
    serde_json::from_value(spec).unwrap()
}

#[rstest]
#[case(json!({"local": {"path": "/b"}}), Machine, &[])]
#[case(json!({"local": {"path": "/b"}}), Cluster, &["spec.local"])]
#[case(json!({"local": {"path": "/b", "persistentVolumeClaim": {"claimName": "c"}}}), Machine, &["spec.local.persistentVolumeClaim"])]
#[case(json!({"local": {"path": "/b", "persistentVolumeClaim": {"claimName": "c"}}}), Cluster, &[])]
#[case(json!({"local": {"path": "/b", "persistentVolumeClaim": {"claimName": "c"}}}), Pod, &[])]
#[case(json!({"local": {"path": "/b"}, "encryption": {"password": {"file": "/etc/shadow"}}}), Pod, &[])]
#[case(json!({"s3": {"bucket": "b"}}), Machine, &[])]
#[case(json!({"s3": {"bucket": "b"}}), Cluster, &["spec.s3.accessKeyId"])]
#[case(json!({"s3": {"bucket": "b", "accessKeyId": key(), "secretAccessKey": key(), "sessionToken": key()}}), Cluster, &[])]
#[case(
    json!({"s3": {"bucket": "b", "accessKeyId": {"env": "ID"}, "secretAccessKey": {"file": "/k"}, "sessionToken": {"env": "T"}}, "encryption": {"password": {"env": "PW"}}}),
    Cluster,
    &["spec.encryption.password", "spec.s3.accessKeyId", "spec.s3.secretAccessKey", "spec.s3.sessionToken"]
)]
#[case(json!({"sftp": {"host": "h", "user": "u", "path": "/p", "hostKey": "ssh-ed25519 AAAA", "privateKey": key()}}), Cluster, &[])]
#[case(
    json!({"sftp": {"host": "h", "user": "u", "path": "/p", "knownHosts": "/k", "agent": true, "privateKey": {"file": "/k"}, "passphrase": {"env": "P"}, "password": {"env": "P"}}}),
    Cluster,
    &["spec.sftp.privateKey", "spec.sftp.passphrase", "spec.sftp.password", "spec.sftp.agent", "spec.sftp.knownHosts"]
)]
fn destinations(
    #[case] storage: Value,
    #[case] place: Surroundings,
    #[case] refused: &[&'static str],
) {
    let reason = if place == Machine {
        CLUSTER_ONLY
    } else {
        MACHINE_ONLY
    };
    let found = destination(place, &destination_of(storage));
    assert_eq!(fields(&found, reason), refused);
}

fn policy_of(source: Value, job: Option<Value>) -> BackupPolicySpec {
    let mut spec = json!({"source": source, "destinations": [{"name": "d"}]});
    if let Some(job) = job {
        spec["job"] = job;
    }
    serde_json::from_value(spec).unwrap()
}

fn claimed() -> Value {
    json!({"files": {"paths": ["/data"], "persistentVolumeClaim": {"claimName": "c", "mountPath": "/data"}}})
}

#[rstest]
#[case(json!({"files": {"paths": ["/data"]}}), None, Machine, &[])]
#[case(json!({"files": {"paths": ["/data"]}}), None, Cluster, &["spec.source.files"])]
#[case(claimed(), Some(json!({})), Machine, &["spec.job", "spec.source.files.persistentVolumeClaim"])]
#[case(claimed(), Some(json!({})), Cluster, &[])]
#[case(claimed(), Some(json!({})), Pod, &[])]
#[case(json!({"mongodb": {"uri": "mongodb://db"}}), None, Cluster, &[])]
#[case(json!({"mongodb": {"uriFrom": {"env": "URI"}}}), None, Cluster, &["spec.source.mongodb.uriFrom"])]
#[case(json!({"mongodb": {"uriFrom": {"env": "URI"}}}), None, Machine, &[])]
#[case(json!({"mongodb": {"uriFrom": {"file": "/uri"}}}), None, Pod, &[])]
fn policies(
    #[case] source: Value,
    #[case] job: Option<Value>,
    #[case] place: Surroundings,
    #[case] refused: &[&'static str],
) {
    let reason = if place == Machine {
        CLUSTER_ONLY
    } else {
        MACHINE_ONLY
    };
    let found = policy(place, "shop", &policy_of(source, job), &[]);
    assert_eq!(fields(&found, reason), refused);
}

#[test]
fn a_volume_is_not_mounted_in_another_namespace() {
    let local = json!({"local": {"path": "/b", "persistentVolumeClaim": {"claimName": "c"}}});
    let at = |namespace: &str| {
        let object = Destination::new("d", destination_of(local.clone()));
        [(Name::new(namespace, "d"), Arc::new(object))]
    };
    let spec = policy_of(json!({"mongodb": {"uri": "mongodb://db"}}), None);
    assert_eq!(policy(Cluster, "shop", &spec, &at("shop")), []);
    let refused = policy(Cluster, "shop", &spec, &at("backups"));
    assert_eq!(fields(&refused, MACHINE_ONLY), ["spec.destinations"]);
    assert!(refused[0].message.contains("backups/d"));
    assert_eq!(policy(Machine, "shop", &spec, &at("backups")), []);
}

#[rstest]
#[case(json!({"files": {"path": "/r"}}), Machine, &[])]
#[case(json!({"files": {"path": "/r"}}), Cluster, &["spec.to.files"])]
#[case(json!({"files": {"path": "/r", "persistentVolumeClaim": {"claimName": "c"}}}), Machine, &["spec.to.files.persistentVolumeClaim"])]
#[case(json!({"files": {"path": "/r", "persistentVolumeClaim": {"claimName": "c"}}}), Cluster, &[])]
#[case(json!({"files": {"path": "/r", "persistentVolumeClaim": {"claimName": "c"}}}), Pod, &[])]
#[case(json!({"mongodb": {"uriFrom": {"file": "/uri"}}}), Cluster, &["spec.to.mongodb.uriFrom"])]
#[case(json!({"mongodb": {"uriFrom": {"file": "/uri"}}}), Machine, &[])]
#[case(json!({"mongodb": {"uriFrom": key()}}), Cluster, &[])]
#[case(json!({"original": {}}), Machine, &["spec.source.files.persistentVolumeClaim"])]
#[case(json!({"original": {}}), Cluster, &[])]
fn restores(#[case] to: Value, #[case] place: Surroundings, #[case] refused: &[&'static str]) {
    let spec: RestoreSpec =
        serde_json::from_value(json!({"from": {"policy": "p"}, "to": to})).unwrap();
    let reason = if place == Machine {
        CLUSTER_ONLY
    } else {
        MACHINE_ONLY
    };
    let found = restore(place, &spec, Some(&policy_of(claimed(), None)));
    assert_eq!(fields(&found, reason), refused);
}

/// What is refused may be a secret's place, never its value; and all of it is told at once.
#[test]
fn everything_is_told_at_once() {
    let spec = policy_of(claimed(), Some(json!({})));
    let (reason, message) = super::summary(&policy(Machine, "shop", &spec, &[])).unwrap();
    assert_eq!(reason, CLUSTER_ONLY);
    assert!(
        message.contains("spec.job") && message.contains("persistentVolumeClaim"),
        "{message}"
    );
    assert_eq!(super::summary(&[]), None);
}
