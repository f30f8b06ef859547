//! The whole read: one cluster time for everything.
//!
//! On a replica set: the catalogue is listed; a cluster time T is taken; what the oplog says was
//! changed between listing and T is listed again, until nothing was. So the catalogue is that of T.
//! Then every collection is read as of T while the oplog is watched:
//!
//! - a change of a collection that had been read before is none of ours;
//! - a collection that is dropped, renamed or converted before it was read can no longer be read as
//!   of T, so everything begins anew at a later T. What was stored already is not stored twice, and
//!   after [`ReadOptions::attempts`] the run fails and names the collection;
//! - what is created after T is not in the backup;
//! - changes of options and indexes after T leave documents readable, or the server says that they
//!   are not (code 246), which again begins anew.
//!
//! Capped collections cannot be read at a time. They are read as they are at a later moment, in
//! order, which the manifest's notes and `pointInTime: false` say. A standalone server has no
//! cluster time and no oplog: it gets a plain read, and a collection that is lost meanwhile begins
//! it anew.
//!
//! A pattern of `include` that matches no collection fails the run, as does a selection of nothing,
//! even where everything is asked for: a server that lost its data would otherwise give successful
//! backups of nothing, until retention had let go of the last good one. A collection without
//! documents is something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Timestamp, doc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, CatalogEntry, Selection};
use super::compose::{Everything, MongodbRead, compose};
use super::config::MongodbConfig;
use super::connect::{Connection, Deployment, Topology, connect};
use super::cursor::{Moment, collect};
use super::error::{MongodbError, code};
use super::namespace::{Namespace, NamespaceFilter};
use super::oplog::{Change, Watch, last_write};
use super::read::{CollectionRead, ReadOptions, Reader};
use super::users;
use crate::progress::Progress;
use crate::source::Stage;

/// How often the oplog is looked at while collections are read: soon enough not to read long in
/// vain. Correctness does not depend on it.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// How often the catalogue may change between its listing and the cluster time. Each time only
/// the databases concerned are listed again, which takes milliseconds.
const LISTINGS: u32 = 20;

/// How long the latest write may take to reach a majority of members.
const MAJORITY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads what `config` asks for and stores it in `stage`. Nothing but a complete read is `Ok`.
///
/// # Errors
/// When the deployment cannot be reached, refuses, goes away, holds nothing that is wanted, or
/// changes faster than it can be read; when the stage takes no more; when `cancel` fires (cursors
/// are closed on the server).
pub async fn read(
    config: &MongodbConfig,
    stage: Arc<dyn Stage>,
    options: ReadOptions,
    progress: Progress,
    cancel: CancellationToken,
) -> Result<MongodbRead, MongodbError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(MongodbError::Cancelled),
        read = read_all(config, stage, options, progress) => read,
    }
}

async fn read_all(
    config: &MongodbConfig,
    stage: Arc<dyn Stage>,
    options: ReadOptions,
    progress: Progress,
) -> Result<MongodbRead, MongodbError> {
    let filter = NamespaceFilter::new(&config.include, &config.exclude).map_err(|error| {
        MongodbError::InvalidPattern {
            cause: error.to_string(),
        }
    })?;
    let selection = Selection {
        filter,
        users_and_roles: config.users_and_roles,
    };
    progress.set_phase("connecting to MongoDB");
    let mut connection = connect(&config.uri).await?;
    let deployment = connection.probe().await?;
    if deployment.topology != Topology::Standalone {
        if deployment.major_minor < (5, 0) {
            return Err(MongodbError::TooOld {
                server: connection.server().to_owned(),
                version: deployment.version,
            });
        }
        if let Some(member) = &deployment.member {
            connection = connection.pinned_to(member)?;
        }
    }
    let attempts = options.attempts.max(1);
    let cursors = options.cursors.max(1);
    let reader = Reader::new(
        connection.clone(),
        Arc::clone(&stage),
        options,
        progress.clone(),
    );
    let run = Run {
        connection,
        deployment,
        selection,
        reader,
        cursors,
        progress,
    };
    let mut notes = Vec::new();
    let mut attempt = 1;
    loop {
        match run.attempt().await? {
            Attempt::Complete(everything) => {
                run.progress.set_phase("writing options and indexes");
                let server = run.connection.server();
                return compose(*everything, server, &run.selection, notes, stage.as_ref()).await;
            }
            Attempt::Changed {
                namespace,
                operation,
            } if attempt < attempts => {
                tracing::info!(%namespace, operation, attempt, "A collection changed before it was read; everything is read again at a later time.");
                notes.push(format!(
                    "{namespace} changed ({operation}) before it was read, so everything was read again at a later time."
                ));
            }
            Attempt::Changed {
                namespace,
                operation,
            } => {
                return Err(MongodbError::CatalogChanging {
                    namespace,
                    operation,
                    rounds: attempt,
                });
            }
        }
        attempt += 1;
    }
}

struct Run {
    connection: Connection,
    deployment: Deployment,
    selection: Selection,
    reader: Reader,
    cursors: usize,
    progress: Progress,
}

enum Attempt {
    Complete(Box<Everything>),
    Changed {
        namespace: String,
        operation: String,
    },
}

/// When collections had been read: the member's last write after it.
type Finished = Arc<Mutex<BTreeMap<Namespace, Option<Timestamp>>>>;

type CollectionResult = (Namespace, Result<CollectionRead, MongodbError>);

impl Run {
    fn is_replica_set(&self) -> bool {
        self.deployment.topology != Topology::Standalone
    }

    async fn attempt(&self) -> Result<Attempt, MongodbError> {
        self.progress.set_phase("listing collections");
        let (catalog, time) = if self.is_replica_set() {
            let (catalog, time) = self.catalog_at_a_time().await?;
            (catalog, Some(time))
        } else {
            (
                Catalog::list(&self.connection, &self.selection).await?,
                None,
            )
        };
        self.check_selection(&catalog)?;
        let expected: u64 = catalog.entries().map(|entry| entry.bytes).sum();
        let done = self.progress.snapshot().done_bytes;
        self.progress.set_total_bytes(done + expected);
        if let Some(time) = time
            && let Some(changed) = self.wait_for_majority(&catalog, time).await?
        {
            return Ok(changed);
        }
        let watch = time.map(|time| Watch::new(self.connection.clone(), time));
        let read = match self.read_collections(&catalog, time, watch).await? {
            Ok(read) => read,
            Err(changed) => return Ok(changed),
        };
        if time.is_none() {
            let after = Catalog::list(&self.connection, &self.selection).await?;
            if let Some(lost) = after.first_lost_from(&catalog) {
                return Ok(Attempt::Changed {
                    namespace: lost.to_string(),
                    operation: "drop or rename".to_owned(),
                });
            }
        }
        Ok(Attempt::Complete(Box::new(Everything {
            deployment: self.deployment.clone(),
            catalog,
            time,
            read,
        })))
    }

    /// The catalogue, and a time at which it was like that.
    async fn catalog_at_a_time(&self) -> Result<(Catalog, Timestamp), MongodbError> {
        let mut since = last_write(&self.connection).await?;
        // An idle server would not show before the first change that the oplog may not be read.
        Watch::new(self.connection.clone(), since)
            .check_reach()
            .await?;
        let mut catalog = Catalog::list(&self.connection, &self.selection).await?;
        let mut last = None;
        for _ in 0..LISTINGS {
            let time = last_write(&self.connection).await?;
            let mut watch = Watch::new(self.connection.clone(), since);
            let mut changes = watch.poll().await?;
            changes.retain(|change| change.time <= time && self.is_ours(change));
            let Some(change) = changes.last() else {
                return Ok((catalog, time));
            };
            last = Some(change.clone());
            since = time;
            let databases: BTreeSet<&str> = changes
                .iter()
                .flat_map(|change| change.databases())
                .collect();
            let ours = self.selection.databases();
            // Others the account may not even be allowed to look into.
            for db in databases
                .into_iter()
                .filter(|db| ours.as_ref().is_none_or(|ours| ours.contains(db)))
            {
                catalog
                    .list_database(&self.connection, &self.selection, db)
                    .await?;
            }
        }
        let (namespace, operation) = match &last {
            Some(change) => (self.concerned(change, &catalog), change.operation.clone()),
            None => Default::default(),
        };
        Err(MongodbError::CatalogChanging {
            namespace,
            operation,
            rounds: LISTINGS,
        })
    }

    fn is_ours(&self, change: &Change) -> bool {
        change.targets.iter().any(|target| match target {
            super::oplog::Target::Collection(one) => self.selection.wants(one),
            super::oplog::Target::Database(_) => true,
        })
    }

    fn concerned(&self, change: &Change, catalog: &Catalog) -> String {
        let ours = catalog.entries().map(|entry| &entry.namespace);
        let ours: Vec<&Namespace> = ours.filter(|one| change.concerns(one)).collect();
        match ours.first() {
            Some(namespace) => namespace.to_string(),
            None => change.databases().next().unwrap_or_default().to_owned(),
        }
    }

    fn check_selection(&self, catalog: &Catalog) -> Result<(), MongodbError> {
        let filter = &self.selection.filter;
        let unmatched = catalog.unmatched(filter);
        let everything = filter.include().is_empty();
        // A server has collections of its own in config, whoever else lost theirs.
        let of_the_server = |namespace: &Namespace| {
            users::is_users_or_roles(namespace) || (everything && namespace.db == "config")
        };
        let counts = |entry: &CatalogEntry| !of_the_server(&entry.namespace);
        if unmatched.is_empty() && catalog.entries().any(counts) {
            return Ok(());
        }
        let server = self.connection.server().to_owned();
        if everything {
            return Err(MongodbError::NothingThere { server });
        }
        let patterns: Vec<String> = if unmatched.is_empty() {
            filter.include().iter().map(ToString::to_string).collect()
        } else {
            unmatched
        };
        Err(MongodbError::NothingSelected {
            server,
            patterns: patterns.join(", "),
        })
    }

    /// Waits until the time can be read at.
    async fn wait_for_majority(
        &self,
        catalog: &Catalog,
        time: Timestamp,
    ) -> Result<Option<Attempt>, MongodbError> {
        let readable = catalog
            .entries()
            .find(|entry| !entry.capped && entry.data.is_some());
        let Some(data) = readable.and_then(|entry| entry.data.as_ref()) else {
            return Ok(None);
        };
        let command = doc! {
            "find": &data.collection, "limit": 1, "projection": {"_id": 1},
            "readConcern": Moment::At(time).read_concern(),
            "maxTimeMS": i64::try_from(MAJORITY_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
        };
        let action = format!("read {data} at a cluster time");
        match collect(&self.connection, &data.db, action, command).await {
            Ok(_) => Ok(None),
            Err(error) if error.code() == Some(code::MAX_TIME_EXPIRED) => {
                Err(MongodbError::NoMajority {
                    server: self.connection.server().to_owned(),
                    seconds: MAJORITY_TIMEOUT.as_secs(),
                })
            }
            Err(error) if may_be_a_change(&error) => Ok(Some(Attempt::Changed {
                namespace: data.to_string(),
                operation: error.to_string(),
            })),
            Err(error) => Err(error),
        }
    }

    async fn read_collections(
        &self,
        catalog: &Catalog,
        time: Option<Timestamp>,
        mut watch: Option<Watch>,
    ) -> Result<Result<BTreeMap<Namespace, CollectionRead>, Attempt>, MongodbError> {
        let finished = Finished::default();
        let mut entries: Vec<&CatalogEntry> = catalog
            .entries()
            .filter(|entry| entry.data.is_some())
            .collect();
        // Small collections first: they are the ones that come and go.
        entries.sort_by_key(|entry| entry.bytes);
        let mut entries = entries.into_iter();
        let mut tasks = JoinSet::new();
        let mut read = BTreeMap::new();
        let mut clock = tokio::time::interval(WATCH_INTERVAL);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // As many as there are cursors, so that they begin in order.
            while tasks.len() < self.cursors
                && let Some(entry) = entries.next()
            {
                self.spawn(&mut tasks, entry.clone(), time, &finished);
            }
            let changes = tokio::select! {
                joined = tasks.join_next() => match joined {
                    None => break,
                    Some(Err(died)) => return Err(self.task_died(&died)),
                    Some(Ok((namespace, Ok(one)))) => {
                        read.insert(namespace, one);
                        continue;
                    }
                    Some(Ok((namespace, Err(error)))) => {
                        return self.explain(namespace, error, catalog, &finished, watch).await.map(Err);
                    }
                },
                _ = clock.tick() => match &mut watch {
                    Some(watch) => watch.poll().await?,
                    None => continue,
                },
            };
            if let Some(hit) = self.first_hit(&changes, catalog, &finished) {
                return Ok(Err(hit));
            }
        }
        // Whatever came between the last look and the end.
        if let Some(watch) = &mut watch {
            let changes = watch.poll().await?;
            if let Some(hit) = self.first_hit(&changes, catalog, &finished) {
                return Ok(Err(hit));
            }
        }
        Ok(Ok(read))
    }

    fn spawn(
        &self,
        tasks: &mut JoinSet<CollectionResult>,
        entry: CatalogEntry,
        time: Option<Timestamp>,
        finished: &Finished,
    ) {
        let moment = match time {
            Some(_) if entry.capped => Moment::Majority,
            Some(time) => Moment::At(time),
            None => Moment::Local,
        };
        let (reader, connection) = (self.reader.clone(), self.connection.clone());
        let finished = Arc::clone(finished);
        tasks.spawn(async move {
            let data = entry.data.as_ref().unwrap_or(&entry.namespace);
            let read = async {
                let read = reader.read(&entry, data, moment).await?;
                let after = match time {
                    Some(_) => Some(last_write(&connection).await?),
                    None => None,
                };
                let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
                finished.insert(entry.namespace.clone(), after);
                Ok(read)
            };
            let read = read.await;
            (entry.namespace, read)
        });
    }

    /// The first change that took a collection away before it had been read.
    fn first_hit(
        &self,
        changes: &[Change],
        catalog: &Catalog,
        finished: &Finished,
    ) -> Option<Attempt> {
        let finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes.iter().filter(|change| change.destructive) {
            let hit = catalog.entries().find(|entry| {
                entry.data.is_some()
                    && change.concerns(&entry.namespace)
                    && match finished.get(&entry.namespace) {
                        Some(Some(after)) => change.time <= *after,
                        _ => true,
                    }
            });
            if let Some(entry) = hit {
                return Some(Attempt::Changed {
                    namespace: entry.namespace.to_string(),
                    operation: change.operation.clone(),
                });
            }
        }
        None
    }

    /// A collection could not be read: because it changed (then that is what happened), or not.
    async fn explain(
        &self,
        namespace: Namespace,
        error: MongodbError,
        catalog: &Catalog,
        finished: &Finished,
        watch: Option<Watch>,
    ) -> Result<Attempt, MongodbError> {
        if !may_be_a_change(&error) {
            return Err(error);
        }
        if let Some(mut watch) = watch {
            let changes = watch.poll().await?;
            if let Some(hit) = self.first_hit(&changes, catalog, finished) {
                return Ok(hit);
            }
            let ours = changes.iter().find(|change| change.concerns(&namespace));
            if let Some(change) = ours {
                return Ok(Attempt::Changed {
                    namespace: namespace.to_string(),
                    operation: change.operation.clone(),
                });
            }
        }
        tracing::info!(%namespace, %error, "The collection can no longer be read as it was.");
        Ok(Attempt::Changed {
            namespace: namespace.to_string(),
            operation: "a change of the collection".to_owned(),
        })
    }

    fn task_died(&self, error: &tokio::task::JoinError) -> MongodbError {
        MongodbError::Server {
            action: "read collections".to_owned(),
            server: self.connection.server().to_owned(),
            code: 0,
            cause: format!("the task that did it died: {error}"),
        }
    }
}

/// Whether an error is what a server says of a collection that was dropped, renamed or changed
/// under a read.
fn may_be_a_change(error: &MongodbError) -> bool {
    matches!(
        error.code(),
        Some(
            code::NAMESPACE_NOT_FOUND
                | code::CURSOR_NOT_FOUND
                | code::COMMAND_NOT_SUPPORTED_ON_VIEW
                | code::QUERY_PLAN_KILLED
                | code::SNAPSHOT_UNAVAILABLE
        )
    )
}
