//! Names of objects: which are acceptable, and which are left-overs of interrupted writes.
//!
//! Temporary files are named as restic names its own, `<name>-tmp-<random>`, so that either tool
//! takes the other's left-overs for what they are.

use std::time::Duration;

use super::{StorageError, StorageErrorKind};

/// The mark of our temporary files, and of restic's in local repositories.
const TEMPORARY: &str = "-tmp-";
/// The mark of restic's temporary files in SFTP repositories.
const TEMPORARY_OF_RESTIC: &str = "-restic-temp-";

/// The age from which a temporary file is a left-over: no write of one object lasts so long.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether `name` (the last component of a path) is that of a temporary file.
pub(super) fn is_temporary(name: &str) -> bool {
    name.contains(TEMPORARY) || name.contains(TEMPORARY_OF_RESTIC)
}

/// A temporary name beside `path`, different each time.
pub(super) fn temporary(path: &str) -> String {
    format!("{path}{TEMPORARY}{:016x}", rand::random::<u64>())
}

/// The directory part of `path`; empty for a name at the root.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Refuses a name that could reach outside the storage's root, or that would not be listed.
pub(super) fn check(path: &str, action: &str, location: &str) -> Result<(), StorageError> {
    let cause = match flaw(path) {
        None if path.rsplit('/').next().is_some_and(is_temporary) => {
            "the name is kept for temporary files"
        }
        None => return Ok(()),
        Some(flaw) => flaw,
    };
    Err(StorageError::new(
        StorageErrorKind::InvalidConfig,
        format!("{action} {path:?}"),
        location,
        cause,
    ))
}

/// The same for the name of a directory to list; empty is the root.
pub(super) fn check_directory(path: &str, location: &str) -> Result<(), StorageError> {
    if path.is_empty() {
        return Ok(());
    }
    check(path, "list", location)
}

fn flaw(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("the name is empty")
    } else if path.contains(['\0', '\\']) {
        Some("the name holds a NUL or a backslash")
    } else if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("the name is not a plain relative path")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("config")]
    #[case("data/ab/abcd")]
    #[case("..almost/fine..")]
    fn plain_names_are_accepted(#[case] path: &str) {
        assert!(check(path, "write", "here").is_ok());
    }

    #[rstest]
    #[case("")]
    #[case("/etc/passwd")]
    #[case("../outside")]
    #[case("data/../../outside")]
    #[case("data/./x")]
    #[case("data//x")]
    #[case("data/")]
    #[case("data\\..\\x")]
    #[case("a\0b")]
    #[case("data/ab-tmp-0123")]
    fn other_names_are_refused(#[case] path: &str) {
        let error = check(path, "write", "here").expect_err("refused");
        assert_eq!(error.kind, StorageErrorKind::InvalidConfig);
    }

    #[test]
    fn left_overs_of_restic_are_recognised() {
        assert!(is_temporary("abcd-tmp-123456"));
        assert!(is_temporary("abcd-restic-temp-0011"));
        assert!(!is_temporary("abcd"));
    }

    proptest! {
        #[test]
        fn an_accepted_name_stays_below_the_root(path in "[a-z./\\\\]{0,20}") {
            if check(&path, "write", "here").is_ok() {
                let joined = std::path::Path::new("/root/of/storage").join(&path);
                prop_assert!(joined.starts_with("/root/of/storage"));
                prop_assert!(joined.components().all(|c| c != std::path::Component::ParentDir));
            }
        }

        #[test]
        fn a_temporary_name_is_recognised_and_beside_its_object(path in "[a-f0-9]{1,8}(/[a-f0-9]{1,8}){0,3}") {
            let temporary = temporary(&path);
            prop_assert_eq!(parent(&temporary), parent(&path));
            prop_assert!(temporary.rsplit('/').next().is_some_and(is_temporary));
        }
    }
}
