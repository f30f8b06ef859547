//! The host of one box: resources are plain files, secrets are files and variables.

pub mod converge;
pub mod daemon;
pub mod departed;
pub mod load;
pub mod observer;
pub mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use holdfast_crds::{Destination, SecretSource};
use secrecy::SecretString;

use crate::host::secrets::{SecretError, Secrets};
use crate::host::{Declared, Host, Name};

/// The host of one box.
#[derive(Debug)]
pub struct FilesHost {
    declared: RwLock<Arc<Declared>>,
    secrets: Secrets,
}

impl FilesHost {
    /// A host that declares `declared` and finds secrets below `secrets_dir`.
    #[must_use]
    pub fn new(declared: Declared, secrets_dir: Option<PathBuf>) -> Self {
        Self {
            declared: RwLock::new(Arc::new(declared)),
            secrets: Secrets::new(secrets_dir),
        }
    }

    /// Puts what the files say now in the place of what they said.
    pub fn replace(&self, mut declared: Declared) {
        let mut current = self
            .declared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        declared.departing = current.departing.clone();
        *current = Arc::new(declared);
    }

    /// Names the destinations that went away and whose data is still to be deleted.
    pub fn set_departing(&self, departing: BTreeMap<Name, Arc<Destination>>) {
        let mut current = self
            .declared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.departing != departing {
            *current = Arc::new(Declared {
                departing,
                ..current.as_ref().clone()
            });
        }
    }
}

impl Host for FilesHost {
    async fn secret(
        &self,
        _namespace: &str,
        source: &SecretSource,
    ) -> Result<SecretString, SecretError> {
        // A few short reads of local files: not worth a thread of its own.
        self.secrets.resolve(source)
    }

    fn secret_version(&self, _namespace: &str, source: &SecretSource) -> Option<String> {
        self.secrets.version(source)
    }

    fn declared(&self) -> Arc<Declared> {
        self.declared
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
