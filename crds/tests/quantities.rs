//! Sizes and durations: what people write, and that it survives the round trip.

#![allow(clippy::unwrap_used)]

use holdfast_crds::{Bytes, Duration, ParseQuantityError};
use proptest::prelude::*;
use rstest::rstest;

#[rstest]
#[case("90s", 90)]
#[case("5m", 300)]
#[case("1h30m", 5_400)]
#[case("2d", 172_800)]
#[case("1w", 604_800)]
#[case("1w2d3h4m5s", 788_645)]
#[case("0s", 0)]
#[case("300d", 25_920_000)]
fn durations(#[case] text: &str, #[case] seconds: u64) {
    assert_eq!(text.parse(), Ok(Duration::from_secs(seconds)));
}

#[rstest]
#[case("")]
#[case("5")]
#[case("m")]
#[case("5M")]
#[case("5 m")]
#[case("30m1h")]
#[case("5m5m")]
#[case("-5m")]
#[case("1.5h")]
#[case("5min")]
#[case("1y")]
#[case("5µ")]
fn no_durations(#[case] text: &str) {
    assert_eq!(
        text.parse::<Duration>(),
        Err(ParseQuantityError::Duration(text.to_owned()))
    );
}

#[rstest]
#[case("0", 0)]
#[case("1024", 1024)]
#[case("500Mi", 500 << 20)]
#[case("5Gi", 5 << 30)]
#[case("1.5Ki", 1536)]
#[case("1.5G", 1_500_000_000)]
#[case("3k", 3_000)]
#[case("0.5", 1)]
#[case("15Ei", 15 << 60)]
fn sizes(#[case] text: &str, #[case] bytes: u64) {
    assert_eq!(text.parse(), Ok(Bytes::new(bytes)));
}

#[rstest]
#[case("")]
#[case("Mi")]
#[case("5 Mi")]
#[case("5MB")]
#[case("5K")]
#[case("-5Mi")]
#[case("1e6")]
#[case("1.")]
#[case(".5Gi")]
fn no_sizes(#[case] text: &str) {
    assert_eq!(
        text.parse::<Bytes>(),
        Err(ParseQuantityError::Bytes(text.to_owned()))
    );
}

#[test]
fn what_is_too_large_says_so() {
    let overflow = |text: &str| ParseQuantityError::Overflow(text.to_owned());
    assert_eq!("16Ei".parse::<Bytes>(), Err(overflow("16Ei")));
    assert_eq!(
        "99999999999999999999".parse::<Bytes>(),
        Err(overflow("99999999999999999999"))
    );
    assert_eq!(
        "99999999999999999w".parse::<Duration>(),
        Err(overflow("99999999999999999w"))
    );
}

/// The same pattern that is in the schema.
fn matches<T: schemars::JsonSchema>(text: &str) -> bool {
    let schema = schemars::SchemaGenerator::default().root_schema_for::<T>();
    jsonschema::is_valid(schema.as_value(), &text.into())
}

proptest! {
    #[test]
    fn durations_round_trip(seconds in 0_u64..86_400_000_000_000) {
        let duration = Duration::from_secs(seconds);
        let text = duration.to_string();
        prop_assert_eq!(text.parse(), Ok(duration));
        prop_assert!(matches::<Duration>(&text), "{}", text);
    }

    #[test]
    fn sizes_round_trip(bytes: u64, shift in 0_u32..60) {
        let size = Bytes::new(bytes >> shift << shift);
        let text = size.to_string();
        prop_assert_eq!(text.parse(), Ok(size));
        prop_assert!(matches::<Bytes>(&text), "{}", text);
        let json = serde_json::to_value(size).unwrap();
        prop_assert_eq!(serde_json::from_value::<Bytes>(json).unwrap(), size);
    }

    /// The schema and the parser agree, so that a cluster takes no value that
    /// then cannot be read. Only size is beyond the schema.
    #[test]
    fn schema_and_parser_agree(text in "[0-9]{0,3}[wdhmsKMGi. ]{0,2}([0-9]{1,2}[wdhms])?") {
        prop_assert_eq!(text.parse::<Duration>().is_ok(), matches::<Duration>(&text), "{}", text);
        prop_assert_eq!(text.parse::<Bytes>().is_ok(), matches::<Bytes>(&text), "{}", text);
    }
}
