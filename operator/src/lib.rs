//! The control plane of Holdfast: it reads what is declared, sees what is there, plans, and has the
//! engine carry it out.
//!
//! Arrows: `cli` → `host` → `reconcile` → `plan`, `run` → the engine. `plan` is pure.

pub mod cli;
pub mod host;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod web;
