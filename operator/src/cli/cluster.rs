//! The verbs with `--kubernetes`, with the rights of whoever calls. What only a destination is needed for
//! is done from here, with the Secrets of the cluster. What reads or writes a source is asked of the
//! operator, by an object, and waited for: databases of a cluster are seldom reached from outside.

use std::sync::Arc;
use std::time::Duration;

use holdfast_crds::meta::{Condition, ObjectMeta};
use holdfast_crds::{
    Backup, BackupPolicy, BackupSpec, Destination, LATEST, Restore, RestoreFrom, RestoreSpec,
    RestoreTarget, RestoreToMongodb, RestoreToOriginal, Source, Storage,
};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::arguments::{BackupArgs, BackupsArgs, FileArgs, GlobalArgs, HistoryArgs, RestoreArgs};
use super::failure::Failure;
use super::session::{self, Session};
use super::{operator, output, print};
use crate::host::Name;
use crate::host::kubernetes::KubernetesHost;
use crate::host::kubernetes::history::History;
use crate::host::kubernetes::record::{JobRecord, MANAGED_BY, MANAGER};
use crate::journal::Run;

/// How often an object is looked at that is waited for.
const LOOK: Duration = Duration::from_secs(2);
/// After how many looks without news something is said.
const SILENT_LOOKS: u32 = 15;

/// A session on what a namespace of a cluster declares, and the destinations of others that its
/// policies use.
pub(super) async fn session(
    global: &GlobalArgs,
    arguments: &FileArgs,
) -> Result<Session<KubernetesHost>, Failure> {
    let (client, namespace) = connect(arguments.namespace.as_deref()).await?;
    let policies: Vec<BackupPolicy> = list(&client, &namespace, &ListParams::default()).await?;
    let mut destinations: Vec<Destination> =
        list(&client, &namespace, &ListParams::default()).await?;
    for name in foreign(&namespace, &policies) {
        let api: Api<Destination> = Api::namespaced(client.clone(), &name.namespace);
        // One that may not be seen is as good as none, here as in the operator.
        if let Ok(Some(object)) = api.get_opt(&name.name).await {
            destinations.push(object);
        }
    }
    let host = KubernetesHost::new(client, None, Duration::from_secs(600));
    let mut in_claims = Vec::new();
    for object in destinations {
        if matches!(object.spec.storage, Storage::Local(_)) {
            in_claims.push(Name::of(&object).to_string());
        } else {
            host.destinations.put(object);
        }
    }
    for object in policies {
        host.policies.put(object);
    }
    host.declaration_changed();
    let elsewhere = if in_claims.is_empty() {
        "name another namespace with -n NAMESPACE".to_owned()
    } else {
        format!(
            "{} lies in a claim, which only pods reach: ask by a Backup or a Restore",
            in_claims.join(", ")
        )
    };
    Session::on(
        Arc::new(host),
        session::journal(global)?,
        &namespace,
        elsewhere,
    )
}

/// Lists the Backup objects: what the operator last saw in the destinations, claims included.
pub(super) async fn backups(arguments: &BackupsArgs) -> Result<(), Failure> {
    if arguments.foreign {
        return Err(Failure::Usage(
            "--foreign looks into repositories, and with --kubernetes the objects are listed; leave out one of the two"
                .to_owned(),
        ));
    }
    let (client, namespace) = connect(arguments.files.namespace.as_deref()).await?;
    let policy = arguments.policy.as_deref();
    let policy = policy.map(|policy| Name::parse(policy, &namespace));
    let namespace = policy
        .as_ref()
        .map_or(namespace.as_str(), |policy| &policy.namespace);
    let mut found: Vec<Backup> = list(&client, namespace, &ListParams::default()).await?;
    found.retain(|backup| {
        let of_policy = |policy: &Name| backup.spec.policy == policy.name;
        let status = backup.status.as_ref();
        let copies = status
            .map(|status| status.copies.as_slice())
            .unwrap_or_default();
        let at = |wanted: &String| copies.iter().any(|copy| copy.destination == *wanted);
        status.is_some_and(|status| status.id.is_some())
            && policy.as_ref().is_none_or(of_policy)
            && arguments.destination.as_ref().is_none_or(at)
    });
    found.sort_by_key(|backup| {
        let status = backup.status.as_ref();
        let time = status.and_then(|status| status.completion_time.as_ref());
        (time.map(|time| time.0), backup.name_any())
    });
    found.iter_mut().for_each(tidy);
    print::list(arguments.output.output, &found, || output::backups(&found))
}

/// Asks the operator for a backup, and waits for it.
pub(super) async fn backup(arguments: BackupArgs) -> Result<(), Failure> {
    let (client, namespace) = connect(arguments.files.namespace.as_deref()).await?;
    let policy = Name::parse(&arguments.policy, &namespace);
    // One that is not there would be waited for.
    policy_of(&client, &policy).await?;
    let object = Backup {
        metadata: generated(&policy, "by-hand"),
        spec: BackupSpec {
            policy: policy.name.clone(),
            tags: arguments.tag,
            deletion_policy: holdfast_crds::DeletionPolicy::default(),
        },
        status: None,
    };
    let conditions = |backup: &Backup| {
        let status = backup.status.as_ref();
        status
            .map(|status| status.conditions.clone())
            .unwrap_or_default()
    };
    let mut made = asked(&client, &policy.namespace, &object, conditions).await?;
    tidy(&mut made);
    let backups = [made];
    print::one(arguments.output.output, &backups[0], || {
        output::backups(&backups).to_string()
    })
}

/// Asks the operator for a restore, and waits for it.
pub(super) async fn restore(
    arguments: &RestoreArgs,
    rename: Vec<(String, String)>,
) -> Result<(), Failure> {
    if arguments.to_mongodb_uri_file.is_some() || arguments.to_path.is_some() {
        return Err(Failure::Usage(
            "--to-mongodb-uri-file and --to-path name what is on this machine, and with --kubernetes a pod restores; \
             apply a Restore whose spec.to names a Secret or a claim, or leave out --kubernetes"
                .to_owned(),
        ));
    }
    let (client, namespace) = connect(arguments.files.namespace.as_deref()).await?;
    let policy = match &arguments.policy {
        Some(policy) => Name::parse(policy, &namespace),
        None => policy_of_backup(&client, &namespace, &arguments.backup).await?,
    };
    let on_conflict = arguments.on_conflict.into();
    let to = if rename.is_empty() {
        RestoreTarget::Original(RestoreToOriginal { on_conflict })
    } else {
        let Source::Mongodb(source) = policy_of(&client, &policy).await?.spec.source else {
            return Err(Failure::Usage(format!(
                "--rename gives namespaces of a MongoDB other names, and {policy} backs up files"
            )));
        };
        RestoreTarget::Mongodb(RestoreToMongodb {
            connection: source.connection,
            rename: rename.into_iter().collect(),
            on_conflict,
        })
    };
    let object = Restore {
        metadata: generated(&policy, "restore"),
        spec: RestoreSpec {
            from: RestoreFrom {
                policy: policy.name.clone(),
                backup: arguments.backup.clone(),
                destination: arguments.destination.clone(),
            },
            to,
            include: arguments.include.clone(),
            dry_run: arguments.dry_run,
        },
        status: None,
    };
    let conditions = |restore: &Restore| {
        let status = restore.status.as_ref();
        status
            .map(|status| status.conditions.clone())
            .unwrap_or_default()
    };
    let mut done = asked(&client, &policy.namespace, &object, conditions).await?;
    tidy(&mut done);
    print::one(arguments.output.output, &done, || {
        let status = done.status.clone().unwrap_or_default();
        let mut text = String::new();
        for condition in status.conditions {
            text.push_str(&format!("{}\n", condition.message));
        }
        for step in &status.plan {
            text.push_str(&format!("{} -> {}: {}\n", step.from, step.to, step.action));
        }
        if let Some(verified) = &status.verified {
            text.push_str(&format!("Content: {verified}\n"));
        }
        text
    })
}

/// The runs that the Jobs of a namespace tell of, the newest first.
pub(super) async fn runs(arguments: &HistoryArgs) -> Result<Vec<Run>, Failure> {
    let (client, namespace) = connect(arguments.namespace.as_deref()).await?;
    let query = super::history::query(arguments, &namespace);
    let policy = arguments.policy.as_deref();
    let policy = policy.map(|policy| Name::parse(policy, &namespace));
    let namespace = policy
        .as_ref()
        .map_or(namespace.as_str(), |policy| &policy.namespace);
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let jobs: Vec<Job> = list(&client, namespace, &ours).await?;
    let history = History::default();
    for record in jobs.iter().filter_map(JobRecord::of) {
        history.put(record);
    }
    Ok(history.runs(&query))
}

/// The client, and the namespace asked for or that of the context.
async fn connect(namespace: Option<&str>) -> Result<(Client, String), Failure> {
    let client = operator::client().await?;
    let namespace = namespace
        .unwrap_or_else(|| client.default_namespace())
        .to_owned();
    Ok((client, namespace))
}

async fn list<K>(client: &Client, namespace: &str, what: &ListParams) -> Result<Vec<K>, Failure>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = api.list(what).await.map_err(|error| {
        Failure::Failed(format!(
            "the {} of namespace {namespace} cannot be listed: {error}",
            K::plural(&())
        ))
    })?;
    Ok(found.items)
}

/// The destinations of other namespaces that policies name.
fn foreign(namespace: &str, policies: &[BackupPolicy]) -> std::collections::BTreeSet<Name> {
    let named = policies.iter().flat_map(|policy| &policy.spec.destinations);
    named
        .map(|one| Name::new(one.namespace_for(namespace), &one.name))
        .filter(|name| name.namespace != namespace)
        .collect()
}

async fn policy_of(client: &Client, name: &Name) -> Result<BackupPolicy, Failure> {
    let api: Api<BackupPolicy> = Api::namespaced(client.clone(), &name.namespace);
    let found = api
        .get_opt(&name.name)
        .await
        .map_err(|error| Failure::Failed(format!("BackupPolicy {name} cannot be read: {error}")))?;
    found.ok_or_else(|| {
        Failure::Usage(format!(
            "no BackupPolicy {name} is declared; `kubectl get backuppolicies -n {}` lists them",
            name.namespace
        ))
    })
}

/// The policy that made a backup, by the objects that mirror what is in the destinations.
async fn policy_of_backup(client: &Client, namespace: &str, id: &str) -> Result<Name, Failure> {
    if id == LATEST {
        return Err(Failure::Usage(
            "latest of which policy? Add --policy NAME, or give a backup's id".to_owned(),
        ));
    }
    let backups: Vec<Backup> = list(client, namespace, &ListParams::default()).await?;
    let policies: std::collections::BTreeSet<String> = backups
        .into_iter()
        .filter(|backup| {
            let known = backup
                .status
                .as_ref()
                .and_then(|status| status.id.as_deref());
            known.is_some_and(|known| known.starts_with(id))
        })
        .map(|backup| backup.spec.policy)
        .collect();
    let mut policies = policies.into_iter();
    match (policies.next(), policies.next()) {
        (Some(policy), None) => Ok(Name::new(namespace, policy)),
        (None, _) => Err(Failure::Usage(format!(
            "no Backup of namespace {namespace} has an id that begins with {id}; older ones are found with --policy NAME"
        ))),
        (Some(_), Some(_)) => Err(Failure::Usage(format!(
            "backups of several policies begin with {id}; give more of the id, or --policy NAME"
        ))),
    }
}

fn generated(policy: &Name, what: &str) -> ObjectMeta {
    // What the API server adds must fit.
    let stem: String = policy.name.chars().take(40).collect();
    ObjectMeta {
        generate_name: Some(format!("{}-{what}-", stem.trim_end_matches(['-', '.']))),
        namespace: Some(policy.namespace.clone()),
        ..ObjectMeta::default()
    }
}

/// What the API server keeps for itself is not shown, as kubectl does not.
fn tidy<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Creates an object that asks for something, and waits for its `Succeeded`.
async fn asked<K>(
    client: &Client,
    namespace: &str,
    object: &K,
    conditions: impl Fn(&K) -> Vec<Condition>,
) -> Result<K, Failure>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let kind = K::kind(&());
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let created = api
        .create(&PostParams::default(), object)
        .await
        .map_err(|error| {
            Failure::Failed(format!(
                "a {kind} in namespace {namespace} cannot be created: {error}"
            ))
        })?;
    let name = Name::new(namespace, created.name_any());
    eprintln!("{kind} {name} asks the operator; it goes on although this command is stopped.");
    let cancel = session::cancelled_by_signals()?;
    let (mut told, mut silent) = (String::new(), 0);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Err(Failure::Failed(format!(
                "{kind} {name} is waited for no more, and goes on; `kubectl -n {namespace} delete {} {}` takes it back if it has not begun",
                K::plural(&()), name.name
            ))),
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = match api.get_opt(&name.name).await {
            Ok(Some(now)) => now,
            Ok(None) => {
                return Err(Failure::Failed(format!(
                    "{kind} {name} was deleted before it was done"
                )));
            }
            // The API server may be away for a while.
            Err(error) if !matches!(&error, kube::Error::Api(answer) if answer.code < 500) => {
                eprintln!("{kind} {name} cannot be read for now: {error}");
                continue;
            }
            Err(error) => {
                return Err(Failure::Failed(format!(
                    "{kind} {name} cannot be read: {error}"
                )));
            }
        };
        let conditions = conditions(&now);
        let condition = conditions.iter().find(|one| one.type_ == "Succeeded");
        match condition {
            Some(one) if one.status == "True" => return Ok(now),
            Some(one) if one.status == "False" => {
                return Err(Failure::Failed(format!("{kind} {name}: {}", one.message)));
            }
            _ => {}
        }
        let news = condition.map_or_else(
            || "the operator has not taken it up yet; is it running?".to_owned(),
            |one| format!("{}: {}", one.reason, one.message),
        );
        silent += 1;
        let new = news != told && condition.is_some();
        if new || silent >= SILENT_LOOKS {
            eprintln!("{news}");
            (told, silent) = (news, 0);
        }
    }
}
