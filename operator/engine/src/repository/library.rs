//! Opening the library's own repository on ours, without deriving the key again.

use std::sync::Arc;

use rustic_core::{
    Credentials, OpenStatus, ProgressBars, Repository, RepositoryOptions, RusticResult,
};

use super::backend::Backend;
use super::inner::Inner;

/// The library's repository, on `backend`.
pub(super) fn open(
    inner: &Inner,
    backend: &Arc<Backend>,
    bars: impl ProgressBars,
) -> RusticResult<Repository<OpenStatus>> {
    closed(backend, bars)?.open(&Credentials::Masterkey(inner.master.clone()))
}

/// The same before it is opened.
pub(super) fn closed(
    backend: &Arc<Backend>,
    bars: impl ProgressBars,
) -> RusticResult<Repository<()>> {
    let options = RepositoryOptions::default().no_cache(true);
    Repository::new_with_progress(&options, &backend.for_library(), bars)
}

/// No progress at all.
#[derive(Debug)]
pub(super) struct Silent;

impl ProgressBars for Silent {
    fn progress(&self, _: rustic_core::ProgressType, _: &str) -> rustic_core::Progress {
        rustic_core::Progress::hidden()
    }
}
