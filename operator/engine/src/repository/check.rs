//! Checking that everything snapshots need is there, and reading it back.

use serde::Serialize;

/// How much of the data is read back and compared with its ids.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum ReadData {
    /// None: only that it is there, by name and size.
    #[default]
    None,
    /// About so many percent of the bytes, chosen at random.
    Percent(f64),
    /// The `n`th of `of` parts: all of them together are everything. `n` counts from 1.
    Subset {
        /// Which part.
        n: u32,
        /// Of how many.
        of: u32,
    },
    /// Everything.
    All,
}

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CheckOptions {
    /// How much of the data is read back.
    pub read_data: ReadData,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What is damaged, a sentence each. Nothing was changed.
    pub errors: Vec<String>,
    /// What is odd and harmless: left-overs of runs that died.
    pub warnings: Vec<String>,
    /// Snapshots whose trees and blobs were followed.
    pub snapshots: u64,
    /// Packs that the index knows.
    pub packs: u64,
    /// Packs read back.
    pub packs_read: u64,
    /// Bytes read back.
    pub bytes_read: u64,
}

impl CheckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }
}
