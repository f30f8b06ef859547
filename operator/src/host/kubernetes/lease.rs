//! Leader election by a Lease: one replica at a time writes. Who holds it renews it in time or ends;
//! who waits takes it over when it was not renewed for as long as it says.
//!
//! The clocks of two machines are not compared: a waiting replica measures for how long the record
//! has not changed. Each write names the version it is based on, so that of two that take the lease
//! over at once one is refused.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::fence::Fence;

/// The name of the lease.
pub const LEASE: &str = "holdfast-operator";

/// How a lease is held.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long it is held without being renewed.
    pub duration: Duration,
    /// How long the holder tries to renew it before it gives up: less than `duration`, so that it
    /// has ended before another one begins.
    pub deadline: Duration,
    /// The pause between two tries.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a look at the lease came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This process holds it.
    Held,
    /// Another one does.
    Other,
}

/// One candidate.
pub struct Election {
    api: Api<Lease>,
    namespace: String,
    identity: String,
    times: Times,
    /// The version of the record when it was last seen to be another one, and when that was.
    seen: Option<(String, Instant)>,
    /// The record as this process wrote it last.
    held: Option<Lease>,
    /// What writes while the lease is held.
    fence: Fence,
}

impl Election {
    /// A candidate called `identity`, which no other may be called. The fence opens while it holds the
    /// lease.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        identity: String,
        times: Times,
        fence: Fence,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            identity,
            times,
            seen: None,
            held: None,
            fence,
        }
    }

    /// Waits until this process holds the lease, and says since when: the moment before it asked,
    /// since the others count from when the answer was made. `None` when it was cancelled before.
    pub async fn win(&mut self, cancel: &CancellationToken) -> Option<Instant> {
        let mut told = false;
        // An answer that comes when the lease has run out again is worth nothing.
        let patience = self.times.deadline / 2;
        loop {
            let began = Instant::now();
            let tried = tokio::time::timeout(patience, self.try_once(began)).await;
            match tried.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into()))) {
                Ok(Standing::Held) => {
                    self.fence.open_until(began + self.times.deadline);
                    return Some(began);
                }
                Ok(Standing::Other) => {
                    if !told {
                        tracing::info!(lease = LEASE, "Another replica leads; this one waits.");
                        told = true;
                    }
                }
                Err(error) => {
                    tracing::warn!(lease = LEASE, %error, "The lease cannot be read or written.");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.times.retry) => {}
                () = cancel.cancelled() => return None,
            }
        }
    }

    /// Renews the lease, held since a moment, until that fails for too long, or until it is cancelled;
    /// says whether it is still held.
    pub async fn keep(&mut self, since: Instant, cancel: &CancellationToken) -> bool {
        let mut renewed = since;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.times.retry) => {}
                () = cancel.cancelled() => return true,
            }
            let left = self.times.deadline.saturating_sub(renewed.elapsed());
            let began = Instant::now();
            match tokio::time::timeout(left, self.try_once(began)).await {
                Ok(Ok(Standing::Held)) => {
                    renewed = began;
                    self.fence.open_until(began + self.times.deadline);
                }
                Ok(Ok(Standing::Other)) => return false,
                Ok(Err(error)) => {
                    tracing::warn!(lease = LEASE, %error, "The lease was not renewed; it is tried again.");
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= self.times.deadline {
                return false;
            }
        }
    }

    /// Lets another replica begin at once.
    pub async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(LEASE).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api
                    .replace(LEASE, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        let released = tokio::time::timeout(Duration::from_secs(3), released).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(
                lease = LEASE,
                "The lease was not released; it runs out by itself."
            );
        }
    }

    /// Takes or renews the lease, if that may be.
    async fn try_once(&mut self, now: Instant) -> Result<Standing, kube::Error> {
        // Who wrote it last needs not read it: the write fails if anybody else has written since.
        if let Some(lease) = self.held.take()
            && self.write(lease).await? == Standing::Held
        {
            return Ok(Standing::Held);
        }
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(LEASE.to_owned()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(claimed(None, &self.identity, self.times, Timestamp::now())),
            };
            let answer = self.api.create(&PostParams::default(), &lease).await;
            return self.won(answer);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, now));
        }
        let unchanged = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| now.duration_since(*since));
        if !may_take(lease.spec.as_ref(), &self.identity, unchanged) {
            return Ok(Standing::Other);
        }
        self.write(lease).await
    }

    /// Writes this process into the record, unless that is another one by now.
    async fn write(&mut self, lease: Lease) -> Result<Standing, kube::Error> {
        let before = lease.spec.as_ref();
        let spec = claimed(before, &self.identity, self.times, Timestamp::now());
        let lease = Lease {
            spec: Some(spec),
            ..lease
        };
        let answer = self
            .api
            .replace(LEASE, &PostParams::default(), &lease)
            .await;
        self.won(answer)
    }

    fn won(&mut self, answer: Result<Lease, kube::Error>) -> Result<Standing, kube::Error> {
        match answer {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(Standing::Held)
            }
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Standing::Other),
            Err(error) => Err(error),
        }
    }
}

/// Whether a candidate may write itself into a lease that has not changed for so long.
fn may_take(spec: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> bool {
    let Some(spec) = spec else { return true };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let duration = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(Times::default().duration, Duration::from_secs);
    holder.is_empty() || holder == identity || unchanged >= duration
}

/// The record with this candidate in it.
fn claimed(before: Option<&LeaseSpec>, identity: &str, times: Times, now: Timestamp) -> LeaseSpec {
    let same = before
        .and_then(|spec| spec.holder_identity.as_deref())
        .is_some_and(|holder| holder == identity);
    let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let acquired = before
        .filter(|_| same)
        .and_then(|spec| spec.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(times.duration.as_secs()).ok(),
        acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same || before.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str) -> LeaseSpec {
        claimed(None, identity, Times::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_lease_is_taken_over_only_when_it_has_run_out() {
        let spec = held_by("one");
        let seconds = Duration::from_secs;
        assert!(may_take(None, "two", seconds(0)));
        assert!(may_take(Some(&spec), "one", seconds(0)));
        assert!(!may_take(Some(&spec), "two", seconds(14)));
        assert!(may_take(Some(&spec), "two", seconds(15)));
        let released = LeaseSpec {
            holder_identity: Some(String::new()),
            ..spec
        };
        assert!(may_take(Some(&released), "two", seconds(0)));
    }

    #[test]
    fn who_renews_keeps_the_time_and_who_takes_over_is_counted() {
        let later = Timestamp::from_second(60).unwrap();
        let first = held_by("one");
        let renewed = claimed(Some(&first), "one", Times::default(), later);
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(0));
        let taken = claimed(Some(&renewed), "two", Times::default(), later);
        assert_eq!(taken.acquire_time, Some(MicroTime(later)));
        assert_eq!(taken.lease_transitions, Some(1));
    }

    #[test]
    fn the_holder_gives_up_before_another_begins() {
        let times = Times::default();
        assert!(times.deadline + times.retry < times.duration);
    }
}
