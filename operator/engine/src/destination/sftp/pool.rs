//! A connection and its channels, shared by all operations and replaced when they break.
//!
//! One connection is one login (servers count and limit those); several channels on it keep the
//! server's own window, which is per channel, from bounding the whole, and let several of its
//! processes work.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, Semaphore, SemaphorePermit};

use super::connection::{Connection, Failure, Login};
use super::session::Session;
use crate::destination::{SftpConfig, StorageErrorKind as Kind};

/// Channels on the connection; OpenSSH allows ten sessions by default.
const CHANNELS: usize = 4;
/// Operations at a time over all channels. Each holds at most two handles, and OpenSSH's handles
/// are numbers that the library can carry below 128 on a channel.
const OPERATIONS: usize = 32;

/// A connection and its channels.
pub(super) struct Pool {
    config: SftpConfig,
    logins: Vec<Login>,
    operations: Semaphore,
    /// Held while connecting, so that many operations at once make one connection.
    current: AsyncMutex<Option<Arc<Open>>>,
}

struct Open {
    connection: Connection,
    sessions: Mutex<Vec<Arc<Session>>>,
}

/// A channel for one operation.
pub(super) struct Lease<'a> {
    session: Arc<Session>,
    /// Keeps the connection up for as long as somebody uses a channel of it.
    _open: Arc<Open>,
    _permit: SemaphorePermit<'a>,
}

impl std::ops::Deref for Lease<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Pool {
    pub(super) fn new(config: SftpConfig, logins: Vec<Login>) -> Self {
        Self {
            config,
            logins,
            operations: Semaphore::new(OPERATIONS),
            current: AsyncMutex::new(None),
        }
    }

    /// The channel with the least to do; connects where there is no sound connection.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        let permit = self
            .operations
            .acquire()
            .await
            .map_err(|error| (Kind::Other, error.to_string()))?;
        let mut current = self.current.lock().await;
        if let Some(open) = current.as_ref()
            && open.is_broken()
        {
            *current = None;
        }
        let open = match current.as_ref() {
            Some(open) => Arc::clone(open),
            None => {
                let connection = Connection::open(&self.config, &self.logins).await?;
                tracing::debug!(
                    host = self.config.host,
                    port = self.config.port,
                    user = self.config.user,
                    "Connected to the SFTP server."
                );
                let open = Arc::new(Open {
                    connection,
                    sessions: Mutex::default(),
                });
                *current = Some(Arc::clone(&open));
                open
            }
        };
        match open.session().await {
            Ok(session) => Ok(Lease {
                session,
                _open: open,
                _permit: permit,
            }),
            Err(failure) => {
                *current = None;
                Err(failure)
            }
        }
    }
}

impl Open {
    /// A channel that broke says that the connection or the server is not sound: both are left.
    fn is_broken(&self) -> bool {
        self.connection.is_closed() || self.sessions().iter().any(|session| session.is_broken())
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only called under the pool's lock.
    async fn session(&self) -> Result<Arc<Session>, Failure> {
        let least = self
            .sessions()
            .iter()
            .min_by_key(|session| Arc::strong_count(session))
            .cloned();
        let count = self.sessions().len();
        match least {
            // Two references: the pool's and this one.
            Some(session) if Arc::strong_count(&session) <= 2 || count >= CHANNELS => Ok(session),
            other => match (Session::open(&self.connection).await, other) {
                (Ok(session), _) => {
                    let session = Arc::new(session);
                    self.sessions().push(Arc::clone(&session));
                    Ok(session)
                }
                // Servers may allow fewer channels.
                (Err(_), Some(session)) if !self.connection.is_closed() => Ok(session),
                (Err(failure), _) => Err(failure),
            },
        }
    }
}
