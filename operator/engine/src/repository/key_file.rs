//! Key files: the master key of a repository, encrypted with what scrypt makes of a password.
//!
//! The format is restic's (`internal/repository/key.go`). The library would write them too, with
//! scrypt's parameters at N = 2^17 and p = 1, and then whoever opens the repository needs 128 MiB for
//! a moment: more than an operator with thousands of objects takes. OWASP's cheat sheet on password
//! storage names N = 2^15 and p = 3 as of the same strength; they need 32 MiB, as restic's own keys do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rand::RngCore;
use rustic_core::repofile::MasterKey;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use super::cipher::{Cipher, CipherError};
use super::machine;

/// Binary logarithm of scrypt's cost N.
const LOG_N: u8 = 15;
/// scrypt's block size: N · r · 128 bytes are needed.
const R: u32 = 8;
/// How many times over, one after the other.
const P: u32 = 3;

/// Why no key file could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("scrypt refused its parameters: {0}")]
    Parameters(#[from] scrypt::errors::InvalidParams),
    #[error("scrypt refused the length of a key: {0}")]
    Length(#[from] scrypt::errors::InvalidOutputLen),
    #[error("it cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Cipher(#[from] CipherError),
}

/// As the file is written.
#[derive(Serialize)]
struct KeyFile {
    created: Timestamp,
    username: String,
    hostname: String,
    kdf: &'static str,
    #[serde(rename = "N")]
    n: u32,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

/// The bytes of a key file by which `password` opens what `master` encrypts. Takes a good part of a
/// second and 32 MiB: call it where blocking is allowed.
///
/// # Errors
/// When a part of it cannot be made, which no input causes.
pub(super) fn generate(
    master: &MasterKey,
    password: &SecretString,
) -> Result<Vec<u8>, KeyFileError> {
    let mut salt = [0; 64];
    rand::rng().fill_bytes(&mut salt);
    let parameters = scrypt::Params::new(LOG_N, R, P)?;
    let mut derived = Zeroizing::new([0; 64]);
    let password = password.expose_secret().as_bytes();
    scrypt::scrypt(password, &salt, &parameters, &mut derived[..])?;
    let master = Zeroizing::new(serde_json::to_vec(master)?);
    let sealed = Cipher::of_key(derived).encrypt(&master)?;
    Ok(serde_json::to_vec(&KeyFile {
        created: Timestamp::now(),
        username: machine::username(),
        hostname: machine::hostname(),
        kdf: "scrypt",
        n: 1 << LOG_N,
        r: R,
        p: P,
        salt: STANDARD.encode(salt),
        data: STANDARD.encode(sealed),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_reads_it_and_no_other_password_opens_it() {
        let master = MasterKey::new();
        let password = SecretString::from("correct horse");
        let bytes = generate(&master, &password).unwrap();
        let read: rustic_core::repofile::KeyFile = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((read.n, read.r, read.p), (32_768, 8, 3));
        assert!(read.key_from_password(&"correct horse").is_ok());
        assert!(read.key_from_password(&"wrong").is_err());
        let again = generate(&master, &password).unwrap();
        let again: rustic_core::repofile::KeyFile = serde_json::from_slice(&again).unwrap();
        assert_ne!(read.salt, again.salt);
    }
}
