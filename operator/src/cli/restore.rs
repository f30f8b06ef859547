//! `holdfast restore BACKUP`.

use holdfast_crds::meta::{Condition, ObjectMeta, Time};
use holdfast_crds::{
    Restore, RestoreFrom, RestoreProgress, RestoreSpec, RestoreStatus, RestoreTarget,
    RestoreToFiles, RestoreToOriginal,
};
use holdfast_engine::progress::Progress;
use secrecy::SecretString;

use super::arguments::{GlobalArgs, RestoreArgs};
use super::failure::Failure;
use super::progress::Shown;
use super::session::Session;
use super::{cluster, print};
use crate::run::restore::{RestoreOrder, RestoreOutcome, Target};

/// Restores one backup, and prints what was done.
pub(super) async fn restore(global: &GlobalArgs, arguments: RestoreArgs) -> Result<(), Failure> {
    let rename = arguments
        .rename
        .iter()
        .map(|rule| rename(rule))
        .collect::<Result<Vec<_>, _>>()?;
    if arguments.to_path.is_some() && !rename.is_empty() {
        return Err(Failure::Usage(
            "--rename gives namespaces of a MongoDB other names and cannot go with --to-path"
                .to_owned(),
        ));
    }
    if arguments.files.kubernetes {
        return cluster::restore(&arguments, rename).await;
    }
    let session = Session::open(global, &arguments.files)?;
    let located = session
        .locate(
            &arguments.backup,
            arguments.policy.as_deref(),
            arguments.destination.as_deref(),
        )
        .await?;
    let located = located
        .into_iter()
        .next()
        .ok_or_else(|| Failure::Failed("the backup was found nowhere".to_owned()))?;
    let target =
        match (&arguments.to_mongodb_uri_file, &arguments.to_path) {
            (Some(file), _) => Target::MongodbUri {
                uri: uri(file)?,
                rename,
            },
            (None, Some(path)) => Target::Path(std::path::absolute(path).map_err(|error| {
                Failure::Usage(format!("--to-path {}: {error}", path.display()))
            })?),
            (None, None) => Target::OriginalRenamed(rename),
        };
    let order = RestoreOrder {
        located,
        target,
        on_conflict: arguments.on_conflict.into(),
        include: arguments.include.clone(),
        dry_run: arguments.dry_run,
        object: None,
    };
    let start = jiff::Timestamp::now();
    let progress = Progress::new();
    let shown = Shown::new("restore", progress.clone());
    let result = session.runner.restore(&order, &progress).await;
    drop(shown);
    let outcome = result.map_err(|error| session.failed(error))?;
    let printed = resource(&session.namespace, &order, &outcome, start);
    print::one(arguments.output.output, &printed, || told(&order, &outcome))
}

fn told(order: &RestoreOrder, outcome: &RestoreOutcome) -> String {
    let located = &order.located;
    let id: String = located.snapshot.identity().chars().take(8).collect();
    let head = if order.dry_run {
        format!(
            "Backup {id} at {} would be restored; nothing was changed.\n",
            located.destination
        )
    } else {
        format!("Backup {id} was restored from {}.\n", located.destination)
    };
    let mut text = head + &outcome.told;
    if let Some(verified) = &outcome.verified {
        text.push_str(&format!("Content: {verified}\n"));
    }
    text
}

/// The restore as the resource that would have asked for it, with its status.
fn resource(
    namespace: &str,
    order: &RestoreOrder,
    outcome: &RestoreOutcome,
    start: jiff::Timestamp,
) -> Restore {
    let located = &order.located;
    let now = jiff::Timestamp::now();
    let policy = crate::catalogue::policy_of(&located.snapshot)
        .map(|policy| policy.name)
        .unwrap_or_default();
    let on_conflict = order.on_conflict;
    let to = match &order.target {
        Target::Declared(target) => target.clone(),
        Target::Path(path) => RestoreTarget::Files(RestoreToFiles {
            path: path.display().to_string(),
            on_conflict,
            persistent_volume_claim: None,
        }),
        // A URI given by hand may hold a password and is not repeated.
        Target::MongodbUri { .. } | Target::OriginalRenamed(_) => {
            RestoreTarget::Original(RestoreToOriginal { on_conflict })
        }
    };
    let (reason, message) = if order.dry_run {
        ("DryRun", "Nothing was changed.")
    } else {
        ("Completed", "The backup is restored.")
    };
    let id: String = located.snapshot.identity().chars().take(8).collect();
    Restore {
        metadata: ObjectMeta {
            name: Some(format!("{policy}-{id}")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        spec: RestoreSpec {
            from: RestoreFrom {
                policy,
                backup: located.snapshot.identity().to_owned(),
                destination: Some(located.destination.name.clone()),
            },
            to,
            include: order.include.clone(),
            dry_run: order.dry_run,
        },
        status: Some(RestoreStatus {
            conditions: vec![Condition {
                type_: "Succeeded".to_owned(),
                status: "True".to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: Time(now),
                observed_generation: None,
            }],
            observed_generation: None,
            backup: Some(located.snapshot.identity().to_owned()),
            destination: Some(located.destination.name.clone()),
            start_time: Some(Time(start)),
            completion_time: Some(Time(now)),
            progress: (!order.dry_run).then_some(RestoreProgress {
                done_bytes: outcome.bytes,
                total_bytes: outcome.bytes,
            }),
            documents: outcome.documents,
            files: outcome.files,
            verified: outcome.verified.clone(),
            plan: outcome.plan.clone(),
            last_handled_request: None,
        }),
    }
}

fn rename(rule: &str) -> Result<(String, String), Failure> {
    let wrong = |why: String| Failure::Usage(format!("--rename {rule}: {why}"));
    let (from, to) = rule
        .split_once('=')
        .ok_or_else(|| wrong("write it as FROM=TO, such as 'shop.*=shop_copy.*'".to_owned()))?;
    match holdfast_crds::rules::check_rename(from, to) {
        Some(why) => Err(wrong(why)),
        None => Ok((from.to_owned(), to.to_owned())),
    }
}

fn uri(file: &std::path::Path) -> Result<SecretString, Failure> {
    let source = holdfast_crds::SecretSource::File(file.display().to_string());
    crate::host::secrets::Secrets::default()
        .resolve(&source)
        .map_err(|error| Failure::Usage(format!("--to-mongodb-uri-file: {error}")))
}
