//! What a scalar without quotes stands for.

use serde_json::{Number, Value};

/// A scalar without quotes, as the core schema of YAML 1.2 reads it.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = unsigned.trim_start_matches('.').chars().next()?;
    let allowed = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+');
    if !first.is_ascii_digit() || !unsigned.chars().all(allowed) {
        return None;
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = digits.parse::<i64>() {
            return Some(number.into());
        }
        if let Ok(number) = digits.parse::<u64>() {
            return Some(number.into());
        }
    }
    text.parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::plain;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case("", Value::Null)]
    #[case("~", Value::Null)]
    #[case("true", json!(true))]
    #[case("yes", json!("yes"))]
    #[case("22", json!(22))]
    #[case("-3", json!(-3))]
    #[case("+3", json!(3))]
    #[case("0x1F", json!(31))]
    #[case("0o17", json!(15))]
    #[case("1.5", json!(1.5))]
    #[case("1e3", json!(1000.0))]
    #[case("18446744073709551615", json!(u64::MAX))]
    #[case("1_000", json!("1_000"))]
    #[case("5m", json!("5m"))]
    #[case("1.2.3", json!("1.2.3"))]
    #[case("2026-03-01", json!("2026-03-01"))]
    #[case("-", json!("-"))]
    #[case(".", json!("."))]
    #[case("5f1c0a2b", json!("5f1c0a2b"))]
    #[case(".inf", json!(".inf"))]
    fn scalars(#[case] text: &str, #[case] expected: Value) {
        assert_eq!(plain(text), expected);
    }
}
