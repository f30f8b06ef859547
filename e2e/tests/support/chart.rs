//! What the tests of the chart share: sets of values, and ways to find things in what is rendered.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::Workdir;
use serde_json::Value;

/// Where it is rendered for.
pub(crate) const NAMESPACE: &str = "backups";

/// Everything that is off by default, and every list filled.
pub(crate) const EVERYTHING: &str = r#"
replicas: 2
image:
  repository: registry.example/holdfast
  digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  pullPolicy: Always
imagePullSecrets: [{name: pull}]
watchNamespaces: [shop, billing]
sharedDestinations: true
operator: {concurrency: 16, syncInterval: 5m, maxBackupsPerPolicy: 20, verbosity: 1}
worker:
  serviceAccountName: backup
  imagePullSecrets: [{name: pull-one}, {name: pull-two}]
  nodeSelector: {disk: ssd, kubernetes.io/arch: amd64}
  tolerations: [{key: backups, operator: Equal, value: "1", effect: NoExecute, tolerationSeconds: 3600}]
serviceAccount: {annotations: {role: "arn:aws:iam::1:role/backup"}}
service: {annotations: {note: kept}}
serviceMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}
prometheusRule:
  enabled: true
  labels: {release: prometheus}
  missedRuns: 3
  runbookUrl: https://runbooks.example/holdfast/alerts.md
  extraRules: [{alert: Mine, expr: holdfast_policy_suspended == 1}]
networkPolicy:
  enabled: true
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  egress: [{ports: [{port: 443, protocol: TCP}, {port: 53, protocol: UDP}]}]
podAnnotations: {note: kept}
podLabels: {team: storage}
extraEnv:
  - {name: EXTRA, value: "yes"}
  - {name: FROM, valueFrom: {configMapKeyRef: {name: more, key: from}}}
extraVolumes: [{name: roots, configMap: {name: roots}}]
extraVolumeMounts: [{name: roots, mountPath: /roots, readOnly: true}]
nodeSelector: {disk: ssd}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector: {matchLabels: {app.kubernetes.io/name: holdfast}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {app.kubernetes.io/name: holdfast}}
priorityClassName: system-cluster-critical
terminationGracePeriodSeconds: 60
"#;

/// Legal names that YAML, when nobody quotes them, takes for numbers, truths or nothing.
pub(crate) const WORDS: &str = r#"
fullnameOverride: "null"
watchNamespaces: ["2024"]
serviceAccount: {name: "1e3"}
worker: {serviceAccountName: "0x1f"}
priorityClassName: "123"
"#;

/// The sets of values that the chart is rendered with.
pub(crate) const SETS: &[(&str, &str)] = &[
    ("defaults", ""),
    ("namespaces", "watchNamespaces: [shop, billing]"),
    ("two replicas", "replicas: 2"),
    ("shared", "sharedDestinations: true"),
    (
        "digest",
        "image: {repository: 'registry.example:5000/holdfast', digest: 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}",
    ),
    (
        "little",
        "{crds: {install: false}, rbac: {create: false, aggregate: false}, service: {enabled: false}, \
         podDisruptionBudget: {enabled: false}, serviceAccount: {create: false, name: mine}}",
    ),
    ("words that are no strings in YAML", WORDS),
    ("everything", EVERYTHING),
];

/// Writes values into a file that goes with the folder.
pub(crate) fn write_values(values: &str) -> Result<(Workdir, String)> {
    let dir = Workdir::new()?;
    let file = dir.join("values.yaml");
    std::fs::write(&file, values)?;
    let path = file.to_string_lossy().into_owned();
    Ok((dir, path))
}

/// The objects of a kind.
pub(crate) fn of_kind(objects: &[Value], kind: &str) -> Vec<Value> {
    let mut found = objects.to_vec();
    found.retain(|object| object["kind"] == kind);
    found
}

/// The one object of a kind.
pub(crate) fn only(objects: &[Value], kind: &str) -> Result<Value> {
    let mut found = of_kind(objects, kind);
    ensure!(found.len() == 1, "{} of the kind {kind}", found.len());
    Ok(found.remove(0))
}

/// The entry of a list with this name.
pub(crate) fn named<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    list.as_array()
        .and_then(|list| list.iter().find(|one| one["name"] == name))
        .with_context(|| format!("no {name} in {list}"))
}

/// The strings of a list.
pub(crate) fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect()
}

/// The ways to the values that hold no further names.
pub(crate) fn leaves(values: &Value) -> Vec<Vec<String>> {
    match values.as_object() {
        Some(inner) if !inner.is_empty() => inner
            .iter()
            .flat_map(|(name, value)| {
                leaves(value).into_iter().map(move |mut path| {
                    path.insert(0, name.clone());
                    path
                })
            })
            .collect(),
        _ => vec![Vec::new()],
    }
}

/// What a list of rules allows, each as `group/resource verb`, with `#name` for those of one name.
pub(crate) fn allowed(rules: &Value) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for rule in rules.as_array().into_iter().flatten() {
        let mut names = strings(&rule["resourceNames"]);
        if names.is_empty() {
            names.insert(String::new());
        }
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    for name in &names {
                        let mark = if name.is_empty() { "" } else { "#" };
                        allowed.insert(format!("{group}/{resource}{mark}{name} {verb}"));
                    }
                }
            }
        }
    }
    allowed
}
