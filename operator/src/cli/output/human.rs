//! Sizes, durations and times for a person.

use jiff::{SignedDuration, Timestamp};

/// What stands where nothing is known.
pub const UNKNOWN: &str = "-";

/// A size in binary units: `873 B`, `1.2 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded, so that 1023.96 KiB reads 1.0 MiB.
    let mut divisor = 1024_u128;
    for unit in UNITS {
        let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
        if tenths < 10_240 || unit == "EiB" {
            return if tenths < 1_000 {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            } else {
                format!("{} {unit}", (tenths + 5) / 10)
            };
        }
        divisor *= 1024;
    }
    format!("{bytes} B")
}

/// A size that may not be known.
#[must_use]
pub fn size_or_unknown(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| UNKNOWN.to_owned(), size)
}

/// A length of time as kubectl prints ages: the two largest units where the second still matters.
#[must_use]
pub fn duration(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    if seconds < 0 {
        // Clocks of two machines differ by a little; more is not an age.
        return if seconds >= -1 { "0s" } else { "<invalid>" }.to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let years = days / 365;
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// How long ago it was.
#[must_use]
pub fn age(time: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(time))
}

/// A time to the second, in UTC: the same on every machine.
#[must_use]
pub fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time that may not be known.
#[must_use]
pub fn time_or_unknown(at: Option<Timestamp>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), time)
}

/// Only the first line, for a table.
#[must_use]
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(1024, "1.0 KiB")]
    #[case(1536, "1.5 KiB")]
    #[case(100 * 1024, "100 KiB")]
    #[case(1024 * 1024 - 1, "1.0 MiB")]
    #[case(5_368_709_120, "5.0 GiB")]
    #[case(u64::MAX, "16.0 EiB")]
    fn sizes(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(size(bytes), text);
    }

    // The cases of kubectl's own test.
    #[rstest]
    #[case(-2, "<invalid>")]
    #[case(-1, "0s")]
    #[case(0, "0s")]
    #[case(1, "1s")]
    #[case(70, "70s")]
    #[case(190, "3m10s")]
    #[case(70 * 60, "70m")]
    #[case(47 * 3600, "47h")]
    #[case(49 * 3600, "2d1h")]
    #[case((8 * 24 + 2) * 3600, "8d")]
    #[case(367 * 24 * 3600, "367d")]
    #[case((365 * 2 + 25) * 24 * 3600, "2y25d")]
    #[case((365 * 8 + 2) * 24 * 3600, "8y")]
    fn durations(#[case] seconds: i64, #[case] text: &str) {
        assert_eq!(duration(SignedDuration::from_secs(seconds)), text);
    }

    #[test]
    fn times() {
        let at: Timestamp = "2026-01-09T03:00:12.5Z".parse().unwrap();
        assert_eq!(time(at), "2026-01-09T03:00:12Z");
        assert_eq!(age(at, "2026-01-09T05:30:12.5Z".parse().unwrap()), "150m");
    }
}
