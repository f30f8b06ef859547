//! A pass over a Destination: look into it, tell its policies when it holds something else, and keep
//! the promise of `deletionPolicy: Delete`.

use holdfast_crds::{DeletionPolicy, Destination, Storage};
use jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::super::operator::{Controlled, Next, Operator, PassError};
use super::super::{catalogue, finalizer, harvest, watch};
use super::{claim, deletion};
use crate::host::{Host, Name};
use crate::reconcile::look::{Depth, Looked};

impl Controlled for Destination {
    const KIND: &'static str = "Destination";
    const IS_MEASURED: bool = true;

    async fn pass(operator: &Operator, name: &Name) -> Result<Next, PassError> {
        let host = &operator.host;
        let Some(object) = host.destinations.get(name) else {
            return Ok(Next::Never);
        };
        for job in host.history.owned_by(object.as_ref()) {
            if job.is_to_be_read() {
                harvest::harvest(operator, &job).await?;
            }
        }
        if object.meta().deletion_timestamp.is_some() {
            return deletion::destination(operator, name, &object).await;
        }
        finalizer::keep(
            operator,
            &host.destinations,
            object.as_ref(),
            object.spec.deletion_policy == DeletionPolicy::Delete,
        )
        .await?;
        let now = Timestamp::now();
        let last_handled = object
            .status
            .as_ref()
            .and_then(|status| status.last_handled_request.as_ref());
        let (_, forced) = super::patience(
            operator,
            Self::KIND,
            name,
            object.as_ref(),
            last_handled,
            now,
        );
        if forced {
            host.looks.expire(name);
        }
        let on_claim = matches!(object.spec.storage, Storage::Local(_));
        let looks = if on_claim {
            claim::look(operator, name, &object, forced, now).await
        } else {
            Next::Change
        };
        operator.observer.destination(&operator.view, name).await;
        let looked = host
            .look(&operator.view.repositories, name, Depth::Everything)
            .await;
        if host.looks.is_news(name, &looked) {
            watch::wake_users(host, &operator.wakes, name);
        }
        catalogue::sync_undeclared(operator, name, &looked).await?;
        harvest::release(operator, &host.history.owned_by(object.as_ref())).await?;
        if on_claim {
            return Ok(looks);
        }
        Ok(match looked.as_ref() {
            Looked::Open { .. } | Looked::Empty => {
                let interval = SignedDuration::try_from(operator.sync_interval)
                    .unwrap_or(SignedDuration::from_mins(10));
                Next::at(now.checked_add(interval + spread(&object)).ok())
            }
            Looked::Unusable { class, .. } => match class {
                holdfast_engine::class::ErrorClass::Permanent => Next::Change,
                _ => Next::Pause,
            },
        })
    }
}

/// Some seconds, the same for the same object: a thousand destinations are not listed in one moment.
fn spread(object: &Destination) -> SignedDuration {
    let sum: u32 = object
        .uid()
        .unwrap_or_default()
        .bytes()
        .map(u32::from)
        .sum();
    SignedDuration::from_secs(i64::from(sum % 20) + 1)
}
