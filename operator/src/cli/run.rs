//! `holdfast run PATH…`: reconciles plain files, once or for good.

use std::sync::Arc;

use holdfast_crds::BackupPolicyStatus;
use holdfast_crds::meta::ObjectMeta;
use jiff::Timestamp;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::arguments::{GlobalArgs, RunArgs};
use super::failure::Failure;
use super::print;
use super::progress::Shown;
use super::session::Session;
use crate::host::files::converge::{Converger, Passed};
use crate::host::files::daemon::Daemon;
use crate::host::files::departed;
use crate::host::files::load::{self, References};
use crate::host::observer::Observer;
use crate::host::{Declared, Name};
use crate::journal::ObjectRecord;
use crate::metrics::Metrics;
use crate::reconcile::conditions::READY;
use crate::reconcile::memory;
use crate::reconcile::policy::Patience;
use crate::web::{self, Readiness};

/// Reconciles until a signal comes, or once.
pub(super) async fn run(global: &GlobalArgs, arguments: RunArgs) -> Result<(), Failure> {
    let session = Session::of_paths(global, &arguments.paths, holdfast_crds::DEFAULT_NAMESPACE)?;
    if session.declared.is_empty() {
        tracing::warn!("The files declare no Holdfast object.");
    }
    let registry = Registry::new();
    let metrics = Metrics::register(&registry, session.runner.journal.clone())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let readiness = Readiness::default();
    readiness.state_opened();
    readiness.resources_loaded();
    let observer = Observer {
        metrics,
        readiness: readiness.clone(),
    };
    let slots = usize::try_from(arguments.max_concurrent_runs).unwrap_or(1);
    let converger = Converger {
        runner: session.runner.clone(),
        slots: Arc::new(Semaphore::new(slots)),
        patience: if arguments.once {
            Patience::RetryWhatFailedBefore(Timestamp::now())
        } else {
            Patience::Backoff
        },
        on_start: |what, progress| Box::new(Shown::new(what, progress)),
    };
    let server = match arguments.listen {
        Some(address) => {
            let listener = web::listen(address)
                .await
                .map_err(|error| Failure::Failed(error.to_string()))?;
            let ended = session.runner.cancel.clone().cancelled_owned();
            Some(tokio::spawn(web::serve(
                listener,
                web::router(registry, readiness),
                ended,
            )))
        }
        None => None,
    };
    let result = if arguments.once {
        once(&session, &converger, &observer, &arguments).await
    } else {
        tracing::info!(paths = ?arguments.paths, "Holdfast reconciles.");
        Daemon::new(converger, observer, arguments.paths.clone())
            .run()
            .await;
        tracing::info!("Holdfast has ended.");
        Ok(())
    };
    session.runner.cancel.cancel();
    if let Some(server) = server {
        // It was asked to end above; how it ended changes nothing any more.
        let _ = server.await;
    }
    result
}

/// Converges, does what is due, and says how every object stands.
async fn once(
    session: &Session,
    converger: &Converger<crate::host::files::FilesHost>,
    observer: &Observer,
    arguments: &RunArgs,
) -> Result<(), Failure> {
    let runner = &session.runner;
    settled(session, &arguments.paths).await?;
    departed::take_leave(runner, &session.declared, &arguments.paths).await;
    let mut failures = departed::delete_what_was_promised(runner).await;
    // Restores first, as a backup before them would be of what they replace; and once more after
    // the policies, as they may wait for a first backup.
    failures.extend(restores(session, converger, false).await);
    failures.extend(policies(session, converger).await);
    failures.extend(restores(session, converger, true).await);
    failures.extend(standing(session, &failures).await);
    for name in session.declared.policies.keys() {
        observer.policy(runner, name).await;
    }
    for name in session.declared.destinations.keys() {
        if !observer.destination(runner, name).await {
            failures.push(format!("Destination {name} cannot be used"));
        }
    }
    let objects = objects(session).await;
    print::list(arguments.output.output, &objects, || {
        super::tables::objects(&objects)
    })?;
    if runner.cancel.is_cancelled() {
        return Err(Failure::Failed(
            "the pass was stopped by a signal".to_owned(),
        ));
    }
    if failures.is_empty() {
        return Ok(());
    }
    failures.dedup();
    Err(Failure::Failed(failures.join("\nerror: ")))
}

/// Waits until it is sure that what the files do not declare any more is meant to go.
async fn settled(session: &Session, paths: &[std::path::PathBuf]) -> Result<(), Failure> {
    let runner = &session.runner;
    let gone = departed::gone(runner, &session.declared, paths).await;
    if gone.is_empty() {
        return Ok(());
    }
    tracing::info!(
        objects = gone.len(),
        "The files do not declare some objects any more; these go if that is still so in 10 seconds."
    );
    tokio::select! {
        () = tokio::time::sleep(departed::SETTLED) => {}
        () = runner.cancel.cancelled() => {
            return Err(Failure::Failed(
                "the pass was stopped by a signal; nothing was done".to_owned(),
            ));
        }
    }
    let loaded = load::load(paths, References::Checked);
    let same = loaded.problems.is_empty()
        && Declared::from_loaded(loaded.resources).same_as(&session.declared);
    if same {
        return Ok(());
    }
    Err(Failure::Failed(
        "the files changed while they were read; nothing was done. Run it again".to_owned(),
    ))
}

/// Policies that stand badly although this pass did not fail at them: what failed before is not
/// made good.
async fn standing(session: &Session, failures: &[String]) -> Vec<String> {
    let mut standing = Vec::new();
    for (name, object) in &session.declared.policies {
        let subject = format!("BackupPolicy {name}: ");
        if object.spec.suspend || failures.iter().any(|failure| failure.starts_with(&subject)) {
            continue;
        }
        let now = Timestamp::now();
        let observed =
            memory::observe(&session.runner, "BackupPolicy", name, &object.spec, now).await;
        let Ok(record) = observed else { continue };
        let status: BackupPolicyStatus = memory::status(&record);
        standing.extend(
            status
                .conditions
                .iter()
                .filter(|condition| condition.type_ == READY && condition.status == "False")
                .map(|condition| format!("{subject}{}: {}", condition.reason, condition.message)),
        );
    }
    standing
}

async fn policies(
    session: &Session,
    converger: &Converger<crate::host::files::FilesHost>,
) -> Vec<String> {
    let passes = session
        .declared
        .policies
        .keys()
        .map(|name| async move { (name, converger.policy(name).await) });
    collect("BackupPolicy", futures::future::join_all(passes).await)
}

/// Brings the Restores about. Only in the last round is one that still waits a failure.
async fn restores(
    session: &Session,
    converger: &Converger<crate::host::files::FilesHost>,
    last: bool,
) -> Vec<String> {
    let mut passed = Vec::new();
    for name in session.declared.restores.keys() {
        let one = converger.restore(name).await;
        if last || one.done > 0 {
            passed.push((name, one));
        }
    }
    collect("Restore", passed)
}

fn collect(kind: &str, passed: Vec<(&Name, Passed)>) -> Vec<String> {
    passed
        .into_iter()
        .flat_map(|(name, passed)| {
            passed
                .failures
                .into_iter()
                .map(move |failure| format!("{kind} {name}: {failure}"))
        })
        .collect()
}

/// Every declared object with its status, as kubectl would print it.
async fn objects(session: &Session) -> Vec<Value> {
    let declared = &session.declared;
    let mut objects = Vec::new();
    for (name, object) in &declared.destinations {
        objects.push(with_status(session, "Destination", name, json!(object.spec)).await);
    }
    for (name, object) in &declared.policies {
        objects.push(with_status(session, "BackupPolicy", name, json!(object.spec)).await);
    }
    for (name, object) in &declared.backups {
        objects.push(with_status(session, "Backup", name, json!(object.spec)).await);
    }
    for (name, object) in &declared.restores {
        objects.push(with_status(session, "Restore", name, json!(object.spec)).await);
    }
    objects
}

async fn with_status(session: &Session, kind: &'static str, name: &Name, spec: Value) -> Value {
    let observed = memory::observe(&session.runner, kind, name, &spec, Timestamp::now()).await;
    let (generation, uid, created, status) = match observed {
        Ok(ObjectRecord {
            generation,
            uid,
            first_seen,
            status,
            ..
        }) => (Some(generation), Some(uid), Some(first_seen), status),
        Err(_) => (None, None, None, Value::Null),
    };
    let metadata = ObjectMeta {
        namespace: Some(name.namespace.clone()),
        name: Some(name.name.clone()),
        generation,
        uid,
        creation_timestamp: created.map(holdfast_crds::meta::Time),
        ..ObjectMeta::default()
    };
    json!({
        "apiVersion": holdfast_crds::API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}
