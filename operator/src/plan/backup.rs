//! Whether a backup of a policy starts now: on schedule, again after a failure, or because a
//! Backup object asks for it.

use holdfast_engine::class::ErrorClass;
use jiff::Timestamp;

use super::action::{Action, BackupReason};
use super::backoff::{MAX_ATTEMPTS, retry_at};
use super::observed::{Attempts, BackupRequest, PolicyObservation, Task};
use super::policy::PolicyDesire;
use super::schedule::{Decision, Starts, Timetable};

/// A backup that starts now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) reason: BackupReason,
    pub(super) scheduled_for: Option<Timestamp>,
    pub(super) tags: Vec<String>,
}

/// What there is to do about backups: at most one starts, and the rest waits.
#[derive(Debug, Default)]
pub(super) struct Decided {
    pub(super) start: Option<Start>,
    pub(super) notes: Vec<Action>,
}

/// Decides whether a backup starts at `now`. Requests come first: somebody waits for them.
pub(super) fn decide(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    now: Timestamp,
) -> Decided {
    let mut decided = Decided::default();
    if let Some(restore) = &observed.restore_pending {
        decided.notes.push(Action::wait(
            None,
            format!(
                "Restore {restore} into the source of this policy is not done, and a backup before it would take what is to be replaced for the newest state"
            ),
        ));
        return decided;
    }
    let mut requests: Vec<&BackupRequest> = observed.requests.iter().collect();
    requests.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
    for request in requests {
        consider_request(desire, observed, request, now, &mut decided);
    }
    if desire.spec.suspend {
        decided.notes.push(Action::wait(
            None,
            "the policy is suspended: nothing is scheduled, copied or forgotten until suspend is false",
        ));
    } else if let Some(timetable) = &desire.timetable {
        consider_schedule(desire, observed, timetable, now, &mut decided);
    }
    decided
}

fn consider_request(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    request: &BackupRequest,
    now: Timestamp,
    decided: &mut Decided,
) {
    let name = &request.name;
    if let Some(attempts) = observed.attempts.get(&Task::Request(name.clone())) {
        let retry = retry_at(attempts, desire.fingerprint);
        let Some(retry) = retry.filter(|_| attempts.failures < MAX_ATTEMPTS) else {
            decided.notes.push(Action::refuse(
                ErrorClass::Permanent,
                "RequestFailed",
                format!(
                    "Backup {name} failed {} times and is not tried again: {}; create another Backup when that is solved",
                    attempts.failures, attempts.message
                ),
            ));
            return;
        };
        if retry > now {
            decided.notes.push(Action::wait(
                Some(retry),
                format!("another try of Backup {name}: {}", attempts.message),
            ));
            return;
        }
    }
    if decided.start.is_some() {
        decided.notes.push(Action::wait(
            None,
            format!("Backup {name} follows the backup before it"),
        ));
        return;
    }
    let mut tags = desire.spec.tags.clone();
    for tag in &request.tags {
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    decided.start = Some(Start {
        reason: BackupReason::Requested {
            backup: name.clone(),
        },
        scheduled_for: None,
        tags,
    });
}

fn consider_schedule(
    desire: &PolicyDesire<'_>,
    observed: &PolicyObservation,
    timetable: &Timetable,
    now: Timestamp,
    decided: &mut Decided,
) {
    let starts = Starts {
        first_seen: observed.first_seen,
        last_scheduled: observed.last_scheduled,
        ever_ran: observed.ever_ran || observed.has_backups(),
    };
    let scheduled = |reason, scheduled_for| Start {
        reason,
        scheduled_for: Some(scheduled_for),
        tags: desire.spec.tags.clone(),
    };
    let next = match timetable.decide(&starts, now) {
        Decision::Due {
            scheduled_for,
            missed,
        } => {
            if decided.start.is_none() {
                decided.start = Some(scheduled(BackupReason::Due { missed }, scheduled_for));
            } else {
                decided.notes.push(Action::wait(
                    None,
                    "the scheduled backup follows the one that was asked for",
                ));
            }
            // What comes after the run that starts now.
            decided.notes.extend(next_backup(timetable.next_after(now)));
            return;
        }
        Decision::Missed {
            count,
            latest,
            next,
        } => {
            decided.notes.push(Action::wait(
                next,
                format!(
                    "{count} starts were missed, and the latest, at {latest}, is past startingDeadlineSeconds; the next backup is due then"
                ),
            ));
            next
        }
        Decision::NotDue { next } => {
            decided.notes.extend(next_backup(next));
            next
        }
    };
    let Some(attempts) = observed.attempts.get(&Task::Backup) else {
        return;
    };
    match retry(attempts, desire.fingerprint, timetable, now, next) {
        Some((at, scheduled_for)) if at <= now && decided.start.is_none() => {
            let failures = attempts.failures;
            decided.start = Some(scheduled(BackupReason::Retry { failures }, scheduled_for));
        }
        Some((at, _)) => decided.notes.push(Action::wait(
            Some(at),
            format!(
                "another try after {} that failed: {}",
                attempts.failures, attempts.message
            ),
        )),
        None => decided.notes.push(Action::wait(
            None,
            format!(
                "the last backup failed, and another try makes no sense before something changes or the next is due: {}",
                attempts.message
            ),
        )),
    }
}

fn next_backup(next: Option<Timestamp>) -> Option<Action> {
    next.map(|time| Action::wait(Some(time), "the next backup is due"))
}

/// When to try again, and for which scheduled time; not when the next start comes first, and not
/// when the scheduled one may not start any more. A run by hand that failed is not repeated.
fn retry(
    attempts: &Attempts,
    fingerprint: &str,
    timetable: &Timetable,
    now: Timestamp,
    next: Option<Timestamp>,
) -> Option<(Timestamp, Timestamp)> {
    let scheduled_for = attempts.scheduled_for?;
    let at = retry_at(attempts, fingerprint)?;
    let in_time = !timetable.past_deadline(scheduled_for, at.max(now));
    let before_next = next.is_none_or(|next| at < next);
    (in_time && before_next).then_some((at, scheduled_for))
}
