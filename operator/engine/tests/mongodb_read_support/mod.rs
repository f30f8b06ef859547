//! What the tests of reading MongoDB share: a stage that keeps segments, and the dump written from
//! it for stock tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_engine::manifest::MongodbManifest;
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::RepositoryError;
use holdfast_engine::source::mongodb::{
    MongodbConfig, MongodbError, MongodbRead, ReadOptions, read,
};
use holdfast_engine::source::{BlobId, ComposedFile, SegmentNumber, Stage};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// What to do when a segment arrives.
type Hook = Box<dyn Fn(&Bytes) -> bool + Send + Sync>;

/// Keeps segments in memory. With a hook, segments that it is true of wait at a gate.
#[derive(Default)]
pub(crate) struct MemoryStage {
    segments: Mutex<Vec<Bytes>>,
    hook: Option<Hook>,
    /// Fires when a segment begins to wait.
    pub(crate) waiting: Notify,
    gate: Option<Semaphore>,
}

impl MemoryStage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The first segment that `hook` is true of waits until [`Self::open`].
    pub(crate) fn gated(hook: impl Fn(&Bytes) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            hook: Some(Box::new(hook)),
            gate: Some(Semaphore::new(0)),
            ..Self::default()
        })
    }

    /// Lets through what waits, and whatever comes after.
    pub(crate) fn open(&self) {
        if let Some(gate) = &self.gate {
            gate.add_permits(1 << 20);
        }
    }

    pub(crate) fn segments(&self) -> Vec<Bytes> {
        self.segments.lock().unwrap().clone()
    }

    pub(crate) fn distinct(&self) -> BTreeSet<Bytes> {
        self.segments().into_iter().collect()
    }

    pub(crate) fn concat(&self, parts: &[SegmentNumber]) -> Vec<u8> {
        let segments = self.segments.lock().unwrap();
        let part = |number: &SegmentNumber| segments[usize::try_from(number.0).unwrap()].clone();
        parts.iter().map(part).collect::<Vec<_>>().concat()
    }
}

#[async_trait]
impl Stage for MemoryStage {
    async fn put(&self, segment: Bytes) -> Result<SegmentNumber, RepositoryError> {
        if let (Some(hook), Some(gate)) = (&self.hook, &self.gate)
            && hook(&segment)
        {
            self.waiting.notify_one();
            let _passed = gate.acquire().await;
        }
        let mut segments = self.segments.lock().unwrap();
        segments.push(segment);
        Ok(SegmentNumber(segments.len() as u64 - 1))
    }
}

/// Everything of a server.
pub(crate) fn everything(uri: &str) -> MongodbConfig {
    MongodbConfig {
        uri: uri.to_owned().into(),
        include: Vec::new(),
        exclude: Vec::new(),
        users_and_roles: true,
    }
}

/// One database of a server.
pub(crate) fn database(uri: &str, name: &str) -> MongodbConfig {
    MongodbConfig {
        include: vec![format!("{name}.*")],
        users_and_roles: false,
        ..everything(uri)
    }
}

/// Options that cut small collections into several ranges and segments.
pub(crate) fn small_ranges() -> ReadOptions {
    ReadOptions {
        range_bytes: 1 << 20,
        ..ReadOptions::default()
    }
}

/// Reads with a stage that keeps everything.
pub(crate) async fn back_up(
    config: &MongodbConfig,
    stage: &Arc<MemoryStage>,
    options: ReadOptions,
) -> Result<MongodbRead, MongodbError> {
    let stage: Arc<dyn Stage> = Arc::<MemoryStage>::clone(stage);
    read(
        config,
        stage,
        options,
        Progress::new(),
        CancellationToken::new(),
    )
    .await
}

/// The files and the manifest; blob ids are made of segment numbers.
pub(crate) fn finish(read: MongodbRead) -> (Vec<ComposedFile>, MongodbManifest) {
    read.finish(|number| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.0.to_be_bytes());
        vec![BlobId(id)]
    })
}

/// Writes the dump to a directory, as `restic restore` would.
pub(crate) fn write_dump(stage: &MemoryStage, files: &[ComposedFile], root: &Path) -> Result<()> {
    for file in files {
        let relative = file.path.strip_prefix("/mongodb/dump/");
        let path = root.join(relative.with_context(|| format!("{} lies elsewhere", file.path))?);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, stage.concat(&file.parts))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Whether a segment holds a document with this text in it.
pub(crate) fn holds(text: &str) -> impl Fn(&Bytes) -> bool + Send + Sync + 'static {
    let text = text.as_bytes().to_vec();
    move |segment| segment.windows(text.len()).any(|window| window == text)
}
