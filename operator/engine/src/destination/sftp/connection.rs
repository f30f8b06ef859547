//! One SSH connection: the key exchange with the server's key checked, and the login.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::client::AgentClient;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelStream, MethodKind, Preferred, cipher, compression};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::host_key::{Refusal, TrustedKeys};
use crate::destination::{SftpAuthentication, SftpConfig, StorageErrorKind as Kind};

/// TCP, key exchange and login together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent server is asked for a sign of life so often, and given up after three askings.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What the server may send ahead on one channel. Over a link of 100 ms this allows 80 MB/s; the
/// library's 2 MiB would allow 20.
const WINDOW: u32 = 8 * 1024 * 1024;

/// AES-GCM first: with the processor's own instructions it is faster than the library's favourite.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

/// A kind of error and what came back.
pub(super) type Failure = (Kind, String);

/// A way to log in, with its key already read.
#[derive(Clone)]
pub(super) enum Login {
    Key(Arc<PrivateKey>),
    Password(SecretString),
    Agent,
}

impl Login {
    /// # Errors
    /// When a private key cannot be read.
    pub(super) fn prepare(ways: &[SftpAuthentication]) -> Result<Vec<Self>, Failure> {
        if ways.is_empty() {
            return Err((Kind::InvalidConfig, "no way to log in is given".to_owned()));
        }
        ways.iter()
            .map(|way| match way {
                SftpAuthentication::PrivateKey { key, passphrase } => {
                    read_key(key, passphrase.as_ref()).map(|key| Self::Key(Arc::new(key)))
                }
                SftpAuthentication::Password(password) => Ok(Self::Password(password.clone())),
                SftpAuthentication::Agent => Ok(Self::Agent),
            })
            .collect()
    }
}

fn read_key(text: &SecretString, passphrase: Option<&SecretString>) -> Result<PrivateKey, Failure> {
    let refused = |why: String| (Kind::AuthenticationFailed, format!("the private key {why}"));
    let passphrase = passphrase.map(ExposeSecret::expose_secret);
    let key = russh::keys::decode_secret_key(text.expose_secret(), passphrase).map_err(
        |error| match (error, passphrase) {
            (russh::keys::Error::KeyIsEncrypted, None) => {
                refused("is encrypted and no passphrase is given".to_owned())
            }
            (_, Some(_)) => refused("cannot be opened with the passphrase".to_owned()),
            (error, None) => refused(format!("cannot be read: {error}")),
        },
    )?;
    if key.is_encrypted() {
        return Err(refused(
            "is encrypted and no passphrase is given".to_owned(),
        ));
    }
    Ok(key)
}

/// A connection that is logged in.
pub(super) struct Connection {
    handle: Handle<KeyCheck>,
    gone: CancellationToken,
}

impl Connection {
    pub(super) async fn open(config: &SftpConfig, logins: &[Login]) -> Result<Self, Failure> {
        let work = async {
            let mut connection = Self::exchange_keys(config).await?;
            connection.log_in(&config.user, logins).await?;
            Ok(connection)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| {
                Err((
                    Kind::Unreachable,
                    format!("no login within {} s", CONNECT_TIMEOUT.as_secs()),
                ))
            })
    }

    async fn exchange_keys(config: &SftpConfig) -> Result<Self, Failure> {
        let trusted = TrustedKeys::load(&config.host_key, &config.host, config.port)
            .map_err(|cause| (Kind::InvalidConfig, cause))?;
        let ssh = client::Config {
            window_size: WINDOW,
            keepalive_interval: Some(KEEPALIVE),
            nodelay: true,
            preferred: Preferred {
                key: Cow::Owned(trusted.prefer(&Preferred::DEFAULT.key)),
                cipher: Cow::Borrowed(CIPHERS),
                // What is sent is encrypted already and does not compress.
                compression: Cow::Borrowed(&[compression::NONE]),
                ..Preferred::DEFAULT
            },
            ..client::Config::default()
        };
        let address = (config.host.as_str(), config.port);
        let gone = CancellationToken::new();
        let handler = KeyCheck {
            trusted,
            _gone: gone.clone().drop_guard(),
        };
        client::connect(Arc::new(ssh), address, handler)
            .await
            .map(|handle| Self { handle, gone })
            .map_err(|error| match error {
                ConnectError::HostKey(Refusal::Mismatch(said)) => (Kind::HostKeyMismatch, said),
                ConnectError::HostKey(Refusal::Unknown(said)) => (Kind::HostKeyUnknown, said),
                ConnectError::Ssh(error) => failure(&error),
            })
    }

    async fn log_in(&mut self, user: &str, logins: &[Login]) -> Result<(), Failure> {
        let mut refused = Vec::new();
        for login in logins {
            let attempt = match login {
                Login::Key(key) => self.with_key(user, key).await,
                Login::Password(password) => self.with_password(user, password).await,
                Login::Agent => self.with_agent(user).await,
            };
            match attempt {
                Ok(Attempt::Accepted) => return Ok(()),
                Ok(Attempt::Refused(how)) => refused.push(how),
                Err(error) if refused.is_empty() => return Err(failure(&error)),
                // A server hangs up after too many attempts: the refusals are the reason.
                Err(_) => break,
            }
        }
        Err((
            Kind::AuthenticationFailed,
            format!("the server refuses {user}: {}", refused.join(", ")),
        ))
    }

    async fn with_key(
        &mut self,
        user: &str,
        key: &Arc<PrivateKey>,
    ) -> Result<Attempt, russh::Error> {
        let hash = if key.algorithm().is_rsa() {
            self.handle.best_supported_rsa_hash().await?.flatten()
        } else {
            None
        };
        let what = format!("key {}", fingerprint(key.public_key()));
        let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
        let result = self.handle.authenticate_publickey(user, key).await?;
        self.outcome(&result, what)
    }

    async fn with_password(
        &mut self,
        user: &str,
        password: &SecretString,
    ) -> Result<Attempt, russh::Error> {
        let result = self
            .handle
            .authenticate_password(user, password.expose_secret())
            .await?;
        if let AuthResult::Failure {
            remaining_methods, ..
        } = &result
            && remaining_methods.contains(&MethodKind::KeyboardInteractive)
            && self.answer_prompts(user, password).await?
        {
            return Ok(Attempt::Accepted);
        }
        self.outcome(&result, "the password".to_owned())
    }

    /// Servers that ask through PAM take the password as the answer to a question.
    async fn answer_prompts(
        &mut self,
        user: &str,
        password: &SecretString,
    ) -> Result<bool, russh::Error> {
        let mut state = self
            .handle
            .authenticate_keyboard_interactive_start(user, None)
            .await?;
        let mut asked = false;
        loop {
            match state {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    // A second question is for something that we do not have.
                    let answers = match (asked, prompts.len()) {
                        (_, 0) => Vec::new(),
                        (false, 1) => vec![password.expose_secret().to_owned()],
                        _ => return Ok(false),
                    };
                    asked = asked || !answers.is_empty();
                    state = self
                        .handle
                        .authenticate_keyboard_interactive_respond(answers)
                        .await?;
                }
            }
        }
    }

    async fn with_agent(&mut self, user: &str) -> Result<Attempt, russh::Error> {
        let mut agent = match AgentClient::connect_env().await {
            Ok(agent) => agent,
            Err(error) => return Ok(Attempt::Refused(format!("the agent ({error})"))),
        };
        if let Some(binding) = self.handle.agent_session_binding()
            && let Err(error) = agent.bind_session(binding, false).await
        {
            tracing::debug!(%error, "The SSH agent does not bind its keys to the connection.");
        }
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(error) => return Ok(Attempt::Refused(format!("the agent ({error})"))),
        };
        let hash = self.handle.best_supported_rsa_hash().await?.flatten();
        let count = identities.len();
        for identity in identities {
            let key = identity.public_key().into_owned();
            let hash = hash.filter(|_| key.algorithm().is_rsa());
            match self
                .handle
                .authenticate_publickey_with(user, key, hash, &mut agent)
                .await
            {
                Ok(result) => {
                    if let Attempt::Accepted = self.outcome(&result, String::new())? {
                        return Ok(Attempt::Accepted);
                    }
                }
                Err(error) => tracing::debug!(%error, "The SSH agent does not sign."),
            }
        }
        Ok(Attempt::Refused(format!("the agent's {count} keys")))
    }

    /// The library says "refused" of a connection that broke, too; that is no refusal.
    fn outcome(&self, result: &AuthResult, what: String) -> Result<Attempt, russh::Error> {
        match result {
            AuthResult::Success => Ok(Attempt::Accepted),
            AuthResult::Failure { .. } if self.is_closed() => Err(russh::Error::Disconnect),
            AuthResult::Failure {
                partial_success: true,
                ..
            } => Ok(Attempt::Refused(format!(
                "{what} (accepted, and the server wants more)"
            ))),
            AuthResult::Failure { .. } => Ok(Attempt::Refused(what)),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.gone.is_cancelled() || self.handle.is_closed()
    }

    /// Cancelled when the connection has ended.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// A new channel with the server's SFTP program behind it.
    pub(super) async fn sftp_channel(&self) -> Result<ChannelStream<client::Msg>, Failure> {
        let mut channel = self
            .handle
            .channel_open_session()
            .await
            .map_err(|error| failure(&error))?;
        channel
            .request_subsystem(true, "sftp")
            .await
            .map_err(|error| failure(&error))?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => return Ok(channel.into_stream()),
                Some(ChannelMsg::Failure) => {
                    let cause = "the server offers no SFTP";
                    return Err((Kind::InvalidConfig, cause.to_owned()));
                }
                None | Some(ChannelMsg::Close | ChannelMsg::Eof) => {
                    let cause = "the server closed the channel";
                    return Err((Kind::Interrupted, cause.to_owned()));
                }
                Some(_) => {}
            }
        }
    }
}

enum Attempt {
    Accepted,
    Refused(String),
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(russh::keys::HashAlg::Sha256).to_string()
}

fn failure(error: &russh::Error) -> Failure {
    use std::io::ErrorKind as Io;
    let kind = match error {
        russh::Error::IO(io) if matches!(io.kind(), Io::ConnectionReset | Io::UnexpectedEof) => {
            Kind::Interrupted
        }
        russh::Error::IO(_) | russh::Error::ConnectionTimeout => Kind::Unreachable,
        russh::Error::NoCommonAlgo { .. } | russh::Error::Version => Kind::InvalidConfig,
        // Nothing of this passes by itself on the way of a sound connection; a broken one does.
        _ => Kind::Interrupted,
    };
    (kind, error.to_string())
}

/// Checks the server's key; see [`TrustedKeys`].
struct KeyCheck {
    trusted: TrustedKeys,
    /// The library drops this with the task that drives the connection.
    _gone: DropGuard,
}

#[derive(Debug)]
enum ConnectError {
    HostKey(Refusal),
    Ssh(russh::Error),
}

impl From<russh::Error> for ConnectError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl client::Handler for KeyCheck {
    type Error = ConnectError;

    async fn check_server_key(
        &mut self,
        offered: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match offered {
            PublicKeyOrCertificate::PublicKey { key, .. } => self
                .trusted
                .check(key)
                .map(|()| true)
                .map_err(ConnectError::HostKey),
            // None was asked for.
            PublicKeyOrCertificate::Certificate(_) => Ok(false),
        }
    }
}
