//! When another attempt is worthwhile after one that failed: decided by the class of the failure.

use holdfast_engine::class::ErrorClass;
use jiff::{SignedDuration, Timestamp};

use super::observed::Attempts;

/// The delay after the first failure; it doubles with each.
pub const FIRST_DELAY: SignedDuration = SignedDuration::from_mins(1);

/// The longest delay.
pub const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(30);

/// How often a thing that is done once (a requested backup, a restore) is tried in all: what a
/// Kubernetes Job does by default.
pub const MAX_ATTEMPTS: u32 = 7;

/// The delay after so many failures in a row.
#[must_use]
pub fn delay(failures: u32) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_DELAY
        .checked_mul(1 << doublings)
        .unwrap_or(LONGEST_DELAY)
        .min(LONGEST_DELAY)
}

/// When to try again; `None`: not before something changes.
///
/// *Transient*: after a delay that doubles. *Waiting*: every 30 minutes, as what is waited for may
/// change where nobody watches (a lock that goes stale, a disk that is mounted). *Permanent* and
/// *damaged*: never by itself. A change of the spec or its secrets, told by `fingerprint`, is a
/// reason to try at once.
#[must_use]
pub fn retry_at(attempts: &Attempts, fingerprint: &str) -> Option<Timestamp> {
    if attempts
        .fingerprint
        .as_deref()
        .is_some_and(|made_with| made_with != fingerprint)
    {
        return Some(attempts.ended);
    }
    let delay = match attempts.class {
        ErrorClass::Transient => delay(attempts.failures),
        ErrorClass::Waiting => LONGEST_DELAY,
        ErrorClass::Permanent | ErrorClass::Damaged => return None,
    };
    attempts.ended.checked_add(delay).ok()
}

/// Whether a thing that is done once is not tried again by itself.
#[must_use]
pub fn given_up(attempts: &Attempts) -> bool {
    attempts.failures >= MAX_ATTEMPTS
        || matches!(attempts.class, ErrorClass::Permanent | ErrorClass::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(failures: u32, class: ErrorClass) -> Attempts {
        Attempts {
            failures,
            class,
            message: String::new(),
            ended: Timestamp::UNIX_EPOCH,
            fingerprint: Some("a".to_owned()),
            scheduled_for: None,
            interrupted: false,
        }
    }

    #[test]
    fn the_delay_doubles_up_to_half_an_hour() {
        let minutes: Vec<i64> = (1..=8).map(|failures| delay(failures).as_mins()).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(delay(0), FIRST_DELAY);
        assert_eq!(delay(u32::MAX), LONGEST_DELAY);
    }

    #[test]
    fn the_class_decides() {
        let minutes = |class, fingerprint| {
            retry_at(&attempts(3, class), fingerprint).map(|time| time.as_second() / 60)
        };
        assert_eq!(minutes(ErrorClass::Transient, "a"), Some(4));
        assert_eq!(minutes(ErrorClass::Waiting, "a"), Some(30));
        assert_eq!(minutes(ErrorClass::Permanent, "a"), None);
        assert_eq!(minutes(ErrorClass::Damaged, "a"), None);
        assert_eq!(minutes(ErrorClass::Permanent, "b"), Some(0));
    }
}
