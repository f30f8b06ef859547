//! Uploads: one request for what fits into one, several parts for what is larger.
//!
//! Parts of a body are handed on as they are where one suffices. Otherwise they are joined, since
//! the signature covers the SHA-256 of a body that lies in memory as one piece; the copy costs a
//! tenth of the hash.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use super::error::failure;
use crate::destination::{StorageError, StorageErrorKind};

/// The size of a part, and the largest body that goes as one request. A pack goes as one: those of
/// large repositories are a little larger than their limit of 32 MiB, and an upload in parts costs
/// three requests. It costs no more memory, as a body is joined into one piece either way.
const PART: usize = 64 * 1024 * 1024;
/// How many parts of one object are on their way at a time: 128 MiB.
const CONCURRENT_PARTS: usize = 2;
/// How long one attempt may take: [`PART`] at 40 kB/s. A stream that stands still ends sooner.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// One object on its way.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Client,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) storage_class: Option<StorageClass>,
    pub(super) action: &'a str,
    pub(super) location: &'a str,
}

impl Upload<'_> {
    pub(super) async fn send(self, parts: Vec<Bytes>) -> Result<(), StorageError> {
        if parts.iter().map(Bytes::len).sum::<usize>() > PART {
            self.send_in_parts(split(parts, PART)).await
        } else {
            self.send_at_once(join(parts)).await
        }
    }

    async fn send_at_once(&self, body: Bytes) -> Result<(), StorageError> {
        self.client
            .put_object()
            .bucket(self.bucket)
            .key(self.key)
            .set_storage_class(self.storage_class.clone())
            .body(body.into())
            .customize()
            .config_override(patient())
            .send()
            .await
            .map(drop)
            .map_err(|error| failure(self.action, self.location, &error))
    }

    async fn send_in_parts(&self, bodies: Vec<Vec<Bytes>>) -> Result<(), StorageError> {
        let id = self
            .client
            .create_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .set_storage_class(self.storage_class.clone())
            .send()
            .await
            .map_err(|error| failure(self.action, self.location, &error))?
            .upload_id
            .ok_or_else(|| {
                StorageError::new(
                    StorageErrorKind::Other,
                    self.action,
                    self.location,
                    "the service began an upload and gave it no id",
                )
            })?;
        let outcome = self.upload_and_complete(&id, bodies).await;
        if outcome.is_err() {
            self.abort(&id).await;
        }
        outcome
    }

    async fn upload_and_complete(
        &self,
        id: &str,
        bodies: Vec<Vec<Bytes>>,
    ) -> Result<(), StorageError> {
        let completed: Vec<CompletedPart> = stream::iter((1..).zip(bodies))
            .map(|(number, body)| self.upload_part(id, number, body))
            .buffered(CONCURRENT_PARTS)
            .try_collect()
            .await?;
        self.client
            .complete_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(id)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(completed))
                    .build(),
            )
            .customize()
            .config_override(patient())
            .send()
            .await
            .map(drop)
            .map_err(|error| failure(self.action, self.location, &error))
    }

    async fn upload_part(
        &self,
        id: &str,
        number: i32,
        body: Vec<Bytes>,
    ) -> Result<CompletedPart, StorageError> {
        let done = self
            .client
            .upload_part()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(id)
            .part_number(number)
            .body(join(body).into())
            .customize()
            .config_override(patient())
            .send()
            .await
            .map_err(|error| failure(self.action, self.location, &error))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(done.e_tag)
            .set_checksum_crc32(done.checksum_crc32)
            .set_checksum_crc32_c(done.checksum_crc32_c)
            .set_checksum_crc64_nvme(done.checksum_crc64_nvme)
            .build())
    }

    /// Parts that are not aborted are billed and never listed.
    async fn abort(&self, id: &str) {
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(self.bucket)
            .key(self.key)
            .upload_id(id)
            .send()
            .await;
        if let Err(error) = answer {
            let error = failure("abort the upload", self.location, &error);
            tracing::warn!(
                key = self.key,
                location = self.location,
                %error,
                "Parts of a failed upload may be left over; a lifecycle rule of the bucket that \
                 ends incomplete uploads removes them."
            );
        }
    }
}

fn patient() -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::config::Builder::new().timeout_config(
        TimeoutConfig::builder()
            .connect_timeout(super::CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build(),
    )
}

/// The parts as one body; copied only when there are several.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    parts.retain(|part| !part.is_empty());
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut body = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        body.extend_from_slice(&part);
    }
    body.freeze()
}

/// Cuts the concatenation of `parts` into runs of `size` bytes (the last may be shorter), without
/// copying.
fn split(parts: Vec<Bytes>, size: usize) -> Vec<Vec<Bytes>> {
    let mut runs = Vec::new();
    let mut run = Vec::new();
    let mut room = size;
    for mut part in parts {
        while !part.is_empty() {
            let piece = part.split_to(room.min(part.len()));
            room -= piece.len();
            run.push(piece);
            if room == 0 {
                runs.push(std::mem::take(&mut run));
                room = size;
            }
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_full_and_together_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
            size in 1_usize..50,
        ) {
            let whole = parts.concat();
            let runs = split(parts.into_iter().map(Bytes::from).collect(), size);
            let lengths: Vec<usize> =
                runs.iter().map(|run| run.iter().map(Bytes::len).sum()).collect();
            let rest = lengths.len().saturating_sub(1);
            prop_assert!(lengths.iter().take(rest).all(|length| *length == size));
            prop_assert!(lengths.iter().all(|length| *length >= 1 && *length <= size));
            prop_assert_eq!(join(runs.concat()), whole);
        }
    }
}
