//! Resolves secret values on one box: from `--secrets-dir`, the environment, or a file.

use std::path::{Path, PathBuf};

use holdfast_crds::SecretSource;
use holdfast_engine::class::{Classified, ErrorClass};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// Why a secret has no value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The reference names a Secret and there is no directory of secrets.
    #[error(
        "cannot read key {key} of secret {name}: no directory of secrets is given; \
         use --secrets-dir DIR, which holds DIR/{name}/{key}"
    )]
    NoDirectory {
        /// Name of the secret.
        name: String,
        /// Key in it.
        key: String,
    },
    /// The file that holds the value cannot be read.
    #[error("cannot read the secret in {path}: {cause}; create the file, readable by this process")]
    Unreadable {
        /// Where the value should be.
        path: PathBuf,
        /// What came back.
        cause: std::io::Error,
    },
    /// The environment variable is not set.
    #[error("the environment variable {name}, which a secret is read from, is not set; set it")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// The source is of one box.
    #[error("the secret source {what} is of one box; use secretKeyRef in a cluster")]
    NotInCluster {
        /// Which source.
        what: &'static str,
    },
    /// There is no such Secret.
    #[error("there is no Secret {name} in namespace {namespace}; create it")]
    NoSecret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The Secret has no such key.
    #[error("Secret {name} in namespace {namespace} has no key {key}; add it")]
    NoKey {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// The API server did not tell.
    #[error("cannot read {place} from the API server: {cause}")]
    Api {
        /// What.
        place: String,
        /// What came back.
        cause: String,
    },
    /// The value is empty.
    #[error("the secret in {place} is empty; write its value there")]
    Empty {
        /// Where the value should be.
        place: String,
    },
    /// The value is not text.
    #[error("the secret in {place} is not UTF-8 text; write it as text")]
    NotText {
        /// Where the value is.
        place: String,
    },
}

impl Classified for SecretError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Api { .. } => ErrorClass::Transient,
            Self::NotInCluster { .. } => ErrorClass::Permanent,
            _ => ErrorClass::Waiting,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotText { .. } | Self::Empty { .. } => "SecretInvalid",
            Self::NotInCluster { .. } => "NotPossibleInCluster",
            Self::Api { .. } => "SecretNotRead",
            _ => "SecretNotFound",
        }
    }
}

/// Resolves secrets of plain files.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    directory: Option<PathBuf>,
}

impl Secrets {
    /// Secrets whose `secretKeyRef`s lie below `directory`.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory }
    }

    /// Where secrets lie that `secretKeyRef`s name.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The value, without the line break that editors and `echo` leave at the end.
    ///
    /// # Errors
    /// When it is not there, cannot be read, is empty or not text.
    pub fn resolve(&self, source: &SecretSource) -> Result<SecretString, SecretError> {
        match source {
            SecretSource::SecretKeyRef(reference) => {
                let directory =
                    self.directory
                        .as_ref()
                        .ok_or_else(|| SecretError::NoDirectory {
                            name: reference.name.clone(),
                            key: reference.key.clone(),
                        })?;
                read_file(&directory.join(&reference.name).join(&reference.key))
            }
            SecretSource::File(path) => read_file(Path::new(path)),
            SecretSource::Env(name) => {
                let value = std::env::var_os(name)
                    .ok_or_else(|| SecretError::NoVariable { name: name.clone() })?;
                let place = format!("the environment variable {name}");
                let value =
                    Zeroizing::new(value.into_string().map_err(|_| SecretError::NotText {
                        place: place.clone(),
                    })?);
                text(&value, place)
            }
        }
    }

    /// Something that changes when the value does, and tells nothing of it: the file's time of
    /// change. A variable cannot change while the process lives.
    #[must_use]
    pub fn version(&self, source: &SecretSource) -> Option<String> {
        let path = match source {
            SecretSource::SecretKeyRef(reference) => self
                .directory
                .as_ref()?
                .join(&reference.name)
                .join(&reference.key),
            SecretSource::File(path) => PathBuf::from(path),
            SecretSource::Env(name) => {
                return std::env::var_os(name).map(|_| "environment".to_owned());
            }
        };
        let changed = std::fs::metadata(path).ok()?.modified().ok()?;
        let since = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_nanos().to_string())
    }
}

fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let bytes = Zeroizing::new(
        std::fs::read(path).map_err(|cause| SecretError::Unreadable {
            path: path.to_owned(),
            cause,
        })?,
    );
    text_of(&bytes, path.display().to_string())
}

/// The text of a value, without the line break that editors and `echo` leave at the end.
///
/// # Errors
/// When it is empty or no text.
pub fn text_of(bytes: &[u8], place: String) -> Result<SecretString, SecretError> {
    let value = std::str::from_utf8(bytes).map_err(|_| SecretError::NotText {
        place: place.clone(),
    })?;
    text(value, place)
}

fn text(value: &str, place: String) -> Result<SecretString, SecretError> {
    let trimmed = value.strip_suffix('\n').unwrap_or(value);
    let trimmed = trimmed.strip_suffix('\r').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Err(SecretError::Empty { place });
    }
    Ok(SecretString::from(trimmed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_crds::SecretKeySelector;
    use secrecy::ExposeSecret;

    fn reference() -> SecretSource {
        SecretSource::SecretKeyRef(SecretKeySelector {
            name: "repo".into(),
            key: "password".into(),
        })
    }

    #[test]
    fn a_value_loses_one_line_break_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("repo")).unwrap();
        std::fs::write(directory.path().join("repo/password"), " s3cret \r\n").unwrap();
        let secrets = Secrets::new(Some(directory.path().to_owned()));
        assert_eq!(
            secrets.resolve(&reference()).unwrap().expose_secret(),
            " s3cret "
        );
    }

    #[test]
    fn each_absence_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(Some(directory.path().to_owned()));
        assert!(matches!(
            secrets.resolve(&reference()),
            Err(SecretError::Unreadable { .. })
        ));
        assert!(matches!(
            Secrets::default().resolve(&reference()),
            Err(SecretError::NoDirectory { .. })
        ));
        assert!(matches!(
            secrets.resolve(&SecretSource::Env("HOLDFAST_TEST_NOT_SET".into())),
            Err(SecretError::NoVariable { .. })
        ));
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        assert!(matches!(
            secrets.resolve(&SecretSource::File(empty.display().to_string())),
            Err(SecretError::Empty { .. })
        ));
    }

    #[test]
    fn an_error_never_holds_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("binary");
        std::fs::write(&path, [0x68, 0x75, 0x6e, 0x74, 0xff, 0x72]).unwrap();
        let error = Secrets::default()
            .resolve(&SecretSource::File(path.display().to_string()))
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunt"));
    }
}
