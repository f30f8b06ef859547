//! Repositories in the restic format: the one place that knows `rustic_core`.

mod error;

pub use error::RepositoryError;
