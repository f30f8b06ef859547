//! Where resources come from, where their status goes, and how a secret is resolved.
//!
//! A reconciler sees a [`Host`] and not whether a cluster or a directory of files is behind it.

pub mod declared;
pub mod files;
pub mod kubernetes;
pub mod secrets;

use std::future::Future;
use std::sync::Arc;

use holdfast_crds::SecretSource;
use secrecy::SecretString;

pub use declared::{Declared, Name};
use secrets::SecretError;

/// What a reconciler needs of its surroundings.
pub trait Host: Send + Sync + 'static {
    /// The value of a secret, as seen from a namespace.
    ///
    /// # Errors
    /// When it has no value.
    fn secret(
        &self,
        namespace: &str,
        source: &SecretSource,
    ) -> impl Future<Output = Result<SecretString, SecretError>> + Send;

    /// Something that changes when the secret does, and tells nothing of its value: what a
    /// `resourceVersion` is in a cluster. `None` when it is not there.
    fn secret_version(&self, namespace: &str, source: &SecretSource) -> Option<String>;

    /// Everything that is declared now.
    fn declared(&self) -> Arc<Declared>;
}
