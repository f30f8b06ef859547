//! The rights that the chart gives: exactly those that are written down here, to the operator and to people.

#[path = "support/chart.rs"]
mod support;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::helm::render;
use serde_json::{Value, json};
use support::{NAMESPACE, SETS, allowed, of_kind, only, strings};

const KINDS: [&str; 4] = ["destinations", "backuppolicies", "backups", "restores"];

/// What the operator may do where it watches.
fn operator(shared: bool) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    let mut add = |resource: &str, verbs: &[&str]| {
        rights.extend(verbs.iter().map(|verb| format!("{resource} {verb}")));
    };
    for kind in KINDS {
        add(&format!("holdfast.dev/{kind}"), &["list", "watch"]);
        add(&format!("holdfast.dev/{kind}/status"), &["patch"]);
    }
    add("holdfast.dev/destinations", &["patch"]);
    add("holdfast.dev/backups", &["patch", "create", "delete"]);
    add("batch/jobs", &["get", "list", "watch", "create", "patch"]);
    add("/pods", &["list"]);
    add("/pods/log", &["get"]);
    add("/secrets", &["get", "list", "watch"]);
    if shared {
        add("/secrets", &["create", "patch"]);
    }
    add("events.k8s.io/events", &["create", "patch"]);
    rights
}

fn compare(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<()> {
    let more: Vec<_> = found.difference(expected).collect();
    let less: Vec<_> = expected.difference(found).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "{what}: too much {more:?}, too little {less:?}"
    );
    Ok(())
}

#[tokio::test]
async fn no_rule_has_a_wildcard_or_lets_anyone_grow() -> Result<()> {
    for (name, values) in SETS {
        for object in render(NAMESPACE, values).await? {
            for rule in object["rules"].as_array().into_iter().flatten() {
                for list in ["apiGroups", "resources", "verbs"] {
                    let words = strings(&rule[list]);
                    ensure!(!words.is_empty(), "{name}: {rule}");
                    ensure!(
                        words.iter().all(|word| !word.contains('*')),
                        "{name}: {rule}"
                    );
                }
                for verb in ["escalate", "bind", "impersonate"] {
                    ensure!(!strings(&rule["verbs"]).contains(verb), "{name}: {rule}");
                }
                for resource in ["pods/exec", "serviceaccounts/token", "nodes", "namespaces"] {
                    ensure!(
                        !strings(&rule["resources"]).contains(resource),
                        "{name}: {rule}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_has_what_it_needs_and_no_more() -> Result<()> {
    for shared in [false, true] {
        let values = format!("sharedDestinations: {shared}");
        let objects = render(NAMESPACE, &values).await?;
        let binding = only(&objects, "ClusterRoleBinding")?;
        ensure!(
            binding["subjects"]
                == json!([{"kind": "ServiceAccount", "name": "holdfast", "namespace": NAMESPACE}]),
            "{binding}"
        );
        let roles = of_kind(&objects, "ClusterRole");
        let role = roles
            .iter()
            .find(|role| role["metadata"]["name"] == binding["roleRef"]["name"])
            .context("the binding names no role of the chart")?;
        compare("everywhere", &allowed(&role["rules"]), &operator(shared))?;

        let lease = only(&objects, "Role")?;
        ensure!(lease["metadata"]["namespace"] == NAMESPACE);
        let own = |verb: &str| format!("coordination.k8s.io/leases#holdfast-operator {verb}");
        let mut expected: BTreeSet<String> = ["get", "update"].map(own).into();
        expected.insert("coordination.k8s.io/leases create".to_owned());
        compare("the lease", &allowed(&lease["rules"]), &expected)?;
    }
    Ok(())
}

#[tokio::test]
async fn with_namespaces_nothing_is_allowed_elsewhere() -> Result<()> {
    let objects = render(NAMESPACE, "watchNamespaces: [shop, billing]").await?;
    ensure!(
        of_kind(&objects, "ClusterRoleBinding").is_empty(),
        "it is bound everywhere"
    );
    let mut namespaces = BTreeSet::new();
    for role in of_kind(&objects, "Role") {
        let namespace = role["metadata"]["namespace"]
            .as_str()
            .context("no namespace")?;
        if role["metadata"]["name"] == "holdfast-lease" {
            ensure!(namespace == NAMESPACE, "{namespace}");
            continue;
        }
        compare(namespace, &allowed(&role["rules"]), &operator(false))?;
        namespaces.insert(namespace.to_owned());
    }
    ensure!(
        namespaces == ["billing".to_owned(), "shop".to_owned()].into(),
        "{namespaces:?}"
    );
    for binding in of_kind(&objects, "RoleBinding") {
        ensure!(binding["roleRef"]["kind"] == "Role", "{binding}");
        ensure!(
            binding["subjects"][0]["namespace"] == NAMESPACE,
            "{binding}"
        );
    }
    // No ClusterRole but those that people get through view, edit and admin.
    for role in of_kind(&objects, "ClusterRole") {
        let labels = role["metadata"]["labels"].to_string();
        ensure!(
            labels.contains("rbac.authorization.k8s.io/aggregate-to-"),
            "{role}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn people_get_the_kinds_with_view_edit_and_admin() -> Result<()> {
    let objects = render(NAMESPACE, "").await?;
    let aggregated = |to: &str| -> BTreeSet<String> {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        of_kind(&objects, "ClusterRole")
            .iter()
            .filter(|role| role["metadata"]["labels"][&label] == "true")
            .flat_map(|role| allowed(&role["rules"]))
            .collect()
    };
    let mut expected = BTreeSet::new();
    for (to, verbs) in [
        ("view", &["get", "list", "watch"][..]),
        ("edit", &["create", "update", "patch", "delete"]),
        ("admin", &["deletecollection"]),
    ] {
        for kind in KINDS {
            expected.extend(
                verbs
                    .iter()
                    .map(|verb| format!("holdfast.dev/{kind} {verb}")),
            );
            if to == "view" {
                expected.insert(format!("holdfast.dev/{kind}/status get"));
            }
        }
        compare(to, &aggregated(to), &expected)?;
    }
    let without: Vec<Value> = render(NAMESPACE, "rbac: {aggregate: false}").await?;
    ensure!(of_kind(&without, "ClusterRole").len() == 1);
    Ok(())
}
