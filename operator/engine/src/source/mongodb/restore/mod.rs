//! Restoring into MongoDB: what a backup holds is put back natively, in parallel, and compared.
//!
//! [`plan_restore`] looks at backup and target and says what would be done; [`restore`] does it:
//! collections with their options and data, each read back and compared, then users and roles,
//! then views, and the indexes last. Comparing comes before the indexes, as one that lets documents
//! expire would remove some of them.
//!
//! | module | owns |
//! |---|---|
//! | `rename` | rules that give namespaces other names |
//! | `plan` | which namespaces, under which names; the plan and its table |
//! | `conflict` | what is on the target already, and what that means |
//! | `metadata` | options and indexes as the backup has them |
//! | `pieces` | the data of a collection as pieces of whole documents |
//! | `accounts` | which users and roles the target has, and whether they are the backup's |
//! | `create`, `insert`, `timestamps`, `indexes`, `users` | one kind of write each |
//! | `verify` | reading back and comparing |
//! | `run` | the order of it all, and how much at once |
//! | `extent` | how far it came |
//! | `report` | what was done |
//! | `error` | what can go wrong, and what to do then |

mod accounts;
mod conflict;
mod create;
mod error;
mod extent;
mod indexes;
mod insert;
mod metadata;
mod pieces;
mod plan;
mod rename;
mod report;
mod run;
mod target;
mod timestamps;
mod users;
mod verify;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use accounts::AccountsPlan;
pub use error::RestoreError;
pub use plan::{Action, NamespacePlan, RestorePlan, plan_restore};
pub use report::{NamespaceReport, RestoreReport, Verification};
pub use run::restore;

/// What to restore, where to, and what to do with what is there.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Connection string of the target, with its credentials.
    pub target: SecretString,
    /// Namespace patterns (`*` and `?`) on the names in the backup; everything when empty.
    pub include: Vec<String>,
    /// Rules that give namespaces other names, as `--nsFrom` and `--nsTo` of `mongorestore`:
    /// `("shop.*", "shop_copy.*")`. Where several match, the one with most literal characters
    /// wins, so their order does not matter.
    pub rename: Vec<(String, String)>,
    /// What to do with namespaces that are there already.
    pub on_conflict: OnConflict,
    /// Whether users and roles are restored: those of the whole server, whatever `include` says.
    /// One that is there and the same stays; for one that differs see [`OnConflict`].
    pub users_and_roles: bool,
}

/// What to do with namespaces that are on the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnConflict {
    /// Nothing is written when one of them holds documents, or is empty and was made with other
    /// options or indexes, or when a user or role differs. An empty one that is as the original was
    /// is filled.
    #[default]
    Fail,
    /// They are dropped: only those that are restored. Users and roles become those of the backup,
    /// except the account that restores.
    Drop,
    /// What is missing is added: documents whose `_id` is there stay as they are there, so do
    /// options, views, users and roles; indexes are added.
    Merge,
}
