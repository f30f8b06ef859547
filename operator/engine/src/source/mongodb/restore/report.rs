//! What a restore did, namespace by namespace: a value to print, to store and to compare.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::{Action, table};

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// The server, without credentials.
    pub target: String,
    /// What was restored, in the order of the plan.
    pub namespaces: Vec<NamespaceReport>,
    /// Users written.
    pub users: u64,
    /// Roles written.
    pub roles: u64,
    /// Sentences for a person.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl RestoreReport {
    /// Documents written.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.namespaces.iter().map(|one| one.inserted).sum()
    }

    /// Whether everything that was restored was compared with the backup and is the same.
    #[must_use]
    pub fn verified(&self) -> bool {
        self.namespaces.iter().all(|one| {
            matches!(
                one.verification,
                Verification::Verified { .. } | Verification::NoData
            )
        })
    }
}

/// What was done for one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceReport {
    /// The namespace in the backup.
    pub source: String,
    /// The namespace on the target.
    pub target: String,
    /// What was done with the target.
    pub action: Action,
    /// Documents (buckets, for a time series) written.
    pub inserted: u64,
    /// Documents left out because the target has one with the same `_id`.
    pub skipped: u64,
    /// Bytes of BSON of all documents in the backup.
    pub bytes: u64,
    /// Indexes built, without the one on `_id`.
    pub indexes: u64,
    /// Whether what was read back is what was backed up.
    pub verification: Verification,
}

/// Whether what was read back is what was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verification {
    /// Count and content digest are those of the backup.
    #[serde(rename_all = "camelCase")]
    Verified {
        /// The digest of what was read back, which is that of the backup.
        digest: String,
    },
    /// They are not.
    #[serde(rename_all = "camelCase")]
    Mismatched {
        /// Documents in the backup.
        expected_documents: u64,
        /// Documents read back.
        found_documents: u64,
        /// Digest in the backup.
        expected_digest: String,
        /// Digest of what was read back.
        found_digest: String,
    },
    /// They cannot be compared.
    NotComparable {
        /// Why not.
        reason: String,
    },
    /// There are no documents to compare: a view.
    NoData,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified { digest } => {
                let digest = digest.get(..12).unwrap_or(digest);
                write!(f, "verified, digest {digest}")
            }
            Self::Mismatched {
                expected_documents,
                found_documents,
                ..
            } if expected_documents != found_documents => write!(
                f,
                "mismatched: {found_documents} documents instead of {expected_documents}"
            ),
            Self::Mismatched { .. } => f.write_str("mismatched: the content differs"),
            Self::NotComparable { reason } => write!(f, "not comparable: {reason}"),
            Self::NoData => f.write_str("-"),
        }
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.namespaces.iter().map(|one| {
            [
                one.source.clone(),
                one.target.clone(),
                one.action.to_string(),
                one.inserted.to_string(),
                one.skipped.to_string(),
                one.indexes.to_string(),
                one.verification.to_string(),
            ]
        });
        table(
            f,
            [
                "SOURCE",
                "TARGET",
                "ACTION",
                "INSERTED",
                "SKIPPED",
                "INDEXES",
                "VERIFICATION",
            ],
            rows,
        )?;
        if self.users + self.roles > 0 {
            writeln!(f, "{} users and {} roles written", self.users, self.roles)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
