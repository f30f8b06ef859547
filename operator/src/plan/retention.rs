//! Which backups are kept: the rules of `restic forget`, to the letter.
//!
//! A backup that any rule wants stays. `keepLast` and the calendar rules count buckets: going from
//! the newest to the oldest, a rule keeps the first backup it meets in each hour, day, ISO week,
//! month or year, and is used up after so many. While a rule is not used up it also keeps the
//! oldest backup of all, as restic does. `keepWithin` counts from the newest backup that is not in
//! the future. Buckets and days are those of the policy's time zone.
//!
//! In two things this is safer than restic: the newest backup is always kept, whatever the rules
//! say, and backups that are not the policy's are never looked at.

use holdfast_crds::Retention;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::observed::Snapshot;

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeepReason {
    /// No retention is declared: everything is kept.
    NoRetention,
    /// It is the newest of its policy.
    Newest,
    /// `keepLast` wants it.
    Last,
    /// `keepHourly` wants it.
    Hourly,
    /// `keepDaily` wants it.
    Daily,
    /// `keepWeekly` wants it.
    Weekly,
    /// `keepMonthly` wants it.
    Monthly,
    /// `keepYearly` wants it.
    Yearly,
    /// It is younger than `keepWithin`.
    Within,
    /// It bears a tag of `keepTags`.
    Tag(String),
    /// A destination that shall hold it does not hold it yet.
    AwaitsCopy(String),
}

impl std::fmt::Display for KeepReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRetention => f.write_str("no retention is declared"),
            Self::Newest => f.write_str("newest"),
            Self::Last => f.write_str("keepLast"),
            Self::Hourly => f.write_str("keepHourly"),
            Self::Daily => f.write_str("keepDaily"),
            Self::Weekly => f.write_str("keepWeekly"),
            Self::Monthly => f.write_str("keepMonthly"),
            Self::Yearly => f.write_str("keepYearly"),
            Self::Within => f.write_str("keepWithin"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::AwaitsCopy(destination) => write!(f, "not yet copied to {destination}"),
        }
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The backup.
    pub snapshot: &'a Snapshot,
    /// The rules that want it; none: it is forgotten.
    pub reasons: Vec<KeepReason>,
}

impl Verdict<'_> {
    /// Whether it stays.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// The unit in which a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Each(usize),
    Hour(Date, i8),
    Day(Date),
    Week(i16, i8),
    Month(i16, i8),
    Year(i16),
}

/// A rule that counts, and how far it has counted.
struct Counter {
    left: u32,
    last: Option<Bucket>,
    reason: KeepReason,
    bucket: fn(jiff::civil::DateTime, usize) -> Bucket,
}

/// Judges the backups of one policy at one destination, newest first. `snapshots` must hold those
/// of one policy only, in any order. Without `retention` everything is kept.
#[must_use]
pub fn judge<'a>(
    retention: Option<&Retention>,
    snapshots: impl IntoIterator<Item = &'a Snapshot>,
    zone: &TimeZone,
    now: Timestamp,
) -> Vec<Verdict<'a>> {
    let mut sorted: Vec<&Snapshot> = snapshots.into_iter().collect();
    // The id makes the order, and with it the outcome, the same at every pass.
    sorted.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.id.cmp(&b.id)));
    let Some(retention) = retention else {
        return sorted
            .into_iter()
            .map(|snapshot| Verdict {
                snapshot,
                reasons: vec![KeepReason::NoRetention],
            })
            .collect();
    };
    let begin = within(retention, &sorted, zone, now);
    let mut counters = counters(retention);
    let oldest = sorted.len().saturating_sub(1);
    let mut verdicts = Vec::with_capacity(sorted.len());
    for (number, snapshot) in sorted.into_iter().enumerate() {
        let mut reasons = Vec::new();
        if number == 0 {
            reasons.push(KeepReason::Newest);
        }
        let civil = zone.to_datetime(snapshot.time);
        for counter in &mut counters {
            let bucket = (counter.bucket)(civil, number);
            if counter.left > 0 && (counter.last != Some(bucket) || number == oldest) {
                counter.left -= 1;
                counter.last = Some(bucket);
                reasons.push(counter.reason.clone());
            }
        }
        if begin.is_some_and(|begin| snapshot.time > begin) {
            reasons.push(KeepReason::Within);
        }
        for tag in &retention.keep_tags {
            if snapshot.tags.contains(tag) {
                reasons.push(KeepReason::Tag(tag.clone()));
            }
        }
        verdicts.push(Verdict { snapshot, reasons });
    }
    verdicts
}

/// The rules that count, in the order in which reasons are given.
fn counters(retention: &Retention) -> Vec<Counter> {
    let rule = |left: Option<u32>, reason, bucket| Counter {
        left: left.unwrap_or(0),
        last: None,
        reason,
        bucket,
    };
    vec![
        rule(retention.keep_last, KeepReason::Last, |_, number| {
            Bucket::Each(number)
        }),
        rule(retention.keep_hourly, KeepReason::Hourly, |civil, _| {
            Bucket::Hour(civil.date(), civil.hour())
        }),
        rule(retention.keep_daily, KeepReason::Daily, |civil, _| {
            Bucket::Day(civil.date())
        }),
        rule(retention.keep_weekly, KeepReason::Weekly, |civil, _| {
            let week = civil.date().iso_week_date();
            Bucket::Week(week.year(), week.week())
        }),
        rule(retention.keep_monthly, KeepReason::Monthly, |civil, _| {
            Bucket::Month(civil.year(), civil.month())
        }),
        rule(retention.keep_yearly, KeepReason::Yearly, |civil, _| {
            Bucket::Year(civil.year())
        }),
    ]
}

/// The moment after which `keepWithin` keeps everything. Whole days are days of the calendar, so
/// that `2d` reaches back to the same time of day over a change of the clock; the rest is time that
/// passes.
fn within(
    retention: &Retention,
    newest_first: &[&Snapshot],
    zone: &TimeZone,
    now: Timestamp,
) -> Option<Timestamp> {
    let seconds = i64::try_from(retention.keep_within?.as_secs()).unwrap_or(i64::MAX);
    let latest = newest_first
        .iter()
        .find(|snapshot| snapshot.time <= now)
        .or(newest_first.first())?;
    let days = Span::new().try_days(seconds / 86_400);
    let rest = Span::new().try_seconds(seconds % 86_400);
    let begin = days
        .and_then(|days| latest.time.to_zoned(zone.clone()).checked_sub(days))
        .and_then(|day| rest.and_then(|rest| day.checked_sub(rest)));
    // Further back than time can be told: everything is within.
    Some(begin.map_or(Timestamp::MIN, |begin| begin.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(time: &str, tags: &[&str]) -> Snapshot {
        Snapshot {
            id: time.to_owned(),
            identity: time.to_owned(),
            time: time.parse().unwrap(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        }
    }

    fn retention(json: serde_json::Value) -> Retention {
        serde_json::from_value(json).unwrap()
    }

    fn kept(retention: &Retention, snapshots: &[Snapshot], zone: &str) -> Vec<(String, String)> {
        let zone = TimeZone::get(zone).unwrap();
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        judge(Some(retention), snapshots, &zone, now)
            .into_iter()
            .filter(Verdict::keeps)
            .map(|verdict| {
                let reasons: Vec<String> =
                    verdict.reasons.iter().map(ToString::to_string).collect();
                (verdict.snapshot.id.clone(), reasons.join(", "))
            })
            .collect()
    }

    #[test]
    fn without_retention_everything_stays() {
        let snapshots = [
            snapshot("2026-01-01T00:00:00Z", &[]),
            snapshot("2020-01-01T00:00:00Z", &[]),
        ];
        let verdicts = judge(None, &snapshots, &TimeZone::UTC, Timestamp::now());
        assert_eq!(verdicts.len(), 2);
        assert!(
            verdicts
                .iter()
                .all(|verdict| verdict.reasons == [KeepReason::NoRetention])
        );
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        let snapshots = [
            snapshot("2026-01-02T22:30:00Z", &[]),
            snapshot("2026-01-01T23:30:00Z", &[]),
            snapshot("2026-01-01T22:30:00Z", &[]),
            snapshot("2026-01-01T12:00:00Z", &[]),
        ];
        let two_days = retention(serde_json::json!({"keepDaily": 2}));
        assert_eq!(
            kept(&two_days, &snapshots, "UTC"),
            [
                ("2026-01-02T22:30:00Z".into(), "newest, keepDaily".into()),
                ("2026-01-01T23:30:00Z".into(), "keepDaily".into()),
            ]
        );
        assert_eq!(
            kept(&two_days, &snapshots, "Europe/Paris"),
            [
                ("2026-01-02T22:30:00Z".into(), "newest, keepDaily".into()),
                ("2026-01-01T22:30:00Z".into(), "keepDaily".into()),
            ]
        );
    }

    #[test]
    fn the_newest_stays_even_when_no_rule_wants_it() {
        let snapshots = [
            snapshot("2026-01-02T00:00:00Z", &[]),
            snapshot("2026-01-01T00:00:00Z", &["release"]),
            snapshot("2025-01-01T00:00:00Z", &[]),
        ];
        assert_eq!(
            kept(
                &retention(serde_json::json!({"keepTags": ["release"]})),
                &snapshots,
                "UTC"
            ),
            [
                ("2026-01-02T00:00:00Z".into(), "newest".into()),
                ("2026-01-01T00:00:00Z".into(), "tag release".into()),
            ]
        );
    }

    #[test]
    fn within_counts_days_of_the_calendar() {
        // The clock went forward on 29 March: the same time of day two days before is 47 hours ago.
        let snapshots = [
            snapshot("2026-03-30T10:00:00Z", &[]),
            snapshot("2026-03-28T11:30:00Z", &[]),
            snapshot("2026-03-28T10:30:00Z", &[]),
        ];
        let within = retention(serde_json::json!({"keepWithin": "2d"}));
        assert_eq!(kept(&within, &snapshots, "UTC").len(), 3);
        assert_eq!(kept(&within, &snapshots, "Europe/Paris").len(), 2);
        let longer_than_time = retention(serde_json::json!({"keepWithin": "9999999999w"}));
        assert_eq!(kept(&longer_than_time, &snapshots, "UTC").len(), 3);
    }

    #[test]
    fn a_backup_from_the_future_does_not_move_the_window() {
        let snapshots = [
            snapshot("2040-01-01T00:00:00Z", &[]),
            snapshot("2026-01-02T00:00:00Z", &[]),
            snapshot("2026-01-01T12:00:00Z", &[]),
            snapshot("2025-12-01T00:00:00Z", &[]),
        ];
        let within = retention(serde_json::json!({"keepWithin": "1d"}));
        assert_eq!(
            kept(&within, &snapshots, "UTC")
                .into_iter()
                .map(|(id, _)| id)
                .collect::<Vec<_>>(),
            [
                "2040-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
                "2026-01-01T12:00:00Z"
            ]
        );
    }

    proptest! {
        #[test]
        fn the_newest_is_always_kept_and_judging_again_changes_nothing(
            times in prop::collection::vec(1_500_000_000i64..1_800_000_000, 1..60),
            last in prop::option::of(1u32..5),
            hourly in prop::option::of(1u32..5),
            daily in prop::option::of(1u32..10),
            weekly in prop::option::of(1u32..5),
            monthly in prop::option::of(1u32..5),
            yearly in prop::option::of(1u32..5),
        ) {
            let rules = Retention {
                keep_last: last,
                keep_hourly: hourly,
                keep_daily: daily,
                keep_weekly: weekly,
                keep_monthly: monthly,
                keep_yearly: yearly,
                ..Retention::default()
            };
            let zone = TimeZone::get("Europe/Paris").unwrap();
            let now = Timestamp::from_second(1_900_000_000).unwrap();
            let snapshots: Vec<Snapshot> = times
                .iter()
                .enumerate()
                .map(|(number, time)| Snapshot {
                    id: number.to_string(),
                    identity: number.to_string(),
                    time: Timestamp::from_second(*time).unwrap(),
                    tags: Vec::new(),
                })
                .collect();
            let verdicts = judge(Some(&rules), &snapshots, &zone, now);
            prop_assert!(verdicts[0].keeps());
            let stay: Vec<&Snapshot> =
                verdicts.iter().filter(|verdict| verdict.keeps()).map(|verdict| verdict.snapshot).collect();
            prop_assert!(judge(Some(&rules), stay, &zone, now).iter().all(Verdict::keeps));
        }
    }
}
