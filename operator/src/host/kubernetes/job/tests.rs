//! Jobs as they are built, whole.

use std::collections::BTreeMap;

use holdfast_crds::{BackupPolicySpec, DestinationSpec, RestoreSpec};
use holdfast_engine::class::Classified;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::*;

fn spec<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn reference(name: &str, key: &str) -> Value {
    json!({"secretKeyRef": {"name": name, "key": key}})
}

fn s3() -> DestinationSpec {
    spec(json!({
        "s3": {
            "bucket": "acme", "endpoint": "https://s3.example.com",
            "accessKeyId": reference("wasabi", "id"),
            "secretAccessKey": reference("wasabi", "secret"),
        },
        "encryption": {"password": reference("repo", "password")},
    }))
}

fn disk() -> DestinationSpec {
    spec(json!({
        "local": {"path": "/repositories/shop", "persistentVolumeClaim": {"claimName": "backups"}},
        "encryption": {"password": reference("repo", "password")},
    }))
}

fn mongodb() -> BackupPolicySpec {
    spec(json!({
        "source": {"mongodb": {"uriFrom": reference("shop-db", "uri")}},
        "destinations": [{"name": "wasabi"}, {"name": "disk"}],
        "retention": {"keepDaily": 7},
    }))
}

fn files() -> BackupPolicySpec {
    spec(json!({
        "source": {"files": {
            "paths": ["/data/uploads"],
            "persistentVolumeClaim": {"claimName": "uploads", "mountPath": "/data"},
        }},
        "destinations": [{"name": "disk"}],
    }))
}

fn owner() -> OwnerReference {
    OwnerReference {
        api_version: "holdfast.dev/v1alpha1".to_owned(),
        kind: "BackupPolicy".to_owned(),
        name: "shop".to_owned(),
        uid: "0190cafe".to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn settings() -> JobSettings {
    JobSettings {
        image_pull_policy: Some("IfNotPresent".to_owned()),
        ..JobSettings::new("example.com/holdfast:1")
    }
}

fn scheduled() -> Task {
    Task::Backup(BackupTask {
        scheduled_for: Some("2026-03-01T10:15:00Z".parse().unwrap()),
        ..BackupTask::default()
    })
}

fn restore(to: Value) -> Task {
    Task::Restore(RestoreTask {
        name: "back".to_owned(),
        spec: spec::<RestoreSpec>(json!({"from": {"policy": "shop"}, "to": to})),
        destination: "disk".to_owned(),
        snapshot: "ab".repeat(32),
    })
}

fn order<'a>(
    policy: Option<&'a BackupPolicySpec>,
    destinations: Vec<OrderDestination<'a>>,
    task: Task,
    settings: &'a JobSettings,
) -> JobOrder<'a> {
    JobOrder {
        name: "shop-29539335",
        namespace: "team",
        owner: owner(),
        run: "team/shop/2026-03-01T10:15:00Z".to_owned(),
        policy: policy.map(|spec| ("shop", spec)),
        destinations,
        task,
        fingerprint: Some("00ff"),
        settings,
    }
}

fn pod(built: &Built) -> &PodSpec {
    let spec = built.job.spec.as_ref().unwrap();
    spec.template.spec.as_ref().unwrap()
}

fn work(built: &Built) -> Work {
    let environment = pod(built).containers[0].env.as_ref().unwrap();
    let variable = environment.iter().find(|one| one.name == WORK_VARIABLE);
    // As the kubelet does.
    let json = variable.unwrap().value.as_ref().unwrap().replace("$$", "$");
    Work::from_json(&json).unwrap()
}

fn mounts(built: &Built) -> Vec<(String, bool)> {
    let mounts = pod(built).containers[0].volume_mounts.as_ref().unwrap();
    mounts
        .iter()
        .map(|mount| (mount.mount_path.clone(), mount.read_only == Some(true)))
        .collect()
}

#[test]
fn a_scheduled_backup_as_it_is_built() {
    let (settings, policy, s3, disk) = (settings(), mongodb(), s3(), disk());
    let destinations = vec![
        OrderDestination {
            known_repository_id: Some("5f1c".to_owned()),
            ..OrderDestination::own("wasabi", &s3)
        },
        OrderDestination::own("disk", &disk),
    ];
    let built = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap();
    insta::assert_yaml_snapshot!("scheduled_backup", built.job);
    assert_eq!(built.secret, None);
}

#[test]
fn the_settings_of_a_policy_are_in_its_pods() {
    let (settings, disk) = (settings(), disk());
    let mut policy = files();
    policy.job = spec(json!({
        "resources": {"limits": {"memory": "4Gi"}, "requests": {"memory": "2Gi"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "backup", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "serviceAccountName": "backups",
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/extra"}],
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000},
        "priorityClassName": "low",
        "activeDeadlineSeconds": 7200,
        "backoffLimit": 5,
        "ttlSecondsAfterFinished": 60,
    }));
    let destinations = vec![OrderDestination::own("disk", &disk)];
    let built = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap();
    insta::assert_yaml_snapshot!("settings_of_a_policy", built.job);
}

/// Each field by itself: a policy that wants other nodes still pulls its image.
#[test]
fn what_the_operator_says_of_all_pods_stands_where_the_policy_says_nothing() {
    let disk = disk();
    let settings = JobSettings {
        image_pull_secrets: spec(json!([{"name": "registry"}])),
        node_selector: spec(json!({"pool": "backup"})),
        tolerations: spec(json!([{"key": "backup", "operator": "Exists"}])),
        ..settings()
    };
    let said = |policy: Option<&BackupPolicySpec>, task| {
        let destinations = vec![OrderDestination::own("disk", &disk)];
        let built = build(&order(policy, destinations, task, &settings)).unwrap();
        let pod = serde_json::to_value(pod(&built)).unwrap();
        ["imagePullSecrets", "nodeSelector", "tolerations"].map(|field| pod[field].clone())
    };
    let general = [
        json!([{"name": "registry"}]),
        json!({"pool": "backup"}),
        json!([{"key": "backup", "operator": "Exists"}]),
    ];
    assert_eq!(said(None, Task::Look {}), general);
    let mut policy = files();
    assert_eq!(said(Some(&policy), scheduled()), general);
    policy.job = spec(json!({"nodeSelector": {"disk": "ssd"}}));
    let [secrets, nodes, tolerations] = said(Some(&policy), scheduled());
    assert_eq!(nodes, json!({"disk": "ssd"}));
    assert_eq!([&secrets, &tolerations], [&general[0], &general[2]]);
}

#[test]
fn a_restore_of_files_as_it_is_built() {
    let (settings, policy, disk) = (settings(), files(), disk());
    let to = json!({"files": {"path": "/restored", "persistentVolumeClaim": {"claimName": "new"}}});
    let destinations = vec![OrderDestination::own("disk", &disk)];
    let built = build(&order(Some(&policy), destinations, restore(to), &settings)).unwrap();
    insta::assert_yaml_snapshot!("restore_of_files", built.job);
    // It has no use for what the policy reads.
    assert_eq!(work(&built).policy, None);
}

#[test]
fn a_restore_into_the_source_may_write_to_its_claim() {
    let (settings, policy, disk) = (settings(), files(), disk());
    let built = |task| {
        let destinations = vec![OrderDestination::own("disk", &disk)];
        build(&order(Some(&policy), destinations, task, &settings)).unwrap()
    };
    let data = |built: &Built| mounts(built).into_iter().find(|one| one.0 == "/data");
    let back = built(restore(json!({"original": {}})));
    assert_eq!(data(&back), Some(("/data".to_owned(), false)));
    assert_eq!(back.job.spec.unwrap().backoff_limit, Some(0));
    let merging = built(restore(json!({"original": {"onConflict": "Merge"}})));
    assert_eq!(merging.job.spec.unwrap().backoff_limit, Some(2));
    assert_eq!(data(&built(scheduled())), Some(("/data".to_owned(), true)));
    assert_eq!(data(&built(Task::Upkeep {})), None);
}

#[test]
fn upkeep_gets_no_secret_of_the_source() {
    let (settings, policy, disk) = (settings(), mongodb(), disk());
    let destinations = vec![OrderDestination::own("disk", &disk)];
    let built = build(&order(
        Some(&policy),
        destinations,
        Task::Upkeep {},
        &settings,
    ))
    .unwrap();
    assert!(!format!("{:?}", pod(&built).volumes).contains("shop-db"));
}

#[test]
fn secrets_of_another_namespace_are_copied() {
    let (settings, mut policy, s3) = (settings(), mongodb(), s3());
    policy.destinations = spec(json!([{"name": "wasabi", "namespace": "platform"}]));
    let destinations = vec![OrderDestination {
        foreign_namespace: Some("platform"),
        ..OrderDestination::own("wasabi", &s3)
    }];
    let built = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap();
    let secret = built.secret.clone().unwrap();
    let from = |name: &str, key: &str| ("platform".to_owned(), name.to_owned(), key.to_owned());
    assert_eq!(
        secret
            .entries
            .iter()
            .map(|one| one.from.clone())
            .collect::<Vec<_>>(),
        [
            from("repo", "password"),
            from("wasabi", "id"),
            from("wasabi", "secret")
        ]
    );
    let work = work(&built);
    let entry = keys_entry("platform", "repo", "password");
    assert_eq!(
        work.destinations["wasabi"].spec.encryption.password,
        holdfast_crds::SecretSource::File(format!("/holdfast/secrets/run/{entry}"))
    );
    // In the pod everything is of one namespace.
    let declared = work.declared();
    let name = work.policy_name().unwrap();
    assert_eq!(declared.destinations_of(&name).len(), 1);

    // All Jobs of the policy share one Secret, whatever the keys are; another policy has its own.
    let named = |uid: &str, disk_first: bool| {
        let (disk, foreign) = (disk(), Some("platform"));
        let mut destinations = vec![OrderDestination {
            foreign_namespace: foreign,
            ..OrderDestination::own("wasabi", &s3)
        }];
        if disk_first {
            destinations.insert(0, OrderDestination::own("disk", &disk));
        }
        let order = JobOrder {
            name: "another-job",
            owner: OwnerReference {
                uid: uid.to_owned(),
                ..owner()
            },
            ..order(Some(&policy), destinations, scheduled(), &settings)
        };
        let secret = build(&order).unwrap().secret.unwrap();
        (secret.name, secret.entries)
    };
    let same = (secret.name.clone(), secret.entries.clone());
    assert_eq!(named("0190cafe", false), same);
    assert_eq!(named("0190cafe", true), same);
    assert_ne!(named("0190beef", false).0, secret.name);
    let values = BTreeMap::from([
        (entry, ByteString(b"password".to_vec())),
        ("9".to_owned(), ByteString(b"not asked for".to_vec())),
    ]);
    insta::assert_yaml_snapshot!("secret_with_foreign_keys", secret.manifest(values));
}

#[test]
fn what_would_be_the_operators_own_is_refused() {
    let (settings, policy) = (settings(), mongodb());
    let password = json!({"password": reference("repo", "password")});
    for (destination, field) in [
        (
            json!({"local": {"path": "/data"}, "encryption": password}),
            "spec.local.path",
        ),
        (
            json!({"local": {"path": "/d", "persistentVolumeClaim": {"claimName": "c"}}, "encryption": {"password": {"env": "PATH"}}}),
            "spec.encryption.password",
        ),
        (
            json!({"local": {"path": "/d", "persistentVolumeClaim": {"claimName": "c"}}, "encryption": {"password": {"file": "/etc/passwd"}}}),
            "spec.encryption.password",
        ),
        (
            json!({"sftp": {"host": "h", "user": "u", "path": "p", "agent": true, "hostKey": "ssh-ed25519 AAAA"}, "encryption": password}),
            "spec.sftp.agent",
        ),
        (
            json!({"sftp": {"host": "h", "user": "u", "path": "p", "password": reference("a", "b"), "knownHosts": "/k"}, "encryption": password}),
            "spec.sftp.knownHosts",
        ),
    ] {
        let destination: DestinationSpec = spec(destination);
        let destinations = vec![OrderDestination::own("wasabi", &destination)];
        let order = order(Some(&policy), destinations, scheduled(), &settings);
        let error = build(&order).unwrap_err();
        assert_eq!(error.reason(), "NotPossibleInCluster");
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("{field} of Destination wasabi")),
            "{told}"
        );
    }
    let shared = disk();
    let destinations = vec![OrderDestination {
        foreign_namespace: Some("platform"),
        ..OrderDestination::own("disk", &shared)
    }];
    let error = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap_err();
    assert!(error.to_string().contains("of one namespace"), "{error}");
}

#[test]
fn sources_and_targets_need_a_claim() {
    let (settings, disk) = (settings(), disk());
    let policy: BackupPolicySpec = spec(json!({
        "source": {"files": {"paths": ["/etc"]}}, "destinations": [{"name": "disk"}],
    }));
    let tasks = [
        scheduled(),
        restore(json!({"files": {"path": "/restored"}})),
    ];
    for task in tasks {
        let destinations = vec![OrderDestination::own("disk", &disk)];
        let error = build(&order(Some(&policy), destinations, task, &settings)).unwrap_err();
        assert!(
            error.to_string().contains("persistentVolumeClaim"),
            "{error}"
        );
    }
}

#[test]
fn two_things_at_one_path_are_refused() {
    let (settings, disk) = (settings(), disk());
    let mut policy = files();
    policy.source = spec(json!({"files": {
        "paths": ["/repositories/shop"],
        "persistentVolumeClaim": {"claimName": "uploads", "mountPath": "/repositories/shop"},
    }}));
    let destinations = vec![OrderDestination::own("disk", &disk)];
    let error = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap_err();
    assert_eq!(error.reason(), "MountConflict");
}

#[test]
fn a_user_root_gets_what_files_need_and_no_more() {
    let (settings, disk) = (settings(), disk());
    let mut policy = files();
    policy.job = spec(json!({"securityContext": {"runAsUser": 0}}));
    let destinations = vec![OrderDestination::own("disk", &disk)];
    let built = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap();
    let pod = pod(&built);
    assert_eq!(pod.security_context.as_ref().unwrap().run_as_non_root, None);
    let security = pod.containers[0].security_context.as_ref().unwrap();
    let capabilities = security.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.add, Some(vec!["DAC_OVERRIDE".to_owned()]));
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
}

#[test]
fn a_dollar_sign_reaches_the_pod() {
    let (settings, mut policy, s3) = (settings(), mongodb(), s3());
    policy.tags = vec!["$(HOME)".to_owned(), "$$x".to_owned()];
    let destinations = vec![OrderDestination::own("wasabi", &s3)];
    let built = build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap();
    assert_eq!(work(&built).policy.unwrap().spec.tags, policy.tags);
}

#[test]
fn the_same_order_is_the_same_job() {
    let (settings, policy, s3, disk) = (settings(), mongodb(), s3(), disk());
    let built = || {
        let destinations = vec![
            OrderDestination::own("wasabi", &s3),
            OrderDestination::own("disk", &disk),
        ];
        build(&order(Some(&policy), destinations, scheduled(), &settings)).unwrap()
    };
    assert_eq!(built(), built());
}
