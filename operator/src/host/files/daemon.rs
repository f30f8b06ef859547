//! Reconciles plain files for as long as the process lives: one thread per object, woken by time, by
//! a change of the files, and by the end of a run. A thread and not a task, so that the reading and
//! hashing of one run does not hold up another's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::host::files::FilesHost;
use crate::host::files::converge::{Converger, Passed};
use crate::host::files::departed::{self, DeclaredKey};
use crate::host::files::load::{self, References};
use crate::host::files::watch::Watch;
use crate::host::observer::Observer;
use crate::host::{Declared, Host, Name};

/// How long an object that nothing happens to is left alone: what changes in a destination without
/// us is seen this late.
const RESYNC: Duration = Duration::from_secs(600);

/// How long destinations are left alone.
const DESTINATION_RESYNC: Duration = Duration::from_secs(300);

/// The shortest sleep: a plan that says "now" again and again must not turn in place.
const SHORTEST: Duration = Duration::from_secs(1);

/// Which task an object has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Policy(Name),
    Destination(Name),
    Restore(Name),
}

#[derive(Debug)]
struct Driver {
    wake: Arc<Notify>,
    stop: CancellationToken,
    handle: Option<JoinHandle<()>>,
}

/// Reconciles plain files until it is cancelled.
#[derive(Debug)]
pub struct Daemon {
    converger: Converger<FilesHost>,
    observer: Observer,
    paths: Vec<PathBuf>,
    drivers: BTreeMap<Task, Driver>,
    ended: Vec<JoinHandle<()>>,
    unseen: Arc<AtomicUsize>,
    leaving: Option<Leaving>,
    deleting: Option<JoinHandle<()>>,
}

/// What the files do not declare any more, and since when they did not.
#[derive(Debug)]
struct Leaving {
    since: Instant,
    gone: BTreeSet<DeclaredKey>,
}

impl Daemon {
    /// A daemon for the files below `paths`; they are loaded already.
    #[must_use]
    pub fn new(converger: Converger<FilesHost>, observer: Observer, paths: Vec<PathBuf>) -> Self {
        Self {
            converger,
            observer,
            paths,
            drivers: BTreeMap::new(),
            ended: Vec::new(),
            unseen: Arc::default(),
            leaving: None,
            deleting: None,
        }
    }

    /// Runs until it is cancelled, and then until every run has ended.
    pub async fn run(mut self) {
        let host = self.converger.runner.host.clone();
        let cancel = self.converger.runner.cancel.clone();
        let (mut watch, errors) = Watch::new(&self.paths);
        for error in errors {
            tracing::warn!(%error, "Files cannot be watched.");
        }
        let secrets: Vec<PathBuf> = host.secrets_dir().into_iter().collect();
        let (mut secrets, errors) = Watch::new(&secrets);
        for error in errors {
            tracing::warn!(%error, "Secrets cannot be watched.");
        }
        let declared = host.declared();
        // Ready is who has seen every destination once; runs may take hours, and are not waited for.
        let unseen = Arc::new(AtomicUsize::new(declared.destinations.len()));
        if declared.destinations.is_empty() {
            self.observer.first_pass_done();
        }
        self.unseen = unseen;
        if self.settled(&declared).await {
            departed::take_leave(&self.converger.runner, &declared, &self.paths).await;
        }
        self.follow(&declared);
        let mut again = tokio::time::interval(DESTINATION_RESYNC);
        loop {
            self.delete_what_was_promised();
            let settled = self
                .leaving
                .as_ref()
                .map(|leaving| leaving.since + departed::SETTLED);
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = watch.changed() => self.reload(&host).await,
                // One that was missing may be there now.
                () = secrets.told() => self.wake(),
                () = until_instant(settled) => self.reload(&host).await,
                // What could not be deleted when its object went away is tried again.
                _ = again.tick() => {}
            }
        }
        let drivers = std::mem::take(&mut self.drivers).into_values();
        let threads: Vec<_> = drivers
            .filter_map(|driver| driver.handle)
            .chain(self.ended)
            .chain(self.deleting)
            .collect();
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // One that died was told of by its own run.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }

    /// Takes over what the files say now. Files that are wrong change nothing: what was declared
    /// before stays in force, and the problems are told.
    async fn reload(&mut self, host: &Arc<FilesHost>) {
        let paths = self.paths.clone();
        let loaded =
            tokio::task::spawn_blocking(move || load::load(&paths, References::Checked)).await;
        let Ok(loaded) = loaded else { return };
        if !loaded.problems.is_empty() {
            for problem in &loaded.problems {
                tracing::error!(%problem, "The files are wrong; what they said before stays in force.");
            }
            return;
        }
        let declared = Declared::from_loaded(loaded.resources);
        if !self.settled(&declared).await {
            return;
        }
        departed::take_leave(&self.converger.runner, &declared, &self.paths).await;
        if declared.same_as(&host.declared()) {
            return;
        }
        tracing::info!(
            policies = declared.policies.len(),
            destinations = declared.destinations.len(),
            backups = declared.backups.len(),
            restores = declared.restores.len(),
            "The files have changed."
        );
        host.replace(declared);
        self.follow(&host.declared());
    }

    fn wake(&self) {
        for driver in self.drivers.values() {
            driver.wake.notify_one();
        }
    }

    /// Whether what the files say may be taken for what is meant: nothing went away from them, or it
    /// was gone for some time. A file that is being written is empty for a moment, and what goes with
    /// an object does not come back.
    async fn settled(&mut self, declared: &Declared) -> bool {
        let gone = departed::gone(&self.converger.runner, declared, &self.paths).await;
        if gone.is_empty() {
            self.leaving = None;
            return true;
        }
        match &self.leaving {
            Some(leaving) if leaving.gone == gone => {
                let settled = leaving.since.elapsed() >= departed::SETTLED;
                if settled {
                    self.leaving = None;
                }
                settled
            }
            _ => {
                tracing::info!(
                    objects = gone.len(),
                    "The files do not declare some objects any more; these go if that is still so in 10 seconds."
                );
                self.leaving = Some(Leaving {
                    since: Instant::now(),
                    gone,
                });
                false
            }
        }
    }

    /// Deletes what was promised, beside everything else: it may take long.
    fn delete_what_was_promised(&mut self) {
        if let Some(deleting) = self.deleting.take_if(|one| one.is_finished()) {
            // One that died was told of by its own run.
            let _ = deleting.join();
        }
        if self.deleting.is_some() {
            return;
        }
        let runner = self.converger.runner.clone();
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("delete".to_owned());
        let started = thread.spawn(move || {
            runtime.block_on(departed::delete_what_was_promised(&runner));
        });
        match started {
            Ok(handle) => self.deleting = Some(handle),
            Err(error) => {
                tracing::error!(%error, "No thread could be started to delete what was promised.");
            }
        }
    }

    /// Starts a task for each new object, ends those of objects that went away, and wakes the rest.
    fn follow(&mut self, declared: &Declared) {
        self.observer.retain(declared);
        let wanted: BTreeSet<Task> = declared
            .destinations
            .keys()
            .cloned()
            .map(Task::Destination)
            .chain(declared.policies.keys().cloned().map(Task::Policy))
            .chain(declared.restores.keys().cloned().map(Task::Restore))
            .collect();
        let gone: Vec<Task> = self
            .drivers
            .keys()
            .filter(|task| !wanted.contains(task))
            .cloned()
            .collect();
        for task in gone {
            if let Some(driver) = self.drivers.remove(&task) {
                // A run that is going on ends first.
                driver.stop.cancel();
                self.ended.extend(driver.handle);
            }
        }
        self.ended.retain(|handle| !handle.is_finished());
        for task in wanted {
            match self.drivers.get(&task) {
                Some(driver) => driver.wake.notify_one(),
                None => {
                    let driver = self.drive(task.clone());
                    self.drivers.insert(task, driver);
                }
            }
        }
    }

    fn drive(&self, task: Task) -> Driver {
        let wake = Arc::new(Notify::new());
        let stop = self.converger.runner.cancel.child_token();
        let converger = self.converger.clone();
        let observer = self.observer.clone();
        let (woken, stopped) = (wake.clone(), stop.clone());
        let unseen = matches!(task, Task::Destination(_)).then(|| self.unseen.clone());
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("reconcile".to_owned());
        let handle = match thread.spawn(move || {
            runtime.block_on(drive(
                &converger, &observer, &task, unseen, &woken, &stopped,
            ));
        }) {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::error!(%error, "No thread could be started for an object; it is not reconciled.");
                None
            }
        };
        Driver { wake, stop, handle }
    }
}

async fn pass(converger: &Converger<FilesHost>, observer: &Observer, task: &Task) -> Passed {
    match task {
        Task::Policy(name) => {
            let passed = converger.policy(name).await;
            observer.policy(&converger.runner, name).await;
            passed
        }
        Task::Destination(name) => {
            observer.destination(&converger.runner, name).await;
            Passed::default()
        }
        Task::Restore(name) => converger.restore(name).await,
    }
}

async fn until_instant(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn until(next: Option<Timestamp>, longest: Duration) -> Duration {
    let wanted = next.map_or(longest, |next| {
        Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default()
    });
    wanted.clamp(SHORTEST, longest)
}

/// Brings one object about until it is told to stop.
async fn drive(
    converger: &Converger<FilesHost>,
    observer: &Observer,
    task: &Task,
    mut unseen: Option<Arc<AtomicUsize>>,
    woken: &Notify,
    stopped: &CancellationToken,
) {
    if let Task::Policy(name) = task {
        // The metrics tell when it runs next before its first run has ended.
        observer.policy(&converger.runner, name).await;
    }
    loop {
        let passed = pass(converger, observer, task).await;
        if unseen
            .take()
            .is_some_and(|unseen| unseen.fetch_sub(1, Ordering::AcqRel) == 1)
        {
            observer.first_pass_done();
        }
        let longest = if matches!(task, Task::Destination(_)) {
            DESTINATION_RESYNC
        } else {
            RESYNC
        };
        tokio::select! {
            () = tokio::time::sleep(until(passed.next, longest)) => {}
            () = woken.notified() => {}
            () = stopped.cancelled() => return,
        }
    }
}
