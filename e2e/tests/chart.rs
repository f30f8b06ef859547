//! The Helm chart, without a cluster: it lints, it renders what it should for several sets of values, it
//! refuses bad ones, and what was made from it or for it has not gone stale.

#[path = "support/chart.rs"]
mod support;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::command;
use holdfast_e2e::helm::{self, chart, documents, project, render};
use serde_json::{Value, json};
use support::{
    EVERYTHING, NAMESPACE, SETS, WORDS, leaves, named, of_kind, only, strings, write_values,
};

#[tokio::test]
async fn it_lints_with_every_set_of_values() -> Result<()> {
    for (name, values) in SETS {
        let (_dir, file) = write_values(values)?;
        let chart = chart().to_string_lossy().into_owned();
        helm::run(["lint", "--strict", &chart, "--values", &file])
            .await?
            .ok()
            .with_context(|| format!("the values {name}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_object_has_its_place_and_says_whose_it_is() -> Result<()> {
    for (name, values) in SETS {
        for object in render(NAMESPACE, values).await? {
            let kind = object["kind"].as_str().context("no kind")?;
            let what = format!("{name}: {kind} {}", object["metadata"]["name"]);
            if kind == "CustomResourceDefinition" {
                continue;
            }
            let labels = &object["metadata"]["labels"];
            ensure!(
                labels["app.kubernetes.io/name"] == "holdfast",
                "{what}: {labels}"
            );
            ensure!(
                labels["app.kubernetes.io/managed-by"] == "Helm",
                "{what}: {labels}"
            );
            let namespaced = !kind.starts_with("Cluster");
            ensure!(
                object["metadata"]["namespace"].is_string() == namespaced,
                "{what}: its namespace is {}",
                object["metadata"]["namespace"]
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_name_is_a_string_whatever_yaml_would_make_of_it() -> Result<()> {
    let values = format!("{WORDS}nameOverride: \"true\"\nnetworkPolicy: {{enabled: true}}\n");
    let (_dir, file) = write_values(&values)?;
    let chart = chart().to_string_lossy().into_owned();
    for release in ["123", "1.5"] {
        let output = helm::run([
            "template",
            release,
            &chart,
            "--namespace",
            "2e3",
            "--kube-version",
            helm::KUBERNETES,
            "--values",
            &file,
        ])
        .await?
        .ok()?;
        let objects = documents(&output.stdout)?;
        for object in &objects {
            let kind = object["kind"].as_str().context("no kind")?;
            let metadata = &object["metadata"];
            let what = format!("{release}: {kind} {}", metadata["name"]);
            ensure!(metadata["name"].is_string(), "{what}");
            if kind == "CustomResourceDefinition" {
                continue;
            }
            ensure!(
                metadata["namespace"].is_string() != kind.starts_with("Cluster"),
                "{what}: its namespace is {}",
                metadata["namespace"]
            );
            for (label, value) in metadata["labels"].as_object().context("no labels")? {
                ensure!(value.is_string(), "{what}: {label} is {value}");
            }
            for subject in object["subjects"].as_array().into_iter().flatten() {
                ensure!(subject["name"] == "1e3", "{what}: {subject}");
                ensure!(subject["namespace"] == "2e3", "{what}: {subject}");
                ensure!(object["roleRef"]["name"].is_string(), "{what}");
            }
        }
        let spec = &only(&objects, "Deployment")?["spec"];
        let selected = json!({
            "app.kubernetes.io/name": "true",
            "app.kubernetes.io/instance": release,
            "app.kubernetes.io/component": "operator",
        });
        ensure!(
            spec["selector"]["matchLabels"] == selected,
            "{}",
            spec["selector"]
        );
        let pod = &spec["template"]["spec"];
        ensure!(pod["serviceAccountName"] == "1e3", "{pod}");
        ensure!(pod["priorityClassName"] == "123", "{pod}");
        let watched = &named(&pod["containers"][0]["env"], "HOLDFAST_WATCH_NAMESPACES")?["value"];
        ensure!(watched == "2024", "{watched}");
    }

    // A Service's name begins with a letter and has no dots, whatever the release is called.
    for (release, expected) in [
        ("shop", "shop-holdfast-metrics"),
        ("123", "metrics-123-holdfast"),
        ("a.b", "a-b-holdfast-metrics"),
    ] {
        let args = [
            "template",
            release,
            &chart,
            "--kube-version",
            helm::KUBERNETES,
        ];
        let objects = documents(&helm::run(args).await?.ok()?.stdout)?;
        let name = &only(&objects, "Service")?["metadata"]["name"];
        ensure!(name == expected, "{release}: {name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_pod_keeps_to_the_strictest_standard() -> Result<()> {
    for (name, values) in SETS {
        let objects = render(NAMESPACE, values).await?;
        let pod = &only(&objects, "Deployment")?["spec"]["template"]["spec"];
        let account = &pod["securityContext"];
        ensure!(account["runAsNonRoot"] == true, "{name}: {account}");
        ensure!(account["runAsUser"] == 65532, "{name}: {account}");
        ensure!(
            account["seccompProfile"]["type"] == "RuntimeDefault",
            "{name}: {account}"
        );
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            ensure!(pod.get(field).is_none(), "{name}: {field}");
        }
        let containers = pod["containers"].as_array().context("no containers")?;
        ensure!(
            containers.len() == 1 && pod.get("initContainers").is_none(),
            "{name}"
        );
        let container = &containers[0];
        let expected = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]},
        });
        ensure!(
            container["securityContext"] == expected,
            "{name}: {container}"
        );
        ensure!(
            container["resources"]["limits"]["memory"].is_string(),
            "{name}"
        );
        for (probe, path) in [
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ] {
            ensure!(
                container[probe]["httpGet"]["path"] == path,
                "{name}: {probe}"
            );
            ensure!(
                container[probe]["httpGet"]["port"] == "metrics",
                "{name}: {probe}"
            );
        }
        ensure!(container["ports"] == json!([{"name": "metrics", "containerPort": 9180}]));
        let temporary = named(&container["volumeMounts"], "tmp")?;
        ensure!(temporary["mountPath"] == "/tmp", "{name}");
        ensure!(
            named(&pod["volumes"], "tmp")?["emptyDir"] == json!({}),
            "{name}"
        );
        ensure!(
            container["command"] == json!(["holdfast", "operator"]),
            "{name}"
        );
        // The Jobs run what the operator runs.
        let image = &named(&container["env"], "HOLDFAST_IMAGE")?["value"];
        ensure!(*image == container["image"], "{name}: {image}");
        for (variable, field) in [
            ("POD_NAME", "metadata.name"),
            ("POD_NAMESPACE", "metadata.namespace"),
        ] {
            let from = &named(&container["env"], variable)?["valueFrom"]["fieldRef"]["fieldPath"];
            ensure!(from == field, "{name}: {variable}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn values_reach_the_pod() -> Result<()> {
    let objects = render(NAMESPACE, EVERYTHING).await?;
    let deployment = only(&objects, "Deployment")?;
    ensure!(deployment["spec"]["replicas"] == 2);
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let image = container["image"].as_str().context("no image")?;
    ensure!(
        image.starts_with("registry.example/holdfast@sha256:"),
        "{image}"
    );
    let watched = &named(&container["env"], "HOLDFAST_WATCH_NAMESPACES")?["value"];
    ensure!(watched == "shop,billing", "{watched}");
    let args = strings(&container["args"]);
    for arg in [
        "--listen=0.0.0.0:9180",
        "--leader-elect=true",
        "--concurrency=16",
        "--sync-interval=5m",
        "--max-backups-per-policy=20",
        "--image-pull-policy=Always",
        "--worker-service-account=backup",
        "--worker-image-pull-secret=pull-one",
        "--worker-image-pull-secret=pull-two",
        "--worker-node-selector=disk=ssd",
        "--worker-node-selector=kubernetes.io/arch=amd64",
        "--verbose",
    ] {
        ensure!(args.contains(arg), "no {arg} in {args:?}");
    }
    let tolerations = args
        .iter()
        .find_map(|arg| arg.strip_prefix("--worker-tolerations="))
        .context("no tolerations of the Jobs")?;
    let tolerations: Value = serde_json::from_str(tolerations)?;
    let expected = json!([{
        "key": "backups",
        "operator": "Equal",
        "value": "1",
        "effect": "NoExecute",
        "tolerationSeconds": 3600,
    }]);
    ensure!(tolerations == expected, "{tolerations}");
    ensure!(named(&container["env"], "EXTRA")?["value"] == "yes");
    ensure!(named(&container["volumeMounts"], "roots")?["mountPath"] == "/roots");
    ensure!(named(&pod["volumes"], "roots")?["configMap"]["name"] == "roots");
    ensure!(pod["imagePullSecrets"] == json!([{"name": "pull"}]));
    ensure!(pod["priorityClassName"] == "system-cluster-critical");
    ensure!(pod["nodeSelector"]["disk"] == "ssd");
    ensure!(pod["tolerations"][0]["key"] == "dedicated");
    ensure!(pod["affinity"]["podAntiAffinity"].is_object());
    ensure!(pod["topologySpreadConstraints"][0]["maxSkew"] == 1);
    ensure!(deployment["spec"]["template"]["metadata"]["annotations"]["note"] == "kept");
    let alone = render(NAMESPACE, "operator: {leaderElection: false}").await?;
    let deployment = only(&alone, "Deployment")?;
    ensure!(
        deployment["spec"]["template"]["spec"]
            .get("affinity")
            .is_none(),
        "one replica has nobody to keep away from"
    );
    ensure!(deployment["spec"]["strategy"]["type"] == "Recreate");
    ensure!(
        of_kind(&alone, "Role").is_empty(),
        "a right to leases that nobody takes"
    );
    Ok(())
}

#[tokio::test]
async fn replicas_prefer_hosts_of_their_own() -> Result<()> {
    let objects = render(NAMESPACE, "replicas: 2").await?;
    let spec = &only(&objects, "Deployment")?["spec"];
    let kept_apart = &spec["template"]["spec"]["affinity"]["podAntiAffinity"];
    let preferred = &kept_apart["preferredDuringSchedulingIgnoredDuringExecution"];
    let term = &preferred[0]["podAffinityTerm"];
    ensure!(
        term["topologyKey"] == "kubernetes.io/hostname",
        "{preferred}"
    );
    ensure!(
        term["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"],
        "{preferred}"
    );
    Ok(())
}

/// Values that the schema refuses, with a word of the complaint.
const BAD: &[(&str, &str)] = &[
    ("replica: 2", "replica"),
    ("replicas: two", "replicas"),
    ("replicas: 4", "replicas"),
    ("replicas: -1", "replicas"),
    (
        "{replicas: 2, operator: {leaderElection: false}}",
        "leaderElection",
    ),
    (
        "{serviceMonitor: {enabled: true}, service: {enabled: false}}",
        "enabled",
    ),
    ("image: {digest: latest}", "digest"),
    ("image: {digest: 'sha256:12'}", "digest"),
    ("image: {repository: ''}", "repository"),
    ("image: {pullPolicy: Sometimes}", "pullPolicy"),
    ("image: {name: holdfast}", "name"),
    ("nameOverride: Holdfast", "nameOverride"),
    ("nameOverride: hold.fast", "nameOverride"),
    ("fullnameOverride: hold_fast", "fullnameOverride"),
    ("fullnameOverride: holdfast-", "fullnameOverride"),
    ("fullnameOverride: 123", "fullnameOverride"),
    ("watchNamespaces: shop", "watchNamespaces"),
    ("watchNamespaces: [Shop]", "watchNamespaces"),
    ("watchNamespaces: [shop, shop]", "watchNamespaces"),
    ("operator: {concurrency: 0}", "concurrency"),
    ("operator: {syncInterval: 10}", "syncInterval"),
    ("operator: {syncInterval: 10 minutes}", "syncInterval"),
    ("operator: {verbosity: 3}", "verbosity"),
    ("sharedDestinations: 'yes'", "sharedDestinations"),
    ("worker: {imagePullSecrets: [pull]}", "imagePullSecrets"),
    (
        "worker: {imagePullSecrets: [{name: Pull}]}",
        "imagePullSecrets",
    ),
    ("worker: {nodeSelector: {disk: 1}}", "nodeSelector"),
    ("worker: {tolerations: [{taint: backups}]}", "taint"),
    ("worker: {resources: {}}", "resources"),
    ("extraEnv: [{value: x}]", "name"),
    ("extraEnv: {NAME: x}", "extraEnv"),
    ("extraVolumes: [{name: tmp, emptyDir: {}}]", "extraVolumes"),
    ("extraVolumeMounts: [{name: roots}]", "mountPath"),
    ("podAnnotations: {note: 1}", "podAnnotations"),
    ("affinity: {antiAffinity: {}}", "antiAffinity"),
    ("crds: {enabled: true}", "enabled"),
    ("resources: {request: {cpu: 1}}", "request"),
    ("prometheusRule: {maxRunHours: 0}", "maxRunHours"),
    ("prometheusRule: {maxAgeHours: 26}", "maxAgeHours"),
    ("prometheusRule: {missedRuns: 0}", "missedRuns"),
    ("prometheusRule: {missedRuns: 11}", "missedRuns"),
    ("prometheusRule: {runbookUrl: alerts.md}", "runbookUrl"),
    (
        "prometheusRule: {runbookUrl: 'https://runbooks.example/#alerts'}",
        "runbookUrl",
    ),
    ("podDisruptionBudget: {maxUnavailable: 0}", "maxUnavailable"),
];

#[tokio::test]
async fn bad_values_are_refused_by_name() -> Result<()> {
    for (values, word) in BAD {
        let output = helm::template(NAMESPACE, values, &[]).await?;
        let said = output.said();
        ensure!(output.code == Some(1), "{values} is taken");
        ensure!(
            said.contains("don't meet the specifications of the schema"),
            "{values}: {said}"
        );
        ensure!(said.contains(word), "{values}: nothing of {word} in {said}");
    }
    Ok(())
}

#[tokio::test]
async fn its_crds_are_those_of_the_types_and_stay() -> Result<()> {
    let mut expected = BTreeSet::new();
    for entry in std::fs::read_dir(project().join("crds"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let mut found = documents(&std::fs::read_to_string(&path)?)?;
            ensure!(found.len() == 1, "{}", path.display());
            expected.insert(found.remove(0).to_string());
        }
    }
    ensure!(expected.len() >= 4, "{} CRDs", expected.len());
    let mut rendered = BTreeSet::new();
    for mut crd in of_kind(&render(NAMESPACE, "").await?, "CustomResourceDefinition") {
        let metadata = crd["metadata"].as_object_mut().context("no metadata")?;
        let annotations = metadata.remove("annotations");
        ensure!(
            annotations == Some(json!({"helm.sh/resource-policy": "keep"})),
            "{annotations:?}"
        );
        rendered.insert(crd.to_string());
    }
    ensure!(
        rendered == expected,
        "the chart's CRDs are not those of crds/: run crdgen"
    );
    let without = render(NAMESPACE, "crds: {install: false}").await?;
    ensure!(of_kind(&without, "CustomResourceDefinition").is_empty());
    // `kubectl apply -k crds` takes the same files.
    let list = std::fs::read_to_string(project().join("crds/Kustomization"))?;
    let list = strings(&documents(&list)?[0]["resources"]);
    ensure!(
        list.len() == expected.len(),
        "crds/Kustomization names {list:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_plain_manifests_are_what_the_chart_gives() -> Result<()> {
    let mut generate = tokio::process::Command::new(project().join("deploy/generate"));
    generate.env("HELM", command::find("helm")?);
    let output = command::run(generate, None, std::time::Duration::from_secs(60))
        .await?
        .ok()?;
    let file = std::fs::read_to_string(project().join("deploy/operator.yaml"))?;
    ensure!(
        output.stdout == file,
        "deploy/operator.yaml is stale: run `make generate-deploy`"
    );
    ensure!(
        !file.contains("helm.sh") && !file.contains(": Helm"),
        "Helm is named"
    );
    // The same objects, but for what says that Helm looks after them.
    let mut expected = render("holdfast-system", "crds: {install: false}").await?;
    for object in &mut expected {
        let labels = object["metadata"]["labels"]
            .as_object_mut()
            .context("no labels")?;
        labels.remove("helm.sh/chart");
        labels.remove("app.kubernetes.io/managed-by");
    }
    ensure!(documents(&file)? == expected);
    Ok(())
}

#[tokio::test]
async fn alerts_are_on_metrics_that_exist() -> Result<()> {
    let mut families = String::new();
    for file in ["metrics/families.rs", "host/kubernetes/metrics.rs"] {
        families += &std::fs::read_to_string(project().join("operator/src").join(file))?;
    }
    let objects = render(NAMESPACE, EVERYTHING).await?;
    let rule = only(&objects, "PrometheusRule")?;
    let rules = rule["spec"]["groups"][0]["rules"]
        .as_array()
        .context("no rules")?;
    ensure!(rules.len() >= 9, "{} rules", rules.len());
    for rule in rules {
        let expression = rule["expr"].as_str().context("no expr")?;
        let mut words = 0;
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if word.starts_with("holdfast_") {
                ensure!(
                    families.contains(&format!("\"{word}\",")),
                    "{word} is no metric"
                );
                words += 1;
            }
        }
        ensure!(words > 0, "{expression} is on no metric of ours");
        for text in ["summary", "description"] {
            let said = rule["annotations"][text].as_str().unwrap_or_default();
            ensure!(
                said.len() > 10 || rule["alert"] == "Mine",
                "{}: {text}",
                rule["alert"]
            );
        }
    }
    let text = rule.to_string();
    ensure!(
        text.contains("{{ $labels.namespace }}/{{ $labels.policy }}"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn every_alert_has_its_section_in_the_runbook() -> Result<()> {
    let runbook = std::fs::read_to_string(project().join("docs/alerts.md"))?;
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let readme = std::fs::read_to_string(chart().join("README.md"))?;
    let url = "https://runbooks.example/holdfast/alerts.md";
    let linked = format!("prometheusRule: {{enabled: true, runbookUrl: '{url}'}}");
    for values in ["prometheusRule: {enabled: true}", &linked] {
        let rule = only(&render(NAMESPACE, values).await?, "PrometheusRule")?;
        let rules = rule["spec"]["groups"][0]["rules"]
            .as_array()
            .context("no rules")?;
        let mut alerts = BTreeSet::new();
        for rule in rules {
            let alert = rule["alert"].as_str().context("no alert")?;
            let link = rule["annotations"]["runbook_url"].as_str();
            let expected = format!("{url}#{}", alert.to_lowercase());
            let expected = (values == linked).then_some(expected.as_str());
            ensure!(link == expected, "{alert}: {link:?}");
            ensure!(
                readme.contains(&format!("| `{alert}` | ")),
                "the chart's README does not tell of {alert}"
            );
            alerts.insert(alert);
        }
        ensure!(
            alerts == sections,
            "docs/alerts.md has {sections:?}, the chart {alerts:?}"
        );
    }
    Ok(())
}

#[test]
fn every_value_is_documented_and_in_the_schema() -> Result<()> {
    let values = documents(&std::fs::read_to_string(chart().join("values.yaml"))?)?.remove(0);
    let readme = std::fs::read_to_string(chart().join("README.md"))?;
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(
        chart().join("values.schema.json"),
    )?)?;
    for path in leaves(&values) {
        let name = path.join(".");
        ensure!(
            readme.contains(&format!("`{name}`")),
            "the README does not tell of {name}"
        );
        let mut part = &schema;
        for step in &path {
            // What is defined elsewhere takes names of any kind, such as those of resources.
            if part["$ref"].is_string() {
                break;
            }
            part = &part["properties"][step];
        }
        ensure!(part.is_object(), "the schema does not know {name}");
    }
    let mut parts = vec![&schema];
    while let Some(part) = parts.pop() {
        for inner in part["properties"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.values())
        {
            parts.push(inner);
            if inner["properties"].is_object() {
                ensure!(
                    inner["additionalProperties"] == false,
                    "{inner} takes any name"
                );
            }
        }
    }
    ensure!(schema["additionalProperties"] == false);
    Ok(())
}
