//! Cron expressions and time zones in CEL, so that the API server refuses what [`crate::schedule`]
//! cannot read. What is taken here is a part of what is read there, never more.

/// What to do when the expression is none.
pub(crate) const SHAPE_MESSAGE: &str = "this is not a cron expression: write five fields (minute, hour, day of month, month, day of week) such as 15 */6 * * *, or one of @hourly, @daily, @weekly, @monthly, @yearly";
/// What to do when one goes down.
pub(crate) const ORDER_MESSAGE: &str =
    "a range of the cron expression goes down: write the smaller number first";
/// Days that the months do not have. Exotic ones are left to the reconciler.
pub(crate) const NEVER: &str = "!self.cron.matches('(?i) (30|31|30-31)(,(30|31|30-31))* +(0?2|feb)(,(0?2|feb))* +[*?]$| 31(,31)* +(0?[2469]|11|feb|apr|jun|sep|nov)(,(0?[2469]|11|feb|apr|jun|sep|nov))* +[*?]$')";
/// What to do when there is no such day.
pub(crate) const NEVER_MESSAGE: &str =
    "the cron expression never comes: no date matches it; correct the day of month or the month";
/// Fails where the server knows no such time zone. Its own database is asked, which a plain file's
/// checker does in Rust instead: see [`ONLY_SERVERS`].
pub(crate) const ZONE: &str = "self.timeZone != 'Local' && timestamp('2000-01-01T12:00:00Z').getFullYear(self.timeZone) == 2000";
/// What to do when it fails.
pub(crate) const ZONE_MESSAGE: &str =
    "unknown time zone: write an IANA name such as Europe/Paris or UTC";
/// The rules that only an API server evaluates.
pub(crate) const ONLY_SERVERS: [&str; 1] = [ZONE];

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 8] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// That the expression is one.
pub(crate) fn shape() -> String {
    let minute = field(&numbers("[0-5]?[0-9]", "[1-9]|[1-5][0-9]"));
    let hour = field(&numbers("[01]?[0-9]|2[0-3]", "[1-9]|1[0-9]|2[0-3]"));
    let day = "0?[1-9]|[12][0-9]|3[01]";
    let day_of_month = field(&format!(
        "{}|L|({day})W",
        numbers(day, "[1-9]|[12][0-9]|30")
    ));
    let month = field(&format!(
        "{}|{}",
        numbers("0?[1-9]|1[0-2]", "[1-9]|1[01]"),
        names(&MONTHS)
    ));
    let day_of_week = field(&format!(
        "{}|{}|([0-7]|(?i:{}))(#[1-5]|L)",
        numbers("[0-7]", "[1-6]"),
        names(&DAYS),
        DAYS[1..].join("|")
    ));
    format!(
        "self.cron.matches('^(@(hourly|daily|weekly|monthly|yearly|annually)|{minute} +{hour} +([?]|{day_of_month}) +{month} +([?]|{day_of_week}))$')"
    )
}

/// That no range of numbers goes down; names are in the shape. One expression that finds those that
/// do: splitting and counting is too dear for an API server.
pub(crate) fn order() -> String {
    let mut down = Vec::new();
    for tens in ["0?", "1", "2", "3", "4", "5"] {
        down.extend((1..=9).map(|unit| format!("{tens}{unit}-{tens}[0-{}]", unit - 1)));
    }
    for tens in 1..=5 {
        down.push(format!("{tens}[0-9]-0?[0-9]"));
        if tens > 1 {
            down.push(format!("{tens}[0-9]-[1-{}][0-9]", tens - 1));
        }
    }
    format!(
        "!self.cron.matches('(^|[ ,])({})([ ,/]|$)')",
        down.join("|")
    )
}

/// A star, or a list.
fn field(part: &str) -> String {
    format!("([*]|({part})(,({part}))*)")
}

/// A number, a range, or every so many of them.
fn numbers(number: &str, step: &str) -> String {
    format!("[*]/({step})|({number})(-({number})(/({step}))?)?")
}

/// A name, or a range that goes up.
fn names(names: &[&str]) -> String {
    let ranges: Vec<String> = (0..names.len())
        .filter_map(|at| {
            let after = names.get(at + 1..).filter(|after| !after.is_empty());
            after.map_or_else(
                || (names.len() == MONTHS.len()).then(|| names[at].to_owned()),
                |after| Some(format!("{}(-({}))?", names[at], after.join("|"))),
            )
        })
        .collect();
    format!("(?i:{})", ranges.join("|"))
}
