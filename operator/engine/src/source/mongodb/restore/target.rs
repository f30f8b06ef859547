//! The server that is restored into.

use bson::{Document, doc};
use mongodb::Client;
use secrecy::SecretString;

use super::error::{RestoreError, UNAUTHORIZED, command_code};
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

    /// Runs a command on the primary.
    pub(super) async fn run(
        &self,
        db: &str,
        action: &str,
        command: Document,
    ) -> Result<Document, RestoreError> {
        self.client
            .database(db)
            .run_command(command)
            .await
            .map_err(|error| RestoreError::server(action, &error))
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
