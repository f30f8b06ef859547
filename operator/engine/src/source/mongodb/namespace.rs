//! Namespaces, the patterns that choose them, and the file names that a dump gives them.
//!
//! File names are those of the MongoDB database tools, byte for byte: the collection's name is
//! query-escaped, and an escaped name of over 238 bytes becomes its first 208 bytes, `%24` and the
//! base64url SHA-1 of the true name, which is then read from the metadata's `collectionName`.
//! Databases are not escaped: the server forbids what would need it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha1::{Digest as _, Sha1};

/// Where the dump lies in a snapshot.
pub const DUMP_ROOT: &str = "/mongodb/dump";

/// What the server puts before the name of a time series to name the collection of its buckets.
pub const BUCKETS_PREFIX: &str = "system.buckets.";

/// The longest escaped name that is used as it is; `.metadata.json.gz` still fits in 255 bytes.
const LONGEST_ESCAPED: usize = 238;

/// How much of a longer one is kept.
const TRUNCATED: usize = 208;

/// Length of the base64url SHA-1, without padding.
const HASH_LENGTH: usize = 27;

/// A database and a collection in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    /// Database.
    pub db: String,
    /// Collection, unescaped; it may hold dots.
    pub collection: String,
}

impl Namespace {
    /// The collection `collection` of the database `db`.
    pub fn new(db: impl Into<String>, collection: impl Into<String>) -> Self {
        Self {
            db: db.into(),
            collection: collection.into(),
        }
    }

    /// Path in a snapshot of the collection's documents.
    #[must_use]
    pub fn data_path(&self) -> String {
        format!(
            "{DUMP_ROOT}/{}/{}.bson",
            self.db,
            escape_collection(&self.collection)
        )
    }

    /// Path in a snapshot of the collection's options and indexes.
    #[must_use]
    pub fn metadata_path(&self) -> String {
        format!(
            "{DUMP_ROOT}/{}/{}.metadata.json",
            self.db,
            escape_collection(&self.collection)
        )
    }

    /// The collection that holds the buckets of this time series.
    #[must_use]
    pub fn buckets(&self) -> Self {
        Self::new(&self.db, format!("{BUCKETS_PREFIX}{}", self.collection))
    }

    /// The name that a person gives this namespace: for the buckets of a time series, the series.
    #[must_use]
    pub fn without_buckets_prefix(&self) -> Self {
        let name = self.collection.strip_prefix(BUCKETS_PREFIX);
        Self::new(&self.db, name.unwrap_or(&self.collection))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.collection)
    }
}

/// A text that is not `database.collection`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot take {0:?} as a namespace: it must be database.collection, neither of them empty")]
pub struct InvalidNamespace(String);

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            Some((db, collection)) if !db.is_empty() && !collection.is_empty() => {
                Ok(Self::new(db, collection))
            }
            _ => Err(InvalidNamespace(text.to_owned())),
        }
    }
}

/// A namespace pattern: `*` stands for any characters (dots too), `?` for one. One without a dot
/// names databases, with all that is in them; it may also match a whole namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// A pattern that can match nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot take {0:?} as a namespace pattern: write database.collection, with * for any characters and ? for one"
)]
pub struct InvalidPattern(String);

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.starts_with('.') || text.ends_with('.') || text.contains('\0') {
            return Err(InvalidPattern(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether the namespace is one of those meant.
    #[must_use]
    pub fn matches(&self, namespace: &Namespace) -> bool {
        matches_glob(&self.0, &namespace.to_string())
            || (!self.0.contains('.') && matches_glob(&self.0, &namespace.db))
    }

    /// The one database that it can match something in; `None` where it may be several.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        let (db, _) = self.0.split_once('.').unwrap_or((&self.0, ""));
        (!db.contains(['*', '?'])).then_some(db)
    }
}

/// Which namespaces are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceFilter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl NamespaceFilter {
    /// All that one of `include` matches (everything when it is empty) and none of `exclude`.
    ///
    /// # Errors
    /// When a pattern can match nothing.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, InvalidPattern> {
        let parse = |patterns: &[String]| -> Result<Vec<Pattern>, InvalidPattern> {
            patterns.iter().map(|text| text.parse()).collect()
        };
        Ok(Self {
            include: parse(include)?,
            exclude: parse(exclude)?,
        })
    }

    /// Whether the namespace is wanted. The buckets of a time series go with the series.
    #[must_use]
    pub fn selects(&self, namespace: &Namespace) -> bool {
        let namespace = namespace.without_buckets_prefix();
        let any = |patterns: &[Pattern]| patterns.iter().any(|one| one.matches(&namespace));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// The databases that hold all that is wanted; `None` where only the server knows them.
    #[must_use]
    pub fn databases(&self) -> Option<BTreeSet<&str>> {
        if self.include.is_empty() {
            return None;
        }
        self.include.iter().map(Pattern::database).collect()
    }

    /// The patterns of what is wanted; empty for everything.
    #[must_use]
    pub fn include(&self) -> &[Pattern] {
        &self.include
    }
}

/// Linear in practice: it remembers only the last `*`, which is enough for globs without classes.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut on) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while on < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, on));
                at += 1;
            }
            Some(&one) if one == '?' || one == text[on] => {
                at += 1;
                on += 1;
            }
            _ => match star {
                Some((star_at, star_on)) => {
                    at = star_at + 1;
                    on = star_on + 1;
                    star = Some((star_at, on));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&one| one == '*')
}

/// The file name, without extension, of a collection in a dump.
#[must_use]
pub fn escape_collection(name: &str) -> String {
    let mut escaped = query_escape(name);
    if escaped.len() > LONGEST_ESCAPED {
        escaped.truncate(TRUNCATED);
        escaped.push_str("%24");
        escaped.push_str(&URL_SAFE_NO_PAD.encode(Sha1::digest(name.as_bytes())));
    }
    escaped
}

/// What a file name of a dump, without extension, says about the collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnescapedName {
    /// The collection's name.
    Name(String),
    /// The name was too long: it stands in the metadata's `collectionName`.
    Truncated,
}

/// The inverse of [`escape_collection`]; `None` for what it cannot have made.
#[must_use]
pub fn unescape_collection(stem: &str) -> Option<UnescapedName> {
    let delimiter = stem.len().checked_sub(HASH_LENGTH + 3);
    if stem.len() == LONGEST_ESCAPED
        && delimiter.and_then(|at| stem.get(at..at + 3)) == Some("%24")
        && delimiter == Some(TRUNCATED)
    {
        return Some(UnescapedName::Truncated);
    }
    query_unescape(stem).map(UnescapedName::Name)
}

/// Go's `url.QueryEscape`, which the database tools use.
fn query_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                escaped.push('%');
                escaped.push(char::from(DIGITS[usize::from(byte >> 4)]));
                escaped.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    escaped
}

/// Go's `url.QueryUnescape`.
fn query_unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).ok()?;
                bytes.push(byte[0]);
                rest = after;
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("orders", "orders")]
    #[case("fs.files", "fs.files")]
    #[case("a b+c/d", "a+b%2Bc%2Fd")]
    #[case("~tilde-_", "~tilde-_")]
    #[case("100%", "100%25")]
    #[case("наука", "%D0%BD%D0%B0%D1%83%D0%BA%D0%B0")]
    #[case("日本", "%E6%97%A5%E6%9C%AC")]
    #[case("a\"b'c:d*e", "a%22b%27c%3Ad%2Ae")]
    fn escapes_as_the_database_tools_do(#[case] name: &str, #[case] escaped: &str) {
        assert_eq!(escape_collection(name), escaped);
        assert_eq!(
            unescape_collection(escaped),
            Some(UnescapedName::Name(name.to_owned()))
        );
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&["shop.*", "crm.a.b", "shop.x"], Some(vec!["crm", "shop"]))]
    #[case(&["shop"], Some(vec!["shop"]))]
    #[case(&["shop.*", "*.orders"], None)]
    #[case(&["sh?p.orders"], None)]
    #[case(&["*"], None)]
    fn knows_the_databases_where_patterns_name_them(
        #[case] include: &[&str],
        #[case] expected: Option<Vec<&str>>,
    ) {
        let include: Vec<String> = include.iter().map(|&one| one.to_owned()).collect();
        let filter = NamespaceFilter::new(&include, &[]).unwrap();
        let databases = filter.databases().map(|all| all.into_iter().collect());
        assert_eq!(databases, expected);
    }

    #[test]
    fn names_of_238_escaped_bytes_are_kept_and_longer_ones_are_cut() {
        let kept = "x".repeat(238);
        assert_eq!(escape_collection(&kept), kept);
        assert_eq!(
            unescape_collection(&kept),
            Some(UnescapedName::Name(kept.clone()))
        );
        let cut = escape_collection(&"x".repeat(239));
        assert_eq!(cut.len(), 238);
        // printf 'x%.0s' $(seq 239) | openssl sha1 -binary | basenc --base64url
        assert_eq!(cut, format!("{}%24{}", "x".repeat(208), SHA1_OF_239_X));
        assert_eq!(unescape_collection(&cut), Some(UnescapedName::Truncated));
    }

    const SHA1_OF_239_X: &str = "Nq75d-cu3iRxNs-ce3Tvf9gagoU";

    #[rstest]
    #[case("%")]
    #[case("%4")]
    #[case("%zz")]
    #[case("%ff")]
    fn refuses_what_no_tool_wrote(#[case] stem: &str) {
        assert_eq!(unescape_collection(stem), None);
    }

    #[rstest]
    #[case("shop.*", "shop.orders", true)]
    #[case("shop.*", "shop.a.b", true)]
    #[case("shop.*", "shop2.orders", false)]
    #[case("shop", "shop.orders", true)]
    #[case("shop?", "shop2.orders", true)]
    #[case("shop?", "shop.orders", false)]
    #[case("*", "any.thing", true)]
    #[case("*.tmp_*", "shop.tmp_1", true)]
    #[case("*.tmp_*", "shop.orders", false)]
    #[case("*orders", "shop.orders", true)]
    #[case("shop.o?ders", "shop.orders", true)]
    #[case("s*p.*r*s", "shop.orders", true)]
    #[case("shop.orders", "shop.orders2", false)]
    #[case("shop.é?", "shop.éü", true)]
    fn patterns_match(#[case] pattern: &str, #[case] namespace: &str, #[case] expected: bool) {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(pattern.matches(&namespace.parse().unwrap()), expected);
    }

    #[test]
    fn exclusion_wins_and_buckets_go_with_their_series() {
        let filter =
            NamespaceFilter::new(&["shop.*".to_owned()], &["shop.secret".to_owned()]).unwrap();
        assert!(filter.selects(&Namespace::new("shop", "orders")));
        assert!(!filter.selects(&Namespace::new("shop", "secret")));
        assert!(!filter.selects(&Namespace::new("other", "orders")));
        assert!(filter.selects(&Namespace::new("shop", "system.buckets.weather")));
        assert!(!filter.selects(&Namespace::new("shop", "system.buckets.secret")));
        assert!(NamespaceFilter::default().selects(&Namespace::new("a", "b")));
        assert!(NamespaceFilter::new(&[String::new()], &[]).is_err());
    }

    proptest! {
        #[test]
        fn every_name_has_a_file_name_that_gives_it_back(name in "\\PC{1,80}") {
            let escaped = escape_collection(&name);
            prop_assert!(escaped.len() <= LONGEST_ESCAPED);
            prop_assert!(escaped.is_ascii() && !escaped.contains('/'));
            match unescape_collection(&escaped) {
                Some(UnescapedName::Name(back)) => prop_assert_eq!(back, name),
                Some(UnescapedName::Truncated) => prop_assert!(query_escape(&name).len() > 238),
                None => prop_assert!(false, "{} is not read back", escaped),
            }
        }

        #[test]
        fn a_glob_made_from_a_text_matches_it(text in "[ab.]{1,12}", stars in prop::collection::vec(any::<bool>(), 12)) {
            let pattern: String = text
                .chars()
                .zip(&stars)
                .map(|(one, &star)| if star { '?' } else { one })
                .collect();
            prop_assert!(matches_glob(&pattern, &text));
            let starred = format!("*{pattern}*");
            prop_assert!(matches_glob(&starred, &text));
            let longer = format!("a{text}b");
            prop_assert!(matches_glob(&starred, &longer));
            let other = format!("{text}c");
            prop_assert!(!matches_glob(&pattern, &other));
        }
    }
}
