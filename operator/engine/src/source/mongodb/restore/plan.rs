//! What a restore would do: a value made by reading only, printed by a dry run and carried out by
//! [`super::restore`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::accounts::{AccountsPlan, Kind};
use super::conflict::{Existing, decide, observe};
use super::error::RestoreError;
use super::metadata::CollectionMetadata;
use super::rename::{Rename, rename};
use super::target::Target;
use super::{RestoreRequest, users};
use crate::manifest::{CollectionManifest, MongodbManifest};
use crate::source::Content;
use crate::source::mongodb::namespace::{BUCKETS_PREFIX, Namespace, Pattern};
use crate::source::mongodb::users::is_users_or_roles;

/// What a restore would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// The server, without credentials.
    pub target: String,
    /// What is restored, in order of the namespace in the backup.
    pub namespaces: Vec<NamespacePlan>,
    /// What is done with users.
    pub users: AccountsPlan,
    /// What is done with roles.
    pub roles: AccountsPlan,
    /// Sentences for a person.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl RestorePlan {
    /// Each namespace, user and role that is in the way, and why; a plan that has some cannot be
    /// carried out.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        self.namespaces
            .iter()
            .filter(|one| one.action == Action::Conflict)
            .map(|one| format!("{} {}", one.target, one.reason))
            .chain(self.users.conflicts(Kind::User))
            .chain(self.roles.conflicts(Kind::Role))
            .collect()
    }

    /// What is done with users and roles, by the collection that holds them.
    pub fn accounts(&self) -> impl Iterator<Item = (String, &AccountsPlan)> {
        [(Kind::User, &self.users), (Kind::Role, &self.roles)]
            .into_iter()
            .filter(|(_, plan)| plan.count() > 0)
            .map(|(kind, plan)| (format!("admin.{}", kind.collection()), plan))
    }

    /// Bytes of BSON to write.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.namespaces.iter().map(|one| one.bytes).sum()
    }

    /// Documents to write.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.namespaces.iter().map(|one| one.documents).sum()
    }
}

/// What a restore would do with one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacePlan {
    /// The namespace in the backup.
    pub source: String,
    /// The namespace on the target.
    pub target: String,
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// Documents (buckets, for a time series) in the backup.
    pub documents: u64,
    /// Bytes of BSON in the backup.
    pub bytes: u64,
    /// Names of the indexes to build, without the one on `_id`.
    pub indexes: Vec<String>,
    /// What is done with the target.
    pub action: Action,
    /// Why, where that needs saying; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whether the target holds nothing before, so that what is read back can be compared with the
    /// backup.
    pub comparable: bool,
}

/// What is done with a target namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// It is not there and is created.
    Create,
    /// It is there, empty and with the same options: it is filled.
    Fill,
    /// It is there; what is missing is added.
    Merge,
    /// It is there; it is dropped and created anew.
    Replace,
    /// It is there and stays as it is (a view).
    Keep,
    /// It is in the way.
    Conflict,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Fill => "fill",
            Self::Merge => "merge",
            Self::Replace => "drop and create",
            Self::Keep => "keep",
            Self::Conflict => "CONFLICT",
        })
    }
}

/// A namespace of the backup, and its name on the target.
#[derive(Debug, Clone)]
pub(super) struct Selected<'m> {
    pub(super) collection: &'m CollectionManifest,
    pub(super) source: Namespace,
    pub(super) target: Namespace,
}

/// Plans a restore. The target is only read; `request` and `manifest` say what would be written.
///
/// # Errors
/// When a pattern chooses nothing, two namespaces would get the same name, the backup lacks
/// something, or the target cannot be read. Namespaces that are in the way are no error here: they
/// are in the plan ([`RestorePlan::conflicts`]).
pub async fn plan_restore(
    request: &RestoreRequest,
    manifest: &MongodbManifest,
    content: &dyn Content,
) -> Result<RestorePlan, RestoreError> {
    let selected = select(request, manifest)?;
    let mut metadata = Vec::with_capacity(selected.len());
    for one in &selected {
        metadata.push(CollectionMetadata::read(content, one.collection).await?);
    }

    let target = Target::connect(&request.target).await?;
    let existing = observe(&target, &selected).await?;
    let mut namespaces = Vec::with_capacity(selected.len());
    for (one, metadata) in selected.iter().zip(&metadata) {
        let there = existing.get(&one.target);
        let decision = decide(
            request.on_conflict,
            &one.target.collection,
            &one.collection.kind,
            &metadata.options,
            &metadata.secondary_index_names(),
            there,
        );
        namespaces.push(NamespacePlan {
            source: one.source.to_string(),
            target: one.target.to_string(),
            kind: one.collection.kind.clone(),
            documents: one.collection.documents,
            bytes: one.collection.bytes,
            indexes: metadata.secondary_index_names(),
            action: decision.action,
            reason: decision.reason,
            comparable: there.is_none_or(Existing::is_empty) || decision.action == Action::Replace,
        });
    }

    let (users, roles) = if request.users_and_roles {
        users::plan(&target, content, request.on_conflict).await?
    } else {
        Default::default()
    };
    let mut notes = notes(&selected, &metadata);
    notes.extend(left_out(request, manifest));
    notes.extend(target.older_than(&manifest.server_version));
    if request.users_and_roles && users.count() + roles.count() == 0 {
        notes.push("the backup holds no users and roles".to_owned());
    }
    Ok(RestorePlan {
        target: target.address,
        namespaces,
        users,
        roles,
        notes,
    })
}

/// The namespaces that are asked for, each with its name on the target.
pub(super) fn select<'m>(
    request: &RestoreRequest,
    manifest: &'m MongodbManifest,
) -> Result<Vec<Selected<'m>>, RestoreError> {
    let include = request
        .include
        .iter()
        .map(|text| text.parse::<Pattern>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RestoreError::request(error.to_string()))?;
    let rules = request
        .rename
        .iter()
        .map(|(from, to)| Rename::parse(from, to))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| RestoreError::request(format!("a rename rule is wrong: {cause}")))?;

    let mut all: Vec<(Namespace, &CollectionManifest)> = manifest
        .collections
        .iter()
        .map(|one| (Namespace::new(&one.db, &one.name), one))
        .filter(|(namespace, _)| is_restorable(namespace))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));

    for pattern in &include {
        if !all.iter().any(|(namespace, _)| pattern.matches(namespace)) {
            return Err(RestoreError::request(format!(
                "nothing in the backup matches \"{pattern}\"; it holds {}",
                examples(&all)
            )));
        }
    }

    let mut used = vec![false; rules.len()];
    let mut selected = Vec::new();
    let mut names: BTreeMap<Namespace, Namespace> = BTreeMap::new();
    for (source, collection) in all {
        if !include.is_empty() && !include.iter().any(|pattern| pattern.matches(&source)) {
            continue;
        }
        let text = source.to_string();
        for (rule, used) in rules.iter().zip(&mut used) {
            *used |= rule.apply(&text).is_some();
        }
        let target = match rename(&rules, &text) {
            Some((rule, name)) => renamed(&source, rule, &name)?,
            None => source.clone(),
        };
        if let Some(other) = names.insert(target.clone(), source.clone()) {
            return Err(RestoreError::request(format!(
                "{other} and {source} would both become {target}; change the rename rules, or restore them one after the other"
            )));
        }
        selected.push(Selected {
            collection,
            source,
            target,
        });
    }
    if let Some((rule, _)) = rules.iter().zip(&used).find(|(_, used)| !**used) {
        return Err(RestoreError::request(format!(
            "the rename rule \"{}\" matches nothing of what is restored; without it everything would go to its original name, so nothing was done",
            rule.from()
        )));
    }
    Ok(selected)
}

/// What the backup holds of what was asked for and is not restored.
fn left_out(request: &RestoreRequest, manifest: &MongodbManifest) -> Option<String> {
    if !request.include.is_empty() {
        return None;
    }
    let names: Vec<String> = manifest
        .collections
        .iter()
        .map(|one| Namespace::new(&one.db, &one.name))
        .filter(|one| !is_restorable(one) && !is_users_or_roles(one))
        .map(|one| one.to_string())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "not restored, as it belongs to the server that it was read from: {}",
            names.join(", ")
        )
    })
}

/// What the server keeps for itself is never restored; users and roles have a way of their own.
fn is_restorable(namespace: &Namespace) -> bool {
    !matches!(namespace.db.as_str(), "local" | "config")
        && (!namespace.collection.starts_with("system.")
            || (namespace.collection == "system.js" && namespace.db != "admin"))
}

fn renamed(source: &Namespace, rule: &Rename, name: &str) -> Result<Namespace, RestoreError> {
    let wrong = |why: &str| {
        RestoreError::request(format!(
            "the rename rule \"{}\" turns {source} into \"{name}\", {why}",
            rule.from()
        ))
    };
    let target: Namespace = name
        .parse()
        .map_err(|_| wrong("which is not database.collection"))?;
    if matches!(target.db.as_str(), "local" | "config" | "admin") && target.db != source.db {
        return Err(wrong("and that database belongs to the server"));
    }
    if target.db.contains(['/', '\\', ' ', '"', '$', '\0']) || target.db.len() > 63 {
        return Err(wrong("and no database can be called that"));
    }
    if target.collection.contains(['$', '\0'])
        || (target.collection.starts_with("system.") && target.collection != source.collection)
    {
        return Err(wrong("and no collection can be called that"));
    }
    Ok(target)
}

fn examples(all: &[(Namespace, &CollectionManifest)]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = all.iter().take(SHOWN).map(|(n, _)| n.to_string()).collect();
    match all.len() {
        0 => return "no collections".to_owned(),
        count if count > SHOWN => names.push(format!("{} more", count - SHOWN)),
        _ => {}
    }
    names.join(", ")
}

/// What a person should know about views whose collection gets another name.
fn notes(selected: &[Selected<'_>], metadata: &[CollectionMetadata]) -> Vec<String> {
    let moved: BTreeMap<&Namespace, &Namespace> = selected
        .iter()
        .map(|one| (&one.source, &one.target))
        .collect();
    let mut notes = Vec::new();
    for (one, metadata) in selected.iter().zip(metadata) {
        let Ok(on) = metadata.options.get_str("viewOn") else {
            continue;
        };
        let on = Namespace::new(&one.source.db, on);
        if let Some(target) = moved.get(&on)
            && target.collection != on.collection
        {
            notes.push(format!(
                "the view {} still reads \"{}\", which is restored as {target}: a rename does not change what views read",
                one.target, on.collection
            ));
        }
    }
    notes
}

/// The collection that holds the documents: for a time series, that of its buckets.
pub(super) fn data_collection(target: &Namespace, kind: &str) -> String {
    if kind == "timeseries" {
        format!("{BUCKETS_PREFIX}{}", target.collection)
    } else {
        target.collection.clone()
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.accounts().map(|(collection, plan)| {
            let kind = collection.replace("admin.system.", "");
            let count = plan.count().to_string();
            let unknown = || "-".to_owned();
            [
                collection.clone(),
                collection,
                kind,
                count,
                unknown(),
                unknown(),
                plan.to_string(),
            ]
        });
        let rows = self.namespaces.iter().map(|one| {
            [
                one.source.clone(),
                one.target.clone(),
                one.kind.clone(),
                one.documents.to_string(),
                one.bytes.to_string(),
                one.indexes.len().to_string(),
                if one.reason.is_empty() {
                    one.action.to_string()
                } else {
                    format!("{} ({})", one.action, one.reason)
                },
            ]
        });
        table(
            f,
            [
                "SOURCE",
                "TARGET",
                "KIND",
                "DOCUMENTS",
                "BYTES",
                "INDEXES",
                "ACTION",
            ],
            rows.chain(accounts),
        )?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(f, "target: {}", self.target)
    }
}

/// Writes columns as wide as their widest cell; the last one is not padded.
pub(super) fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at + 1 == N {
                writeln!(f, "{cell}")?;
            } else {
                write!(f, "{cell:<width$}  ")?;
            }
        }
    }
    Ok(())
}
