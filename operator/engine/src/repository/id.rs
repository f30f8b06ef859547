//! The id of a thing in a repository: the SHA-256 of its bytes, as 64 hex digits in names and JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The SHA-256 of a pack, a file or a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct ObjectId(pub(super) [u8; 32]);

impl ObjectId {
    /// The id of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The id of the concatenation of `parts`.
    pub(super) fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The same id as the library names it.
    pub(super) fn to_rustic(self) -> rustic_core::Id {
        rustic_core::Id::new(self.0)
    }

    /// The id at the end of an object's path, or `None` when its name is none.
    pub(super) fn from_path(path: &str) -> Option<Self> {
        path.rsplit('/').next()?.parse().ok()
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The id behind a library's id, which shows its bytes only as text.
pub(super) fn from_rustic(id: rustic_core::Id) -> ObjectId {
    // The library's text is always 64 hex digits; a zero id stands for nothing there either.
    id.to_hex().as_str().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_and_we_mean_the_same_id() {
        let id = ObjectId::of(b"anything");
        assert_eq!(from_rustic(id.to_rustic()), id);
        assert_eq!(id.to_rustic().to_hex().as_str(), id.to_string());
    }

    #[test]
    fn parts_are_hashed_as_their_concatenation() {
        assert_eq!(
            ObjectId::of_parts([&b"any"[..], b"", b"thing"]),
            ObjectId::of(b"anything")
        );
    }

    #[test]
    fn the_name_at_the_end_of_a_path_is_the_id() {
        let id = ObjectId::of(b"x");
        assert_eq!(ObjectId::from_path(&format!("data/ab/{id}")), Some(id));
        assert_eq!(ObjectId::from_path("data/ab/README"), None);
    }
}
