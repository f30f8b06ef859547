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
