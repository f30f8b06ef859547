//! A Destination on a claim: only a pod can look into it, and a Job is made for that until one has.

use std::sync::Arc;

use holdfast_crds::Destination;
use holdfast_engine::class::{Classified, ErrorClass};
use jiff::{SignedDuration, Timestamp};

use super::super::job::TaskKind;
use super::super::operator::{Next, Operator};
use super::super::record::JobRecord;
use super::super::{pods, start};
use crate::host::{Host, Name};
use crate::plan::backoff::delay;
use crate::reconcile::hosting;
use crate::reconcile::look::Looked;

/// How long one that cannot work as it is is left alone: nothing tells what changes in a claim.
const SELDOM: SignedDuration = SignedDuration::from_hours(1);

/// Makes a Job look into the claim where nobody has yet, or a pass was asked for; what the last one
/// failed at is what is known of the destination.
pub(super) async fn look(
    operator: &Operator,
    name: &Name,
    object: &Arc<Destination>,
    forced: bool,
    now: Timestamp,
) -> Next {
    let host = &operator.host;
    if !hosting::destination(host.surroundings(), &object.spec).is_empty() {
        return Next::Change;
    }
    let key = host.destination_key(name);
    let known = host.looks.last(name, key).await;
    let usable = matches!(known.as_deref(), Some(Looked::Open { .. } | Looked::Empty));
    let mut jobs = host.history.owned_by(object.as_ref());
    jobs.retain(|job| job.kind == TaskKind::Look);
    let tell = async |looked: Looked| {
        if !usable {
            host.looks.put(name, key, looked).await;
        }
    };
    if jobs.iter().any(|job| job.is_open()) {
        let seen = pods::trouble(operator, &jobs, now).await;
        if let Some(trouble) = seen.trouble {
            tell(Looked::Unusable {
                class: ErrorClass::Transient,
                reason: trouble.reason.to_owned(),
                message: trouble.message,
            })
            .await;
        }
        return Next::at(seen.again);
    }
    if usable && !forced {
        return Next::Change;
    }
    let mark = format!("{key:016x}");
    if let Some(before) = Before::of(&jobs, &mark) {
        if let Some(looked) = before.looked() {
            tell(looked).await;
        }
        if !forced && before.next() > now {
            return Next::At(before.next());
        }
    }
    match start::look_job(operator, name, object, mark).await {
        Ok(()) => Next::Change,
        Err(error) => {
            tell(Looked::unusable(&error)).await;
            match error.class() {
                ErrorClass::Permanent => Next::Change,
                _ => Next::Pause,
            }
        }
    }
}

/// The looks before, at what is declared now.
struct Before<'a> {
    /// Those in a row that failed.
    failures: u32,
    last: &'a JobRecord,
    ended: Timestamp,
}

impl<'a> Before<'a> {
    fn of(jobs: &'a [Arc<JobRecord>], mark: &str) -> Option<Self> {
        let same = |job: &&Arc<JobRecord>| job.purpose.fingerprint.as_deref() == Some(mark);
        let mut looks = jobs.iter().rev().take_while(same).peekable();
        let last = *looks.peek()?;
        let failures = looks.take_while(|job| job.has_failed()).count();
        Some(Self {
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            last,
            ended: last.kept.as_ref()?.ended,
        })
    }

    fn class(&self) -> ErrorClass {
        self.last
            .failure()
            .map_or(ErrorClass::Transient, |error| error.class.into())
    }

    /// When another one makes sense. After one that ended well, too, what it saw may not be known: it
    /// was told to an operator that is gone, or its log cannot be read.
    fn next(&self) -> Timestamp {
        let pause = match self.class() {
            ErrorClass::Transient | ErrorClass::Waiting => delay(self.failures),
            ErrorClass::Permanent | ErrorClass::Damaged => SELDOM,
        };
        self.ended.checked_add(pause).unwrap_or(Timestamp::MAX)
    }

    /// What the last one failed at.
    fn looked(&self) -> Option<Looked> {
        let error = self.last.failure()?;
        Some(Looked::Unusable {
            class: self.class(),
            reason: error.reason.clone(),
            message: error.message.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn look(number: u8, mark: &str, outcome: &Value) -> Arc<JobRecord> {
        let at = format!("2026-03-01T10:{number:02}:00Z");
        let kept = json!({"holder": "pod", "started": at, "ended": at, "outcome": outcome});
        let purpose = json!({"fingerprint": mark, "destinations": {}});
        let job = serde_json::from_value(json!({
            "metadata": {
                "namespace": "default", "name": format!("box-look-{number}"), "uid": "u",
                "creationTimestamp": at,
                "labels": {"app.kubernetes.io/managed-by": "holdfast", "holdfast.dev/run": "look"},
                "annotations": {
                    "holdfast.dev/purpose": purpose.to_string(),
                    "holdfast.dev/outcome": kept.to_string(),
                },
            },
        }))
        .unwrap();
        Arc::new(JobRecord::of(&job).unwrap())
    }

    fn failed(class: &str) -> Value {
        json!({"result": "Failed", "error": {
            "message": "no key of it opens", "class": class, "reason": "WrongPassword",
        }})
    }

    fn minutes(jobs: &[Arc<JobRecord>], mark: &str) -> Option<i64> {
        let before = Before::of(jobs, mark)?;
        Some(before.next().duration_since(before.ended).as_mins())
    }

    #[test]
    fn the_pause_grows_with_the_looks_that_failed() {
        let jobs: Vec<_> = (0..4)
            .map(|one| look(one, "a", &failed("transient")))
            .collect();
        assert_eq!(minutes(&jobs[..1], "a"), Some(1));
        assert_eq!(minutes(&jobs, "a"), Some(8));
        // What cannot work as it is, is looked at seldom; what is declared otherwise, at once.
        assert_eq!(
            minutes(&[look(0, "a", &failed("permanent"))], "a"),
            Some(60)
        );
        assert_eq!(minutes(&jobs, "b"), None);
        assert_eq!(minutes(&[], "a"), None);
        let well = look(5, "a", &json!({"result": "Succeeded"}));
        assert_eq!(minutes(&[jobs[0].clone(), well], "a"), Some(1));
    }

    #[test]
    fn what_the_last_one_failed_at_is_told() {
        let jobs = [look(0, "a", &failed("permanent"))];
        let looked = Before::of(&jobs, "a").and_then(|before| before.looked());
        assert!(
            matches!(looked, Some(Looked::Unusable { reason, .. }) if reason == "WrongPassword")
        );
        let well = [look(0, "a", &json!({"result": "Succeeded"}))];
        assert!(Before::of(&well, "a").unwrap().looked().is_none());
    }
}
