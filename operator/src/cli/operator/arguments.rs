//! The arguments of `operator`. Each has a variable, as a chart sets them.

use std::net::SocketAddr;

use clap::{ArgAction, Args};
use holdfast_crds::Duration;

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

impl OperatorArgs {
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
