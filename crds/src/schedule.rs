//! When something runs: a cron expression in a time zone.

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{cron, patterns};

/// When runs start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(cron::shape()).message(cron::SHAPE_MESSAGE).field_path(".cron"))]
#[x_kube(validation = Rule::new(cron::order()).message(cron::ORDER_MESSAGE).field_path(".cron"))]
#[x_kube(validation = Rule::new(cron::NEVER).message(cron::NEVER_MESSAGE).field_path(".cron"))]
#[x_kube(validation = Rule::new(cron::ZONE).message(cron::ZONE_MESSAGE).field_path(".timeZone"))]
pub struct Schedule {
    /// Five fields (minute, hour, day of month, month, day of week), or one of
    /// `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly`.
    #[schemars(length(min = 1, max = 200))]
    pub cron: String,
    /// The time zone of the expression, by its IANA name.
    #[serde(default = "utc")]
    #[schemars(regex(pattern = patterns::TIME_ZONE), length(min = 1, max = 64))]
    pub time_zone: String,
    /// Spreads the starts over so many seconds. A policy gets the same delay
    /// every time.
    #[serde(default)]
    #[schemars(range(max = 86_400), extend("format" = "int32"))]
    pub jitter_seconds: u32,
    /// How many seconds late a missed run may still start. Without it, any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("format" = "int64"))]
    pub starting_deadline_seconds: Option<u64>,
    /// Whether the first run starts at once instead of at its time.
    #[serde(default)]
    pub immediate: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Why a schedule makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The cron expression cannot be read.
    #[error(
        "`{cron}` is not a cron expression ({reason}): write five fields (minute, hour, day of month, month, day of week) such as \"15 */6 * * *\", or one of @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Cron {
        /// The expression.
        cron: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cron expression is well formed, but no such time exists.
    #[error("`{cron}` never comes: no date matches it; correct the day of month or the month")]
    Never {
        /// The expression.
        cron: String,
    },
    /// No such time zone.
    #[error(
        "unknown time zone `{name}`: {}",
        match nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "write an IANA name such as Europe/Paris or UTC".to_owned(),
        }
    )]
    TimeZone {
        /// The name given.
        name: String,
        /// The name that was probably meant.
        nearest: Option<String>,
    },
}

impl Schedule {
    /// The expression, read.
    pub fn cron(&self) -> Result<Cron, ScheduleError> {
        parse_cron(&self.cron)
    }

    /// The time zone, found.
    pub fn time_zone(&self) -> Result<TimeZone, ScheduleError> {
        parse_time_zone(&self.time_zone)
    }
}

/// Reads a cron expression of five fields or a nickname.
pub fn parse_cron(text: &str) -> Result<Cron, ScheduleError> {
    const NICKNAMES: [&str; 6] = [
        "@hourly",
        "@daily",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
    ];
    let wrong = |reason: String| ScheduleError::Cron {
        cron: text.to_owned(),
        reason,
    };
    let fields = text.split_whitespace().count();
    if text.contains('@') {
        if !NICKNAMES.contains(&text) {
            return Err(wrong("there is no such nickname".to_owned()));
        }
    } else if fields != 5 {
        let noun = if fields == 1 { "field" } else { "fields" };
        return Err(wrong(format!("it has {fields} {noun} instead of 5")));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build();
    let cron = parser
        .parse(text)
        .map_err(|error| wrong(reason(text, &parser, &error)))?;
    // A date that does not exist, such as the 31st of February, parses. The
    // search is bounded, so from any fixed moment the answer is the same.
    let start = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    match cron.find_next_occurrence(&start, false) {
        Ok(_) => Ok(cron),
        Err(_) => Err(ScheduleError::Never {
            cron: text.to_owned(),
        }),
    }
}

/// Which field is wrong; in the library's words when none is by itself.
fn reason(text: &str, parser: &CronParser, error: &CronError) -> String {
    const NAMES: [&str; 5] = ["minute", "hour", "day of month", "month", "day of week"];
    for (index, (name, field)) in NAMES.iter().zip(text.split_whitespace()).enumerate() {
        let mut alone = ["*"; 5];
        alone[index] = field;
        if parser.parse(&alone.join(" ")).is_err() {
            return format!("the {name} `{field}` is not possible");
        }
    }
    match error {
        CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text)
        | CronError::ComponentError(text) => text.trim_end_matches('.').to_owned(),
        other => other.to_string(),
    }
}

/// Finds a time zone by its IANA name, in the database inside the program.
pub fn parse_time_zone(name: &str) -> Result<TimeZone, ScheduleError> {
    // Names only: "EST5EDT,M3.2.0,M11.1.0" and the like are not portable.
    let zone = jiff::tz::db().get(name).ok();
    // Kubernetes, like most of the world, does not take `europe/paris`.
    zone.filter(|zone| zone.iana_name() == Some(name))
        .ok_or_else(|| ScheduleError::TimeZone {
            name: name.to_owned(),
            nearest: nearest_time_zone(name),
        })
}

fn nearest_time_zone(name: &str) -> Option<String> {
    let names: Vec<String> = jiff::tz::db()
        .available()
        .map(|zone| zone.to_string())
        .collect();
    crate::rules::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

impl std::str::FromStr for Schedule {
    type Err = ScheduleError;

    /// A schedule in UTC from its expression alone.
    fn from_str(cron: &str) -> Result<Self, Self::Err> {
        parse_cron(cron)?;
        Ok(Self {
            cron: cron.to_owned(),
            time_zone: utc(),
            jitter_seconds: 0,
            starting_deadline_seconds: None,
            immediate: false,
        })
    }
}
