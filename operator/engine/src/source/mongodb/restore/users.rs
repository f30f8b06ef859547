//! Users and roles, put into the target's by the command that the server has for `mongorestore`:
//! what the target has besides stays.

use std::collections::BTreeSet;

use bson::{Document, doc};

use super::OnConflict;
use super::accounts::{AccountsPlan, Kind, existing, id_of, same};
use super::conflict::integer;
use super::create;
use super::error::RestoreError;
use super::insert::{Duplicates, Inserter};
use super::pieces::{next_document, read_node};
use super::target::{Target, write_concern};
use crate::class::ErrorClass;
use crate::source::Content;
use crate::source::mongodb::namespace::Namespace;

/// The schemas of users and roles that servers since 3.0 have.
const KNOWN_SCHEMAS: std::ops::RangeInclusive<i64> = 3..=5;

/// A user or role as the backup has it.
struct BackedUp {
    raw: Vec<u8>,
    document: Document,
}

/// What would be done with the users and roles of the backup. The target is only read.
pub(super) async fn plan(
    target: &Target,
    content: &dyn Content,
    on_conflict: OnConflict,
) -> Result<(AccountsPlan, AccountsPlan), RestoreError> {
    let users = read(content, Kind::User).await?;
    let roles = read(content, Kind::Role).await?;
    Ok((
        decide(target, Kind::User, &users, on_conflict).await?,
        decide(target, Kind::Role, &roles, on_conflict).await?,
    ))
}

/// Puts users and roles in; says what was done. What came into the way since the plan was made is
/// an error.
pub(super) async fn merge(
    target: &Target,
    content: &dyn Content,
    on_conflict: OnConflict,
) -> Result<(AccountsPlan, AccountsPlan), RestoreError> {
    check_schema(content).await?;
    let (users, roles) = plan(target, content, on_conflict).await?;
    let conflicts = [users.conflicts(Kind::User), roles.conflicts(Kind::Role)].concat();
    if !conflicts.is_empty() {
        return Err(RestoreError::Conflict {
            target: target.address.clone(),
            conflicts,
        });
    }
    let result = load_and_merge(target, content, &users, &roles).await;
    // They hold credentials: they go whatever happened.
    for kind in [Kind::User, Kind::Role] {
        let dropped = create::drop(target, &Namespace::new("admin", kind.temporary())).await;
        if let (Ok(()), Err(error)) = (&result, dropped) {
            return Err(error);
        }
    }
    result.map(|()| (users, roles))
}

async fn decide(
    target: &Target,
    kind: Kind,
    backup: &[BackedUp],
    on_conflict: OnConflict,
) -> Result<AccountsPlan, RestoreError> {
    let documents: Vec<&Document> = backup.iter().map(|one| &one.document).collect();
    let there = existing(target, kind, &documents).await?;
    let own = match kind {
        Kind::User => own_accounts(target).await?,
        Kind::Role => Vec::new(),
    };
    let mut plan = AccountsPlan::default();
    for document in documents {
        let id = id_of(kind, document);
        let list = match there.get(&id) {
            None => &mut plan.create,
            Some(there) if same(kind, there, document) => &mut plan.keep,
            Some(_) => match on_conflict {
                OnConflict::Fail => &mut plan.differ,
                // Without the account that restores, nothing more would be restored.
                OnConflict::Drop if own.contains(&id) => &mut plan.keep,
                OnConflict::Drop => &mut plan.replace,
                OnConflict::Merge => &mut plan.keep,
            },
        };
        list.push(id);
    }
    Ok(plan)
}

async fn load_and_merge(
    target: &Target,
    content: &dyn Content,
    users: &AccountsPlan,
    roles: &AccountsPlan,
) -> Result<(), RestoreError> {
    let mut command = doc! { "_mergeAuthzCollections": 1 };
    for (kind, plan) in [(Kind::User, users), (Kind::Role, roles)] {
        if load(target, content, kind, plan).await? {
            let temporary = format!("admin.{}", kind.temporary());
            command.insert(kind.merge_option(), temporary);
        }
    }
    // The command below adds, and leaves alone what is there.
    for id in &users.replace {
        drop_user(target, id).await?;
    }
    for one in read(content, Kind::Role).await? {
        if roles.replace.contains(&id_of(Kind::Role, &one.document)) {
            update_role(target, &one.document).await?;
        }
    }
    if command.len() == 1 {
        return Ok(());
    }
    // An empty database name stands for all of them.
    command.extend(doc! { "drop": false, "db": "", "writeConcern": write_concern() });
    target
        .run("admin", "merge the users and roles", command)
        .await?;
    Ok(())
}

/// Drops a user; nobody but a user can hold one's password, so it cannot be changed in place.
async fn drop_user(target: &Target, id: &str) -> Result<(), RestoreError> {
    let Some((db, name)) = id.split_once('.') else {
        return Ok(());
    };
    let command = doc! { "dropUser": name, "writeConcern": write_concern() };
    target
        .run(db, &format!("replace the user {id}"), command)
        .await?;
    Ok(())
}

/// Makes a role what it is in the backup. To drop it would take it from all who have it.
async fn update_role(target: &Target, role: &Document) -> Result<(), RestoreError> {
    let id = id_of(Kind::Role, role);
    let (db, name) = id.split_once('.').unwrap_or_default();
    let mut command = doc! { "updateRole": name };
    for field in ["privileges", "roles", "authenticationRestrictions"] {
        if let Some(value) = role.get(field) {
            command.insert(field, value.clone());
        }
    }
    command.insert("writeConcern", write_concern());
    target
        .run(db, &format!("replace the role {id}"), command)
        .await?;
    Ok(())
}

/// The accounts that the connection is used with.
async fn own_accounts(target: &Target) -> Result<Vec<String>, RestoreError> {
    let command = doc! { "connectionStatus": 1 };
    let reply = target
        .run("admin", "see which account this is", command)
        .await?;
    let users = reply
        .get_document("authInfo")
        .and_then(|info| info.get_array("authenticatedUsers"));
    Ok(users
        .into_iter()
        .flatten()
        .filter_map(bson::Bson::as_document)
        .map(|user| id_of(Kind::User, user))
        .collect())
}

/// Puts what is to be added into a temporary collection; says whether there is any.
async fn load(
    target: &Target,
    content: &dyn Content,
    kind: Kind,
    plan: &AccountsPlan,
) -> Result<bool, RestoreError> {
    create::drop(target, &Namespace::new("admin", kind.temporary())).await?;
    let mut wanted: BTreeSet<&String> = plan.create.iter().collect();
    if kind == Kind::User {
        wanted.extend(&plan.replace);
    }
    if wanted.is_empty() {
        return Ok(false);
    }
    let inserter = Inserter {
        database: target.client.database("admin"),
        collection: kind.temporary().to_owned(),
        bypass_validation: false,
        keeps_empty_timestamps: target.keeps_empty_timestamps().await,
        duplicates: Duplicates::Refuse,
    };
    let raw: Vec<Vec<u8>> = read(content, kind)
        .await?
        .into_iter()
        .filter(|one| wanted.contains(&id_of(kind, &one.document)))
        .map(|one| one.raw)
        .collect();
    inserter.insert(&raw.concat()).await?;
    Ok(true)
}

/// The users or roles of the backup; none where it holds none.
async fn read(content: &dyn Content, kind: Kind) -> Result<Vec<BackedUp>, RestoreError> {
    documents(content, kind.collection()).await
}

async fn documents(content: &dyn Content, name: &str) -> Result<Vec<BackedUp>, RestoreError> {
    let namespace = Namespace::new("admin", name);
    let damaged = |cause: String| RestoreError::damaged(&namespace.to_string(), cause);
    let Some(bytes) = read_node(content, &namespace.data_path()).await? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    let mut rest = &bytes[..];
    while let Some(raw) = next_document(rest).map_err(damaged)? {
        rest = &rest[raw.len()..];
        found.push(BackedUp {
            raw: raw.to_vec(),
            document: bson::from_slice(raw).map_err(|error| damaged(error.to_string()))?,
        });
    }
    if !rest.is_empty() {
        return Err(damaged(
            "its data ends in the middle of a document".to_owned(),
        ));
    }
    Ok(found)
}

/// Refuses users of a schema that the server would not understand.
async fn check_schema(content: &dyn Content) -> Result<(), RestoreError> {
    for one in documents(content, "system.version").await? {
        if one.document.get_str("_id") != Ok("authSchema") {
            continue;
        }
        let version = integer(one.document.get("currentVersion")).unwrap_or(0);
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
