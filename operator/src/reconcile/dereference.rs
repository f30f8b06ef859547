//! Turns specs and secrets into the engine's own plain types. Nothing past this step sees a
//! `secretKeyRef`.

use holdfast_crds::{
    DestinationSpec, FilesSource, MongoConnection, MongodbSource, OnUnreadable, S3, S3Addressing,
    SecretSource, Sftp, Storage,
};
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::{
    Addressing, HostKeyCheck, LocalConfig, S3Config, S3Credentials, SftpAuthentication, SftpConfig,
    StorageConfig,
};
use holdfast_engine::source::files::{self as engine_files, FilesConfig};
use holdfast_engine::source::mongodb::MongodbConfig;
use secrecy::{ExposeSecret, SecretString};

use crate::host::Host;
use crate::host::secrets::SecretError;

/// Why a spec could not be turned into what the engine takes.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {field} of {object}: {source}")]
pub struct DereferenceError {
    /// `Destination default/box`.
    pub object: String,
    /// The field, as a path in the spec.
    pub field: &'static str,
    /// Why.
    pub source: SecretError,
}

impl Classified for DereferenceError {
    fn class(&self) -> ErrorClass {
        self.source.class()
    }

    fn reason(&self) -> &'static str {
        self.source.reason()
    }
}

/// A destination with its secrets resolved.
#[derive(Debug, Clone)]
pub struct DereferencedDestination {
    /// Where the repository is.
    pub storage: StorageConfig,
    /// What opens it.
    pub password: SecretString,
}

/// Whose secrets are resolved, for the messages.
struct Resolver<'a, H> {
    host: &'a H,
    namespace: &'a str,
    object: String,
}

impl<H: Host> Resolver<'_, H> {
    async fn get(
        &self,
        field: &'static str,
        source: &SecretSource,
    ) -> Result<SecretString, DereferenceError> {
        self.host
            .secret(self.namespace, source)
            .await
            .map_err(|source| DereferenceError {
                object: self.object.clone(),
                field,
                source,
            })
    }

    async fn get_optional(
        &self,
        field: &'static str,
        source: Option<&SecretSource>,
    ) -> Result<Option<SecretString>, DereferenceError> {
        match source {
            Some(source) => Ok(Some(self.get(field, source).await?)),
            None => Ok(None),
        }
    }
}

/// Resolves a destination.
///
/// # Errors
/// When one of its secrets has no value.
pub async fn destination<H: Host>(
    host: &H,
    namespace: &str,
    name: &str,
    spec: &DestinationSpec,
) -> Result<DereferencedDestination, DereferenceError> {
    let resolver = Resolver {
        host,
        namespace,
        object: format!("Destination {namespace}/{name}"),
    };
    let password = resolver
        .get("spec.encryption.password", &spec.encryption.password)
        .await?;
    let storage = match &spec.storage {
        Storage::Local(local) => StorageConfig::Local(LocalConfig {
            path: (&local.path).into(),
        }),
        Storage::S3(spec) => StorageConfig::S3(s3(&resolver, spec).await?),
        Storage::Sftp(spec) => StorageConfig::Sftp(sftp(&resolver, spec).await?),
    };
    Ok(DereferencedDestination { storage, password })
}

async fn s3<H: Host>(resolver: &Resolver<'_, H>, spec: &S3) -> Result<S3Config, DereferenceError> {
    let id = resolver
        .get_optional("spec.s3.accessKeyId", spec.access_key_id.as_ref())
        .await?;
    let secret = resolver
        .get_optional("spec.s3.secretAccessKey", spec.secret_access_key.as_ref())
        .await?;
    let session_token = resolver
        .get_optional("spec.s3.sessionToken", spec.session_token.as_ref())
        .await?;
    let credentials = match (id, secret) {
        (Some(access_key_id), Some(secret_access_key)) => Some(S3Credentials {
            access_key_id,
            secret_access_key,
            session_token,
        }),
        // The schema lets neither stand alone; without both, the SDK's own chain is asked.
        _ => None,
    };
    Ok(S3Config {
        bucket: spec.bucket.clone(),
        prefix: spec.normalized_prefix().to_owned(),
        endpoint: spec.endpoint.clone(),
        region: spec.region.clone(),
        credentials,
        storage_class: spec.storage_class.clone(),
        addressing: match spec.effective_addressing() {
            S3Addressing::Path => Addressing::Path,
            S3Addressing::Virtual => Addressing::Virtual,
        },
    })
}

async fn sftp<H: Host>(
    resolver: &Resolver<'_, H>,
    spec: &Sftp,
) -> Result<SftpConfig, DereferenceError> {
    let mut authentication = Vec::new();
    if let Some(key) = resolver
        .get_optional("spec.sftp.privateKey", spec.private_key.as_ref())
        .await?
    {
        let passphrase = resolver
            .get_optional("spec.sftp.passphrase", spec.passphrase.as_ref())
            .await?;
        // Key files end with a line break, which resolving a secret takes away.
        let key = SecretString::from(format!("{}\n", key.expose_secret()));
        authentication.push(SftpAuthentication::PrivateKey { key, passphrase });
    }
    if spec.agent {
        authentication.push(SftpAuthentication::Agent);
    }
    if let Some(password) = resolver
        .get_optional("spec.sftp.password", spec.password.as_ref())
        .await?
    {
        authentication.push(SftpAuthentication::Password(password));
    }
    let host_key = match (&spec.host_key, &spec.known_hosts) {
        (Some(key), _) => HostKeyCheck::Pinned(
            key.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
        (None, Some(path)) => HostKeyCheck::KnownHosts(path.into()),
        // The schema requires one of them. No key at all matches no server, which is refused.
        (None, None) => HostKeyCheck::Pinned(Vec::new()),
    };
    Ok(SftpConfig {
        host: spec.host.clone(),
        port: spec.port,
        user: spec.user.clone(),
        path: spec.path.clone(),
        authentication,
        host_key,
    })
}

/// Resolves the URI of a MongoDB.
///
/// # Errors
/// When its secret has no value.
pub async fn mongodb_uri<H: Host>(
    host: &H,
    namespace: &str,
    object: String,
    field: &'static str,
    connection: &MongoConnection,
) -> Result<SecretString, DereferenceError> {
    match connection {
        MongoConnection::Uri(uri) => Ok(SecretString::from(uri.as_str())),
        MongoConnection::UriFrom(source) => {
            Resolver {
                host,
                namespace,
                object,
            }
            .get(field, source)
            .await
        }
    }
}

/// Resolves a MongoDB source.
///
/// # Errors
/// When its secret has no value.
pub async fn mongodb<H: Host>(
    host: &H,
    namespace: &str,
    policy: &str,
    spec: &MongodbSource,
) -> Result<MongodbConfig, DereferenceError> {
    let object = format!("BackupPolicy {namespace}/{policy}");
    Ok(MongodbConfig {
        uri: mongodb_uri(
            host,
            namespace,
            object,
            "spec.source.mongodb.uriFrom",
            &spec.connection,
        )
        .await?,
        include: spec.include.clone(),
        exclude: spec.exclude.clone(),
        users_and_roles: spec.users_and_roles,
    })
}

/// A files source in the engine's terms.
#[must_use]
pub fn files(spec: &FilesSource) -> FilesConfig {
    FilesConfig {
        paths: spec.paths.iter().map(Into::into).collect(),
        exclude: spec.exclude.clone(),
        one_file_system: spec.one_file_system,
        on_unreadable: match spec.on_unreadable {
            OnUnreadable::Fail => engine_files::OnUnreadable::Fail,
            OnUnreadable::Skip => engine_files::OnUnreadable::Skip,
        },
    }
}
