//! Sizes (`500Mi`) and durations (`1h30m`) as people write them.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::patterns;

/// Why a size or a duration could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    /// It is not written as a duration.
    #[error("`{0}` is not a duration: write a number with a unit, such as 90s, 5m, 1h30m or 2d")]
    Duration(String),
    /// It is not written as a size.
    #[error(
        "`{0}` is not a size: write a number of bytes, or one with a suffix such as 500Mi or 5Gi"
    )]
    Bytes(String),
    /// It is larger than what can be counted.
    #[error("`{0}` is too large")]
    Overflow(String),
}

/// A length of time in whole seconds: `90s`, `5m`, `1h30m`, `2d`, `1w`.
///
/// Units go from large to small, each at most once; `m` is minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(u64);

/// The units of a duration from large to small, with their seconds.
const DURATION_UNITS: [(char, u64); 5] = [
    ('w', 604_800),
    ('d', 86_400),
    ('h', 3_600),
    ('m', 60),
    ('s', 1),
];

impl Duration {
    /// A duration of so many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The whole duration in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same as the standard library has it.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.to_std()
    }
}

impl FromStr for Duration {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseQuantityError::Duration(text.to_owned());
        let overflow = || ParseQuantityError::Overflow(text.to_owned());
        let mut units = DURATION_UNITS.iter();
        let mut rest = text;
        let mut seconds = 0_u64;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let unit = tail
                .chars()
                .next()
                .filter(|_| digits > 0)
                .ok_or_else(malformed)?;
            // Only smaller units than the last one remain in the iterator.
            let (_, factor) = units
                .find(|(name, _)| *name == unit)
                .ok_or_else(malformed)?;
            let number: u64 = number.parse().map_err(|_| overflow())?;
            seconds = number
                .checked_mul(*factor)
                .and_then(|part| seconds.checked_add(part))
                .ok_or_else(overflow)?;
            rest = tail.get(1..).unwrap_or_default();
        }
        if text.is_empty() {
            Err(malformed())
        } else {
            Ok(Self(seconds))
        }
    }
}

impl fmt::Display for Duration {
    /// Weeks are accepted but not written: `30d` says more than `4w2d`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, factor) in DURATION_UNITS.iter().skip(1) {
            if rest >= *factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 64,
            "pattern": patterns::DURATION,
        })
    }
}

/// A number of bytes: `500Mi`, `5Gi`, `1.5G` or a plain integer, with the
/// suffixes of Kubernetes quantities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// The suffixes of a size, with their bytes; binary ones from large to small first.
const BYTE_UNITS: [(&str, u64); 12] = [
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("E", 1_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseQuantityError::Bytes(text.to_owned());
        let overflow = || ParseQuantityError::Overflow(text.to_owned());
        let (number, factor) = BYTE_UNITS
            .iter()
            .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
            .unwrap_or((text, 1));
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || fraction.is_some_and(|part| !digits(part)) {
            return Err(malformed());
        }
        let whole: u128 = whole.parse().map_err(|_| overflow())?;
        let mut total = whole.checked_mul(u128::from(factor)).ok_or_else(overflow)?;
        // Digits beyond the eighteenth are far below one byte.
        let fraction = fraction.unwrap_or_default();
        let fraction = fraction.get(..fraction.len().min(18)).unwrap_or_default();
        if !fraction.is_empty() {
            let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| overflow())?);
            let part: u128 = fraction.parse().map_err(|_| overflow())?;
            // Rounded up, as Kubernetes does.
            total = (part * u128::from(factor))
                .div_ceil(scale)
                .checked_add(total)
                .ok_or_else(overflow)?;
        }
        u64::try_from(total).map(Self).map_err(|_| overflow())
    }
}

impl fmt::Display for Bytes {
    /// The largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        match BYTE_UNITS.iter().find(exact) {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 500Mi, or a number of bytes")
            }

            fn visit_u64<E>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes)
                    .map(Bytes)
                    .map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maxLength": 64,
            "pattern": patterns::BYTES,
        })
    }
}
