//! Tests of the schedule: the clocks of real zones, and properties that hold for all of them.

use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn schedule(cron: &str, zone: &str) -> Schedule {
    serde_json::from_value(serde_json::json!({"cron": cron, "timeZone": zone})).unwrap()
}

fn timetable(cron: &str, zone: &str) -> Timetable {
    Timetable::new(&schedule(cron, zone), "default/shop").unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn starts(first_seen: &str, last: Option<&str>) -> Starts {
    Starts {
        first_seen: at(first_seen),
        last_scheduled: last.map(at),
        ever_ran: last.is_some(),
    }
}

fn following(table: &Timetable, from: &str, count: usize) -> Vec<String> {
    let mut moment = at(from);
    (0..count)
        .map(|_| {
            moment = table.next_after(moment).unwrap();
            moment.to_string()
        })
        .collect()
}

#[rstest]
// Spring: the clock goes from 02:00 to 03:00 on 29 March 2026.
#[case("30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"])]
// Several times in the gap are one run.
#[case("*/20 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"])]
// A time in the gap and one at its end are one run.
#[case("30 2,3 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"])]
// Autumn: 02:30 comes twice on 25 October 2026; the first is meant.
#[case("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"])]
#[case("*/30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:00:00Z"])]
// Every hour is every hour that passes.
#[case("30 * * * *", "Europe/Paris", "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"])]
#[case("30 * * * *", "Europe/Paris", "2026-10-25T00:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"])]
#[case("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"])]
#[case("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"])]
// Lord Howe moves by half an hour: 02:00 to 02:30 on 4 October 2026, 02:00 to 01:30 on 5 April.
#[case("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"])]
#[case("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"])]
#[case("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30:00Z", &["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"])]
// Apia had no 30 December 2011 at all.
#[case("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"])]
#[case("@hourly", "UTC", "2026-01-01T00:00:00Z", &["2026-01-01T01:00:00Z"])]
#[case("@daily", "Europe/Paris", "2026-01-01T00:00:00Z", &["2026-01-01T23:00:00Z"])]
#[case("@weekly", "UTC", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z"])]
#[case("@monthly", "UTC", "2026-01-01T00:00:00Z", &["2026-02-01T00:00:00Z"])]
#[case("@yearly", "UTC", "2026-01-01T00:00:00Z", &["2027-01-01T00:00:00Z"])]
#[case("0 0 29 2 *", "Europe/Paris", "2026-01-01T00:00:00Z", &["2028-02-28T23:00:00Z"])]
// Day of month or day of week, when both are given, as cron has it.
#[case("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z"])]
fn clocks(#[case] cron: &str, #[case] zone: &str, #[case] from: &str, #[case] expected: &[&str]) {
    assert_eq!(
        following(&timetable(cron, zone), from, expected.len()),
        expected
    );
}

#[test]
fn a_new_policy_waits_for_its_time() {
    let table = timetable("0 3 * * *", "UTC");
    assert_eq!(
        table.decide(
            &starts("2026-01-01T04:00:00Z", None),
            at("2026-01-01T05:00:00Z")
        ),
        Decision::NotDue {
            next: Some(at("2026-01-02T03:00:00Z"))
        }
    );
}

#[test]
fn immediate_is_for_the_first_run_only() {
    let mut immediate = schedule("0 3 * * *", "UTC");
    immediate.immediate = true;
    let table = Timetable::new(&immediate, "default/shop").unwrap();
    let now = at("2026-01-01T05:00:00Z");
    let mut seen = starts("2026-01-01T04:00:00Z", None);
    assert_eq!(
        table.decide(&seen, now),
        Decision::Due {
            scheduled_for: seen.first_seen,
            missed: 0
        }
    );
    // The state was lost, but its backups are there.
    seen.ever_ran = true;
    assert!(matches!(table.decide(&seen, now), Decision::NotDue { .. }));
    assert!(matches!(
        table.decide(
            &starts("2026-01-01T04:00:00Z", Some("2026-01-01T04:00:00Z")),
            now
        ),
        Decision::NotDue { .. }
    ));
}

#[test]
fn missed_starts_are_caught_up_once() {
    let table = timetable("0 * * * *", "UTC");
    let seen = starts("2026-01-01T00:00:00Z", Some("2026-01-01T03:00:00Z"));
    assert_eq!(
        table.decide(&seen, at("2026-01-01T07:10:00Z")),
        Decision::Due {
            scheduled_for: at("2026-01-01T07:00:00Z"),
            missed: 3
        }
    );
    let seen = starts("2026-01-01T00:00:00Z", Some("2026-01-01T07:00:00Z"));
    assert_eq!(
        table.decide(&seen, at("2026-01-01T07:10:00Z")),
        Decision::NotDue {
            next: Some(at("2026-01-01T08:00:00Z"))
        }
    );
}

#[test]
fn a_start_past_its_deadline_is_skipped() {
    let mut strict = schedule("0 3 * * *", "UTC");
    strict.starting_deadline_seconds = Some(3600);
    let table = Timetable::new(&strict, "default/shop").unwrap();
    let seen = starts("2026-01-01T00:00:00Z", Some("2026-01-01T03:00:00Z"));
    assert_eq!(
        table.decide(&seen, at("2026-01-04T04:00:01Z")),
        Decision::Missed {
            count: 3,
            latest: at("2026-01-04T03:00:00Z"),
            next: Some(at("2026-01-05T03:00:00Z")),
        }
    );
    assert_eq!(
        table.decide(&seen, at("2026-01-04T04:00:00Z")),
        Decision::Due {
            scheduled_for: at("2026-01-04T03:00:00Z"),
            missed: 2
        }
    );
}

#[test]
fn a_clock_that_stood_in_the_future_does_not_silence_the_schedule() {
    let table = timetable("0 3 * * *", "UTC");
    let seen = starts("2026-01-01T00:00:00Z", Some("2036-01-01T03:00:00Z"));
    assert_eq!(
        table.decide(&seen, at("2026-01-04T04:00:00Z")),
        Decision::NotDue {
            next: Some(at("2026-01-05T03:00:00Z"))
        }
    );
}

#[test]
fn a_century_of_missed_minutes_takes_no_time() {
    let table = timetable("* * * * *", "Europe/Paris");
    let seen = starts("1926-01-01T00:00:00Z", Some("1926-01-01T00:00:00Z"));
    let begin = std::time::Instant::now();
    assert_eq!(
        table.decide(&seen, at("2026-01-04T04:00:30Z")),
        Decision::Due {
            scheduled_for: at("2026-01-04T04:00:00Z"),
            missed: MAX_COUNTED
        }
    );
    // 52 million ticks would take minutes; a few dozen look-ups do not, on any machine.
    assert!(begin.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn jitter_is_part_of_the_start() {
    let mut spread = schedule("0 3 * * *", "UTC");
    spread.jitter_seconds = 3600;
    let table = Timetable::new(&spread, "default/shop").unwrap();
    let start = at("2026-01-02T03:00:00Z") + table.jitter();
    assert!(table.jitter().is_positive());
    let seen = starts("2026-01-01T04:00:00Z", None);
    assert_eq!(
        table.decide(&seen, start - SignedDuration::from_secs(1)),
        Decision::NotDue { next: Some(start) }
    );
    assert_eq!(
        table.decide(&seen, start),
        Decision::Due {
            scheduled_for: start,
            missed: 0
        }
    );
}

/// The delay is written down: an upgrade must not move anyone's backups.
#[test]
fn jitter_never_changes() {
    assert_eq!(
        ["default/shop", "prod/orders", "a/b"].map(|seed| jitter_seconds(seed, 300)),
        JITTER_OF_300
    );
}

const JITTER_OF_300: [u32; 3] = [277, 20, 67];

fn crons() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..60u8, 0..24u8).prop_map(|(minute, hour)| format!("{minute} {hour} * * *")),
        (0..60u8).prop_map(|minute| format!("{minute} * * * *")),
        (1..30u8).prop_map(|step| format!("*/{step} * * * *")),
        (0..60u8, 2..12u8).prop_map(|(minute, step)| format!("{minute} */{step} * * *")),
        (0..60u8, 0..7u8).prop_map(|(minute, day)| format!("{minute} 2 * * {day}")),
        (0..60u8, 1..29u8).prop_map(|(minute, day)| format!("{minute} 2 {day} * *")),
        Just("@yearly".to_owned()),
        Just("* 1,2,3 * * *".to_owned()),
    ]
}

fn zones() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Paris",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "America/Sao_Paulo",
    ])
}

proptest! {
    #[test]
    fn the_next_start_is_after_now_and_starts_only_grow(
        cron in crons(),
        zone in zones(),
        seconds in 1_262_304_000i64..1_893_456_000,
        later in 0i64..200_000,
    ) {
        let table = timetable(&cron, zone);
        let now = Timestamp::from_second(seconds).unwrap();
        let next = table.next_after(now).unwrap();
        prop_assert!(next > now);
        let then = Timestamp::from_second(seconds + later).unwrap();
        let next_then = table.next_after(then).unwrap();
        prop_assert!(next_then >= next);
        // None in between: what comes after a moment before the next start is the next start.
        if then < next {
            prop_assert_eq!(next_then, next);
        }
    }

    #[test]
    fn the_latest_missed_start_is_the_one_that_stepping_finds(
        cron in crons(),
        zone in zones(),
        seconds in 1_262_304_000i64..1_893_456_000,
        away in 0i64..400_000,
    ) {
        let table = timetable(&cron, zone);
        let last = Timestamp::from_second(seconds).unwrap();
        let now = Timestamp::from_second(seconds + away).unwrap();
        let seen = Starts { first_seen: last, last_scheduled: Some(last), ever_ran: true };
        let mut stepped = Vec::new();
        let mut moment = last;
        while let Some(next) = table.next_after(moment).filter(|next| *next <= now) {
            stepped.push(next);
            moment = next;
        }
        match (table.decide(&seen, now), stepped.last()) {
            (Decision::Due { scheduled_for, missed }, Some(latest)) => {
                prop_assert_eq!(scheduled_for, *latest);
                prop_assert_eq!(
                    missed,
                    u32::try_from(stepped.len() - 1).unwrap().min(MAX_COUNTED)
                );
            }
            (Decision::NotDue { next }, None) => prop_assert_eq!(next, table.next_after(now)),
            (decision, latest) => prop_assert!(false, "{decision:?} but stepping finds {latest:?}"),
        }
    }

    /// In any year a daily schedule runs once for every day that exists.
    #[test]
    fn a_daily_schedule_runs_once_a_day(
        minute in 0..60u8, hour in 0..24u8, zone in zones(), year in 2012i16..2030,
    ) {
        let table = timetable(&format!("{minute} {hour} * * *"), zone);
        let begin = jiff::civil::date(year, 1, 1).to_zoned(table.zone().clone()).unwrap();
        let end = jiff::civil::date(year + 1, 1, 1).to_zoned(table.zone().clone()).unwrap();
        let mut moment = begin.timestamp() - SignedDuration::from_secs(1);
        let mut days = std::collections::BTreeSet::new();
        let mut count = 0;
        while let Some(next) = table.next_after(moment).filter(|next| *next < end.timestamp()) {
            days.insert(table.zone().to_datetime(next).date());
            count += 1;
            moment = next;
        }
        let length = if begin.in_leap_year() { 366 } else { 365 };
        prop_assert_eq!(count, length);
        prop_assert_eq!(days.len(), length);
    }

    #[test]
    fn jitter_stays_in_its_bounds(seed in "[a-z]{1,10}/[a-z]{1,10}", limit in 0u32..=86_400) {
        prop_assert!(jitter_seconds(&seed, limit) <= limit);
        prop_assert_eq!(jitter_seconds(&seed, limit), jitter_seconds(&seed, limit));
    }
}
