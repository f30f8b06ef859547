//! Whether a server's key is the one that is known: pinned keys, or a `known_hosts` file.
//!
//! There is no third way: a key that is not known is refused.

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::known_hosts::{HostPatterns, KnownHosts, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use sha1::Sha1;

use crate::destination::HostKeyCheck;

/// Why a server's key is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another key is known, or this one is revoked.
    Mismatch(String),
    /// No key is known.
    Unknown(String),
}

/// The keys that a server may, and must not, prove to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TrustedKeys {
    trusted: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
    /// Where they come from, for messages.
    origin: String,
}

impl TrustedKeys {
    /// The keys for `host` and `port`; a `known_hosts` file is read anew each time.
    ///
    /// # Errors
    /// A sentence: a pinned key is malformed, or the file cannot be read.
    pub(super) fn load(check: &HostKeyCheck, host: &str, port: u16) -> Result<Self, String> {
        match check {
            HostKeyCheck::Pinned(lines) => Self::pinned(lines),
            HostKeyCheck::KnownHosts(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    format!(
                        "the known_hosts file {} cannot be read: {error}",
                        path.display()
                    )
                })?;
                let mut keys = Self::known(&text, host, port)?;
                keys.origin = path.display().to_string();
                Ok(keys)
            }
        }
    }

    fn pinned(lines: &[String]) -> Result<Self, String> {
        let trusted = lines
            .iter()
            .flat_map(|lines| lines.lines())
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                PublicKey::from_openssh(line).map_err(|error| {
                    format!(
                        "a hostKey is not a key as in \"ssh-ed25519 AAAA…\" ({error}); `ssh-keyscan` \
                         prints it, and the server's /etc/ssh/ssh_host_ed25519_key.pub holds it"
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if trusted.is_empty() {
            return Err("no hostKey is given".to_owned());
        }
        Ok(Self {
            trusted,
            revoked: Vec::new(),
            origin: "hostKey".to_owned(),
        })
    }

    fn known(text: &str, host: &str, port: u16) -> Result<Self, String> {
        let names = names_of(host, port);
        let mut keys = Self::default();
        for line in text.lines() {
            let revoked = line.trim_start().starts_with(Marker::Revoked.as_str());
            let Some(entry) = KnownHosts::new(line).next() else {
                continue;
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if revoked => {
                    return Err(format!(
                        "a @revoked line of known_hosts is malformed: {error}"
                    ));
                }
                // As OpenSSH does: a line with a key of a type that is not supported is no key.
                Err(_) => continue,
            };
            if !matches(entry.host_patterns(), &names) {
                continue;
            }
            match entry.marker() {
                Some(Marker::Revoked) => keys.revoked.push(entry.public_key().clone()),
                // Certificates of hosts are not asked for, so their authorities prove nothing.
                Some(Marker::CertAuthority) => {}
                None => keys.trusted.push(entry.public_key().clone()),
            }
        }
        Ok(keys)
    }

    /// Decides about the key that a server has proved to hold.
    pub(super) fn check(&self, key: &PublicKey) -> Result<(), Refusal> {
        let is = |known: &PublicKey| known.key_data() == key.key_data();
        if self.revoked.iter().any(is) {
            return Err(Refusal::Mismatch(format!(
                "the server's key {} is marked @revoked in {}",
                describe(key),
                self.origin
            )));
        }
        if self.trusted.iter().any(is) {
            return Ok(());
        }
        if self.trusted.is_empty() {
            return Err(Refusal::Unknown(format!(
                "{} holds no key of this server, whose key is {}",
                self.origin,
                describe(key)
            )));
        }
        let expected: Vec<String> = self.trusted.iter().map(describe).collect();
        Err(Refusal::Mismatch(format!(
            "the server's key is {}, and {} says {}",
            describe(key),
            self.origin,
            expected.join(" or ")
        )))
    }

    /// `algorithms` with those of the known keys first, so that a server with several keys proves
    /// one that is known.
    pub(super) fn prefer(&self, algorithms: &[Algorithm]) -> Vec<Algorithm> {
        let (mut known, others): (Vec<_>, Vec<_>) =
            algorithms.iter().cloned().partition(|algorithm| {
                self.trusted
                    .iter()
                    .any(|key| same_type(&key.algorithm(), algorithm))
            });
        known.extend(others);
        known
    }
}

/// The signature's hash is no part of a key's type.
fn same_type(one: &Algorithm, other: &Algorithm) -> bool {
    match (one, other) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (one, other) => one == other,
    }
}

fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// The names under which `known_hosts` may hold a host.
fn names_of(host: &str, port: u16) -> Vec<String> {
    let host = host.to_ascii_lowercase();
    let with_port = format!("[{host}]:{port}");
    if port == 22 {
        vec![host, with_port]
    } else {
        vec![with_port]
    }
}

fn matches(patterns: &HostPatterns, names: &[String]) -> bool {
    match patterns {
        HostPatterns::Patterns(patterns) => {
            let hit = |pattern: &str| {
                let pattern = pattern.to_ascii_lowercase();
                names
                    .iter()
                    .any(|name| glob(pattern.as_bytes(), name.as_bytes()))
            };
            let (negated, plain): (Vec<_>, Vec<_>) = patterns
                .iter()
                .partition(|pattern| pattern.starts_with('!'));
            plain.iter().any(|pattern| hit(pattern))
                && !negated
                    .iter()
                    .any(|pattern| hit(pattern.trim_start_matches('!')))
        }
        HostPatterns::HashedName { salt, hash } => names.iter().any(|name| {
            Hmac::<Sha1>::new_from_slice(salt)
                .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok())
        }),
    }
}

/// `*` is any run of characters, `?` any one.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last `*` when what follows it does not match.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ74h5q+2skCsCJXtAC9vR72g+QHkkOKjHiDRdb/gFIz";

    /// Written by `ssh-keygen -H` for the name `[box]:2222`.
    const HASHED: &str = "|1|SSKEqM1A3E6l6sS2AzH8qIlJA9M=|a9kV1f5AlnfvoiupWIrOiTxkNNk=";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    fn known(text: &str, host: &str, port: u16) -> TrustedKeys {
        TrustedKeys::known(text, host, port).expect("a known_hosts file")
    }

    #[test]
    fn a_pinned_key_is_accepted_with_or_without_a_comment() {
        for line in [
            ONE.to_owned(),
            format!("{ONE} root@box"),
            format!("{OTHER}\n{ONE}\n"),
        ] {
            let keys = TrustedKeys::pinned(&[line]).expect("pinned");
            assert_eq!(keys.check(&key(ONE)), Ok(()));
        }
    }

    #[test]
    fn another_key_is_a_mismatch_that_names_both() {
        let keys = TrustedKeys::pinned(&[ONE.to_owned()]).expect("pinned");
        let Err(Refusal::Mismatch(said)) = keys.check(&key(OTHER)) else {
            panic!("accepted")
        };
        for text in [ONE, OTHER] {
            let print = key(text).fingerprint(HashAlg::Sha256).to_string();
            assert!(
                print.starts_with("SHA256:") && said.contains(&print),
                "{said}"
            );
        }
    }

    #[rstest]
    #[case(&["ssh-ed25519 not-base64"])]
    #[case(&["SHA256:abc"])]
    #[case(&[])]
    #[case(&["", "# nothing"])]
    fn what_is_no_key_cannot_be_pinned(#[case] lines: &[&str]) {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        assert!(TrustedKeys::pinned(&lines).is_err());
    }

    #[rstest]
    #[case("box ", "box", 22, true)]
    #[case("Box.Example.com ", "box.example.COM", 22, true)]
    #[case("box ", "box", 2222, false)]
    #[case("[box]:2222 ", "box", 2222, true)]
    #[case("[box]:2222 ", "box", 22, false)]
    #[case("other,box,10.0.0.1 ", "10.0.0.1", 22, true)]
    #[case("*.example.com ", "box.example.com", 22, true)]
    #[case("*.example.com,!box.example.com ", "box.example.com", 22, false)]
    #[case("@cert-authority box ", "box", 22, false)]
    #[case("# box ", "box", 22, false)]
    fn names_are_matched_as_openssh_does(
        #[case] prefix: &str,
        #[case] host: &str,
        #[case] port: u16,
        #[case] found: bool,
    ) {
        let keys = known(&format!("\n{prefix}{ONE} a comment\n"), host, port);
        assert_eq!(keys.check(&key(ONE)).is_ok(), found);
    }

    #[test]
    fn hashed_names_are_matched() {
        let line = format!("{HASHED} {ONE}");
        assert_eq!(known(&line, "box", 2222).check(&key(ONE)), Ok(()));
        assert!(matches!(
            known(&line, "box", 22).check(&key(ONE)),
            Err(Refusal::Unknown(_))
        ));
    }

    #[test]
    fn a_revoked_key_is_refused_even_where_it_is_trusted_too() {
        let text = format!("box {ONE}\n@revoked * {ONE}\n");
        assert!(matches!(
            known(&text, "box", 22).check(&key(ONE)),
            Err(Refusal::Mismatch(_))
        ));
        assert!(TrustedKeys::known("@revoked * ssh-ed25519 broken", "box", 22).is_err());
    }

    #[test]
    fn one_of_several_keys_of_a_host_suffices() {
        let text = format!("box {OTHER}\nbox ssh-dss AAAA\nbox {ONE}\n");
        assert_eq!(known(&text, "box", 22).check(&key(ONE)), Ok(()));
    }

    #[test]
    fn the_types_of_known_keys_are_asked_for_first() {
        let rsa = |hash| Algorithm::Rsa { hash };
        let all = [rsa(Some(HashAlg::Sha512)), rsa(None), Algorithm::Ed25519];
        let keys = TrustedKeys::pinned(&[ONE.to_owned()]).expect("pinned");
        assert_eq!(
            keys.prefer(&all),
            [Algorithm::Ed25519, rsa(Some(HashAlg::Sha512)), rsa(None)]
        );
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_with_parts_starred(
            text in "[a-z.]{1,12}", from in 0_usize..12, length in 0_usize..12,
        ) {
            let from = from.min(text.len());
            let to = (from + length).min(text.len());
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()));
            prop_assert!(glob(text.as_bytes(), text.as_bytes()));
            let longer = format!("{text}x");
            prop_assert!(!glob(text.as_bytes(), longer.as_bytes()));
        }
    }
}
