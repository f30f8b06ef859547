//! What the controllers share, and how each of them runs: kube's own scheduler, bounded concurrency,
//! a growing pause after failures, and no pause that ends by itself where only a change can help.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::Timestamp;
use kube::Resource;
use kube::runtime::controller::{Action, Config, Error};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{applier, reflector::Store};
use tokio_util::sync::CancellationToken;

use super::host::KubernetesHost;
use super::job::JobSettings;
use super::wakes::Wakes;
use crate::host::observer::Observer;
use crate::host::{Host, Name, View};
use crate::run::RunError;

/// The first pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The longest pause after passes that the API server did not let end: nothing tells when it is back,
/// and what fell due meanwhile should not wait for minutes more.
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(20);

/// How long an object that nothing happens to is left alone: retention forgets by time, too.
const RESYNC: Duration = Duration::from_secs(3600);

/// The shortest pause: a plan that says "now" again and again must not turn in place.
const SHORTEST: Duration = Duration::from_millis(500);

/// What the controllers share.
#[derive(Debug)]
pub struct Operator {
    /// The cluster.
    pub host: Arc<KubernetesHost>,
    /// What the reconcilers look through.
    pub view: View<KubernetesHost>,
    /// Who is to be looked at.
    pub wakes: Arc<Wakes>,
    /// What is told to the metrics.
    pub observer: Observer,
    /// How Jobs are made.
    pub jobs: JobSettings,
    /// How long a listing is good.
    pub sync_interval: Duration,
    /// How many restore points of a policy are shown as objects.
    pub max_backups: usize,
    /// Failures in a row, by kind and name.
    failures: Mutex<HashMap<(&'static str, Name), u32>>,
}

/// When an object is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At this moment, or when something changes.
    At(Timestamp),
    /// When something changes; and after a long while all the same.
    Change,
    /// It is gone or done.
    Never,
    /// After a pause that grows: what is needed cannot be used now.
    Pause,
}

impl Next {
    /// At the moment, if there is one.
    #[must_use]
    pub fn at(moment: Option<Timestamp>) -> Self {
        moment.map_or(Self::Change, Self::At)
    }

    /// The earlier of two.
    #[must_use]
    pub fn or_at(self, moment: Timestamp) -> Self {
        match self {
            Self::At(other) => Self::At(other.min(moment)),
            _ => Self::At(moment),
        }
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PassError {
    class: ErrorClass,
    message: String,
}

impl PassError {
    /// Keeps the class and the words of an error.
    pub fn new(error: &impl Classified) -> Self {
        Self {
            class: error.class(),
            message: error.to_string(),
        }
    }
}

impl From<RunError> for PassError {
    fn from(error: RunError) -> Self {
        Self {
            class: error.class(),
            message: error.to_string(),
        }
    }
}

/// A kind that is reconciled.
pub trait Controlled: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static {
    /// Its name.
    const KIND: &'static str;

    /// Whether metrics tell of its objects.
    const IS_MEASURED: bool = false;

    /// One pass over an object.
    ///
    /// # Errors
    /// When it could not be brought to its end.
    fn pass(operator: &Operator, name: &Name) -> impl Future<Output = Result<Next, PassError>>;
}

impl Operator {
    /// A new one; nothing is known to have failed.
    #[must_use]
    pub fn new(
        host: Arc<KubernetesHost>,
        wakes: Arc<Wakes>,
        observer: Observer,
        jobs: JobSettings,
        sync_interval: Duration,
        max_backups: usize,
    ) -> Self {
        Self {
            view: View::new(host.clone()),
            host,
            wakes,
            observer,
            jobs,
            sync_interval,
            max_backups,
            failures: Mutex::default(),
        }
    }

    fn failed(&self, kind: &'static str, name: &Name) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry((kind, name.clone())).or_default();
        *count = count.saturating_add(1);
        pause(*count)
    }

    fn went_well(&self, kind: &'static str, name: &Name) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(kind, name.clone()));
    }

    fn action(&self, kind: &'static str, name: &Name, next: Next) -> Action {
        if next == Next::Pause {
            return Action::requeue(self.failed(kind, name));
        }
        self.went_well(kind, name);
        match next {
            Next::At(moment) => {
                let wait = Duration::try_from(moment.duration_since(Timestamp::now()));
                Action::requeue(wait.unwrap_or_default().clamp(SHORTEST, RESYNC))
            }
            Next::Change | Next::Pause => Action::requeue(RESYNC),
            Next::Never => Action::await_change(),
        }
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_PAUSE
        .saturating_mul(1 << doublings)
        .min(LONGEST_PAUSE)
}

/// Reconciles the objects of one kind until it is cancelled, and then until the passes that were
/// begun have ended.
pub async fn control<K: Controlled>(
    operator: Arc<Operator>,
    store: Store<K>,
    woken: UnboundedReceiver<ObjectRef<K>>,
    concurrency: u16,
    cancel: CancellationToken,
) {
    let queue = woken
        .take_until(cancel.cancelled_owned())
        .map(Ok::<_, Infallible>);
    let passes = applier(
        |object: Arc<K>, operator: Arc<Operator>| Box::pin(one(object, operator)),
        |object: Arc<K>, error: &PassError, operator: Arc<Operator>| {
            let name = Name::of(object.as_ref());
            tracing::warn!(kind = K::KIND, %name, %error, "An object could not be reconciled.");
            match error.class {
                ErrorClass::Permanent | ErrorClass::Damaged => Action::requeue(RESYNC),
                ErrorClass::Waiting => Action::requeue(operator.failed(K::KIND, &name)),
                ErrorClass::Transient => {
                    Action::requeue(operator.failed(K::KIND, &name).min(LONGEST_OUTAGE_PAUSE))
                }
            }
        },
        operator.clone(),
        store,
        queue,
        Config::default().concurrency(concurrency),
    );
    passes
        .for_each(|passed| async {
            match passed {
                Err(Error::RunnerError(error)) => {
                    tracing::error!(kind = K::KIND, %error, "A controller has broken off.");
                }
                // It is gone. That is known here after its last pass, so that none tells of it again.
                Err(Error::ObjectNotFound(_)) if K::IS_MEASURED => {
                    operator.observer.retain(&operator.host.declared());
                }
                // Failures are told where their pause is decided.
                _ => {}
            }
        })
        .await;
}

/// One pass, on a thread that may block: the engine's futures stay on the thread they began on.
async fn one<K: Controlled>(object: Arc<K>, operator: Arc<Operator>) -> Result<Action, PassError> {
    let name = Name::of(object.as_ref());
    let runtime = tokio::runtime::Handle::current();
    let passed = tokio::task::spawn_blocking(move || {
        let next = runtime.block_on(K::pass(&operator, &name))?;
        Ok(operator.action(K::KIND, &name, next))
    });
    passed.await.unwrap_or_else(|error| {
        Err(PassError {
            class: ErrorClass::Transient,
            message: format!("the pass ended in a defect of the program: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_to_five_minutes() {
        let seconds: Vec<u64> = (1..=9).map(|count| pause(count).as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
