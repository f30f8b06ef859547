//! The regular expressions of the schemas, each with the words that explain it.
//!
//! They are kept together so that an error can say what is expected instead of
//! showing an expression to a person. Kubernetes reads them as RE2, editors and
//! plain files as ECMA 262: only what both share is used.

/// Kubernetes object names, as in `metadata.name`.
pub(crate) const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A duration; the schema adds `minLength`, since everything in it is optional.
pub(crate) const DURATION: &str = "^([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$";
/// A size.
pub(crate) const BYTES: &str = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$";
/// A tag of a snapshot. The repository format separates tags with commas.
pub(crate) const TAG: &str = r"^[^,\s]([^,]*[^,\s])?$";
/// The name of an environment variable.
pub(crate) const ENV: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// The key of an entry of a Secret.
pub(crate) const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// An absolute path.
pub(crate) const ABSOLUTE_PATH: &str = "^/";
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
