//! Tells when watched files may have changed.
//!
//! Directories are watched rather than files, so that an editor's rename, a `git pull` and a
//! swapped symbolic link are all seen. Bursts are told once, after they have settled.

use std::path::PathBuf;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long the files must be quiet before a change is told.
const SETTLE: Duration = Duration::from_millis(300);

/// How long quiet is waited for.
const LONGEST: Duration = Duration::from_secs(5);

/// How often files are looked at although nothing was told: file systems that notify nobody.
const POLL: Duration = Duration::from_secs(30);

/// Why the files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {cause}; files are looked at every 30 seconds instead")]
pub struct WatchError {
    /// What was to be watched.
    pub path: PathBuf,
    /// What came back.
    pub cause: notify::Error,
}

/// Tells when watched files may have changed.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<()>,
    /// Whether a change was told that nobody has been given yet: who waits may be interrupted.
    told: bool,
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Watches `paths`. Where that is not possible the errors say why, and polling is left.
    #[must_use]
    pub fn new(paths: &[PathBuf]) -> (Self, Vec<WatchError>) {
        let (sender, events) = mpsc::channel(1);
        let mut errors = Vec::new();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)));
            if relevant {
                // One event in the channel is enough: everything is read again.
                let _ = sender.try_send(());
            }
        });
        let watcher = match watcher {
            Ok(mut watcher) => {
                for path in paths {
                    let directory = if path.is_dir() {
                        path.clone()
                    } else {
                        match path.parent() {
                            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                            _ => PathBuf::from("."),
                        }
                    };
                    let mode = if path.is_dir() {
                        RecursiveMode::Recursive
                    } else {
                        RecursiveMode::NonRecursive
                    };
                    if let Err(cause) = watcher.watch(&directory, mode) {
                        errors.push(WatchError {
                            path: directory,
                            cause,
                        });
                    }
                }
                Some(watcher)
            }
            Err(cause) => {
                errors.push(WatchError {
                    path: paths.first().cloned().unwrap_or_default(),
                    cause,
                });
                None
            }
        };
        (
            Self {
                events,
                told: false,
                _watcher: watcher,
            },
            errors,
        )
    }

    /// Waits until the files may have changed and are quiet again, or until it is time to look; says
    /// whether a change was told.
    pub async fn changed(&mut self) -> bool {
        if !self.told {
            match tokio::time::timeout(POLL, self.events.recv()).await {
                Ok(Some(())) => self.told = true,
                Ok(None) => {
                    tokio::time::sleep(POLL).await;
                    return false;
                }
                Err(_) => return false,
            }
        }
        let longest = Instant::now() + LONGEST;
        // Something below that is always written, such as a repository, must not hide a change.
        while Instant::now() < longest
            && matches!(
                tokio::time::timeout(SETTLE, self.events.recv()).await,
                Ok(Some(()))
            )
        {}
        self.told = false;
        true
    }

    /// Waits until a change was told, however long that takes.
    pub async fn told(&mut self) {
        while !self.changed().await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever waits also waits for other things, and gives up when one of those comes first.
    #[tokio::test]
    async fn a_change_is_not_lost_when_the_wait_for_it_is_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let (mut watch, errors) = Watch::new(&[directory.path().to_owned()]);
        assert!(errors.is_empty(), "{errors:?}");
        std::fs::write(directory.path().join("a.yaml"), "a").unwrap();
        let interrupted = tokio::time::timeout(SETTLE / 2, watch.changed()).await;
        assert!(interrupted.is_err());
        let told = tokio::time::timeout(POLL / 3, watch.changed()).await;
        assert_eq!(told, Ok(true));
        let again = tokio::time::timeout(SETTLE * 2, watch.changed()).await;
        assert!(again.is_err(), "it is told twice");
    }
}
