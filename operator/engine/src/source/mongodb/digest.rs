//! Content digests: the sum modulo 2^128 of the XXH3-128 hashes of raw documents.
//!
//! A sum does not depend on the order of documents, so ranges may be read side by side, and a
//! restored collection can be compared with what was backed up whatever its natural order. It is
//! a check against accidents, not against an adversary.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_128;

/// The XXH3-128 hash of one raw document.
#[must_use]
pub fn document_hash(document: &[u8]) -> u128 {
    xxh3_128(document)
}

/// The digest of a set of documents (of a multiset: the same document twice counts twice).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ContentDigest(u128);

impl ContentDigest {
    /// The digest of no documents.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one raw document.
    pub fn add(&mut self, document: &[u8]) {
        self.add_hash(document_hash(document));
    }

    /// Adds a document by its [`document_hash`].
    pub fn add_hash(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// Adds all documents of another digest.
    pub fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text that is not a content digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot take {0:?} as a content digest: it must be 32 hexadecimal digits")]
pub struct InvalidDigest(String);

impl FromStr for ContentDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidDigest(text.to_owned()));
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidDigest(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest<'a>(documents: impl IntoIterator<Item = &'a Vec<u8>>) -> ContentDigest {
        let mut digest = ContentDigest::new();
        for document in documents {
            digest.add(document);
        }
        digest
    }

    #[test]
    fn is_zero_for_nothing_and_counts_repetitions() {
        assert_eq!(
            ContentDigest::new().to_string(),
            "00000000000000000000000000000000"
        );
        let once = digest(&[vec![1]]);
        let twice = digest(&[vec![1], vec![1]]);
        assert_ne!(once, twice);
        assert_ne!(ContentDigest::new(), twice);
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        for text in [
            "",
            "1",
            "+0000000000000000000000000000000",
            "g0000000000000000000000000000000",
        ] {
            assert!(text.parse::<ContentDigest>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn does_not_depend_on_order_or_partition(
            documents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32),
            at in any::<prop::sample::Index>(),
        ) {
            let whole = digest(&documents);
            let mut reversed = documents.clone();
            reversed.reverse();
            prop_assert_eq!(whole, digest(&reversed));
            let at = at.index(documents.len() + 1);
            let mut merged = digest(&documents[at..]);
            merged.merge(digest(&documents[..at]));
            prop_assert_eq!(whole, merged);
            prop_assert_eq!(whole, whole.to_string().parse::<ContentDigest>()?);
        }
    }
}
