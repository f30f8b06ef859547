//! Which users and roles the target has already, and whether they are those of the backup.

use std::collections::BTreeMap;
use std::fmt;

use bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::conflict::widened;
use super::error::RestoreError;
use super::target::Target;

/// So many are asked for at once.
const ASKED: usize = 200;

/// A user or a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Role,
}

impl Kind {
    /// What a person calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Role => "role",
        }
    }

    /// The collection of `admin` that holds them.
    pub(super) fn collection(self) -> &'static str {
        match self {
            Self::User => "system.users",
            Self::Role => "system.roles",
        }
    }

    /// The names that `mongorestore` uses, which the role `restore` is made for.
    pub(super) fn temporary(self) -> &'static str {
        match self {
            Self::User => "tempusers",
            Self::Role => "temproles",
        }
    }

    pub(super) fn merge_option(self) -> &'static str {
        match self {
            Self::User => "tempUsersCollection",
            Self::Role => "tempRolesCollection",
        }
    }

    /// What makes two of them the same. `userId` is another one wherever a user is made.
    fn compared(self) -> &'static [&'static str] {
        match self {
            Self::User => &["credentials", "roles", "authenticationRestrictions"],
            Self::Role => &["privileges", "roles", "authenticationRestrictions"],
        }
    }
}

/// What is done with the users, or the roles, of the backup; each is named as `database.name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountsPlan {
    /// They are not there and are created.
    pub create: Vec<String>,
    /// They are there and stay as they are.
    pub keep: Vec<String>,
    /// They are there, differ, and become those of the backup.
    pub replace: Vec<String>,
    /// They are there, differ, and are in the way.
    pub differ: Vec<String>,
}

impl AccountsPlan {
    /// How many the backup holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.written() + (self.keep.len() + self.differ.len()) as u64
    }

    /// How many are written.
    #[must_use]
    pub fn written(&self) -> u64 {
        (self.create.len() + self.replace.len()) as u64
    }

    /// Each that is in the way, and why.
    pub(super) fn conflicts(&self, kind: Kind) -> Vec<String> {
        let other = match kind {
            Kind::User => "another password, other roles or other data",
            Kind::Role => "other privileges or roles",
        };
        let word = kind.word();
        let sentence = |name: &String| format!("the {word} {name} is there with {other}");
        self.differ.iter().map(sentence).collect()
    }
}

impl fmt::Display for AccountsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("CONFLICT", &self.differ),
            ("create", &self.create),
            ("replace", &self.replace),
            ("keep", &self.keep),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.len()))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// `database.name`, which is also the `_id`.
pub(super) fn id_of(kind: Kind, document: &Document) -> String {
    let text = |field| document.get_str(field).unwrap_or_default();
    format!("{}.{}", text("db"), text(kind.word()))
}

/// Those of the given ones that the target has, by [`id_of`]. They are asked for by name: that is
/// what the role `restore` allows.
pub(super) async fn existing(
    target: &Target,
    kind: Kind,
    wanted: &[&Document],
) -> Result<BTreeMap<String, Document>, RestoreError> {
    let word = kind.word();
    let mut found = BTreeMap::new();
    for chunk in wanted.chunks(ASKED) {
        let name = |field, one: &Document| one.get_str(field).unwrap_or_default().to_owned();
        let names: Vec<Document> = chunk
            .iter()
            .map(|one| doc! { word: name(word, one), "db": name("db", one) })
            .collect();
        let command = match kind {
            Kind::User => doc! { "usersInfo": names, "showCredentials": true },
            Kind::Role => doc! { "rolesInfo": names, "showPrivileges": true },
        };
        let command = with(command, "showAuthenticationRestrictions");
        let action = format!("see which {word}s are there");
        let reply = target.run("admin", &action, command).await?;
        let listed = reply.get_array(format!("{word}s"));
        for one in listed.into_iter().flatten().filter_map(Bson::as_document) {
            found.insert(id_of(kind, one), one.clone());
        }
    }
    Ok(found)
}

fn with(mut command: Document, flag: &str) -> Document {
    command.insert(flag, true);
    command
}

/// Whether a user or role of the target is that of the backup.
pub(super) fn same(kind: Kind, there: &Document, backup: &Document) -> bool {
    let compared = kind.compared().iter();
    let data = |document: &Document| widened(document.get("customData").unwrap_or(&Bson::Null));
    compared.clone().all(|field| {
        let of = |document: &Document| canonical(document.get(field).unwrap_or(&Bson::Null));
        of(there) == of(backup)
    }) && data(there) == data(backup)
}

/// A value in a form in which the order of fields and elements, the width of numbers, and whether
/// nothing is said or an empty list, are all the same.
fn canonical(value: &Bson) -> Bson {
    match value {
        Bson::Document(inner) => {
            let sorted: BTreeMap<&String, Bson> = inner
                .iter()
                .map(|(key, value)| (key, canonical(value)))
                .filter(|(_, value)| *value != Bson::Null)
                .collect();
            Bson::Document(sorted.into_iter().map(|(k, v)| (k.clone(), v)).collect())
        }
        Bson::Array(inner) => {
            let mut flat = Vec::new();
            for one in inner.iter().map(canonical) {
                match one {
                    // Restrictions are a list there and a list of lists here.
                    Bson::Array(more) => flat.extend(more),
                    Bson::Null => {}
                    other => flat.push(other),
                }
            }
            if flat.is_empty() {
                return Bson::Null;
            }
            flat.sort_by_cached_key(ToString::to_string);
            Bson::Array(flat)
        }
        other => widened(other),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use rstest::rstest;

    use super::{AccountsPlan, Kind, id_of, same};

    #[test]
    fn the_order_of_what_a_role_allows_is_nothing_that_differs() {
        let backup = doc! {
            "_id": "shop.teller", "role": "teller", "db": "shop", "roles": [],
            "privileges": [
                { "resource": { "db": "shop", "collection": "a" }, "actions": ["find", "insert"] },
                { "resource": { "db": "shop", "collection": "b" }, "actions": ["find"] },
            ],
        };
        let mut there = doc! {
            "role": "teller", "db": "shop", "authenticationRestrictions": [],
            "privileges": [
                { "actions": ["find"], "resource": { "collection": "b", "db": "shop" } },
                { "resource": { "db": "shop", "collection": "a" }, "actions": ["insert", "find"] },
            ],
        };
        assert!(same(Kind::Role, &there, &backup));
        assert_eq!(id_of(Kind::Role, &backup), "shop.teller");
        there.insert("roles", vec![doc! { "role": "read", "db": "shop" }]);
        assert!(!same(Kind::Role, &there, &backup));
    }

    #[rstest]
    #[case(doc! { "credentials": { "SCRAM-SHA-1": { "salt": "y" } } })]
    #[case(doc! { "roles": [] })]
    #[case(doc! { "customData": { "of": 2 } })]
    #[case(doc! { "authenticationRestrictions": [{ "clientSource": ["10.0.0.1"] }] })]
    fn what_makes_a_user_another_one(#[case] change: bson::Document) {
        let backup = doc! {
            "user": "alice", "db": "shop", "userId": 1, "customData": { "of": 1_i64 },
            "credentials": { "SCRAM-SHA-1": { "salt": "x", "iterationCount": 10000 } },
            "roles": [{ "role": "teller", "db": "shop" }],
        };
        let mut there = doc! {
            "user": "alice", "db": "shop", "userId": 2, "customData": { "of": 1 },
            "mechanisms": ["SCRAM-SHA-1"],
            "credentials": { "SCRAM-SHA-1": { "iterationCount": 10000.0, "salt": "x" } },
            "roles": [{ "role": "teller", "db": "shop" }],
        };
        assert!(same(Kind::User, &there, &backup));
        there.extend(change);
        assert!(!same(Kind::User, &there, &backup));
    }

    #[test]
    fn says_what_is_done_in_a_line() {
        let names = |count: usize| vec!["a.b".to_owned(); count];
        let plan = AccountsPlan {
            create: names(2),
            keep: names(1),
            replace: names(3),
            differ: Vec::new(),
        };
        assert_eq!(plan.to_string(), "create 2, replace 3, keep 1");
        assert_eq!((plan.count(), plan.written()), (6, 5));
    }
}
