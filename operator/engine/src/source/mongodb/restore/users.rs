//! Users and roles, merged into the target's by the command that the server has for
//! `mongorestore`: what the target has besides stays, among it the account that restores.

use std::sync::Arc;

use bson::{Document, doc};
use futures::TryStreamExt;

use super::conflict::integer;
use super::create;
use super::error::RestoreError;
use super::insert::{Duplicates, Inserter};
use super::pieces::{next_document, pieces, read_node};
use super::target::{Target, write_concern};
use crate::class::ErrorClass;
use crate::source::Content;
use crate::source::mongodb::namespace::Namespace;

/// The names that `mongorestore` uses, which the role `restore` is made for.
const TEMPORARY_USERS: &str = "tempusers";
const TEMPORARY_ROLES: &str = "temproles";
/// The schemas of users and roles that servers since 3.0 have.
const KNOWN_SCHEMAS: std::ops::RangeInclusive<i64> = 3..=5;

fn path(collection: &str) -> String {
    Namespace::new("admin", collection).data_path()
}

/// Whether the backup holds users or roles.
pub(super) async fn in_backup(content: &dyn Content) -> Result<bool, RestoreError> {
    for collection in ["system.users", "system.roles"] {
        if let Some(node) = content.node(path(collection).as_bytes()).await?
            && node.size > 0
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Merges users and roles; says how many there were of each.
pub(super) async fn merge(
    target: &Target,
    content: Arc<dyn Content>,
) -> Result<(u64, u64), RestoreError> {
    check_schema(content.as_ref()).await?;
    let result = load_and_merge(target, content).await;
    // They hold credentials: they go whatever happened.
    for name in [TEMPORARY_USERS, TEMPORARY_ROLES] {
        let dropped = create::drop(target, &Namespace::new("admin", name)).await;
        if let (Ok(_), Err(error)) = (&result, dropped) {
            return Err(error);
        }
    }
    result
}

async fn load_and_merge(
    target: &Target,
    content: Arc<dyn Content>,
) -> Result<(u64, u64), RestoreError> {
    let users = load(
        target,
        Arc::clone(&content),
        "system.users",
        TEMPORARY_USERS,
    )
    .await?;
    let roles = load(target, content, "system.roles", TEMPORARY_ROLES).await?;
    let mut command = doc! { "_mergeAuthzCollections": 1 };
    if users > 0 {
        command.insert("tempUsersCollection", format!("admin.{TEMPORARY_USERS}"));
    }
    if roles > 0 {
        command.insert("tempRolesCollection", format!("admin.{TEMPORARY_ROLES}"));
    }
    if users + roles == 0 {
        return Ok((0, 0));
    }
    // An empty database name stands for all of them.
    command.extend(doc! { "drop": false, "db": "", "writeConcern": write_concern() });
    target
        .run("admin", "merge the users and roles", command)
        .await?;
    Ok((users, roles))
}

/// Puts what the backup has into a temporary collection.
async fn load(
    target: &Target,
    content: Arc<dyn Content>,
    collection: &str,
    temporary: &str,
) -> Result<u64, RestoreError> {
    create::drop(target, &Namespace::new("admin", temporary)).await?;
    if content.node(path(collection).as_bytes()).await?.is_none() {
        return Ok(0);
    }
    let inserter = Inserter {
        database: target.client.database("admin"),
        collection: temporary.to_owned(),
        bypass_validation: false,
        keeps_empty_timestamps: target.keeps_empty_timestamps().await,
        duplicates: Duplicates::Refuse,
    };
    let mut loaded = pieces(content, path(collection), format!("admin.{collection}"));
    let mut count = 0;
    while let Some(piece) = loaded.try_next().await? {
        count += inserter.insert(&piece).await?.inserted;
    }
    Ok(count)
}

/// Refuses users of a schema that the server would not understand.
async fn check_schema(content: &dyn Content) -> Result<(), RestoreError> {
    let path = path("system.version");
    let Some(bytes) = read_node(content, &path).await? else {
        return Ok(());
    };
    let damaged = |cause: String| RestoreError::damaged("admin.system.version", cause);
    let mut rest = &bytes[..];
    while let Some(document) = next_document(rest).map_err(damaged)? {
        rest = &rest[document.len()..];
        let document: Document =
            bson::from_slice(document).map_err(|error| damaged(error.to_string()))?;
        if document.get_str("_id") != Ok("authSchema") {
            continue;
        }
        let version = integer(document.get("currentVersion")).unwrap_or(0);
        if !KNOWN_SCHEMAS.contains(&version) {
            return Err(RestoreError::Server {
                action: "merge the users and roles".to_owned(),
                cause: format!(
                    "those of the backup have the schema version {version}, which no supported server reads; restore without usersAndRoles"
                ),
                class: ErrorClass::Permanent,
            });
        }
    }
    Ok(())
}
