//! The regular expressions of the schemas, each with the words that explain it.
//!
//! They are kept together so that an error can say what is expected instead of
//! showing an expression to a person. Kubernetes reads them as RE2, editors and
//! plain files as ECMA 262: only what both share is used.

use crate::{Duration, ParseQuantityError};

/// Kubernetes object names, as in `metadata.name`.
pub(crate) const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Namespaces, and the other names that a DNS label must be.
pub(crate) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A namespace, or all of them.
pub(crate) const NAMESPACE_OR_ALL: &str = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
/// The key of a label or annotation.
pub(crate) const QUALIFIED: &str =
    "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// The value of a label.
pub(crate) const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// The name of a time zone.
pub(crate) const TIME_ZONE: &str = "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$";
/// A duration; the schema adds `minLength`, since everything in it is optional. Its numbers are
/// short, so that it can be counted.
pub(crate) const DURATION: &str =
    "^([0-9]{1,9}w)?([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$";
/// A size.
pub(crate) const BYTES: &str = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$";
/// A quantity as Kubernetes writes it.
pub(crate) const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
/// A tag of a snapshot. The repository format separates tags with commas.
pub(crate) const TAG: &str = r"^[^,\s]([^,]*[^,\s])?$";
/// The name of an environment variable.
pub(crate) const ENV: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// The key of an entry of a Secret.
pub(crate) const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// An absolute path.
pub(crate) const ABSOLUTE_PATH: &str = "^/";
/// Where a volume is mounted: an absolute path without a colon.
pub(crate) const MOUNT_PATH: &str = "^/[^:]*$";
/// An S3 endpoint.
pub(crate) const ENDPOINT: &str = r"^https?://[^/?#@\s]+(/[^?#\s]*)?$";
/// An S3 bucket; wider than AWS's rule, since older and other servers allow more.
pub(crate) const BUCKET: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]$";
/// An SSH public key as in `known_hosts`, without the host.
pub(crate) const HOST_KEY: &str = r"^(ssh|ecdsa|sk)-[-a-z0-9@.]+ [A-Za-z0-9+/]+=*( .*)?$";
/// A host name or address.
pub(crate) const HOST: &str = r"^[^\s/@]+$";
/// A MongoDB namespace, `*` and `?` allowed.
pub(crate) const NAMESPACE: &str = r#"^[^./\\ "$]+\..+$"#;
/// A MongoDB namespace or an absolute path.
pub(crate) const SELECTION: &str = r#"^(/.*|[^./\\ "$]+\..+)$"#;
/// The id of a snapshot, or its beginning, or `latest`.
pub(crate) const BACKUP_ID: &str = "^(latest|[0-9a-f]{4,64})$";

/// What a pattern asks for, and what was found instead. What may be a secret
/// is not repeated.
pub(crate) fn meaning(pattern: &str, found: &str) -> Option<String> {
    Some(match pattern {
            DURATION => match found.parse::<Duration>() {
                Ok(_) | Err(ParseQuantityError::Overflow(_)) if !found.is_empty() => {
                    format!("`{found}` is too large")
                }
                _ => format!(
                    "`{found}` is not a duration: write a number with a unit (s, m, h, d, w), such as 90s, 5m, 1h30m or 2d"
                ),
            },
            BYTES => format!(
                "`{found}` is not a size: write a number with a suffix, such as 500Mi or 5Gi"
            ),
            NAME => format!(
                "`{found}` cannot be a name: use small letters, digits, `-` and `.`, with a letter or digit at both ends"
            ),
            LABEL => format!(
                "`{found}` cannot be a name here: use small letters, digits and `-`, with a letter or digit at both ends"
            ),
            LABEL_VALUE => format!(
                "`{found}` cannot be the value of a label: use letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"
            ),
            TIME_ZONE => format!(
                "unknown time zone `{found}`: write an IANA name such as Europe/Paris or UTC"
            ),
            NAMESPACE_OR_ALL => format!(
                "`{found}` cannot be a namespace: write its name, or \"*\" for all of them"
            ),
            QUANTITY => format!(
                "`{found}` is not a quantity: write a number with a suffix of Kubernetes, such as 250m, 2 or 512Mi"
            ),
            MOUNT_PATH => {
                "a mountPath must be absolute, that is, begin with /, and have no `:`".to_owned()
            }
            TAG => format!(
                "`{found}` cannot be a tag: a tag is not empty, has no comma, and no space at its ends"
            ),
            NAMESPACE => format!(
                "`{found}` is not a namespace: write database.collection, such as shop.orders, or shop.* for a whole database"
            ),
            SELECTION => format!(
                "`{found}` is neither a namespace nor a path: write database.collection, such as shop.orders, or an absolute path"
            ),
            BACKUP_ID => format!(
                "`{found}` is not the id of a backup: write `latest`, or at least the first 4 characters of an id as `holdfast backups` shows it"
            ),
            ABSOLUTE_PATH => {
                "a path must be absolute, that is, begin with /".to_owned()
            }
            ENV => {
                "this is not the name of an environment variable: write the name (letters, digits, `_`), never the secret itself".to_owned()
            }
            SECRET_KEY => {
                "this is not the key of an entry of a Secret: use letters, digits, `-`, `_` and `.`".to_owned()
            }
            ENDPOINT => {
                "this is not the URL of a service: write http:// or https:// and a host, such as https://s3.eu-central-1.wasabisys.com, without a user, a password or a query".to_owned()
            }
            BUCKET => format!(
                "`{found}` cannot be a bucket: write its name alone, without s3:// and without a path (that goes into prefix)"
            ),
            HOST_KEY => {
                "this is not a public host key: write its type and its base64 text, such as \"ssh-ed25519 AAAA…\" (ssh-keyscan HOST prints it after the host)".to_owned()
            }
            HOST => format!(
                "`{found}` is not a host: write its name or address alone; user, port and path have fields of their own"
            ),
            _ => return None,
        })
}
