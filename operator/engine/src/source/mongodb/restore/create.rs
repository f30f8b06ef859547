//! Collections, time series and views, created with exactly the options the backup has.

use bson::{Document, doc};
use futures::FutureExt as _;

use super::error::{RestoreError, cause, command_code};
use super::metadata::CollectionMetadata;
use super::target::{Target, answer, persist, write_concern};
use crate::class::ErrorClass;
use crate::source::mongodb::error::code::NAMESPACE_NOT_FOUND;
use crate::source::mongodb::namespace::Namespace;

/// `NamespaceExists`.
const NAMESPACE_EXISTS: i32 = 48;
/// `InvalidOptions`.
const INVALID_OPTIONS: i32 = 72;

/// Creates what the backup has under this name. UUIDs are not kept: they belong to a deployment.
pub(super) async fn create(
    target: &Target,
    namespace: &Namespace,
    metadata: &CollectionMetadata,
) -> Result<(), RestoreError> {
    let database = target.client.database(&namespace.db);
    let command = create_command(&namespace.collection, &metadata.options);
    let action = format!("create {namespace}");
    let (answered, repeated) =
        persist(|| async { answer(&action, database.run_command(command.clone()).await) }.boxed())
            .await?;
    let Err(error) = answered else {
        return Ok(());
    };
    if repeated && command_code(&error) == Some(NAMESPACE_EXISTS) {
        return Ok(());
    }
    // Servers differ in which of the derived time series options they want to be told.
    if command_code(&error) == Some(INVALID_OPTIONS)
        && let Some(simpler) = without_derived_options(&command)
        && database.run_command(simpler).await.is_ok()
    {
        return Ok(());
    }
    if command_code(&error) == Some(NAMESPACE_EXISTS) {
        return Err(RestoreError::Conflict {
            target: target.address.clone(),
            conflicts: vec![format!(
                "{namespace} was made by another program meanwhile ({})",
                cause(&error)
            )],
        });
    }
    Err(RestoreError::server(action, &error))
}

fn create_command(name: &str, options: &Document) -> Document {
    let mut command = doc! { "create": name };
    command.extend(options.clone());
    // No server since 4.0 lets a collection be without its index on `_id`.
    command.remove("autoIndexId");
    command.insert("writeConcern", write_concern());
    command
}

/// The command without what a time series' granularity already says, if it has such.
fn without_derived_options(command: &Document) -> Option<Document> {
    let mut command = command.clone();
    let timeseries = command.get_document_mut("timeseries").ok()?;
    timeseries.get("granularity")?;
    let span = timeseries.remove("bucketMaxSpanSeconds");
    let rounding = timeseries.remove("bucketRoundingSeconds");
    (span.is_some() || rounding.is_some()).then_some(command)
}

/// Drops what is there under this name; that nothing is there is no error.
pub(super) async fn drop(target: &Target, namespace: &Namespace) -> Result<(), RestoreError> {
    let command = doc! { "drop": &namespace.collection, "writeConcern": write_concern() };
    let database = target.client.database(&namespace.db);
    let action = format!("drop {namespace}");
    let (answered, _) =
        persist(|| async { answer(&action, database.run_command(command.clone()).await) }.boxed())
            .await?;
    match answered {
        Ok(_) => Ok(()),
        Err(error) if command_code(&error) == Some(NAMESPACE_NOT_FOUND) => Ok(()),
        Err(error) => Err(RestoreError::server(action, &error)),
    }
}

/// Removes all documents of a collection that the server does not let be dropped.
pub(super) async fn empty(target: &Target, namespace: &Namespace) -> Result<(), RestoreError> {
    let command = doc! {
        "delete": &namespace.collection,
        "deletes": [{ "q": {}, "limit": 0 }],
        "writeConcern": write_concern(),
    };
    let action = format!("remove what is in {namespace}");
    let reply = match target.run(&namespace.db, &action, command).await {
        Err(RestoreError::Server {
            action,
            cause,
            class: ErrorClass::Waiting,
        }) => {
            return Err(RestoreError::Server {
                action,
                cause: format!(
                    "{cause}. That takes readWriteAnyDatabase; or leave it out of what is restored"
                ),
                class: ErrorClass::Waiting,
            });
        }
        answered => answered?,
    };
    match reply.get_array("writeErrors") {
        Ok(errors) if !errors.is_empty() => Err(RestoreError::Server {
            action,
            cause: format!("{errors:?}"),
            class: ErrorClass::Permanent,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::{create_command, without_derived_options};

    #[test]
    fn options_are_passed_on_in_order() {
        let options = doc! { "autoIndexId": false, "capped": true, "size": 4096, "max": 3 };
        assert_eq!(
            create_command("log", &options),
            doc! {
                "create": "log", "capped": true, "size": 4096, "max": 3,
                "writeConcern": { "w": "majority" }
            }
        );
    }

    #[test]
    fn only_what_the_granularity_says_is_left_out() {
        let given = doc! { "create": "x", "timeseries": {
        "timeField": "t", "granularity": "seconds", "bucketMaxSpanSeconds": 3600 } };
        assert_eq!(
            without_derived_options(&given),
            Some(
                doc! { "create": "x", "timeseries": { "timeField": "t", "granularity": "seconds" } }
            )
        );
        let custom = doc! { "create": "x", "timeseries": {
        "timeField": "t", "bucketMaxSpanSeconds": 60, "bucketRoundingSeconds": 60 } };
        assert_eq!(without_derived_options(&custom), None);
        assert_eq!(without_derived_options(&doc! { "create": "x" }), None);
    }
}
