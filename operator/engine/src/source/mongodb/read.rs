//! Reading the documents of one collection: with one cursor, or with several side by side.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::catalog::CatalogEntry;
use super::connect::Connection;
use super::cursor::{Batches, Moment, id_element};
use super::digest::ContentDigest;
use super::error::{MongodbError, code};
use super::namespace::Namespace;
use super::range::{Boundary, boundaries, last_id, record_ids, scan_command};
use super::segment::{CutParameters, Offered, Segment, Share};
use crate::progress::Progress;
use crate::source::{SegmentNumber, Stage};

/// Bytes asked for in one batch: few enough for several cursors to fit in memory, and enough for
/// the round trip to cost nothing.
const BATCH_BYTES: u64 = 4 << 20;

/// How often a capped collection is begun anew when it is overwritten while it is read.
const CAPPED_ATTEMPTS: u32 = 5;

/// How a deployment is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// How many cursors are at work at a time.
    pub cursors: usize,
    /// A collection is read as ranges of at least this size, where it is larger than two of them.
    pub range_bytes: u64,
    /// How often the whole is begun anew at a later time when collections are dropped or renamed
    /// meanwhile.
    pub attempts: u32,
    /// Where segments are cut.
    pub cut: CutParameters,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            cursors: 4,
            range_bytes: 64 << 20,
            attempts: 5,
            cut: CutParameters::default(),
        }
    }
}

/// A segment that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    /// The number that the stage gave it.
    pub number: SegmentNumber,
    /// Its bytes.
    pub bytes: u64,
    /// How many documents.
    pub documents: u64,
    /// recordId of the first of them, where the server told it.
    pub first_record_id: Option<i64>,
}

/// The documents of one collection, stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectionRead {
    /// In natural order.
    pub segments: Vec<StoredSegment>,
    /// How many documents.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their digest.
    pub digest: ContentDigest,
}

/// Reads collections; shared by all tasks of a run.
#[derive(Clone)]
pub struct Reader {
    connection: Connection,
    stage: Arc<dyn Stage>,
    options: ReadOptions,
    progress: Progress,
    cursors: Arc<Semaphore>,
}

/// Where a range lies; without a boundary at the collection's beginning or end.
#[derive(Debug, Clone, Default)]
struct Range {
    after: Option<Boundary>,
    until: Option<Boundary>,
    /// Whether the cursor is asked where it is.
    resumable: bool,
    /// How the `_id` element reads of the document that a capped collection is read up to. One that
    /// is full gives a document away for each that comes, and a scan that went after those would
    /// bring home more than there ever was at once, or not come to an end.
    last: Option<Vec<u8>>,
}

/// A range could not be read as one.
enum RangeError {
    /// The server does not do ranges, or a boundary is gone: one cursor will do.
    Unusable(String),
    Failed(MongodbError),
}

impl From<MongodbError> for RangeError {
    fn from(error: MongodbError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    /// A reader that stores what it reads in `stage`.
    pub fn new(
        connection: Connection,
        stage: Arc<dyn Stage>,
        options: ReadOptions,
        progress: Progress,
    ) -> Self {
        let cursors = Arc::new(Semaphore::new(options.cursors.max(1)));
        Self {
            connection,
            stage,
            options,
            progress,
            cursors,
        }
    }

    /// Reads all documents of a collection as of `moment`.
    ///
    /// # Errors
    /// When the server fails or refuses, the collection is gone, or the stage takes no more.
    pub async fn read(
        &self,
        entry: &CatalogEntry,
        data: &Namespace,
        moment: Moment,
    ) -> Result<CollectionRead, MongodbError> {
        let ranges = self.ranges(entry, data, moment).await?;
        if ranges.len() > 1 {
            match self.read_ranges(entry, data, moment, ranges).await {
                Ok(read) => return Ok(read),
                Err(RangeError::Failed(error)) => return Err(error),
                Err(RangeError::Unusable(cause)) => {
                    tracing::info!(namespace = %data, cause, "Ranges cannot be read side by side; one cursor is used.");
                }
            }
        }
        self.read_with_one_cursor(entry, data, moment).await
    }

    /// How a collection is divided; one range for what cannot be.
    async fn ranges(
        &self,
        entry: &CatalogEntry,
        data: &Namespace,
        moment: Moment,
    ) -> Result<Vec<Range>, MongodbError> {
        let by_size = entry.bytes / self.options.range_bytes.max(1);
        // A range ends at the anchor that the next one begins with. Both find it on their own, by
        // what documents hold, and only at one cluster time do they see the same: otherwise a
        // document that is written between them moves one end and not the other, and all that lies
        // between is read twice or not at all.
        if !matches!(moment, Moment::At(_)) {
            return Ok(Vec::new());
        }
        // Twice as many as cursors, as no two are alike; more only where they would be enormous.
        let most = (2 * self.options.cursors as u64).max(entry.bytes >> 30);
        let wanted = by_size.min(most);
        if wanted < 2 || entry.capped || entry.clustered {
            return Ok(Vec::new());
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let connection = &self.connection;
        let chosen = match boundaries(connection, data, moment, entry.documents, wanted).await {
            Ok(chosen) => chosen,
            Err(error) if is_refusal(&error) => {
                tracing::info!(namespace = %data, %error, "No ranges are known; one cursor is used.");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut ranges = Vec::with_capacity(chosen.len() + 1);
        let mut after = None;
        for boundary in chosen {
            ranges.push(Range {
                after: after.replace(boundary.clone()),
                until: Some(boundary),
                resumable: true,
                last: None,
            });
        }
        ranges.push(Range {
            after,
            until: None,
            resumable: true,
            last: None,
        });
        Ok(ranges)
    }

    async fn read_ranges(
        &self,
        entry: &CatalogEntry,
        data: &Namespace,
        moment: Moment,
        ranges: Vec<Range>,
    ) -> Result<CollectionRead, RangeError> {
        let batch_size = batch_size(entry);
        let mut tasks = JoinSet::new();
        let mut shares: Vec<Option<CollectionRead>> = vec![None; ranges.len()];
        for (position, range) in ranges.into_iter().enumerate() {
            let (reader, data) = (self.clone(), data.clone());
            tasks.spawn(async move {
                let read = reader.read_range(&data, moment, batch_size, &range).await;
                (position, read)
            });
        }
        while let Some(joined) = tasks.join_next().await {
            let (position, read) = joined.map_err(|error| self.task_died(data, &error))?;
            shares[position] = Some(read?);
        }
        let mut whole = CollectionRead::default();
        for share in shares.into_iter().flatten() {
            whole.segments.extend(share.segments);
            whole.documents += share.documents;
            whole.bytes += share.bytes;
            whole.digest.merge(share.digest);
        }
        Ok(whole)
    }

    async fn read_with_one_cursor(
        &self,
        entry: &CatalogEntry,
        data: &Namespace,
        moment: Moment,
    ) -> Result<CollectionRead, MongodbError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last = match entry.capped {
                true => last_id(&self.connection, data, moment).await?,
                false => None,
            };
            let range = Range {
                last,
                ..Range::default()
            };
            match self
                .read_range(data, moment, batch_size(entry), &range)
                .await
            {
                Ok(read) => return Ok(read),
                Err(RangeError::Failed(MongodbError::Server { code, .. }))
                    if code == code::CAPPED_POSITION_LOST && attempt < CAPPED_ATTEMPTS =>
                {
                    tracing::info!(namespace = %data, attempt, "The capped collection was overwritten while it was read; it is begun anew.");
                }
                Err(RangeError::Failed(MongodbError::Server { code, .. }))
                    if code == code::CAPPED_POSITION_LOST =>
                {
                    return Err(MongodbError::CappedOverrun {
                        namespace: data.to_string(),
                        rounds: attempt,
                    });
                }
                Err(RangeError::Failed(error)) => return Err(error),
                Err(RangeError::Unusable(cause)) => {
                    return Err(self.malformed(data, cause));
                }
            }
        }
    }

    async fn read_range(
        &self,
        data: &Namespace,
        moment: Moment,
        batch_size: u32,
        range: &Range,
    ) -> Result<CollectionRead, RangeError> {
        let permit = self.cursors.acquire().await;
        let _permit = permit.map_err(|_| MongodbError::Cancelled)?;
        self.progress.set_phase(format!("reading {data}"));
        let after = range.after.as_ref();
        let command = scan_command(data, moment, batch_size, range.resumable, after);
        let action = format!("read {data}");
        let opened = Batches::open(
            &self.connection,
            &data.db,
            action,
            command,
            Some(batch_size),
        )
        .await;
        let mut batches = opened.map_err(|error| {
            if range.resumable && is_refusal(&error) {
                RangeError::Unusable(error.to_string())
            } else {
                RangeError::Failed(self.dated(error, data))
            }
        })?;
        let mut share = Share::new(self.options.cut, after.is_none());
        let mut stored = Stored::default();
        let mut ready = Vec::new();
        let mut until = range.until.as_ref();
        let mut last = range.last.as_ref();
        'reading: while let Some(batch) = batches
            .next()
            .await
            .map_err(|error| self.dated(error, data))?
        {
            for document in batch.documents() {
                let document = document.map_err(|cause| self.malformed(data, cause))?;
                let offered = share.offer(document, &mut ready);
                for segment in ready.drain(..) {
                    self.store(segment, &mut stored).await?;
                }
                if offered == Offered::Complete {
                    break 'reading;
                }
                if last.is_some_and(|last| document[4..].starts_with(last)) {
                    last = None;
                    break 'reading;
                }
                if until.is_some_and(|until| document[4..].starts_with(&until.id)) {
                    share.pass_end();
                    until = None;
                }
            }
            // A boundary that was not met though the cursor is past it would be read over.
            if let (Some(until), Some(place)) = (until, batch.last_record_id())
                && place >= until.record_id
            {
                return Err(RangeError::Unusable(format!(
                    "the document at {} that a range ends with is gone",
                    until.record_id
                )));
            }
        }
        if until.is_some() {
            let cause = "the document that a range ends with is gone".to_owned();
            return Err(RangeError::Unusable(cause));
        }
        if last.is_some() {
            return Err(RangeError::Failed(MongodbError::Server {
                action: format!("read {data}"),
                server: self.connection.server().to_owned(),
                code: code::CAPPED_POSITION_LOST,
                cause: "the document that it ended with is overwritten".to_owned(),
            }));
        }
        share.finish(&mut ready);
        for segment in ready.drain(..) {
            self.store(segment, &mut stored).await?;
        }
        let segments = self.locate(data, moment, range, stored).await;
        Ok(CollectionRead {
            segments,
            documents: share.documents(),
            bytes: share.bytes(),
            digest: share.digest(),
        })
    }

    async fn store(&self, segment: Segment, stored: &mut Stored) -> Result<(), MongodbError> {
        let bytes = segment.bytes.len() as u64;
        stored.first_ids.push(id_element(&segment.bytes));
        let number = self.stage.put(segment.bytes).await?;
        self.progress.add_bytes(bytes);
        self.progress.add_items(segment.documents);
        stored.segments.push(StoredSegment {
            number,
            bytes,
            documents: segment.documents,
            first_record_id: None,
        });
        Ok(())
    }

    /// Asks where the segments of a range begin. A later incremental read finds the segments of
    /// changed documents by it; without it that reads more, so a refusal is no failure.
    async fn locate(
        &self,
        data: &Namespace,
        moment: Moment,
        range: &Range,
        stored: Stored,
    ) -> Vec<StoredSegment> {
        let mut segments = stored.segments;
        if !range.resumable {
            return segments;
        }
        let ids: Vec<Vec<u8>> = stored.first_ids.iter().flatten().cloned().collect();
        match record_ids(&self.connection, data, moment, &ids).await {
            Ok(places) => {
                for (segment, id) in segments.iter_mut().zip(&stored.first_ids) {
                    segment.first_record_id = id.as_ref().and_then(|id| places.get(id).copied());
                }
            }
            Err(error) => {
                tracing::debug!(namespace = %data, %error, "Record ids of segments are not known.");
            }
        }
        segments
    }

    /// Names the collection where history does not reach back to the moment.
    fn dated(&self, error: MongodbError, data: &Namespace) -> MongodbError {
        match error {
            MongodbError::Server { code, .. } if code == code::SNAPSHOT_TOO_OLD => {
                MongodbError::SnapshotTooOld {
                    namespace: data.to_string(),
                    server: self.connection.server().to_owned(),
                }
            }
            other => other,
        }
    }

    fn malformed(&self, data: &Namespace, cause: String) -> MongodbError {
        MongodbError::Malformed {
            namespace: data.to_string(),
            server: self.connection.server().to_owned(),
            cause,
        }
    }

    fn task_died(&self, data: &Namespace, error: &tokio::task::JoinError) -> MongodbError {
        MongodbError::Server {
            action: format!("read {data}"),
            server: self.connection.server().to_owned(),
            code: 0,
            cause: format!("the task that did it died: {error}"),
        }
    }
}

#[derive(Default)]
struct Stored {
    segments: Vec<StoredSegment>,
    first_ids: Vec<Option<Vec<u8>>>,
}

/// Documents per batch, so that a batch is about [`BATCH_BYTES`]: the server knows no other limit
/// but 16 MiB.
fn batch_size(entry: &CatalogEntry) -> u32 {
    let average = entry.bytes.checked_div(entry.documents).unwrap_or(0).max(1);
    u32::try_from((BATCH_BYTES / average).clamp(16, 1 << 20)).unwrap_or(1000)
}

/// Whether the server refuses an option, or a place to resume at, rather than the read.
fn is_refusal(error: &MongodbError) -> bool {
    // BadValue, FailedToParse, InvalidOptions, KeyNotFound, an unknown field, a denied option.
    matches!(
        error.code(),
        Some(2 | 9 | 13 | 72 | code::KEY_NOT_FOUND | 40415 | 51173)
    )
}
