//! What was written is read back and compared with the backup: count and content digest.

use bson::doc;
use futures::{FutureExt as _, TryStreamExt as _};
use mongodb::options::ReadPreference;

use super::error::{RestoreError, UNAUTHORIZED, command_code};
use super::report::Verification;
use super::target::{Target, answer, persist};
use crate::manifest::CollectionManifest;
use crate::source::mongodb::digest::ContentDigest;

/// Reads a collection back and compares it.
pub(super) async fn verify(
    target: &Target,
    db: &str,
    collection: &str,
    expected: &CollectionManifest,
    expires: bool,
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
            Verification::Verified
        } else if expires && documents < expected.documents {
            Verification::NotComparable {
            reason: "its documents expire, and the server removes those whose time has passed as soon as they are written".to_owned(),
        }
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
