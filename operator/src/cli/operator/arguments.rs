//! The arguments of `operator`. Each has a variable, as a chart sets them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use clap::{ArgAction, Args};
use holdfast_crds::Duration;
use k8s_openapi::api::core::v1::{LocalObjectReference, Toleration};
use serde_json::Value;

/// Arguments of `operator`.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The namespaces that are reconciled, separated by commas; all when absent.
    #[arg(
        long,
        env = "HOLDFAST_WATCH_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ','
    )]
    pub namespace: Vec<String>,
    /// The image of the Jobs: that of the operator.
    #[arg(long, env = "HOLDFAST_IMAGE", value_name = "IMAGE")]
    pub image: String,
    /// When the image is pulled.
    #[arg(long, env = "HOLDFAST_IMAGE_PULL_POLICY", value_name = "POLICY")]
    pub image_pull_policy: Option<String>,
    /// The service account of Jobs whose policy names none; its token is not mounted.
    #[arg(long, env = "HOLDFAST_WORKER_SERVICE_ACCOUNT", value_name = "NAME")]
    pub worker_service_account: Option<String>,
    /// A Secret to pull the image with, for Jobs whose policy names none; once for each.
    #[arg(
        long,
        env = "HOLDFAST_WORKER_IMAGE_PULL_SECRETS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub worker_image_pull_secret: Vec<String>,
    /// A label that a node must have for Jobs whose policy names none; once for each.
    #[arg(
        long,
        env = "HOLDFAST_WORKER_NODE_SELECTOR",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = label
    )]
    pub worker_node_selector: Vec<(String, String)>,
    /// The taints that do not matter to Jobs whose policy names none: a JSON array, as in a pod's
    /// `tolerations`.
    #[arg(
        long,
        env = "HOLDFAST_WORKER_TOLERATIONS",
        value_name = "JSON",
        default_value = "[]",
        hide_default_value = true
    )]
    pub worker_tolerations: Tolerations,
    /// The namespace of the lease [default: that of the service account or the kubeconfig].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Whether several replicas elect one that writes.
    #[arg(long, env = "HOLDFAST_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// What this replica is called in the lease and in events; no two may be called alike.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Address that serves /metrics, /healthz and /readyz.
    #[arg(
        long,
        env = "HOLDFAST_LISTEN",
        default_value = "0.0.0.0:9180",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,
    /// How many objects of a kind are reconciled side by side.
    #[arg(long, env = "HOLDFAST_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// How long a listing of a destination is good.
    #[arg(
        long,
        env = "HOLDFAST_SYNC_INTERVAL",
        default_value = "10m",
        value_name = "DURATION"
    )]
    pub sync_interval: Duration,
    /// How many restore points of a policy are shown as Backup objects, the newest.
    #[arg(long, env = "HOLDFAST_MAX_BACKUPS", default_value_t = 50)]
    pub max_backups_per_policy: usize,
}

/// Tolerations as they are written in a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tolerations(pub Vec<Toleration>);

impl FromStr for Tolerations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let wrong = |error: serde_json::Error| {
            format!(
                "{error}; it is a JSON array in the words of Kubernetes, for example [{{\"key\":\"backup\",\"operator\":\"Exists\"}}]"
            )
        };
        let written: Value = serde_json::from_str(text).map_err(wrong)?;
        let read: Vec<Toleration> = serde_json::from_value(written.clone()).map_err(wrong)?;
        // Kubernetes' types pass over what they do not know: a slip of the pen must not.
        let understood = serde_json::to_value(&read).map_err(wrong)?;
        if written != understood {
            return Err(format!(
                "of {written} only {understood} is understood; correct what differs"
            ));
        }
        Ok(Self(read))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Default::default());
    }
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE, for example disktype=ssd"))
}

impl OperatorArgs {
    /// The Secrets to pull the image with; a variable that is set and empty names none.
    #[must_use]
    pub fn image_pull_secrets(&self) -> Vec<LocalObjectReference> {
        self.worker_image_pull_secret
            .iter()
            .filter(|name| !name.trim().is_empty())
            .map(|name| LocalObjectReference {
                name: name.trim().to_owned(),
            })
            .collect()
    }

    /// The labels that a node must have.
    #[must_use]
    pub fn node_selector(&self) -> BTreeMap<String, String> {
        self.worker_node_selector
            .iter()
            .filter(|(key, _)| !key.is_empty())
            .cloned()
            .collect()
    }

    /// The namespaces, without empty ones: a variable that is set and empty names none.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let mut namespaces: Vec<String> = self
            .namespace
            .iter()
            .map(|namespace| namespace.trim().to_owned())
            .filter(|namespace| !namespace.is_empty())
            .collect();
        namespaces.sort();
        namespaces.dedup();
        namespaces
    }

    /// What this replica is called: as it was told, or something that nobody else is called.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity
            .clone()
            .filter(|identity| !identity.is_empty())
            .unwrap_or_else(|| format!("holdfast-{}", uuid::Uuid::new_v4()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        operator: OperatorArgs,
    }

    fn parse(more: &[&str]) -> Result<OperatorArgs, String> {
        let all = ["holdfast", "--image=x"].iter().chain(more);
        Whole::try_parse_from(all)
            .map(|whole| whole.operator)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_all_pods_have_is_read_as_kubernetes_writes_it() {
        let none = parse(&["--worker-tolerations=", "--worker-node-selector="]).unwrap();
        assert!(none.node_selector().is_empty() && none.worker_tolerations.0.is_empty());
        let some = parse(&[
            "--worker-image-pull-secret=one",
            "--worker-image-pull-secret=two",
            "--worker-node-selector=disktype=ssd",
            "--worker-node-selector=zone=a=b",
            r#"--worker-tolerations=[{"key":"backup","operator":"Exists"}]"#,
        ])
        .unwrap();
        let secrets = some.image_pull_secrets();
        let names: Vec<&str> = secrets.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!(some.node_selector()["zone"], "a=b");
        assert_eq!(some.worker_tolerations.0[0].key.as_deref(), Some("backup"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in [
            "--worker-node-selector=ssd",
            "--worker-node-selector==ssd",
            "--worker-tolerations={}",
            r#"--worker-tolerations=[{"keys":"backup"}]"#,
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
