//! Names of Jobs and values of labels: valid whatever the policy is called, the same for the same
//! run each time, and different for different ones.

use std::hash::Hasher;

use jiff::Timestamp;
use xxhash_rust::xxh3::Xxh3;

use crate::host::Name;

/// How long the name of a Job may be: it becomes a label of its pods.
const LIMIT: usize = 63;

/// The name of the Job of a scheduled run. `attempt` counts the Jobs that the operator made for the
/// same time: 0 for the first. To create it twice is refused by the API server. A CronJob that is
/// called like the policy names its Jobs by the minute alone.
#[must_use]
pub fn scheduled_job_name(policy: &str, scheduled_for: Timestamp, attempt: u32) -> String {
    let minutes = scheduled_for.as_second().div_euclid(60);
    joined(policy, &format!("-backup-{minutes}{}", retry(attempt)))
}

/// The name of the Job of a run that an object asks for: a Backup or a Restore.
#[must_use]
pub fn asked_job_name(object: &str, uid: &str, attempt: u32) -> String {
    joined(object, &format!("-{}{}", hash(&[uid]), retry(attempt)))
}

/// The name of the Job that deletes what an object promised to take with it.
#[must_use]
pub fn delete_job_name(object: &str, uid: &str, attempt: u32) -> String {
    joined(
        object,
        &format!("-delete-{}{}", hash(&[uid]), retry(attempt)),
    )
}

/// How the name of a Job ends that is not the first of its kind.
fn retry(attempt: u32) -> String {
    if attempt == 0 {
        String::new()
    } else {
        format!("-r{attempt}")
    }
}

/// The number of the attempt after these Jobs, all for the same thing. Some before them may have been
/// cleaned up: it is their names that count, and not how many are left.
#[must_use]
pub fn next_attempt<'a>(jobs: impl IntoIterator<Item = &'a str>) -> u32 {
    // What stands before the mark ends with digits of a time or of a hash.
    let number = |job: &str| {
        job.rsplit_once("-r")
            .and_then(|(_, number)| number.parse::<u32>().ok())
            .unwrap_or(0)
    };
    jobs.into_iter()
        .map(number)
        .max()
        .map_or(0, |last| last.saturating_add(1))
}

/// The name of a Job for other work (`upkeep`, `look`) on an object. `salt` tells apart
/// what is to be done more than once: the time of a pass, for example.
#[must_use]
pub fn work_job_name(object: &str, kind: &str, salt: &str) -> String {
    joined(object, &format!("-{kind}-{}", hash(&[salt])))
}

/// The name of the Secret in which an object's Jobs find the keys of foreign destinations: the same
/// for as long as it is the same object, so that no copy of a key that was changed stays behind.
#[must_use]
pub fn keys_name(object: &str, uid: &str) -> String {
    joined(object, &format!("-keys-{}", hash(&[uid, "shared"])))
}

/// The key in that Secret of one value: the same wherever it stands among others.
#[must_use]
pub fn keys_entry(namespace: &str, secret: &str, key: &str) -> String {
    hash(&[namespace, secret, key])
}

/// What all attempts at one run have in common, whatever Job or pod makes them: a snapshot carries
/// it, so that an attempt finds what one before it has stored. `asked_for` is the time of a
/// scheduled run, or the uid of the Backup that asks for it.
#[must_use]
pub fn run_key(policy: &Name, asked_for: &str) -> String {
    format!("{policy}/{asked_for}")
}

/// A name as the value of a label: the name itself, or the beginning and a hash of a long one.
#[must_use]
pub fn label_value(name: &str) -> String {
    joined(name, "")
}

/// `stem` and `tail`, cut to the limit; a hash of the whole stem takes the place of what is cut.
/// Dots become dashes where the name of a pod could not hold them, and are told apart by the hash.
fn joined(stem: &str, tail: &str) -> String {
    let plain = stem.len() + tail.len() <= LIMIT && is_label(stem);
    if plain {
        return format!("{stem}{tail}");
    }
    let hash = hash(&[stem]);
    let room = LIMIT.saturating_sub(tail.len() + hash.len() + 1);
    let kept: String = stem
        .chars()
        .map(|letter| match letter {
            'a'..='z' | '0'..='9' => letter,
            'A'..='Z' => letter.to_ascii_lowercase(),
            _ => '-',
        })
        .take(room)
        .collect();
    match kept.trim_matches('-') {
        "" => format!("h{hash}{tail}"),
        kept => format!("{kept}-{hash}{tail}"),
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(inner) && text.bytes().last().is_some_and(inner);
    ends && text.bytes().all(|byte| inner(byte) || byte == b'-')
}

/// Sixteen hex digits that stay the same from version to version.
fn hash(parts: &[&str]) -> String {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const POLICY: &str = "[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?";

    fn assert_label(name: &str) {
        assert!(name.len() <= LIMIT, "{name}");
        assert!(is_label(name), "{name}");
    }

    #[test]
    fn names_read_well_where_they_can() {
        let at = "2026-03-01T10:15:00Z".parse().unwrap();
        assert_eq!(scheduled_job_name("shop", at, 0), "shop-backup-29539335");
        assert_eq!(scheduled_job_name("shop", at, 2), "shop-backup-29539335-r2");
        assert_eq!(label_value("shop"), "shop");
    }

    /// A CronJob `shop` calls its Jobs `shop-<minutes since 1970>`.
    #[test]
    fn no_cronjob_has_the_same_names() {
        let at = "2026-03-01T10:15:00Z".parse().unwrap();
        assert_ne!(scheduled_job_name("shop", at, 0), "shop-29539335");
    }

    #[test]
    fn an_attempt_is_numbered_after_the_last_that_is_left() {
        let at = "2026-03-01T10:15:00Z".parse().unwrap();
        let long = "r2-".repeat(60);
        for policy in ["shop", "shop-r7", &long] {
            let names: Vec<String> = (0..3)
                .map(|attempt| scheduled_job_name(policy, at, attempt))
                .collect();
            let next = |names: &[String]| next_attempt(names.iter().map(String::as_str));
            assert_eq!(next(&[]), 0);
            assert_eq!(next(&names[..1]), 1);
            // The first is cleaned up.
            assert_eq!(next(&names[1..]), 3, "{names:?}");
        }
        assert_eq!(next_attempt([delete_job_name("a", "u", 4).as_str()]), 5);
        assert_eq!(next_attempt([asked_job_name("a", "u", 0).as_str()]), 1);
    }

    #[test]
    fn a_dot_and_a_dash_are_told_apart() {
        assert_ne!(label_value("a.b"), label_value("a-b"));
    }

    proptest! {
        #[test]
        fn names_are_labels(policy in POLICY, seconds in 0_i64..4_000_000_000, attempt in 0_u32..200, uid in "[0-9a-f-]{36}") {
            let at = Timestamp::from_second(seconds).unwrap();
            assert_label(&scheduled_job_name(&policy, at, attempt));
            assert_label(&asked_job_name(&policy, &uid, attempt));
            assert_label(&delete_job_name(&policy, &uid, attempt));
            assert_label(&work_job_name(&policy, "upkeep", &seconds.to_string()));
            assert_label(&label_value(&policy));
        }

        #[test]
        fn different_runs_have_different_names(
            policies in proptest::collection::btree_set(POLICY, 2..8),
            minutes in proptest::collection::btree_set(0_i64..60_000_000, 2..4),
        ) {
            let names: Vec<String> = policies
                .iter()
                .flat_map(|policy| minutes.iter().map(move |minute| (policy, minute)))
                .flat_map(|(policy, minute)| {
                    let at = Timestamp::from_second(minute * 60).unwrap();
                    [0, 1].map(|attempt| scheduled_job_name(policy, at, attempt))
                })
                .collect();
            let distinct: BTreeSet<&String> = names.iter().collect();
            prop_assert_eq!(distinct.len(), policies.len() * minutes.len() * 2);
        }

        #[test]
        fn long_policies_that_begin_alike_are_told_apart(stem in "[a-z]{80}", one in "[a-z]{5}", other in "[a-z]{5}") {
            prop_assume!(one != other);
            let at = Timestamp::from_second(1_800_000_000).unwrap();
            let name = |end: &str| scheduled_job_name(&format!("{stem}{end}"), at, 0);
            prop_assert_ne!(name(&one), name(&other));
            prop_assert_eq!(name(&one), name(&one));
        }
    }
}
