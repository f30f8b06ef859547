//! Measures the reading of a deployment: its bytes are thrown away, so that only the server and
//! this process's own work are in the figures.
//!
//! `RUST_LOG=holdfast_engine=debug HOLDFAST_EXAMPLE_URI=mongodb://… cargo run --release --example mongodb_read [CURSORS]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_engine::progress::Progress;
use holdfast_engine::repository::RepositoryError;
use holdfast_engine::source::mongodb::{MongodbConfig, ReadOptions, read};
use holdfast_engine::source::{SegmentNumber, Stage};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Nowhere(AtomicU64);

#[async_trait]
impl Stage for Nowhere {
    async fn put(&self, _segment: Bytes) -> Result<SegmentNumber, RepositoryError> {
        Ok(SegmentNumber(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let uri = std::env::var("HOLDFAST_EXAMPLE_URI").context("HOLDFAST_EXAMPLE_URI is not set")?;
    let mut options = ReadOptions::default();
    if let Some(cursors) = std::env::args().nth(1) {
        options.cursors = cursors.parse().context("the number of cursors")?;
    }
    let config = MongodbConfig {
        uri: uri.into(),
        include: Vec::new(),
        exclude: Vec::new(),
        users_and_roles: true,
    };
    let stage: Arc<dyn Stage> = Arc::new(Nowhere::default());
    let started = Instant::now();
    let cancel = CancellationToken::new();
    let read = read(&config, stage, options, Progress::new(), cancel).await?;
    let seconds = started.elapsed().as_secs_f64();
    let manifest = read.manifest();
    let bytes: u64 = manifest.collections.iter().map(|one| one.bytes).sum();
    let documents: u64 = manifest.collections.iter().map(|one| one.documents).sum();
    let segments: usize = manifest
        .collections
        .iter()
        .map(|one| one.segments.len())
        .sum();
    let placed = manifest
        .collections
        .iter()
        .flat_map(|one| &one.segments)
        .filter(|segment| segment.first_record_id.is_some())
        .count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{documents} documents, {bytes} bytes, {segments} segments ({placed} with a place) in {seconds:.2} s: {:.0} MB/s; {}",
        bytes as f64 / seconds / 1e6,
        peak.unwrap_or_default()
    );
    Ok(())
}
