//! When a policy runs: cron in a time zone, spread by jitter, with missed starts caught up once.
//!
//! Daylight saving time, as users of cron expect it. A schedule that names its hours (`30 2 * * *`,
//! `0 */6 * * *`) speaks of the clock on the wall: a time that the clock skips in spring runs once,
//! at the first moment after the gap; a time that comes twice in autumn runs at its first coming
//! only. A schedule of every hour (`*/15 * * * *`, `@hourly`) speaks of time that passes: it runs
//! in both of the hours that have the same name, and what the clock skips is not made up for.
//!
//! Nothing here steps through ticks one by one over a long time: the latest missed one is found by
//! halving the interval, so years of downtime cost some thirty look-ups.

use croner::Cron;
use holdfast_crds::{Schedule, ScheduleError};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Missed starts are counted up to here; more of them say no more.
pub const MAX_COUNTED: u32 = 100;

/// How many changes of the clock a search crosses before it gives up: more than the 8 years between
/// two leap days around a century, several times over.
const MAX_TRANSITIONS: usize = 1_000;

/// A schedule, read and ready to answer.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    every_hour: bool,
    jitter: SignedDuration,
    deadline: Option<SignedDuration>,
    immediate: bool,
}

/// What is known of the starts of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starts {
    /// When the policy was first seen (in a cluster: created).
    pub first_seen: Timestamp,
    /// For which time the latest scheduled run started, whatever became of it.
    pub last_scheduled: Option<Timestamp>,
    /// Whether a backup of the policy exists or was ever tried: `immediate` is for the first only.
    pub ever_ran: bool,
}

/// Whether a run is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A run is due.
    Due {
        /// The time it was to start.
        scheduled_for: Timestamp,
        /// Starts before that one that were missed, counted up to [`MAX_COUNTED`]; they are not
        /// made up for.
        missed: u32,
    },
    /// Starts were missed, and the latest is later than `startingDeadlineSeconds` allows.
    Missed {
        /// How many, counted up to [`MAX_COUNTED`].
        count: u32,
        /// The latest of them.
        latest: Timestamp,
        /// The next start.
        next: Option<Timestamp>,
    },
    /// Nothing is due.
    NotDue {
        /// The next start; absent when there is none any more.
        next: Option<Timestamp>,
    },
}

impl Timetable {
    /// Reads a schedule. `seed` (`namespace/name`) fixes the jitter: the same policy starts with the
    /// same delay every time, on every machine.
    ///
    /// # Errors
    /// When the cron expression or the time zone is wrong.
    pub fn new(schedule: &Schedule, seed: &str) -> Result<Self, ScheduleError> {
        let cron = schedule.cron()?;
        let every_hour = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false));
        Ok(Self {
            zone: schedule.time_zone()?,
            every_hour,
            jitter: SignedDuration::from_secs(i64::from(jitter_seconds(
                seed,
                schedule.jitter_seconds,
            ))),
            deadline: schedule
                .starting_deadline_seconds
                .map(|seconds| SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX))),
            immediate: schedule.immediate,
            cron,
        })
    }

    /// The time zone of the schedule.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The delay after each tick of the cron expression.
    #[must_use]
    pub fn jitter(&self) -> SignedDuration {
        self.jitter
    }

    /// The first start after `after`, jitter included.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let tick = self.tick_after(after.checked_sub(self.jitter).ok()?)?;
        tick.checked_add(self.jitter).ok()
    }

    /// Whether `now` is later than a start at `scheduled_for` may still be.
    #[must_use]
    pub fn past_deadline(&self, scheduled_for: Timestamp, now: Timestamp) -> bool {
        self.deadline
            .is_some_and(|deadline| now.duration_since(scheduled_for) > deadline)
    }

    /// Whether a run is due at `now`.
    ///
    /// However many starts were missed, one run makes up for them: that of the latest. A clock that
    /// once stood in the future does not silence the schedule: a last start after `now` counts as
    /// one at `now`.
    #[must_use]
    pub fn decide(&self, starts: &Starts, now: Timestamp) -> Decision {
        if self.immediate && !starts.ever_ran && starts.last_scheduled.is_none() {
            return Decision::Due {
                scheduled_for: starts.first_seen.min(now),
                missed: 0,
            };
        }
        let since = starts.last_scheduled.unwrap_or(starts.first_seen).min(now);
        let Some(first) = self.next_after(since) else {
            return Decision::NotDue { next: None };
        };
        if first > now {
            return Decision::NotDue { next: Some(first) };
        }
        let latest = self.latest(first, now);
        let before = self.count(first, latest);
        if self.past_deadline(latest, now) {
            Decision::Missed {
                count: before.saturating_add(1).min(MAX_COUNTED),
                latest,
                next: self.next_after(now),
            }
        } else {
            Decision::Due {
                scheduled_for: latest,
                missed: before,
            }
        }
    }

    /// The latest start at or before `until`, given that `low` is one.
    fn latest(&self, mut low: Timestamp, until: Timestamp) -> Timestamp {
        // Between `high` and `until` there is no start after `high`'s own.
        let mut high = until;
        loop {
            match self.next_after(low) {
                Some(next) if next <= until => {}
                _ => return low,
            }
            let middle = low.checked_add(high.duration_since(low) / 2).unwrap_or(low);
            match self.next_after(middle) {
                Some(next) if next <= until => low = next,
                _ => high = middle,
            }
        }
    }

    /// How many starts there are from `first` to before `latest`, counted up to [`MAX_COUNTED`].
    fn count(&self, first: Timestamp, latest: Timestamp) -> u32 {
        let mut count = 0;
        let mut at = first;
        while at < latest && count < MAX_COUNTED {
            count += 1;
            match self.next_after(at) {
                Some(next) => at = next,
                None => break,
            }
        }
        count
    }

    /// The first tick of the cron expression after `after`.
    fn tick_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.every_hour {
            self.passing_time_after(after)
        } else {
            self.wall_time_after(after)
        }
    }

    /// For schedules of the clock on the wall: each time that matches, at one moment.
    fn wall_time_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut civil = self.zone.to_datetime(after);
        loop {
            civil = self.search(&civil, false)?;
            let at = self.moment(civil)?;
            // Not after it: `after` lies in the second coming of an hour, `civil` in the first.
            if at > after {
                return Some(at);
            }
        }
    }

    /// For schedules of time that passes: each moment at which the clock shows a time that matches.
    fn passing_time_after(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        let mut inclusive = false;
        for _ in 0..MAX_TRANSITIONS {
            let offset = self.zone.to_offset(from);
            let change = self.zone.following(from).next().map(|at| at.timestamp());
            let civil = self.search(&offset.to_datetime(from), inclusive)?;
            let at = offset.to_timestamp(civil).ok()?;
            match change {
                Some(change) if at >= change => {
                    from = change;
                    inclusive = true;
                }
                _ => return Some(at),
            }
        }
        None
    }

    fn search(&self, from: &DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(from, inclusive).ok()
    }

    /// The one moment for a time on the wall: its first coming, or the end of the gap it lies in.
    fn moment(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                ambiguous.earlier().ok()
            }
            AmbiguousOffset::Gap { .. } => {
                let shifted = ambiguous.later().ok()?;
                let just_after = shifted.checked_add(SignedDuration::from_secs(1)).ok()?;
                let change = self.zone.preceding(just_after).next()?;
                Some(change.timestamp())
            }
        }
    }
}

/// A delay of 0 to `limit` seconds that depends on the seed alone. The hash is a fixed algorithm:
/// the standard library's may change between releases.
fn jitter_seconds(seed: &str, limit: u32) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(seed.as_bytes());
    u32::try_from(hash % (u64::from(limit) + 1)).unwrap_or(limit)
}

#[cfg(test)]
mod tests;
