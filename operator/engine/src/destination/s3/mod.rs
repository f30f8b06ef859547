//! A bucket of an S3-compatible service as a storage.
//!
//! Integrity on the way: bodies are in memory, so every upload is signed over the SHA-256 of its
//! content and the service refuses what arrives changed, on any implementation of S3. The newer
//! checksum headers are sent to AWS alone; many other services reject them.
//!
//! A storage class is given to packs (`data/`) alone: keys, index, locks and snapshots are read and
//! replaced all the time, which the cold classes make slow, dear or impossible.
//!
//! Retries here are the SDK's; [`super::RetryStorage`] stands above them.

mod error;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use secrecy::ExposeSecret;

use super::{Addressing, Entry, S3Config, Storage, StorageError, StorageErrorKind, names};
use error::{bucket_failure, failure, is_absent};

/// The region for services of one's own, most of which have none.
const DEFAULT_REGION: &str = "us-east-1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may wait for the head of an answer, when little is sent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How many objects a service lists at once, at most.
const LARGEST_PAGE: i32 = 1000;
/// How long a stream may stand still before the attempt is given up.
const STALL: Duration = Duration::from_secs(30);

/// A bucket of an S3-compatible service.
#[derive(Clone)]
pub(super) struct S3Storage(Arc<Inner>);

struct Inner {
    client: Client,
    bucket: String,
    /// Empty, or ending with a slash.
    prefix: String,
    storage_class: Option<String>,
    location: String,
}

impl std::fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("S3Storage").field(&self.0.location).finish()
    }
}

impl S3Storage {
    pub(super) async fn new(config: &S3Config) -> Result<Self, StorageError> {
        let location = location(config);
        let invalid = |cause: &str| {
            StorageError::new(
                StorageErrorKind::InvalidConfig,
                "use the bucket",
                &location,
                cause,
            )
        };
        if config.bucket.is_empty() || config.bucket.contains('/') {
            return Err(invalid("the bucket's name is empty or holds a slash"));
        }
        if let Some(endpoint) = &config.endpoint {
            check_endpoint(endpoint).map_err(invalid)?;
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ANSWER_TIMEOUT)
                    .build(),
            )
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .grace_period(STALL)
                    .build(),
            );
        if let Some(endpoint) = &config.endpoint {
            loader = loader
                .endpoint_url(endpoint)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        }
        let region = match (&config.region, &config.endpoint) {
            (Some(region), _) => Some(region.clone()),
            (None, Some(_)) => Some(DEFAULT_REGION.to_owned()),
            (None, None) => None,
        };
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(keys) = &config.credentials {
            loader = loader.credentials_provider(Credentials::new(
                keys.access_key_id.expose_secret(),
                keys.secret_access_key.expose_secret(),
                keys.session_token
                    .as_ref()
                    .map(|token| token.expose_secret().to_owned()),
                None,
                "the Destination",
            ));
        }
        let loaded = loader.load().await;
        if loaded.region().is_none() {
            return Err(invalid(
                "no region is given, and neither AWS_REGION nor a profile has one",
            ));
        }
        let client = Client::from_conf(
            aws_sdk_s3::config::Builder::from(&loaded)
                .force_path_style(config.addressing == Addressing::Path)
                .build(),
        );
        let prefix = config.prefix.trim_matches('/');
        Ok(Self(Arc::new(Inner {
            client,
            bucket: config.bucket.clone(),
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
            storage_class: config.storage_class.clone(),
            location,
        })))
    }

    /// The checked key of an object.
    fn key(&self, path: &str, action: &str) -> Result<String, StorageError> {
        names::check(path, action, &self.0.location)?;
        Ok(format!("{}{path}", self.0.prefix))
    }

    fn error(&self, kind: StorageErrorKind, action: &str, cause: &str) -> StorageError {
        StorageError::new(kind, action, &self.0.location, cause)
    }

    async fn get(
        &self,
        action: &str,
        key: String,
        range: Option<String>,
    ) -> Result<(Option<u64>, ByteStream), StorageError> {
        let output = self
            .0
            .client
            .get_object()
            .bucket(&self.0.bucket)
            .key(key)
            .set_range(range)
            .send()
            .await
            .map_err(|error| failure(action, &self.0.location, &error))?;
        Ok((
            output
                .content_length
                .and_then(|length| u64::try_from(length).ok()),
            output.body,
        ))
    }

    /// The whole body, which must be of the announced length.
    async fn collect(
        &self,
        action: &str,
        announced: Option<u64>,
        body: ByteStream,
    ) -> Result<Bytes, StorageError> {
        let bytes = body
            .collect()
            .await
            .map_err(|error| {
                let cause = aws_sdk_s3::error::DisplayErrorContext(&error).to_string();
                self.error(StorageErrorKind::Interrupted, action, &cause)
            })?
            .into_bytes();
        match announced {
            Some(length) if length != bytes.len() as u64 => {
                let cause = format!("{} bytes came of {length} announced", bytes.len());
                Err(self.error(StorageErrorKind::Interrupted, action, &cause))
            }
            _ => Ok(bytes),
        }
    }

    /// Whether a retention keeps the object from being removed now.
    async fn is_retained(&self, key: &str) -> bool {
        let answer = self
            .0
            .client
            .get_object_retention()
            .bucket(&self.0.bucket)
            .key(key)
            .send()
            .await;
        let until = answer
            .ok()
            .and_then(|o| o.retention)
            .and_then(|r| r.retain_until_date);
        until.is_some_and(|until| until.secs() > jiff::Timestamp::now().as_second())
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    /// One short listing: unlike a `HEAD` of the bucket, a refusal of it comes with its reason.
    async fn probe(&self) -> Result<(), StorageError> {
        self.0
            .client
            .list_objects_v2()
            .bucket(&self.0.bucket)
            .prefix(&self.0.prefix)
            .max_keys(1)
            .send()
            .await
            .map(drop)
            .map_err(|error| bucket_failure("look into the bucket", &self.0.location, &error))
    }

    async fn create(&self) -> Result<(), StorageError> {
        self.probe().await
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError> {
        self.entries(directory, None).await
    }

    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError> {
        self.entries(directory, Some(limit)).await
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        let key = self.key(path, "look for")?;
        let action = format!("look for {path}");
        let answer = self
            .0
            .client
            .head_object()
            .bucket(&self.0.bucket)
            .key(key)
            .send()
            .await;
        match answer {
            Ok(head) => match head.content_length.map(u64::try_from) {
                Some(Ok(length)) => Ok(Some(length)),
                _ => Err(self.error(
                    StorageErrorKind::Other,
                    &action,
                    "the service does not say how long it is",
                )),
            },
            // The answer to a HEAD has no body: what was refused, and whether it is the object or
            // the bucket that is absent, only another request tells.
            Err(error) if is_absent(&error) => self.probe().await.map(|()| None),
            Err(error) => {
                let failure = failure(&action, &self.0.location, &error);
                if failure.kind == StorageErrorKind::PermissionDenied {
                    self.probe().await?;
                }
                Err(failure)
            }
        }
    }

    async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        let key = self.key(path, "read")?;
        let action = format!("read {path}");
        let (length, body) = self.get(&action, key, None).await?;
        self.collect(&action, length, body).await
    }

    async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        let key = self.key(path, "read")?;
        let action = format!("read {length} bytes from {offset} of {path}");
        let short = |size: u64| {
            let cause = format!("the object has {size} bytes");
            self.error(StorageErrorKind::Corrupt, &action, &cause)
        };
        let Some(last) = length
            .checked_sub(1)
            .and_then(|last| offset.checked_add(last))
        else {
            // HTTP has no way to ask for nothing.
            return match self.size(path).await? {
                None => Err(self.error(StorageErrorKind::NotFound, &action, "it is not there")),
                Some(size) if size < offset => Err(short(size)),
                Some(_) => Ok(Bytes::new()),
            };
        };
        let (announced, body) = self
            .get(&action, key, Some(format!("bytes={offset}-{last}")))
            .await?;
        if let Some(announced) = announced.filter(|announced| *announced > length) {
            let cause = format!("the service sends {announced} bytes instead of the range");
            return Err(self.error(StorageErrorKind::InvalidConfig, &action, &cause));
        }
        let bytes = self.collect(&action, announced, body).await?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(short(offset.saturating_add(bytes.len() as u64)))
        }
    }

    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError> {
        let key = self.key(path, "write")?;
        let storage_class = self
            .0
            .storage_class
            .as_deref()
            .filter(|_| path.starts_with("data/"))
            .map(Into::into);
        upload::Upload {
            client: &self.0.client,
            bucket: &self.0.bucket,
            key: &key,
            storage_class,
            action: &format!("write {path}"),
            location: &self.0.location,
        }
        .send(parts)
        .await
    }

    async fn remove(&self, path: &str) -> Result<(), StorageError> {
        let key = self.key(path, "remove")?;
        let action = format!("remove {path}");
        let answer = self
            .0
            .client
            .delete_object()
            .bucket(&self.0.bucket)
            .key(&key)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        let mut failure = failure(&action, &self.0.location, &error);
        match failure.kind {
            StorageErrorKind::NotFound => return Ok(()),
            StorageErrorKind::PermissionDenied if self.is_retained(&key).await => {
                failure.kind = StorageErrorKind::Retained;
            }
            _ => {}
        }
        Err(failure)
    }
}

impl S3Storage {
    /// What is below `directory`, page by page, until `limit` is reached.
    async fn entries(
        &self,
        directory: &str,
        limit: Option<usize>,
    ) -> Result<Vec<Entry>, StorageError> {
        names::check_directory(directory, &self.0.location)?;
        let action = format!("list {directory}");
        let prefix = match directory {
            "" => self.0.prefix.clone(),
            directory => format!("{}{directory}/", self.0.prefix),
        };
        let page_size = limit
            .map(|limit| i32::try_from(limit).unwrap_or(LARGEST_PAGE))
            .map(|limit| limit.clamp(1, LARGEST_PAGE));
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .0
                .client
                .list_objects_v2()
                .bucket(&self.0.bucket)
                .prefix(&prefix)
                .set_max_keys(page_size)
                .set_continuation_token(token.take())
                .send()
                .await
                .map_err(|error| bucket_failure(&action, &self.0.location, &error))?;
            for object in page.contents() {
                entries.extend(self.entry(&action, object)?);
            }
            if let Some(limit) = limit.filter(|limit| entries.len() >= *limit) {
                entries.truncate(limit);
                return Ok(entries);
            }
            if page.is_truncated() != Some(true) {
                return Ok(entries);
            }
            token = page
                .next_continuation_token
                .filter(|token| !token.is_empty());
            if token.is_none() {
                let cause = "the service says that there is more and does not say where";
                return Err(self.error(StorageErrorKind::InvalidConfig, &action, cause));
            }
        }
    }

    /// The entry of a listed object; none for the empty objects that some tools put in the place
    /// of directories.
    fn entry(
        &self,
        action: &str,
        object: &aws_sdk_s3::types::Object,
    ) -> Result<Option<Entry>, StorageError> {
        let path = object
            .key()
            .and_then(|key| key.strip_prefix(&self.0.prefix));
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        match (path, size) {
            (Some(path), _) if path.is_empty() || path.ends_with('/') => Ok(None),
            (Some(path), Some(size)) => Ok(Some(Entry {
                path: path.to_owned(),
                size,
            })),
            _ => {
                let cause = "the service lists an object without its name or size";
                Err(self.error(StorageErrorKind::Other, action, cause))
            }
        }
    }
}

fn location(config: &S3Config) -> String {
    let mut location = format!("s3://{}", config.bucket);
    let prefix = config.prefix.trim_matches('/');
    if !prefix.is_empty() {
        location.push('/');
        location.push_str(prefix);
    }
    if let Some(endpoint) = config
        .endpoint
        .as_deref()
        .filter(|e| check_endpoint(e).is_ok())
    {
        location.push_str(" at ");
        location.push_str(endpoint);
    }
    location
}

/// An endpoint is shown in messages: it must be one, and hold no password.
fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let rest = endpoint
        .strip_prefix("https://")
        .or_else(|| endpoint.strip_prefix("http://"))
        .ok_or("the endpoint does not begin with https:// or http://")?;
    if rest.contains('@') {
        return Err("the endpoint holds a user name or password; give credentials by themselves");
    }
    if rest.is_empty() || rest.contains([' ', '?', '#']) {
        return Err("the endpoint is not the URL of a service");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::S3Credentials;

    fn config() -> S3Config {
        S3Config {
            bucket: "backups".to_owned(),
            prefix: "/shop/".to_owned(),
            endpoint: Some("https://s3.example.com".to_owned()),
            region: None,
            credentials: Some(S3Credentials {
                access_key_id: "AKIAEXAMPLE".into(),
                secret_access_key: "very-secret".into(),
                session_token: Some("token-secret".into()),
            }),
            storage_class: None,
            addressing: Addressing::Path,
        }
    }

    #[tokio::test]
    async fn no_secret_is_shown() {
        let storage = S3Storage::new(&config())
            .await
            .expect("a description that can work");
        let shown = format!("{storage:?} {} {:?}", storage.location(), config());
        assert!(
            !shown.contains("secret\"") && !shown.contains("very-secret"),
            "{shown}"
        );
        assert!(
            !shown.contains("token-secret") && !shown.contains("AKIA"),
            "{shown}"
        );
        assert_eq!(
            storage.location(),
            "s3://backups/shop at https://s3.example.com"
        );
    }

    #[tokio::test]
    async fn a_password_in_the_endpoint_is_refused_and_not_repeated() {
        let endpoint = Some("https://me:hunter2@s3.example.com".to_owned());
        let error = S3Storage::new(&S3Config {
            endpoint,
            ..config()
        })
        .await
        .expect_err("refused");
        assert_eq!(error.kind, StorageErrorKind::InvalidConfig);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[rstest::rstest]
    #[case("s3.example.com")]
    #[case("ftp://s3.example.com")]
    #[case("https://")]
    #[case("https://s3.example.com?x=1")]
    fn what_is_no_url_of_a_service_is_refused(#[case] endpoint: &str) {
        assert!(check_endpoint(endpoint).is_err());
    }
}
