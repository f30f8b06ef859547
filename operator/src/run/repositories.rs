//! Opened repositories, kept open: each opening costs half a second of key derivation.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use holdfast_engine::destination;
use holdfast_engine::repository::{InitOptions, Repository, RepositoryError};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use crate::host::{Host, Name};
use crate::reconcile::dereference::{self, DereferencedDestination};
use crate::reconcile::hosting;
use crate::run::RunError;

/// One slot a destination; the lock makes sure that it is opened once.
type Slot = Arc<Mutex<Option<Opened>>>;

#[derive(Debug)]
struct Opened {
    fingerprint: u64,
    repository: Repository,
}

/// Opened repositories, by destination.
#[derive(Debug, Default)]
pub struct Repositories {
    slots: Mutex<HashMap<Name, Slot>>,
}

impl Repositories {
    /// Opens the repository of a declared destination.
    ///
    /// # Errors
    /// When the destination is not declared, a secret is missing, the storage cannot be reached,
    /// there is no repository, or the password does not open it.
    pub async fn open<H: Host>(&self, host: &H, name: &Name) -> Result<Repository, RunError> {
        self.open_with(host, name, None)
            .await
            .map(|(repository, _)| repository)
    }

    /// Opens the repository of a declared destination, or makes it; the second value says whether
    /// it was made. A new one shares the chunker of `chunker_of`, so that copies between them
    /// deduplicate.
    ///
    /// # Errors
    /// As [`Self::open`]; and when the place holds something else.
    pub async fn open_or_init<H: Host>(
        &self,
        host: &H,
        name: &Name,
        chunker_of: Option<Repository>,
    ) -> Result<(Repository, bool), RunError> {
        self.open_with(
            host,
            name,
            Some(InitOptions {
                chunker_of,
                ..InitOptions::default()
            }),
        )
        .await
    }

    /// The repositories that are open, by destination.
    pub async fn opened(&self) -> Vec<(Name, Repository)> {
        let slots: Vec<(Name, Slot)> = self
            .slots
            .lock()
            .await
            .iter()
            .map(|(name, slot)| (name.clone(), slot.clone()))
            .collect();
        let mut opened = Vec::new();
        for (name, slot) in slots {
            if let Some(one) = slot.lock().await.as_ref() {
                opened.push((name, one.repository.clone()));
            }
        }
        opened.sort_by(|one, other| one.0.cmp(&other.0));
        opened
    }

    /// Forgets an opened repository, so that the next use opens it anew.
    pub async fn close(&self, name: &Name) {
        self.slots.lock().await.remove(name);
    }

    async fn open_with<H: Host>(
        &self,
        host: &H,
        name: &Name,
        init: Option<InitOptions>,
    ) -> Result<(Repository, bool), RunError> {
        let declared = host.declared();
        let object = declared
            .destinations
            .get(name)
            .or_else(|| declared.departing.get(name))
            .ok_or_else(|| RunError::UnknownDestination(name.clone()))?;
        let refusals = hosting::destination(host.surroundings(), &object.spec);
        RunError::refused(format!("Destination {name}"), &refusals)?;
        let config =
            dereference::destination(host, &name.namespace, &name.name, &object.spec).await?;
        let fingerprint = fingerprint(&config);

        let slot = self
            .slots
            .lock()
            .await
            .entry(name.clone())
            .or_default()
            .clone();
        // Not under the slot's lock: whoever else wants a place that does not answer waits for its
        // own question alone.
        let known = matching(slot.lock().await.as_ref(), fingerprint);
        if let Some(repository) = known {
            match repository.verify().await {
                Ok(()) => return Ok((repository, false)),
                Err(
                    error @ (RepositoryError::NotARepository { .. }
                    | RepositoryError::Replaced { .. }),
                ) => {
                    slot.lock().await.take();
                    // Who writes must not make another in the place of one that has just gone, nor
                    // take one that was put there for it: the plan decides, at the next look.
                    if init.is_some() || matches!(error, RepositoryError::NotARepository { .. }) {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut slot = slot.lock().await;
        if let Some(repository) = matching(slot.as_ref(), fingerprint) {
            return Ok((repository, false));
        }
        let storage = destination::connect(&config.storage).await?;
        // Once, without patience: a pass opens many, and the plan says when to try again.
        storage.probe().await?;
        let (repository, made) = match init {
            Some(options) => Repository::open_or_init(storage, &config.password, &options).await?,
            None => (Repository::open(storage, &config.password).await?, false),
        };
        *slot = Some(Opened {
            fingerprint,
            repository: repository.clone(),
        });
        Ok((repository, made))
    }
}

/// The opened repository, unless it was opened for another description of the destination.
fn matching(slot: Option<&Opened>, fingerprint: u64) -> Option<Repository> {
    slot.filter(|opened| opened.fingerprint == fingerprint)
        .map(|opened| opened.repository.clone())
}

/// Tells whether a destination and its secrets are what they were. It stays in memory.
fn fingerprint(config: &DereferencedDestination) -> u64 {
    use holdfast_engine::destination::{SftpAuthentication, StorageConfig};
    let mut hasher = DefaultHasher::new();
    // Debug shows everything but the secrets, which are added one by one.
    format!("{:?}", config.storage).hash(&mut hasher);
    config.password.expose_secret().hash(&mut hasher);
    match &config.storage {
        StorageConfig::Local(_) => {}
        StorageConfig::S3(s3) => {
            if let Some(credentials) = &s3.credentials {
                credentials.access_key_id.expose_secret().hash(&mut hasher);
                credentials
                    .secret_access_key
                    .expose_secret()
                    .hash(&mut hasher);
                if let Some(token) = &credentials.session_token {
                    token.expose_secret().hash(&mut hasher);
                }
            }
        }
        StorageConfig::Sftp(sftp) => {
            for way in &sftp.authentication {
                match way {
                    SftpAuthentication::PrivateKey { key, passphrase } => {
                        key.expose_secret().hash(&mut hasher);
                        if let Some(passphrase) = passphrase {
                            passphrase.expose_secret().hash(&mut hasher);
                        }
                    }
                    SftpAuthentication::Password(password) => {
                        password.expose_secret().hash(&mut hasher);
                    }
                    SftpAuthentication::Agent => {}
                }
            }
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use holdfast_crds::Destination;
    use serde_json::json;

    use crate::host::Declared;
    use crate::host::files::FilesHost;
    use crate::journal::Journal;

    fn host(home: &Path) -> (FilesHost, Name) {
        let password = home.join("password");
        std::fs::write(&password, "a password").unwrap();
        let destination: Destination = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "Destination",
            "metadata": {"name": "disk"},
            "spec": {
                "local": {"path": home.join("repository")},
                "encryption": {"password": {"file": password}},
            },
        }))
        .unwrap();
        let name = Name::of(&destination);
        let mut declared = Declared::default();
        declared
            .destinations
            .insert(name.clone(), Arc::new(destination));
        let (journal, _) = Journal::open(&home.join("state"), jiff::Timestamp::now()).unwrap();
        (FilesHost::new(declared, None, journal), name)
    }

    fn empty(directory: &Path) {
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::create_dir(directory).unwrap();
    }

    fn is_gone(result: &Result<(Repository, bool), RunError>) -> bool {
        matches!(
            result,
            Err(RunError::Repository(RepositoryError::NotARepository { .. }))
        )
    }

    /// As when the disk below it is no longer mounted: an open one knows nothing of it by itself.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_opened_repository_that_has_gone_is_not_handed_out() {
        let home = tempfile::tempdir().unwrap();
        let (host, name) = host(home.path());
        let repositories = Repositories::default();
        let (made, was_made) = repositories.open_or_init(&host, &name, None).await.unwrap();
        assert!(was_made);
        let kept = repositories.open(&host, &name).await.unwrap();
        assert_eq!(kept.id(), made.id());

        let place = home.path().join("repository");
        empty(&place);
        // Nor is another one made in its place, by whoever did not know.
        let written = repositories.open_or_init(&host, &name, None).await;
        assert!(is_gone(&written), "{written:?}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        assert!(repositories.opened().await.is_empty(), "it is kept");
        let opened = repositories.open(&host, &name).await;
        assert!(is_gone(&opened.map(|one| (one, false))));
    }

    /// What is there now is what the plan has to decide about.
    #[tokio::test(flavor = "multi_thread")]
    async fn another_repository_in_its_place_is_opened_and_not_written() {
        let home = tempfile::tempdir().unwrap();
        let (host, name) = host(home.path());
        let repositories = Repositories::default();
        let place = home.path().join("repository");
        for writes in [true, false] {
            let (first, _) = repositories.open_or_init(&host, &name, None).await.unwrap();
            empty(&place);
            let (second, _) = Repositories::default()
                .open_or_init(&host, &name, None)
                .await
                .unwrap();
            assert_ne!(first.id(), second.id());
            if writes {
                let written = repositories.open_or_init(&host, &name, None).await;
                assert!(
                    matches!(
                        written,
                        Err(RunError::Repository(RepositoryError::Replaced { .. }))
                    ),
                    "{written:?}"
                );
            }
            let opened = repositories.open(&host, &name).await.unwrap();
            assert_eq!(opened.id(), second.id());
        }
    }
}
