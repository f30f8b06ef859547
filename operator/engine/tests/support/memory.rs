//! A storage in memory that keeps the contract, and breaks it on demand: calls can be made to fail
//! and to take their time, and are counted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_engine::destination::{Entry, Storage, StorageError, StorageErrorKind};

/// What is asked of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    List,
    ListSome,
    Size,
    Read,
    Write,
    Remove,
}

type Fault = Box<dyn Fn(Call, &str) -> Option<StorageErrorKind> + Send>;

/// A storage in memory.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Bytes>>,
    fault: Mutex<Option<Fault>>,
    write_delay: Mutex<(&'static str, Duration)>,
    read_delay: Mutex<(&'static str, Duration)>,
    calls: Mutex<Vec<(Call, String)>>,
    reading: AtomicUsize,
    writing: AtomicUsize,
    writing_packs: AtomicUsize,
    most_writing: AtomicUsize,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Every call for which `fault` names a kind fails with it.
    pub fn fail_when(
        &self,
        fault: impl Fn(Call, &str) -> Option<StorageErrorKind> + Send + 'static,
    ) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fault));
    }

    /// Everything works again.
    pub fn heal(&self) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Every write of a path that begins with `prefix` takes so long.
    pub fn delay_writes(&self, prefix: &'static str, delay: Duration) {
        *self.write_delay.lock().unwrap() = (prefix, delay);
    }

    /// Every read of a path that begins with `prefix` takes so long.
    pub fn delay_reads(&self, prefix: &'static str, delay: Duration) {
        *self.read_delay.lock().unwrap() = (prefix, delay);
    }

    /// The writes that have begun and not ended, of whatever path.
    pub fn writing(&self) -> usize {
        self.writing.load(Ordering::SeqCst)
    }

    /// The reads that have begun and not ended.
    pub fn reading(&self) -> usize {
        self.reading.load(Ordering::SeqCst)
    }

    /// The most writes of packs that were on their way at one time.
    pub fn most_writing(&self) -> usize {
        self.most_writing.load(Ordering::SeqCst)
    }

    /// The calls so far, in order; a write is noted when it is done.
    pub fn calls(&self) -> Vec<(Call, String)> {
        self.calls.lock().unwrap().clone()
    }

    pub fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    /// The paths below `directory`.
    pub fn paths(&self, directory: &str) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        objects
            .keys()
            .filter(|path| path.starts_with(directory))
            .cloned()
            .collect()
    }

    pub fn get(&self, path: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    pub fn put(&self, path: &str, bytes: impl Into<Bytes>) {
        self.objects
            .lock()
            .unwrap()
            .insert(path.to_owned(), bytes.into());
    }

    pub fn delete(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    /// Writes everything below a directory of the machine, for stock tools.
    pub fn export(&self, to: &Path) {
        for directory in ["data", "index", "keys", "locks", "snapshots"] {
            std::fs::create_dir_all(to.join(directory)).unwrap();
        }
        for (path, bytes) in &*self.objects.lock().unwrap() {
            let path = to.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    fn at(&self, call: Call, path: &str) -> Result<(), StorageError> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match fault.as_ref().and_then(|fault| fault(call, path)) {
            None => Ok(()),
            Some(kind) => Err(StorageError::new(
                kind,
                format!("{call:?} {path}"),
                "memory",
                "told to fail",
            )),
        }
    }

    fn note(&self, call: Call, path: &str) {
        self.calls.lock().unwrap().push((call, path.to_owned()));
    }

    fn find(&self, path: &str) -> Result<Bytes, StorageError> {
        self.get(path).ok_or_else(|| {
            StorageError::new(
                StorageErrorKind::NotFound,
                format!("read {path}"),
                "memory",
                "not there",
            )
        })
    }
}

async fn wait(path: &str, (prefix, delay): (&str, Duration)) {
    if path.starts_with(prefix) && !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Counts a call while it is under way, however it ends.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn count(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Storage for Memory {
    fn location(&self) -> String {
        "memory".into()
    }

    async fn probe(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn create(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn list(&self, directory: &str) -> Result<Vec<Entry>, StorageError> {
        self.at(Call::List, directory)?;
        self.note(Call::List, directory);
        let prefix = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        let objects = self.objects.lock().unwrap();
        Ok(objects
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .map(|(path, bytes)| Entry {
                path: path.clone(),
                size: bytes.len() as u64,
            })
            .collect())
    }

    async fn list_some(&self, directory: &str, limit: usize) -> Result<Vec<Entry>, StorageError> {
        let mut entries = self.list(directory).await?;
        entries.truncate(limit);
        // What is asked for is what the calls tell.
        self.calls.lock().unwrap().pop();
        self.note(Call::ListSome, directory);
        Ok(entries)
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StorageError> {
        self.at(Call::Size, path)?;
        Ok(self.get(path).map(|bytes| bytes.len() as u64))
    }

    async fn read(&self, path: &str) -> Result<Bytes, StorageError> {
        let _reading = UnderWay::count(&self.reading);
        let delay = *self.read_delay.lock().unwrap();
        wait(path, delay).await;
        self.at(Call::Read, path)?;
        self.note(Call::Read, path);
        self.find(path)
    }

    async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        let _reading = UnderWay::count(&self.reading);
        let delay = *self.read_delay.lock().unwrap();
        wait(path, delay).await;
        self.at(Call::Read, path)?;
        self.note(Call::Read, path);
        let bytes = self.find(path)?;
        let range = offset as usize..(offset + length) as usize;
        if range.end > bytes.len() {
            let kind = StorageErrorKind::Corrupt;
            return Err(StorageError::new(
                kind,
                format!("read {path}"),
                "memory",
                "too short",
            ));
        }
        Ok(bytes.slice(range))
    }

    async fn write(&self, path: &str, parts: Vec<Bytes>) -> Result<(), StorageError> {
        let _writing = UnderWay::count(&self.writing);
        let _pack = path.starts_with("data/").then(|| {
            let pack = UnderWay::count(&self.writing_packs);
            let now = self.writing_packs.load(Ordering::SeqCst);
            self.most_writing.fetch_max(now, Ordering::SeqCst);
            pack
        });
        let delay = *self.write_delay.lock().unwrap();
        wait(path, delay).await;
        let outcome = self.at(Call::Write, path);
        if outcome.is_ok() {
            self.put(path, parts.concat());
            self.note(Call::Write, path);
        }
        outcome
    }

    async fn remove(&self, path: &str) -> Result<(), StorageError> {
        self.at(Call::Remove, path)?;
        self.note(Call::Remove, path);
        self.delete(path);
        Ok(())
    }
}
