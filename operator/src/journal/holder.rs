//! Which process does a run, and whether it is still alive.
//!
//! A process id alone does not tell: it is used again, and in a container it is the same at every
//! start. So each process holds a lock on a file of its own below `holders/` for as long as it
//! lives; the kernel lets go of it however the process ends, and across containers too.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::JournalError;

/// The process that does a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The name of its lock file.
    pub id: String,
    /// Its process id, for a person.
    pub pid: u32,
    /// The boot of the machine it ran in, for a person; empty where the system does not tell.
    pub boot_id: String,
}

/// The lock of this process, held as long as the value lives.
#[derive(Debug)]
pub(super) struct HolderLock {
    holder: Holder,
    path: PathBuf,
    // Its lock ends when it is closed.
    _file: File,
}

impl HolderLock {
    /// Takes a lock of its own in `directory`.
    pub(super) fn take(directory: &Path) -> Result<Self, JournalError> {
        let id = uuid::Uuid::new_v4().to_string();
        let path = directory.join(&id);
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|cause| JournalError::Directory {
                action: "create and lock",
                path: path.clone(),
                cause,
            })?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default();
        Ok(Self {
            holder: Holder {
                id,
                pid: std::process::id(),
                boot_id,
            },
            path,
            _file: file,
        })
    }

    /// Who holds it.
    pub(super) fn holder(&self) -> &Holder {
        &self.holder
    }
}

impl Drop for HolderLock {
    fn drop(&mut self) {
        // Left behind, it is swept up by the next start: its lock is gone either way.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the process of a holder is alive. A lock file that cannot be examined counts as alive:
/// to call a run dead that goes on would be worse than to wait.
pub(super) fn is_alive(directory: &Path, id: &str) -> bool {
    match File::open(directory.join(id)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        },
        Err(cause) => cause.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Removes the lock files of processes that are gone.
pub(super) fn sweep(directory: &Path, own: &str) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str() else { continue };
        // A file that its process has created but not yet locked must not vanish below it.
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok())
            .is_some_and(|age| age > std::time::Duration::from_secs(60));
        if id != own && old && !is_alive(directory, id) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
