//! `holdfast operator`: reconciles a cluster, while it leads.

mod arguments;

pub use arguments::OperatorArgs;

use std::sync::Arc;

use holdfast_crds::{Backup, BackupPolicy, Destination, Restore};
use kube::{Client, Config};
use prometheus::{IntGauge, Registry};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::session::cancelled_by_signals;
use crate::host::Host;
use crate::host::kubernetes::fence::Fence;
use crate::host::kubernetes::job::JobSettings;
use crate::host::kubernetes::lease::{Election, Times};
use crate::host::kubernetes::metrics::{JobMetrics, leader_gauge};
use crate::host::kubernetes::operator::{Operator, control};
use crate::host::kubernetes::wakes::Wakes;
use crate::host::kubernetes::watch::{self, Namespaces};
use crate::host::kubernetes::{KubernetesHost, objects::name_of};
use crate::host::observer::Observer;
use crate::metrics::Metrics;
use crate::web::{self, Readiness};

/// Reconciles until a signal comes, or the lease is lost.
pub(super) async fn operator(arguments: OperatorArgs) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let cancel = cancelled_by_signals()?;
    let config = config().await?;
    let fence = Fence::default();
    if arguments.leader_elect {
        fence.close();
    }
    let client = fence.client(config.clone()).map_err(unspeakable)?;
    let identity = arguments.identity();
    let host = Arc::new(KubernetesHost::new(
        client.clone(),
        Some(identity.clone()),
        arguments.sync_interval.into(),
    ));
    let registry = Registry::new();
    let metrics = Metrics::register_source(&registry, JobMetrics(host.clone()))
        .map_err(|error| failed(&error))?;
    let leader = leader_gauge(&registry).map_err(|error| failed(&error))?;
    let readiness = Readiness::default();
    readiness.state_opened();
    let listener = web::listen(arguments.listen)
        .await
        .map_err(|error| failed(&error))?;
    let ended = CancellationToken::new();
    let server = tokio::spawn(web::serve(
        listener,
        web::router(registry, readiness.clone()),
        ended.clone().cancelled_owned(),
    ));
    let wakes = Arc::new(Wakes::default());
    let namespaces = Namespaces(arguments.namespaces());
    tracing::info!(identity, namespaces = ?namespaces.0, "The operator starts.");
    let (mut watches, ready) = watch::follow(&host, &wakes, &namespaces);
    tokio::select! {
        read = futures::future::try_join_all(ready) => {
            read.map_err(|_| Failure::Failed("the watches have broken off".to_owned()))?;
        }
        () = cancel.cancelled() => return Ok(()),
    }
    readiness.resources_loaded();
    // A replica that waits for its turn is as ready as it can be.
    readiness.first_pass_done();
    let operator = Arc::new(Operator::new(
        host,
        wakes,
        Observer { metrics, readiness },
        settings(&arguments),
        arguments.sync_interval.into(),
        arguments.max_backups_per_policy,
    ));
    let result = if arguments.leader_elect {
        let namespace = arguments
            .lease_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        // The lease itself is written before it is held.
        let client = Client::try_from(config).map_err(unspeakable)?;
        let mut election = Election::new(client, &namespace, identity, Times::default(), fence);
        lead_elected(operator, &arguments, &mut election, &leader, &cancel).await
    } else {
        leader.set(1);
        lead(operator, &arguments, cancel.clone()).await;
        Ok(())
    };
    watches.abort_all();
    ended.cancel();
    // How the server ended changes nothing any more.
    let _ = server.await;
    tracing::info!("The operator has ended.");
    result
}

/// Speaks to the cluster that a pod is in, or that kubectl speaks to.
pub(super) async fn client() -> Result<Client, Failure> {
    Client::try_from(config().await?).map_err(unspeakable)
}

async fn config() -> Result<Config, Failure> {
    Config::infer().await.map_err(|error| {
        Failure::Usage(format!(
            "no cluster is known: {error}; run in a pod with a service account, or set KUBECONFIG"
        ))
    })
}

fn unspeakable(error: kube::Error) -> Failure {
    Failure::Usage(format!("the cluster cannot be spoken to: {error}"))
}

fn settings(arguments: &OperatorArgs) -> JobSettings {
    JobSettings {
        image_pull_policy: arguments.image_pull_policy.clone(),
        service_account: arguments.worker_service_account.clone(),
        image_pull_secrets: arguments.image_pull_secrets(),
        node_selector: arguments.node_selector(),
        tolerations: arguments.worker_tolerations.0.clone(),
        ..JobSettings::new(arguments.image.clone())
    }
}

/// Leads as long as the lease is held. A lease that is lost ends the process: what it may still be
/// doing must not go on beside another leader.
async fn lead_elected(
    operator: Arc<Operator>,
    arguments: &OperatorArgs,
    election: &mut Election,
    leader: &IntGauge,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let Some(since) = election.win(cancel).await else {
        return Ok(());
    };
    tracing::info!("This replica leads.");
    leader.set(1);
    let drained = CancellationToken::new();
    tokio::spawn({
        let (arguments, cancel, drained) = (arguments.clone(), cancel.clone(), drained.clone());
        async move {
            lead(operator, &arguments, cancel).await;
            drained.cancel();
        }
    });
    let out_of_patience = async {
        cancel.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    // The lease is renewed until the passes that were begun have ended, but not for ever.
    tokio::select! {
        held = election.keep(since, &drained) => if !held {
            tracing::error!("The lease is lost; the process ends.");
            // Not even what was begun may go on.
            std::process::exit(1);
        },
        () = out_of_patience => {
            tracing::error!("A pass did not end in time; the lease runs out by itself.");
            std::process::exit(1);
        }
    }
    leader.set(0);
    election.release().await;
    Ok(())
}

/// How long the passes that were begun may take when the process is to end.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(20);

/// Runs the controllers until it is cancelled.
async fn lead(operator: Arc<Operator>, arguments: &OperatorArgs, cancel: CancellationToken) {
    let woken = operator.wakes.listen();
    let host = operator.host.clone();
    let declared = host.declared();
    declared
        .destinations
        .keys()
        .chain(declared.departing.keys())
        .for_each(|name| operator.wakes.destination(name));
    declared
        .policies
        .keys()
        .for_each(|name| operator.wakes.policy(name));
    declared
        .restores
        .keys()
        .for_each(|name| operator.wakes.restore(name));
    for backup in host.backups.all() {
        operator.wakes.backup(&name_of(backup.as_ref()));
    }
    let concurrency = arguments.concurrency;
    futures::join!(
        control::<Destination>(
            operator.clone(),
            host.destinations.store(),
            woken.destinations,
            concurrency,
            cancel.clone(),
        ),
        control::<BackupPolicy>(
            operator.clone(),
            host.policies.store(),
            woken.policies,
            concurrency,
            cancel.clone(),
        ),
        control::<Backup>(
            operator.clone(),
            host.backups.store(),
            woken.backups,
            concurrency,
            cancel.clone(),
        ),
        control::<Restore>(
            operator.clone(),
            host.restores.store(),
            woken.restores,
            concurrency,
            cancel.clone(),
        ),
    );
}
