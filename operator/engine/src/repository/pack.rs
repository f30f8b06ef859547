//! Packs: how blobs lie together in one object, and how its header names them.
//!
//! A pack is the sealed blobs one after another, the sealed header, and the header's length in four
//! bytes, little endian. The header has one entry per blob, in order: its kind, its length in the
//! pack, its plain length when it is compressed, and its id.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cipher::{Cipher, CipherError, OVERHEAD};
use super::id::ObjectId;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BlobKind {
    /// Bytes of files.
    Data,
    /// A directory.
    Tree,
}

/// A blob in a pack, as an index names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackedBlob {
    pub(super) id: ObjectId,
    #[serde(rename = "type")]
    pub(super) kind: BlobKind,
    pub(super) offset: u32,
    pub(super) length: u32,
    #[serde(
        default,
        rename = "uncompressed_length",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) raw_length: Option<u32>,
}

const ENTRY: usize = 1 + 4 + 32;
const ENTRY_COMPRESSED: usize = ENTRY + 4;
const LENGTH: usize = 4;

/// The size of a pack that holds exactly these blobs.
pub(super) fn pack_size(blobs: &[PackedBlob]) -> u64 {
    blobs.iter().map(|blob| u64::from(blob.length)).sum::<u64>()
        + blobs
            .iter()
            .map(|blob| if blob.raw_length.is_some() { ENTRY_COMPRESSED } else { ENTRY } as u64)
            .sum::<u64>()
        + (OVERHEAD + LENGTH) as u64
}

/// A pack that is complete and not yet stored.
#[derive(Debug)]
pub(super) struct FinishedPack {
    pub(super) id: ObjectId,
    pub(super) parts: Vec<Bytes>,
    pub(super) blobs: Vec<PackedBlob>,
}

impl FinishedPack {
    /// Where a pack is stored.
    pub(super) fn path(id: &ObjectId) -> String {
        let name = id.to_string();
        format!("data/{}/{name}", &name[..2])
    }
}

/// A pack that takes blobs.
#[derive(Debug, Default)]
pub(super) struct PackBuilder {
    parts: Vec<Bytes>,
    blobs: Vec<PackedBlob>,
    size: u32,
}

/// More entries would make a header that other tools refuse.
const MAX_BLOBS: usize = 10_000;

impl PackBuilder {
    /// Takes a sealed blob.
    pub(super) fn push(
        &mut self,
        kind: BlobKind,
        id: ObjectId,
        sealed: Vec<u8>,
        raw_length: Option<u32>,
    ) -> Result<(), CipherError> {
        let too_long = |_| CipherError::WrongLength {
            expected: u64::from(u32::MAX),
            found: sealed.len() as u64,
        };
        let length = u32::try_from(sealed.len()).map_err(too_long)?;
        let end = self
            .size
            .checked_add(length)
            .ok_or(CipherError::WrongLength {
                expected: u64::from(u32::MAX),
                found: u64::from(self.size) + u64::from(length),
            })?;
        self.blobs.push(PackedBlob {
            id,
            kind,
            offset: self.size,
            length,
            raw_length,
        });
        self.parts.push(sealed.into());
        self.size = end;
        Ok(())
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Whether it is large enough for `target` bytes.
    pub(super) fn is_full(&self, target: u32) -> bool {
        self.size >= target || self.blobs.len() >= MAX_BLOBS
    }

    /// Adds the header and names the pack.
    pub(super) fn finish(mut self, cipher: &Cipher) -> Result<FinishedPack, CipherError> {
        let header = cipher.encrypt(&encode_header(&self.blobs))?;
        let length = u32::try_from(header.len()).map_err(|_| CipherError::WrongLength {
            expected: u64::from(u32::MAX),
            found: header.len() as u64,
        })?;
        self.parts.push(header.into());
        self.parts.push(length.to_le_bytes().to_vec().into());
        let id = ObjectId::of_parts(self.parts.iter().map(|part| &part[..]));
        Ok(FinishedPack {
            id,
            parts: self.parts,
            blobs: self.blobs,
        })
    }
}

fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * ENTRY_COMPRESSED);
    for blob in blobs {
        let kind = match (blob.kind, blob.raw_length) {
            (BlobKind::Data, None) => 0,
            (BlobKind::Tree, None) => 1,
            (BlobKind::Data, Some(_)) => 2,
            (BlobKind::Tree, Some(_)) => 3,
        };
        header.push(kind);
        header.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(raw_length) = blob.raw_length {
            header.extend_from_slice(&raw_length.to_le_bytes());
        }
        header.extend_from_slice(&blob.id.0);
    }
    header
}

/// The blobs that the header of `pack` names, or why it cannot be understood.
pub(super) fn read_header(cipher: &Cipher, pack: &[u8]) -> Result<Vec<PackedBlob>, CipherError> {
    let body = pack
        .len()
        .checked_sub(LENGTH)
        .ok_or(CipherError::TooShort(pack.len()))?;
    let mut length = [0; LENGTH];
    length.copy_from_slice(&pack[body..]);
    let length = u32::from_le_bytes(length) as usize;
    let start = body
        .checked_sub(length)
        .ok_or(CipherError::TooShort(pack.len()))?;
    decode_header(&cipher.decrypt(&pack[start..body])?)
}

fn decode_header(mut header: &[u8]) -> Result<Vec<PackedBlob>, CipherError> {
    fn take<const N: usize>(header: &mut &[u8]) -> Result<[u8; N], CipherError> {
        let (head, rest) = header
            .split_first_chunk::<N>()
            .ok_or(CipherError::UnknownFormat)?;
        *header = rest;
        Ok(*head)
    }
    let mut blobs = Vec::new();
    let mut offset = 0_u32;
    while !header.is_empty() {
        let [kind] = take::<1>(&mut header)?;
        let length = u32::from_le_bytes(take(&mut header)?);
        let (kind, raw_length) = match kind {
            0 => (BlobKind::Data, None),
            1 => (BlobKind::Tree, None),
            2 => (BlobKind::Data, Some(u32::from_le_bytes(take(&mut header)?))),
            3 => (BlobKind::Tree, Some(u32::from_le_bytes(take(&mut header)?))),
            _ => return Err(CipherError::UnknownFormat),
        };
        let id = ObjectId(take(&mut header)?);
        blobs.push(PackedBlob {
            id,
            kind,
            offset,
            length,
            raw_length,
        });
        offset = offset
            .checked_add(length)
            .ok_or(CipherError::UnknownFormat)?;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustic_core::repofile::MasterKey;

    proptest! {
        #[test]
        fn a_pack_says_what_was_put_in(
            blobs in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
            packed: bool,
        ) {
            let cipher = Cipher::new(&MasterKey::new(), packed.then_some(1)).unwrap();
            let mut builder = PackBuilder::default();
            for (tree, plain) in &blobs {
                let kind = if *tree { BlobKind::Tree } else { BlobKind::Data };
                let (sealed, raw_length) = cipher.seal_blob(plain).unwrap();
                builder.push(kind, ObjectId::of(plain), sealed, raw_length).unwrap();
            }
            let pack = builder.finish(&cipher).unwrap();
            let bytes = pack.parts.concat();
            prop_assert_eq!(pack.id, ObjectId::of(&bytes));
            prop_assert_eq!(pack_size(&pack.blobs), bytes.len() as u64);
            let named = read_header(&cipher, &bytes).unwrap();
            prop_assert_eq!(&named, &pack.blobs);
            for (blob, (_, plain)) in named.iter().zip(&blobs) {
                let range = blob.offset as usize..(blob.offset + blob.length) as usize;
                prop_assert_eq!(&cipher.open_blob(&bytes[range], blob.raw_length).unwrap(), plain);
            }
        }

        #[test]
        fn no_header_makes_it_panic(header in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_header(&header);
        }
    }
}
