//! Carries out one action of a plan: backup, copy, forget and prune, check, restore, export.
//!
//! Nothing here decides whether something is due; that is `plan`. Nothing here is called a success
//! that was not complete.

pub mod backup;
pub mod check;
pub mod copy;
pub mod error;
pub mod export;
pub mod fingerprint;
pub mod hooks;
pub mod locate;
pub mod record;
pub mod repositories;
pub mod restore;
pub mod retain;
pub mod runner;
mod verified;

pub use error::RunError;
pub use runner::{Asked, Runner};
