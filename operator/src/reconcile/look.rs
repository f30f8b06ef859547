//! Looks at a destination: whether its repository opens, and what lies in it.

use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination as storage;
use holdfast_engine::repository::{Repository, RepositoryError, Snapshot};

use crate::catalogue;
use crate::host::{Host, Name};
use crate::plan::observed::{self, DestinationState};
use crate::reconcile::dereference;
use crate::run::RunError;
use crate::run::repositories::Repositories;

/// How closely a destination is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What a plan needs: the snapshots.
    Snapshots,
    /// Also how much is stored, and of a place without a repository whether it can be written.
    Everything,
}

/// What was seen of a destination.
#[derive(Debug, Clone)]
pub enum Looked {
    /// Its repository is open.
    Open {
        /// The id of the repository.
        repository_id: String,
        /// Every snapshot in it, those of others too.
        snapshots: Vec<Snapshot>,
        /// How many bytes are stored, where that was asked for.
        stored_bytes: Option<u64>,
    },
    /// The place can be reached, and holds no repository yet.
    Empty,
    /// It cannot be used now.
    Unusable {
        /// What comes next.
        class: ErrorClass,
        /// The reason for a condition, in CamelCase.
        reason: String,
        /// What was attempted, what came back, what to do.
        message: String,
    },
}

impl Looked {
    /// What is told of an error.
    pub fn unusable(error: &(impl Classified + ?Sized)) -> Self {
        Self::Unusable {
            class: error.class(),
            reason: error.reason().to_owned(),
            message: error.to_string(),
        }
    }

    /// What of it concerns one policy, as a plan takes it.
    #[must_use]
    pub fn state_for(&self, policy: &Name) -> DestinationState {
        let policy = policy.to_string();
        self.state(|snapshot| snapshot.policy.as_deref() == Some(policy.as_str()))
    }

    /// The same with all backups of Holdfast, of whatever policy.
    #[must_use]
    pub fn state_of_all(&self) -> DestinationState {
        self.state(|snapshot| !snapshot.foreign)
    }

    /// What of it tells whether the place may be written: no snapshots.
    #[must_use]
    pub fn place(&self) -> DestinationState {
        self.state(|_| false)
    }

    fn state(&self, wanted: impl Fn(&Snapshot) -> bool) -> DestinationState {
        match self {
            Self::Open {
                repository_id,
                snapshots,
                ..
            } => DestinationState::Open {
                repository_id: repository_id.clone(),
                snapshots: snapshots
                    .iter()
                    .filter(|snapshot| wanted(snapshot))
                    .map(|snapshot| observed::Snapshot {
                        id: snapshot.id.clone(),
                        identity: snapshot.identity().to_owned(),
                        time: snapshot.time,
                        tags: catalogue::user_tags(snapshot),
                    })
                    .collect(),
            },
            Self::Empty => DestinationState::Empty,
            Self::Unusable {
                class,
                reason,
                message,
            } => DestinationState::Unusable {
                class: *class,
                reason: reason.clone(),
                message: message.clone(),
            },
        }
    }
}

/// Looks at a destination with the means of this machine.
pub async fn look<H: Host>(
    host: &H,
    repositories: &Repositories,
    name: &Name,
    depth: Depth,
) -> Looked {
    match try_look(host, repositories, name, depth).await {
        Ok(looked) => looked,
        Err(error) => {
            // A connection that broke is not kept for the next pass.
            repositories.close(name).await;
            Looked::unusable(&error)
        }
    }
}

async fn try_look<H: Host>(
    host: &H,
    repositories: &Repositories,
    name: &Name,
    depth: Depth,
) -> Result<Looked, RunError> {
    match repositories.open(host, name).await {
        Ok(repository) => Ok(Looked::Open {
            repository_id: repository.id(),
            snapshots: repository.snapshots().await?,
            stored_bytes: match depth {
                Depth::Snapshots => None,
                Depth::Everything => Some(repository.stored_bytes().await?),
            },
        }),
        Err(RunError::Repository(RepositoryError::NotARepository { .. })) => {
            if depth == Depth::Everything {
                let declared = host.declared();
                let object = declared
                    .destinations
                    .get(name)
                    .or_else(|| declared.departing.get(name))
                    .ok_or_else(|| RunError::UnknownDestination(name.clone()))?;
                let config =
                    dereference::destination(host, &name.namespace, &name.name, &object.spec)
                        .await?;
                let place = storage::connect(&config.storage).await?;
                place.probe().await?;
                Repository::vacant(&place).await?;
            }
            Ok(Looked::Empty)
        }
        Err(error) => Err(error),
    }
}
