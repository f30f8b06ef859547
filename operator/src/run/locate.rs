//! Finds a backup: by an id or the beginning of one, or the latest of a policy, at one destination
//! or at whichever holds it.

use std::collections::BTreeMap;

use holdfast_crds::LATEST;
use holdfast_engine::repository::{Repository, Snapshot};

use crate::host::{Host, Name};
use crate::run::RunError;
use crate::run::repositories::Repositories;

/// A backup at one destination.
#[derive(Debug, Clone)]
pub struct Located {
    /// Where it is.
    pub destination: Name,
    /// The repository there.
    pub repository: Repository,
    /// The backup.
    pub snapshot: Snapshot,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// An id, the beginning of one, or `latest`.
    pub backup: &'a str,
    /// Only a backup of this policy.
    pub policy: Option<&'a Name>,
    /// The destinations to look at, in order of preference.
    pub destinations: Vec<Name>,
}

/// Every place that holds the backup, in the order of the destinations asked for.
///
/// A destination that cannot be read is passed over as long as another one answers, and is the
/// error otherwise.
///
/// # Errors
/// When the backup is nowhere, the id is ambiguous, or no destination could be read.
pub async fn locate<H: Host>(
    repositories: &Repositories,
    host: &H,
    wanted: &Wanted<'_>,
) -> Result<Vec<Located>, RunError> {
    let policy = wanted.policy.map(ToString::to_string);
    let latest = wanted.backup == LATEST;
    let mut candidates: Vec<Located> = Vec::new();
    let mut failure = None;
    let mut answered = false;
    for destination in &wanted.destinations {
        let listed = async {
            let repository = repositories.open(host, destination).await?;
            let snapshots = repository.snapshots().await?;
            Ok::<_, RunError>((repository, snapshots))
        };
        match listed.await {
            Ok((repository, snapshots)) => {
                answered = true;
                candidates.extend(
                    snapshots
                        .into_iter()
                        .filter(|one| policy.is_none() || one.policy == policy)
                        .filter(|one| {
                            if latest {
                                !one.foreign
                            } else {
                                one.id.starts_with(wanted.backup)
                                    || one.identity().starts_with(wanted.backup)
                            }
                        })
                        .map(|snapshot| Located {
                            destination: destination.clone(),
                            repository: repository.clone(),
                            snapshot,
                        }),
                );
            }
            Err(error) => {
                tracing::warn!(%destination, %error, "A destination was passed over.");
                failure.get_or_insert(error);
            }
        }
    }
    if candidates.is_empty() {
        // A destination that could not be read may hold it: that is what has to be told.
        if let Some(error) = failure {
            let not_made_yet = matches!(
                &error,
                RunError::Repository(
                    holdfast_engine::repository::RepositoryError::NotARepository { .. }
                )
            );
            if !not_made_yet || !answered {
                return Err(error);
            }
        }
        let destinations = names(&wanted.destinations);
        return Err(match wanted.policy {
            Some(policy) if latest => RunError::NoBackup {
                policy: policy.clone(),
                destinations,
            },
            _ => RunError::UnknownBackup {
                id: wanted.backup.to_owned(),
                destinations,
            },
        });
    }
    let chosen = if latest {
        candidates
            .iter()
            .max_by_key(|one| one.snapshot.time)
            .map(|one| one.snapshot.identity().to_owned())
            .unwrap_or_default()
    } else {
        unambiguous(wanted.backup, &candidates)?
    };
    candidates.retain(|one| one.snapshot.identity() == chosen);
    Ok(candidates)
}

fn unambiguous(id: &str, candidates: &[Located]) -> Result<String, RunError> {
    let mut identities: BTreeMap<&str, usize> = BTreeMap::new();
    for candidate in candidates {
        *identities.entry(candidate.snapshot.identity()).or_default() += 1;
    }
    let mut names = identities.keys();
    match (names.next(), identities.len()) {
        (Some(only), 1) => Ok((*only).to_owned()),
        (_, count) => Err(RunError::AmbiguousBackup {
            id: id.to_owned(),
            count,
            examples: identities
                .keys()
                .take(4)
                .map(|id| id.chars().take(12).collect::<String>())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Destinations as they are told to a person.
#[must_use]
pub fn names(destinations: &[Name]) -> String {
    if destinations.is_empty() {
        return "no destination: none is declared".to_owned();
    }
    destinations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
