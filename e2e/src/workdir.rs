//! A folder of a test's own, gone when the test is over.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A temporary folder. It is removed on drop, and by the janitor should this
/// process be killed first; `HOLDFAST_E2E_KEEP=1` keeps it for a look inside.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
    keep: bool,
}

impl Workdir {
    /// Makes a new, empty folder with a short path (sockets need that).
    pub fn new() -> Result<Self> {
        let keep = std::env::var_os("HOLDFAST_E2E_KEEP").is_some_and(|v| !v.is_empty() && v != "0");
        let path = tempfile::Builder::new()
            .prefix("hf")
            .tempdir()
            .context("making a temporary folder")?
            .keep();
        if !keep {
            crate::janitor::folder_made(&path);
        }
        Ok(Self { path, keep })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a folder inside it, one that did not exist: `name`, or
    /// `name-2`, `name-3` and so on.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        for number in 1..10_000 {
            let path = match number {
                1 => self.path.join(name),
                _ => self.path.join(format!("{name}-{number}")),
            };
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("making {}", path.display()));
                }
            }
        }
        anyhow::bail!("too many folders called {name} in {}", self.path.display())
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        // A server that is just being killed may still create a file; try again.
        for _ in 0..5 {
            match std::fs::remove_dir_all(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }
}
