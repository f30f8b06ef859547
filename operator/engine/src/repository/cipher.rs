//! Encryption of what a repository stores: AES-256 in counter mode with Poly1305-AES, as restic
//! does it, and the two envelopes around it: blobs inside packs, and files of their own.

use aes256ctr_poly1305aes::aead::AeadInPlace;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
use rand::RngCore;
use rustic_core::repofile::MasterKey;
use zeroize::Zeroizing;

/// The bytes that encryption adds: a nonce before and a tag after.
pub(super) const OVERHEAD: usize = NONCE + TAG;
const NONCE: usize = 16;
const TAG: usize = 16;

/// First byte of a file whose JSON is compressed.
const COMPRESSED: u8 = 2;

/// Why something could not be encrypted, or is not what was encrypted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CipherError {
    #[error("it is shorter than an encrypted message can be ({0} bytes)")]
    TooShort(usize),
    #[error("it was changed since it was written, or another key wrote it")]
    NotAuthentic,
    #[error("it cannot be encrypted")]
    Encrypt,
    #[error("it cannot be compressed: {0}")]
    Compress(std::io::Error),
    #[error("it cannot be decompressed: {0}")]
    Decompress(std::io::Error),
    #[error("it says {expected} bytes and holds {found}")]
    WrongLength { expected: u64, found: u64 },
    #[error("it is in no format that is known")]
    UnknownFormat,
    #[error("reading back what was just encrypted gave something else; memory or processor is bad")]
    NotReadBack,
}

/// The key of one repository, or of one of its key files.
pub(super) struct Cipher {
    key: Zeroizing<[u8; 64]>,
    /// zstd level; `None` in repositories of version 1, which know no compression.
    level: Option<i32>,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Cipher {
    /// The cipher of a repository's master key; `level` is its zstd level.
    pub(super) fn new(master: &MasterKey, level: Option<i32>) -> Option<Self> {
        let mut key = Zeroizing::new([0; 64]);
        if master.encrypt.len() != 32 || master.mac.k.len() != 16 || master.mac.r.len() != 16 {
            return None;
        }
        key[..32].copy_from_slice(&master.encrypt);
        key[32..48].copy_from_slice(&master.mac.k);
        key[48..].copy_from_slice(&master.mac.r);
        Some(Self { key, level })
    }

    /// The cipher of a key that was derived from a password: it encrypts a master key, never
    /// compressed.
    pub(super) fn of_key(key: Zeroizing<[u8; 64]>) -> Self {
        Self { key, level: None }
    }

    fn aead(&self) -> Aes256CtrPoly1305Aes {
        Aes256CtrPoly1305Aes::new(Key::from_slice(&self.key[..]))
    }

    /// Nonce, ciphertext and tag of `plain`.
    pub(super) fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD);
        sealed.resize(NONCE, 0);
        rand::rng().fill_bytes(&mut sealed);
        let nonce = *Nonce::from_slice(&sealed);
        sealed.extend_from_slice(plain);
        let tag = self
            .aead()
            .encrypt_in_place_detached(&nonce, &[], &mut sealed[NONCE..])
            .map_err(|_| CipherError::Encrypt)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// What was encrypted as `sealed`.
    pub(super) fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        if sealed.len() < OVERHEAD {
            return Err(CipherError::TooShort(sealed.len()));
        }
        let (nonce, rest) = sealed.split_at(NONCE);
        let (message, tag) = rest.split_at(rest.len() - TAG);
        let mut plain = message.to_vec();
        self.aead()
            .decrypt_in_place_detached(
                Nonce::from_slice(nonce),
                &[],
                &mut plain,
                aes256ctr_poly1305aes::Tag::from_slice(tag),
            )
            .map_err(|_| CipherError::NotAuthentic)?;
        Ok(plain)
    }

    /// A blob as it lies in a pack, and its plain length when it is compressed there. It is read
    /// back at once: what a bad memory or processor spoils is not stored.
    pub(super) fn seal_blob(&self, plain: &[u8]) -> Result<(Vec<u8>, Option<u32>), CipherError> {
        // Lengths in packs have 32 bits and zero means "not compressed".
        let length = u32::try_from(plain.len()).map_err(|_| CipherError::WrongLength {
            expected: u64::from(u32::MAX),
            found: plain.len() as u64,
        })?;
        let (sealed, raw_length) = match self.level {
            Some(level) if length > 0 => {
                let packed = zstd::bulk::compress(plain, level).map_err(CipherError::Compress)?;
                (self.encrypt(&packed)?, Some(length))
            }
            _ => (self.encrypt(plain)?, None),
        };
        if self.open_blob(&sealed, raw_length)? != plain {
            return Err(CipherError::NotReadBack);
        }
        Ok((sealed, raw_length))
    }

    /// The plain bytes of a blob that lies in a pack as `sealed`.
    pub(super) fn open_blob(
        &self,
        sealed: &[u8],
        raw_length: Option<u32>,
    ) -> Result<Vec<u8>, CipherError> {
        let plain = self.decrypt(sealed)?;
        let Some(expected) = raw_length else {
            return Ok(plain);
        };
        let plain =
            zstd::bulk::decompress(&plain, expected as usize).map_err(CipherError::Decompress)?;
        if plain.len() != expected as usize {
            return Err(CipherError::WrongLength {
                expected: u64::from(expected),
                found: plain.len() as u64,
            });
        }
        Ok(plain)
    }

    /// A file of its own (index, snapshot, lock) as it is stored.
    pub(super) fn seal_file(&self, json: &[u8]) -> Result<Vec<u8>, CipherError> {
        let Some(level) = self.level else {
            return self.encrypt(json);
        };
        let mut framed = vec![COMPRESSED];
        zstd::stream::copy_encode(json, &mut framed, level).map_err(CipherError::Compress)?;
        let sealed = self.encrypt(&framed)?;
        if self.open_file(&sealed)? != json {
            return Err(CipherError::NotReadBack);
        }
        Ok(sealed)
    }

    /// The JSON of a file that is stored as `sealed`.
    pub(super) fn open_file(&self, sealed: &[u8]) -> Result<Vec<u8>, CipherError> {
        let framed = self.decrypt(sealed)?;
        match framed.first() {
            Some(b'{' | b'[') => Ok(framed),
            Some(&COMPRESSED) => {
                zstd::stream::decode_all(&framed[1..]).map_err(CipherError::Decompress)
            }
            _ => Err(CipherError::UnknownFormat),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cipher(level: Option<i32>) -> Cipher {
        Cipher::new(&MasterKey::new(), level).expect("a fresh key has its lengths")
    }

    proptest! {
        #[test]
        fn blobs_come_back(plain in prop::collection::vec(any::<u8>(), 0..5000), packed: bool) {
            let cipher = cipher(packed.then_some(3));
            let (sealed, raw_length) = cipher.seal_blob(&plain).unwrap();
            prop_assert_eq!(cipher.open_blob(&sealed, raw_length).unwrap(), plain);
        }

        #[test]
        fn any_changed_byte_is_noticed(
            plain in prop::collection::vec(any::<u8>(), 1..500),
            position: prop::sample::Index,
            flip in 1_u8..,
        ) {
            let cipher = cipher(Some(1));
            let (mut sealed, raw_length) = cipher.seal_blob(&plain).unwrap();
            let position = position.index(sealed.len());
            sealed[position] ^= flip;
            prop_assert!(cipher.open_blob(&sealed, raw_length).is_err());
        }
    }

    #[test]
    fn files_are_read_in_both_forms() {
        let cipher = cipher(Some(3));
        let json = br#"{"a":1}"#;
        assert_eq!(
            cipher.open_file(&cipher.seal_file(json).unwrap()).unwrap(),
            json
        );
        assert_eq!(
            cipher.open_file(&cipher.encrypt(json).unwrap()).unwrap(),
            json
        );
        assert!(matches!(
            cipher.open_file(&cipher.encrypt(b"\x07?").unwrap()),
            Err(CipherError::UnknownFormat)
        ));
    }

    #[test]
    fn debug_shows_no_key() {
        let master = MasterKey::new();
        let cipher = Cipher::new(&master, Some(3)).unwrap();
        let shown = format!("{cipher:?}");
        assert_eq!(shown, "Cipher { level: Some(3), .. }");
    }
}
