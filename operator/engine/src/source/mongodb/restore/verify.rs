//! What was written is read back and compared with the backup: count and content digest.

use bson::doc;
use futures::{FutureExt as _, TryStreamExt as _};
use mongodb::options::ReadPreference;

use super::error::{RestoreError, UNAUTHORIZED, command_code};
use super::report::Verification;
use super::target::{Target, answer, persist};
use crate::manifest::CollectionManifest;
use crate::source::mongodb::digest::ContentDigest;

/// Why a target may hold fewer documents than the backup although all of them were written well.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lossy {
    /// The server removes documents whose time has passed as soon as they are there.
    pub(super) expires: bool,
    /// So many documents of the backup have the `_id` of another one in it.
    pub(super) repeated: u64,
}

impl Lossy {
    /// The reason, where one explains that so few were found.
    fn reason(self, expected: &CollectionManifest, found: u64) -> Option<String> {
        if self.expires {
            return Some("its documents expire, and the server removes those whose time has passed as soon as they are written".to_owned());
        }
        // Backups made before the end of the scan was fixed hold what came while it was read, too.
        if expected.capped {
            return Some(format!(
                "it is capped and keeps {found} of the {} documents in the backup, which was read while it was written to; the oldest are gone",
                expected.documents
            ));
        }
        let lacking = expected.documents - found;
        (lacking <= self.repeated).then(|| {
            format!(
                "{lacking} documents of the backup have the _id of another one in it, as the server it was read from has no points in time and they were written anew meanwhile; one of each was restored"
            )
        })
    }
}

/// Reads a collection back and compares it.
pub(super) async fn verify(
    target: &Target,
    db: &str,
    collection: &str,
    expected: &CollectionManifest,
    lossy: Lossy,
) -> Result<Verification, RestoreError> {
    let action = format!("read {db}.{collection} back");
    let (answered, _) =
        persist(|| async { answer(&action, read_back(target, db, collection).await) }.boxed())
            .await?;
    let (documents, digest) = match answered {
        Ok(found) => found,
        Err(error) if command_code(&error) == Some(UNAUTHORIZED) => {
            return Ok(Verification::NotComparable {
                reason: "the account may not read what it wrote; give it the role readAnyDatabase"
                    .to_owned(),
            });
        }
        Err(error) => {
            return Err(RestoreError::server(action, &error));
        }
    };
    let digest = digest.to_string();
    Ok(
        if documents == expected.documents && digest == expected.digest {
            Verification::Verified { digest }
        } else if documents < expected.documents
            && let Some(reason) = lossy.reason(expected, documents)
        {
            Verification::NotComparable { reason }
        } else {
            Verification::Mismatched {
                expected_documents: expected.documents,
                found_documents: documents,
                expected_digest: expected.digest.clone(),
                found_digest: digest,
            }
        },
    )
}

/// Reads every document where it was written: on the primary, in natural order, raw.
async fn read_back(
    target: &Target,
    db: &str,
    collection: &str,
) -> Result<(u64, ContentDigest), mongodb::error::Error> {
    let mut batches = target
        .client
        .database(db)
        .collection::<bson::RawDocumentBuf>(collection)
        .find(doc! {})
        .hint(mongodb::options::Hint::Keys(doc! { "$natural": 1 }))
        .selection_criteria(ReadPreference::Primary.into())
        .batch()
        .await?;
    let mut documents = 0;
    let mut digest = ContentDigest::new();
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            let Some(document) = document?.as_document() else {
                continue;
            };
            documents += 1;
            digest.add(document.as_bytes());
        }
    }
    Ok((documents, digest))
}
