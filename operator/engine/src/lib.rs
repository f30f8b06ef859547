//! The data plane of Holdfast: repositories, destinations and sources.
//!
//! It knows nothing of Kubernetes, YAML or HTTP. The control plane turns specs and secrets into
//! the plain types of this crate and asks for one thing at a time: back up, restore, copy, forget,
//! prune, check.

pub mod class;
pub mod destination;
pub mod export;
pub mod manifest;
pub mod progress;
pub mod repository;
pub mod source;

// The tests of the crate and those beside it share their support, which names the crate.
#[cfg(test)]
extern crate self as holdfast_engine;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
