//! What every verb that touches a repository starts with: what is declared, the secrets, the state.

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_crds::DEFAULT_NAMESPACE;

use super::arguments::{FileArgs, GlobalArgs};
use super::failure::Failure;
use crate::host::files::FilesHost;
use crate::host::files::load::{self, References};
use crate::host::{Declared, Host, Name, View};
use crate::journal::Journal;
use crate::run::locate::{self, Located, Wanted};
use crate::run::{RunError, Runner};

/// What is declared, the secrets and the state of one call.
pub(super) struct Session<H = FilesHost> {
    /// Declares what the files or the cluster say.
    pub(super) host: Arc<H>,
    /// What they say.
    pub(super) declared: Arc<Declared>,
    /// Does things, and keeps the journal.
    pub(super) runner: Runner<H>,
    /// Namespace of names given without one.
    pub(super) namespace: String,
    /// Where what is not declared could be.
    elsewhere: String,
}

impl Session {
    /// Reads the files of a verb that takes `-f`.
    pub(super) fn open(global: &GlobalArgs, files: &FileArgs) -> Result<Self, Failure> {
        let namespace = files.namespace.as_deref();
        Self::of_paths(global, &files.files, namespace.unwrap_or(DEFAULT_NAMESPACE))
    }

    /// Reads the files below `paths`.
    pub(super) fn of_paths(
        global: &GlobalArgs,
        paths: &[PathBuf],
        namespace: &str,
    ) -> Result<Self, Failure> {
        let declared = load_declared(paths)?;
        let journal = journal(global)?;
        let host = Arc::new(FilesHost::new(
            declared,
            global.secrets_dir.clone(),
            journal.clone(),
        ));
        let elsewhere = "name other files with -f PATH".to_owned();
        Self::on(host, journal, namespace, elsewhere)
    }
}

impl<H: Host> Session<H> {
    /// A call on a host that knows what is declared.
    pub(super) fn on(
        host: Arc<H>,
        journal: Journal,
        namespace: &str,
        elsewhere: String,
    ) -> Result<Self, Failure> {
        let declared = host.declared();
        let runner = Runner {
            view: View::new(host.clone()),
            journal,
            cancel: cancelled_by_signals()?,
        };
        Ok(Self {
            host,
            declared,
            runner,
            namespace: namespace.to_owned(),
            elsewhere,
        })
    }

    /// A name given on the command line.
    pub(super) fn name(&self, text: &str) -> Name {
        Name::parse(text, &self.namespace)
    }

    /// A policy that must be declared.
    pub(super) fn policy(&self, text: &str) -> Result<Name, Failure> {
        let name = self.name(text);
        if self.declared.policies.contains_key(&name) {
            return Ok(name);
        }
        Err(self.unknown("BackupPolicy", &name, self.declared.policies.keys()))
    }

    /// A destination that must be declared.
    pub(super) fn destination(&self, text: &str) -> Result<Name, Failure> {
        let name = self.name(text);
        if self.declared.destinations.contains_key(&name) {
            return Ok(name);
        }
        Err(self.unknown("Destination", &name, self.declared.destinations.keys()))
    }

    /// Finds a backup, wherever it is: at the destination asked for, at those of its policy, or at
    /// any that is declared.
    pub(super) async fn locate(
        &self,
        backup: &str,
        policy: Option<&str>,
        destination: Option<&str>,
    ) -> Result<Vec<Located>, Failure> {
        let policy = policy.map(|policy| self.policy(policy)).transpose()?;
        if backup == holdfast_crds::LATEST && policy.is_none() {
            return Err(Failure::Usage(
                "latest of which policy? Add --policy NAME, or give a backup's id".to_owned(),
            ));
        }
        let destinations = match (destination, &policy) {
            (Some(destination), _) => vec![self.destination(destination)?],
            (None, Some(policy)) => self
                .declared
                .destinations_of(policy)
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            (None, None) => self.declared.destinations.keys().cloned().collect(),
        };
        let wanted = Wanted {
            backup,
            policy: policy.as_ref(),
            destinations,
        };
        Ok(locate::locate(&self.runner.repositories, self.host.as_ref(), &wanted).await?)
    }

    /// That there is nothing to look into.
    pub(super) fn no_destination(&self) -> Failure {
        Failure::Usage(format!("no Destination is declared; {}", self.elsewhere))
    }

    fn unknown<'a>(
        &self,
        kind: &str,
        name: &Name,
        known: impl Iterator<Item = &'a Name>,
    ) -> Failure {
        let known: Vec<String> = known.map(ToString::to_string).collect();
        let known = if known.is_empty() {
            "there is none".to_owned()
        } else {
            format!("declared are {}", known.join(", "))
        };
        Failure::Usage(format!(
            "no {kind} {name} is declared; {known}; {}",
            self.elsewhere
        ))
    }
}

/// Reads manifests; every problem at once when there is one.
pub(super) fn load_declared(paths: &[PathBuf]) -> Result<Declared, Failure> {
    let loaded = load::load(paths, References::Checked);
    if !loaded.problems.is_empty() {
        return Err(Failure::Files(loaded.problems));
    }
    Ok(Declared::from_loaded(loaded.resources))
}

/// The state directory: the one asked for, or the XDG state directory.
pub(super) fn state_dir(global: &GlobalArgs) -> Result<PathBuf, Failure> {
    if let Some(directory) = &global.state_dir {
        return Ok(directory.clone());
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(directory) = absolute("XDG_STATE_HOME") {
        return Ok(directory.join("holdfast"));
    }
    absolute("HOME")
        .map(|home| home.join(".local/state/holdfast"))
        .ok_or_else(|| {
            Failure::Usage(
            "neither XDG_STATE_HOME nor HOME is set; name a state directory with --state-dir DIR"
                .to_owned(),
        )
        })
}

/// Opens the state in the state directory, and tells of runs whose process is gone.
pub(super) fn journal(global: &GlobalArgs) -> Result<Journal, Failure> {
    let directory = state_dir(global)?;
    let (journal, interrupted) = Journal::open(&directory, jiff::Timestamp::now())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    for run in interrupted {
        tracing::warn!(
            run = run.id,
            kind = run.kind.as_str(),
            namespace = run.namespace,
            policy = run.policy,
            "A run's process was killed before it had ended; it is recorded as interrupted."
        );
    }
    Ok(journal)
}

/// A token that SIGINT and SIGTERM cancel. A second signal ends the process at once.
pub(super) fn cancelled_by_signals() -> Result<tokio_util::sync::CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = tokio_util::sync::CancellationToken::new();
    let told = cancel.clone();
    let failed =
        |error: std::io::Error| Failure::Failed(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::spawn(async move {
        for round in 0.. {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            if round > 0 {
                tracing::warn!("A second signal ends the program at once.");
                std::process::exit(code);
            }
            tracing::info!("A signal asks the program to end; runs are being stopped.");
            told.cancel();
        }
    });
    Ok(cancel)
}

impl<H> Session<H> {
    /// Puts what a cancelled verb returns into words.
    pub(super) fn failed(&self, error: RunError) -> Failure {
        if self.runner.cancel.is_cancelled() {
            return Failure::Failed(
                "the run was stopped by a signal; nothing half-done is left as a backup".to_owned(),
            );
        }
        Failure::from(error)
    }
}
