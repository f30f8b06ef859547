//! The control plane of Holdfast: it reads what is declared, sees what is there, plans, and has the
//! engine carry it out.
//!
//! Arrows: `cli` → `host` → `reconcile` → `plan`, `run` → the engine. `plan` is pure.

// Whether a future that holds a TLS connection may cross threads is proved through types nested
// deeper than the default limit.
#![recursion_limit = "256"]

pub mod catalogue;
pub mod cli;
pub mod host;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod web;
