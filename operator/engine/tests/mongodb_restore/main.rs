//! Restoring into real servers: what stock `mongodump` wrote goes back through the engine, and what
//! the engine exports goes back through stock `mongorestore`.
//!
//! The programs come from `e2e/setup`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of tests that cannot go on says so by panicking, as a test does"
)]

mod conflicts;
mod content;
mod dataset;
mod export;
mod failures;
mod inexact;
mod measure;
mod round_trip;
mod selection;
mod server;
mod users;
