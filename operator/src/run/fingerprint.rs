//! Tells whether another attempt with the same declaration makes sense: a hash of the spec and of
//! the versions of the secrets and destinations it names. No secret's value goes in.

use std::hash::{DefaultHasher, Hash, Hasher};

use holdfast_crds::{BackupPolicySpec, MongoConnection, SecretSource, Source, Storage};
use serde::Serialize;

use crate::host::{Host, Name};

/// The fingerprint of a policy with its destinations.
#[must_use]
pub fn policy<H: Host>(host: &H, name: &Name, spec: &BackupPolicySpec) -> String {
    let mut hasher = DefaultHasher::new();
    add(spec, &mut hasher);
    if let Source::Mongodb(source) = &spec.source
        && let MongoConnection::UriFrom(secret) = &source.connection
    {
        host.secret_version(&name.namespace, secret)
            .hash(&mut hasher);
    }
    let declared = host.declared();
    for (destination, object) in declared.destinations_of(name) {
        add(&object.spec, &mut hasher);
        for secret in secrets(&object.spec) {
            host.secret_version(&destination.namespace, secret)
                .hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

fn add(value: &impl Serialize, hasher: &mut DefaultHasher) {
    // A spec is plain data: writing it as JSON cannot fail, and the text is the same each time.
    serde_json::to_string(value)
        .unwrap_or_default()
        .hash(hasher);
}

/// The secrets that a destination names.
#[must_use]
pub fn secrets(spec: &holdfast_crds::DestinationSpec) -> Vec<&SecretSource> {
    let mut secrets = vec![&spec.encryption.password];
    match &spec.storage {
        Storage::Local(_) => {}
        Storage::S3(s3) => {
            secrets.extend(
                [&s3.access_key_id, &s3.secret_access_key, &s3.session_token]
                    .into_iter()
                    .flatten(),
            );
        }
        Storage::Sftp(sftp) => {
            secrets.extend(
                [&sftp.private_key, &sftp.passphrase, &sftp.password]
                    .into_iter()
                    .flatten(),
            );
        }
    }
    secrets
}
