//! The server that is restored into.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bson::{Document, doc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use mongodb::Client;
use secrecy::SecretString;

use super::error::{RestoreError, UNAUTHORIZED, class, command_code};
use crate::class::{Classified as _, ErrorClass};
use crate::source::mongodb::connect::connect;

/// `IDLUnknownField`: a command with a field that the server does not know.
const UNKNOWN_FIELD: i32 = 40415;

/// The server that is restored into.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) client: Client,
    /// Hosts and ports, without credentials.
    pub(super) address: String,
    /// What it runs: `6.0.5`, and the two numbers that say what it can do.
    version: (String, (u32, u32)),
}

impl Target {
    /// Connects, and waits for a first answer.
    pub(super) async fn connect(uri: &SecretString) -> Result<Self, RestoreError> {
        let connection = connect(uri).await?;
        let deployment = connection.probe().await?;
        Ok(Self {
            client: connection.client().clone(),
            address: connection.server().to_owned(),
            version: (deployment.version, deployment.major_minor),
        })
    }

    /// What a person should know when the server is older than the one that was backed up.
    pub(super) fn older_than(&self, backed_up: &str) -> Option<String> {
        let (version, numbers) = &self.version;
        let mut parts = backed_up.split('.').map(|part| part.parse::<u32>().ok());
        let theirs = (parts.next()??, parts.next()??);
        (*numbers < theirs).then(|| {
            format!(
                "the backup is of MongoDB {backed_up} and the target runs {version}: what only the newer one knows is refused"
            )
        })
    }

    /// Runs a command on the primary, again where that is lost; for commands that may be repeated.
    pub(super) async fn run(
        &self,
        db: &str,
        action: &str,
        command: Document,
    ) -> Result<Document, RestoreError> {
        let database = self.client.database(db);
        let (reply, _) = persist(|| {
            async {
                let reply = database.run_command(command.clone()).await;
                reply.map_err(|error| RestoreError::server(action, &error))
            }
            .boxed()
        })
        .await?;
        Ok(reply)
    }

    /// Whether `insert` keeps a top-level `Timestamp(0, 0)` when told so: whether it knows `bypassEmptyTsReplacement`. It came with patch releases of several
    /// versions, so the server is asked: an insert of nothing is refused by all of them, by those
    /// that do not know the field for that reason.
    pub(super) async fn keeps_empty_timestamps(&self) -> bool {
        let probe =
            doc! { "insert": "holdfast", "documents": [], "bypassEmptyTsReplacement": true };
        match self.client.database("holdfast").run_command(probe).await {
            Ok(_) => true,
            // Any other refusal by the parser's next step says that the field was understood. When
            // in doubt, the way that works on every server is taken.
            Err(error) => command_code(&error)
                .is_some_and(|code| code != UNKNOWN_FIELD && code != UNAUTHORIZED),
        }
    }
}

/// The write concern of every write: what is reported as restored survives a failover. It also
/// holds the load back where secondaries cannot follow.
pub(super) fn write_concern() -> Document {
    doc! { "w": "majority" }
}

/// So often an attempt is repeated when the connection or the primary is lost. The driver itself
/// waits for a new primary in each.
const REPETITIONS: usize = 4;

/// Repeats what fails for reasons that pass: an election, a connection that was reset. Says
/// whether it was repeated: then nobody knows what the attempts before had done.
pub(super) async fn persist<'a, T>(
    attempt: impl Fn() -> BoxFuture<'a, Result<T, RestoreError>>,
) -> Result<(T, bool), RestoreError> {
    let mut delays = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_times(REPETITIONS)
        .with_jitter()
        .build();
    let mut repeated = false;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok((value, repeated)),
            Err(failure) => failure,
        };
        let delay = match delays.next() {
            Some(delay) if failure.class() == ErrorClass::Transient => delay,
            _ => return Err(failure),
        };
        tracing::warn!(error = %failure, "A request to the target is repeated.");
        tokio::time::sleep(delay).await;
        repeated = true;
    }
}

/// What a request brought: an answer, or a refusal that repeating does not change. Losing the
/// server is an error.
pub(super) fn answer<T>(
    action: &str,
    result: Result<T, mongodb::error::Error>,
) -> Result<Result<T, mongodb::error::Error>, RestoreError> {
    match result {
        Err(error) if class(&error) == ErrorClass::Transient => {
            Err(RestoreError::server(action, &error))
        }
        answered => Ok(answered),
    }
}
