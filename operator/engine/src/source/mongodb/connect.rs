//! A client from a secret connection string, and what kind of deployment answers.
//!
//! A server that is away is an error within [`PROBE_TIMEOUT`]. No error names the connection
//! string or what is secret in it.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, ServerAddress};
use mongodb::{Client, options::SelectionCriteria};
use secrecy::{ExposeSecret as _, SecretString};

use super::error::MongodbError;

/// How long a first answer may take, name resolution, TLS and authentication included.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the driver may look for a member that suits.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections per member: one for each cursor at work, and some for the rest.
const POOL_SIZE: u32 = 32;

/// A client and the words for its servers.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    server: String,
    criteria: Option<SelectionCriteria>,
    direct: bool,
}

/// What kind of deployment answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// A member of a replica set.
    ReplicaSet {
        /// The set's name.
        name: String,
    },
    /// One server on its own.
    Standalone,
}

/// What answers: kind, versions, and which member.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// What kind it is.
    pub topology: Topology,
    /// `buildInfo.version`: `6.0.5`.
    pub version: String,
    /// Major and minor version.
    pub major_minor: (u32, u32),
    /// `featureCompatibilityVersion`, when the account may read it.
    pub feature_compatibility_version: Option<String>,
    /// The member that answered, as the replica set names it.
    pub member: Option<String>,
    /// Whether that member is the primary, or stands alone.
    pub writable: bool,
}

/// Makes a client. Nothing is contacted yet, except for the name service of an SRV address.
///
/// # Errors
/// When the connection string cannot work, or its SRV record cannot be resolved.
pub async fn connect(uri: &SecretString) -> Result<Connection, MongodbError> {
    let parse = ClientOptions::parse(uri.expose_secret());
    let mut options = tokio::time::timeout(PROBE_TIMEOUT, parse)
        .await
        .map_err(|_| MongodbError::Unreachable {
            action: "resolve the SRV record".to_owned(),
            server: "(mongodb+srv)".to_owned(),
            cause: format!("no answer in {} s", PROBE_TIMEOUT.as_secs()),
        })?
        .map_err(|error| MongodbError::InvalidUri {
            cause: redact(&error.to_string(), uri),
        })?;
    let server = options
        .hosts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let shorter = |given: Option<Duration>, ours: Duration| Some(given.unwrap_or(ours).min(ours));
    options
        .app_name
        .get_or_insert_with(|| "holdfast".to_owned());
    options.server_selection_timeout = shorter(options.server_selection_timeout, SELECTION_TIMEOUT);
    options.connect_timeout = shorter(options.connect_timeout, CONNECT_TIMEOUT);
    options.max_pool_size = Some(options.max_pool_size.unwrap_or(POOL_SIZE).max(POOL_SIZE));
    let criteria = options.selection_criteria.clone();
    let direct = options.direct_connection == Some(true);
    let client = Client::with_options(options).map_err(|error| MongodbError::InvalidUri {
        cause: redact(&error.to_string(), uri),
    })?;
    Ok(Connection {
        client,
        server,
        criteria,
        direct,
    })
}

impl Connection {
    /// The driver's client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The servers in words, for messages: hosts and ports, no credentials.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The same client, whose [`Self::run`] goes to this member only: recordIds, cursors and the
    /// oplog's end are those of one member.
    ///
    /// # Errors
    /// When the member's name is not an address.
    pub fn pinned_to(&self, member: &str) -> Result<Self, MongodbError> {
        // A direct connection knows one member, and perhaps by another name than the set does.
        if self.direct {
            return Ok(self.clone());
        }
        let address = ServerAddress::parse(member)
            .map_err(|error| MongodbError::from_driver("find the member", &self.server, &error))?;
        let suits = move |server: &mongodb::ServerInfo<'_>| *server.address() == address;
        Ok(Self {
            criteria: Some(SelectionCriteria::Predicate(Arc::new(suits))),
            ..self.clone()
        })
    }

    /// Which members [`Self::run`] may go to: those of the connection string's read preference.
    #[must_use]
    pub fn criteria(&self) -> Option<SelectionCriteria> {
        self.criteria.clone()
    }

    /// Runs a command; `action` says what for, in the words of an error.
    ///
    /// # Errors
    /// When no member answers, or the one that does refuses.
    pub async fn run(
        &self,
        db: &str,
        action: &str,
        command: Document,
    ) -> Result<Document, MongodbError> {
        let db = self.client.database(db);
        let mut run = db.run_command(command);
        if let Some(criteria) = self.criteria() {
            run = run.selection_criteria(criteria);
        }
        run.await
            .map_err(|error| MongodbError::from_driver(action, &self.server, &error))
    }

    /// Asks what kind of deployment this is. The first use of a connection: a server that is away,
    /// or credentials that are wrong, show here.
    ///
    /// # Errors
    /// When nothing answers in time, credentials are refused, or a router answers.
    pub async fn probe(&self) -> Result<Deployment, MongodbError> {
        tokio::time::timeout(PROBE_TIMEOUT, self.ask_what_it_is())
            .await
            .map_err(|_| MongodbError::Unreachable {
                action: "connect".to_owned(),
                server: self.server.clone(),
                cause: format!("no answer in {} s", PROBE_TIMEOUT.as_secs()),
            })?
    }

    async fn ask_what_it_is(&self) -> Result<Deployment, MongodbError> {
        let hello = self.run("admin", "connect", doc! {"hello": 1}).await?;
        if hello.get_str("msg") == Ok("isdbgrid") {
            return Err(MongodbError::Sharded {
                server: self.server.clone(),
            });
        }
        let flag = |name: &str| hello.get_bool(name).unwrap_or(false);
        let writable = flag("isWritablePrimary");
        let topology = match hello.get_str("setName") {
            Ok(name) => Topology::ReplicaSet {
                name: name.to_owned(),
            },
            Err(_) if flag("isreplicaset") => {
                return Err(self.not_readable("it waits for the replica set to be initiated"));
            }
            Err(_) => Topology::Standalone,
        };
        if !writable && !flag("secondary") {
            return Err(self.not_readable("it is neither primary nor secondary"));
        }
        let member = hello.get_str("me").ok().map(str::to_owned);
        let build = self
            .run("admin", "ask for the version", doc! {"buildInfo": 1})
            .await?;
        let version = build.get_str("version").unwrap_or_default().to_owned();
        Ok(Deployment {
            topology,
            major_minor: major_minor(&version),
            version,
            feature_compatibility_version: self.feature_compatibility_version().await,
            member,
            writable,
        })
    }

    fn not_readable(&self, cause: &str) -> MongodbError {
        MongodbError::NotReadable {
            server: self.server.clone(),
            cause: cause.to_owned(),
        }
    }

    /// It is for the manifest only: an account that may not read it loses nothing else.
    async fn feature_compatibility_version(&self) -> Option<String> {
        let command = doc! {"getParameter": 1, "featureCompatibilityVersion": 1};
        let answer = self
            .run("admin", "ask for the compatibility version", command)
            .await
            .inspect_err(|error| tracing::debug!(%error, "No feature compatibility version."))
            .ok()?;
        let version = answer.get_document("featureCompatibilityVersion").ok()?;
        Some(version.get_str("version").ok()?.to_owned())
    }
}

/// Major and minor of `6.0.5`; zeros for what is not a version.
fn major_minor(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Takes out of a message whatever part of the connection string may be secret: the driver quotes
/// pieces of it when it cannot read them.
fn redact(message: &str, uri: &SecretString) -> String {
    let uri = uri.expose_secret();
    let after_scheme = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    // The last @ before the path, as a password that was not escaped may hold others.
    let authority = after_scheme.split(['/', '?']).next().unwrap_or_default();
    let user_info = match after_scheme.rfind('@') {
        Some(at) => &after_scheme[..at],
        None => authority,
    };
    let mut secrets = vec![uri, after_scheme, user_info];
    secrets.extend(user_info.split_once(':').map(|(_, password)| password));
    secrets.extend(user_info.split([':', '@', '/', '?', ',']).skip(1));
    if let Some((_, query)) = after_scheme.split_once('?') {
        secrets.push(query);
        secrets.extend(query.split('&').filter_map(|option| {
            let (name, value) = option.split_once('=')?;
            let lower = name.to_lowercase();
            (lower.contains("password") || lower.contains("properties")).then_some(value)
        }));
    }
    secrets.retain(|secret| !secret.is_empty());
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(message.to_owned(), |message, secret| {
        message.replace(secret, "(redacted)")
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("mongodb://user:hunter2@host/db")]
    #[case("mongodb://user:hun/ter2@host/db")]
    #[case("mongodb://user:hun@ter2:x@host/db")]
    #[case("mongodb://user:hunter2")]
    #[case("mongodb://user:hunter2@host:notaport/")]
    #[case("hunter2")]
    #[case("mongodb://user:%zzhunter2@host/")]
    #[case("mongodb://host/?tls=true&tlsCertificateKeyFilePassword=hunter2&x=y")]
    #[case("mongodb://host/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2&authMechanism=WRONG")]
    #[tokio::test]
    async fn no_error_holds_a_secret(#[case] uri: &str) {
        let secret = SecretString::from(uri);
        if let Err(error) = connect(&secret).await {
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(
                    !text.contains("hunter2") && !text.contains("ter2"),
                    "{text}"
                );
            }
        }
        let redacted = redact(&format!("cannot read {uri}, sorry"), &secret);
        assert!(!redacted.contains("ter2"), "{redacted}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named_and_its_password_is_not() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let uri = SecretString::from(format!(
            "mongodb://user:hunter2@127.0.0.1:{port}/?serverSelectionTimeoutMS=200"
        ));
        let connection = connect(&uri).await.unwrap();
        let error = connection.probe().await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, MongodbError::Unreachable { .. }), "{text}");
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(!format!("{error:?}{text}{connection:?}").contains("hunter2"));
    }

    #[rstest]
    #[case("6.0.5", (6, 0))]
    #[case("7.1.0-rc0", (7, 1))]
    #[case("", (0, 0))]
    fn reads_versions(#[case] version: &str, #[case] expected: (u32, u32)) {
        assert_eq!(major_minor(version), expected);
    }
}
