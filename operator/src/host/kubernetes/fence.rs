//! Who does not hold the lease writes nothing. A process that stood still, and goes on after another one
//! has taken over, has requests ready that were right when they were decided: they are stopped here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::{Method, Request};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::BoxError;
use tower::filter::FilterLayer;

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
#[error("the lease is not held any more, and another replica may write now")]
pub struct NotHeld;

/// Lets writes pass while the lease is held. Clones are the same fence.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<Mutex<Until>>);

#[derive(Debug, Clone, Copy, Default)]
enum Until {
    /// There is no election.
    #[default]
    Always,
    /// The lease is not held.
    Never,
    /// It is held for certain until then.
    Moment(Instant),
}

impl Fence {
    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Lets nothing pass until the lease is held.
    pub fn close(&self) {
        self.set(Until::Never);
    }

    /// Lets writes pass until this moment.
    pub fn open_until(&self, moment: Instant) {
        self.set(Until::Moment(moment));
    }

    fn is_open(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Always => true,
            Until::Never => false,
            Until::Moment(moment) => now < moment,
        }
    }

    fn check<B>(&self, request: Request<B>, now: Instant) -> Result<Request<B>, NotHeld> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if reads || self.is_open(now) {
            Ok(request)
        } else {
            Err(NotHeld)
        }
    }

    /// A client whose writes it lets pass, or not.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn client(&self, config: Config) -> Result<Client, kube::Error> {
        let fence = self.clone();
        let layer = FilterLayer::new(move |request: Request<Body>| {
            fence.check(request, Instant::now()).map_err(BoxError::from)
        });
        Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_does_not_hold_the_lease_reads_and_does_not_write() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let fence = Fence::default();
        let passes = |method: Method, now| {
            let request = Request::builder().method(method).body(()).unwrap();
            fence.check(request, now).is_ok()
        };
        assert!(passes(Method::PATCH, now));
        fence.close();
        assert!(passes(Method::GET, now) && !passes(Method::PATCH, now));
        fence.open_until(later);
        assert!(passes(Method::POST, now));
        // It stood still for so long.
        assert!(!passes(Method::POST, later) && !passes(Method::DELETE, later));
        assert!(passes(Method::GET, later));
    }
}
