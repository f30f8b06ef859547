//! Opened repositories, kept open: each opening costs half a second of key derivation.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use holdfast_engine::destination;
use holdfast_engine::repository::{InitOptions, Repository};
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
        let mut slot = slot.lock().await;
        if let Some(opened) = slot
            .as_ref()
            .filter(|opened| opened.fingerprint == fingerprint)
        {
            return Ok((opened.repository.clone(), false));
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
